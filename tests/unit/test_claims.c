/* SPDX-License-Identifier: MIT */
/* What one bpftimed has claimed no other one gets, also when they try at the same time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/claims.h"

/* Ids that no program has: the kernel gives them out from 1. */
#define FIRST_ID 0x7ffffff0u
#define RIVALS	 4
#define ROUNDS	 500

static char why[320];

static struct claims *new_claims(void)
{
	struct claims *c = NULL;

	if (claims__new(&c, why, sizeof(why)))
		fail_msg("%s", why);
	return c;
}

static void test_first_has_it(void **state)
{
	const uint32_t ids[] = {FIRST_ID, FIRST_ID + 1}, other[] = {FIRST_ID + 2},
		       mixed[] = {FIRST_ID + 2, FIRST_ID + 1};
	struct claims *a = new_claims(), *b = new_claims();

	assert_int_equal(claims__take_tool(a, 10, ids, 2, why, sizeof(why)), 0);
	assert_int_equal(claims__take_tool(a, 10, ids, 2, why, sizeof(why)), 0);
	assert_int_equal(claims__take_tool(b, 10, mixed, 2, why, sizeof(why)), -EALREADY);
	assert_non_null(strstr(why, "another bpftimed (process "));
	assert_int_equal(claims__take_tool(a, 11, other, 1, why, sizeof(why)), 0);
	claims__drop_tool(a, 10);
	assert_int_equal(claims__take_tool(b, 10, ids, 2, why, sizeof(why)), 0);
	assert_int_equal(claims__take_tool(b, 11, other, 1, why, sizeof(why)), -EALREADY);
	claims__free(a);
	assert_int_equal(claims__take_tool(b, 11, other, 1, why, sizeof(why)), 0);
	claims__free(b);
}

static void test_targets(void **state)
{
	struct claims *a = new_claims(), *b = new_claims();

	assert_int_equal(claims__take_target(a, getpid(), why, sizeof(why)), 0);
	assert_int_equal(claims__take_target(b, getpid(), why, sizeof(why)), -EALREADY);
	assert_non_null(strstr(why, "serves this target"));
	claims__drop_tool(a, getpid());
	assert_int_equal(claims__take_target(b, getpid(), why, sizeof(why)), -EALREADY);
	claims__drop_target(a, getpid());
	assert_int_equal(claims__take_target(b, getpid(), why, sizeof(why)), 0);
	claims__free(a);
	claims__free(b);
}

static void test_who_is_a_daemon(void **state)
{
	struct claims *a = new_claims(), *b;
	pid_t child = fork();

	if (!child)
		for (;;)
			pause();
	assert_false(claims__is_daemon(a, getpid()));
	assert_false(claims__is_daemon(a, getppid()));
	assert_true(claims__is_daemon(a, child));
	assert_false(claims__is_daemon(a, 0));
	kill(child, SIGKILL);
	assert_int_equal(waitpid(child, NULL, 0), child);
	b = new_claims();
	assert_true(claims__is_daemon(a, getpid()));
	assert_false(claims__is_daemon(a, getppid()));
	claims__free(b);
	claims__free(a);
}

/* A child that ended without giving up; its map lives on in b, as if it were pinned: here by an inherited descriptor.
 */
static void test_what_a_killed_one_left(void **state)
{
	const uint32_t ids[] = {FIRST_ID};
	struct claims *b = new_claims();
	int hold[2], go[2], status;
	pid_t child, keeper;
	char c;

	assert_int_equal(pipe(hold) | pipe(go), 0);
	child = fork();
	if (!child) {
		struct claims *a = NULL;

		if (claims__new(&a, why, sizeof(why)) || claims__take_tool(a, 10, ids, 1, why, sizeof(why)))
			_exit(1);
		keeper = fork();
		if (!keeper) {
			close(go[1]);
			_exit(read(go[0], &c, 1) < 0);
		}
		_exit(write(hold[1], "x", 1) != 1);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(read(hold[0], &c, 1), 1);
	assert_int_equal(claims__take_tool(b, 10, ids, 1, why, sizeof(why)), -EALREADY);
	assert_non_null(strstr(why, "a bpftimed that was killed"));
	close(go[1]);
	for (int i = 0; i < 100 && claims__take_tool(b, 10, ids, 1, why, sizeof(why)); i++)
		usleep(10000);
	assert_int_equal(claims__take_tool(b, 10, ids, 1, why, sizeof(why)), 0);
	for (int i = 0; i < 2; i++) {
		close(hold[i]);
		if (!i)
			close(go[i]);
	}
	claims__free(b);
}

struct contest {
	uint32_t holders, taken, both;
};

static int contend(struct contest *s)
{
	const uint32_t ids[] = {FIRST_ID, FIRST_ID + 1, FIRST_ID + 2};
	struct claims *c = NULL;

	if (claims__new(&c, why, sizeof(why)))
		return 1;
	for (int i = 0; i < ROUNDS; i++) {
		/* Each its own programs of the tool: one that all want is among them. */
		if (claims__take_tool(c, 10, ids + i % 2, 2, why, sizeof(why)))
			continue;
		if (__atomic_add_fetch(&s->holders, 1, __ATOMIC_SEQ_CST) != 1)
			__atomic_add_fetch(&s->both, 1, __ATOMIC_SEQ_CST);
		__atomic_add_fetch(&s->taken, 1, __ATOMIC_SEQ_CST);
		if (i % 8 == 0)
			usleep(100);
		__atomic_sub_fetch(&s->holders, 1, __ATOMIC_SEQ_CST);
		claims__drop_tool(c, 10);
	}
	claims__free(c);
	return 0;
}

static void test_at_the_same_time(void **state)
{
	struct contest *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int status;

	assert_ptr_not_equal(s, MAP_FAILED);
	for (int i = 0; i < RIVALS; i++)
		if (!fork())
			_exit(contend(s));
	for (int i = 0; i < RIVALS; i++) {
		wait(&status);
		assert_int_equal(status, 0);
	}
	assert_int_equal(s->both, 0);
	assert_true(s->taken > 0);
	munmap(s, sizeof(*s));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_first_has_it),	 cmocka_unit_test(test_targets),
		cmocka_unit_test(test_who_is_a_daemon),	 cmocka_unit_test(test_what_a_killed_one_left),
		cmocka_unit_test(test_at_the_same_time),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	if (geteuid()) {
		puts("1..0 # SKIP needs root");
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
