// SPDX-License-Identifier: MIT
/*
 * Hits that go to an escape slot: what the kernel has on the slot serves them as if they were at the instruction, and
 * the thread goes on with all that it had. Nobody repairs fork children here, so all their hits go there.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "agent_fixture.h"

static struct rig rig;

struct escaped {
	struct victim v;
	struct rider rd;
	struct site *s;
	struct agent_site *as;
	struct oracle entry, ret; /* at the slot */
	unsigned int slot;
};

/* Its function's entries are counted in 0, returns in 1. */
static void begin(struct escaped *e, char *const argv[], const char *symbol, bool has_return, unsigned int slot)
{
	struct site_opts o = {
		.sz = sizeof(o), .noop_prog_fd = rig.noop_fd, .has_return = has_return, .escape = slot + 1};
	struct agent_error err = {""};
	char path[64];

	e->slot = slot;
	victim_start(&e->v, argv);
	rider_start(&e->rd, &rig, e->v.pid);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", agent_image__fd(rig.image));
	oracle_start(&e->entry, path, agent_image__escape_offset(rig.image, slot), false);
	if (has_return)
		oracle_start(&e->ret, path, agent_image__escape_offset(rig.image, slot), true);
	o.path = victim_path(argv[0]);
	o.offset = victim_symbol(argv[0], symbol);
	o.symbol = symbol;
	if (site__plan(e->rd.t, &o, &e->s, &err) != SITE_DONE)
		fail_msg("%s: %s", symbol, err.text);
	e->as = site__fill_addresses(e->s, e->rd.arena);
	rider_action(&e->rd, e->as, 0, 0, 0);
	if (has_return)
		rider_action(&e->rd, e->as, 1, 1, AGENT_ACT_RETURN);
	assert_int_equal(site__set_escape(e->s, true), 0);
	rider_gate(&e->rd, SHM_UGATE_OPEN);
	if (site__open(e->s, &err))
		fail_msg("%s", err.text);
}

static void end(struct escaped *e, bool has_return)
{
	site__free(e->s);
	rider_stop(&e->rd);
	oracle_stop(&e->entry);
	if (has_return)
		oracle_stop(&e->ret);
}

/* All that a thread has is as it was, at the entry and at the return, in a child that may make no system call, too. */
static void test_child(void **state)
{
	static const char *const victims[] = {"escape", "low-escape"};
	enum { CALLS = 2000 };

	(void)state;
	for (unsigned int i = 0; i < 8; i++) {
		char *const argv[] = {(char *)victims[i & 1], "2000", i & 2 ? "strict" : NULL, NULL};
		bool has_return = i & 4;
		struct escaped e;

		begin(&e, argv, "work", has_return, i & 1 ? AGENT_MAX_ESCAPES - 1 : 0);
		victim_go(&e.v);
		assert_int_equal(victim_number(&e.v, "calls"), CALLS);
		assert_int_equal(victim_wait(&e.v), 0);
		assert_int_equal(rider_count(&e.rd, 0), CALLS);
		assert_int_equal(oracle_count(&e.entry), CALLS);
		if (has_return) {
			assert_int_equal(rider_count(&e.rd, 1), CALLS);
			assert_int_equal(oracle_count(&e.ret), CALLS);
		}
		assert_int_equal(e.rd.arena->flags & (AGENT_TARGET_LATE_CHILD | AGENT_TARGET_NO_SLOT), 0);
		end(&e, has_return);
	}
}

/* Threads for which there is no slot: their returns cannot be kept apart. */
static void test_no_slot(void **state)
{
	static const struct {
		const char *victim, *symbol, *called;
	} shapes[] = {
		{"calls", "push_rbp", NULL},	 {"calls", "endbr", NULL},	  {"calls", "sub_rsp", NULL},
		{"calls", "rip_relative", NULL}, {"low-calls", "push_rbp", NULL}, {"low-calls", "push_more", NULL},
		{"low-calls", "endbr", NULL},	 {"calls", "recursion", NULL},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		char *const argv[] = {(char *)shapes[i].victim, (char *)shapes[i].symbol, "4", "5000", NULL};
		bool is_recursive = !strcmp(shapes[i].symbol, "recursion");
		struct escaped e;
		long calls;

		begin(&e, argv, shapes[i].symbol, true, (unsigned int)i * 100);
		for (uint32_t k = 0; k < AGENT_MAX_THREADS; k++)
			e.rd.arena->thread[k].fs_base = 1;
		victim_go(&e.v);
		calls = victim_number(&e.v, "calls");
		assert_int_equal(victim_wait(&e.v), 0);
		assert_int_equal(calls, 20000);
		if (!is_recursive)
			assert_int_equal(oracle_count(&e.entry), calls);
		assert_true(oracle_count(&e.entry) >= (uint64_t)calls);
		assert_int_equal(oracle_count(&e.ret), oracle_count(&e.entry));
		assert_int_equal(rider_count(&e.rd, 0), 0);
		assert_int_equal(rider_count(&e.rd, 1), 0);
		assert_int_equal(e.rd.arena->flags & AGENT_TARGET_NO_SLOT, 0);
		end(&e, true);
	}
}

/* Turned off, it is as it was before there were escapes. */
static void test_off(void **state)
{
	char *const argv[] = {"calls", "push_rbp", "1", "5000", NULL};
	struct escaped e;

	(void)state;
	begin(&e, argv, "push_rbp", true, 3);
	assert_int_equal(site__set_escape(e.s, false), 0);
	for (uint32_t k = 0; k < AGENT_MAX_THREADS; k++)
		e.rd.arena->thread[k].fs_base = 1;
	victim_go(&e.v);
	assert_int_equal(victim_number(&e.v, "calls"), 5000);
	assert_int_equal(victim_wait(&e.v), 0);
	assert_int_equal(oracle_count(&e.entry), 0);
	assert_int_equal(rider_count(&e.rd, 0), 5000);
	assert_int_equal(rider_count(&e.rd, 1), 0);
	assert_int_equal(e.rd.arena->flags & AGENT_TARGET_NO_SLOT, AGENT_TARGET_NO_SLOT);
	end(&e, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_child),
		cmocka_unit_test(test_no_slot),
		cmocka_unit_test(test_off),
	};

	return rig_tests(&rig, "agent_escape", tests, sizeof(tests) / sizeof(tests[0]));
}
