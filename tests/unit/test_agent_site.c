// SPDX-License-Identifier: MIT
/*
 * A probed function's calls are counted by the kernel's uprobe or by the agent, never by both or none, while the probe
 * moves back and forth under load. The victim knows how often it called.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "agent_fixture.h"

#define JMP 0xe9

static struct rig rig;

/* File offset; also in a program that has lost its symbols. */
static uint64_t function_of(const char *victim, const char *symbol)
{
	return victim_symbol(strcmp(victim, "stripped-calls") ? victim : "low-calls", symbol);
}

static struct site *plan(struct rider *rd, const char *victim, const char *symbol, bool has_return, int index,
			 enum site_result want, struct agent_error *err)
{
	struct site_opts o = {
		.sz = sizeof(o),
		.offset = function_of(victim, symbol),
		.symbol = symbol,
		.has_return = has_return,
		.noop_prog_fd = rig.noop_fd,
		.index = index,
	};
	enum site_result r;
	struct site *s;

	/* The path lasts until the next one is asked for. */
	o.path = victim_path(victim);
	err->text[0] = 0;
	r = site__plan(rd->t, &o, &s, err);
	if (r != want)
		fail_msg("%s: result %d: %s", symbol, r, err->text);
	return s;
}

static void check_ok(int rc, const struct agent_error *err)
{
	if (rc)
		fail_msg("%d: %s", rc, err->text);
}

/* Opens and closes as the daemon does. */
static void move(struct rider *rd, struct site *s, struct agent_site *as, bool to_user)
{
	struct agent_error err = {""};

	if (to_user) {
		rider_gate(rd, SHM_UGATE_OPEN);
		agent_site_serve(as, (uint32_t)(as - rd->arena->site));
		check_ok(site__open(s, &err), &err);
		assert_true(site__is_open(s));
	} else {
		check_ok(site__close(s, &err), &err);
		rider_gate(rd, SHM_UGATE_KERNEL);
		as->mode = AGENT_SITE_BOUNCE;
		check_ok(site__disarm(s, &err), &err);
	}
}

struct shape {
	const char *victim;
	const char *symbol;
	const char *threads;
	bool has_return;
	int flips;
	int hits_per_call;
};

static void victim_peek(const struct victim *v, uint64_t addr, uint8_t *bytes, size_t n)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/mem", v->pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(pread(fd, bytes, n, (off_t)addr), n);
	close(fd);
}

static void flip_under_load(const struct shape *sh)
{
	char *const argv[] = {(char *)sh->victim, (char *)sh->symbol, (char *)sh->threads, "0", NULL};
	struct oracle entry, ret = {-1, -1, -1};
	struct agent_error err = {""};
	struct agent_site *as;
	struct rider rd;
	struct victim v;
	struct site *s;
	uint64_t user, kernel, function;
	long calls;

	victim_start(&v, argv);
	function = function_of(sh->victim, sh->symbol);
	oracle_start(&entry, victim_path(sh->victim), function, false);
	if (sh->has_return)
		oracle_start(&ret, victim_path(sh->victim), function, true);
	rider_start(&rd, &rig, v.pid);
	s = plan(&rd, sh->victim, sh->symbol, sh->has_return, 3, SITE_DONE, &err);
	as = site__fill_addresses(s, rd.arena);
	as->mode = AGENT_SITE_BOUNCE;
	rider_action(&rd, as, 0, 0, AGENT_ACT_PID_LIMITED);
	if (sh->has_return)
		rider_action(&rd, as, 1, 1, AGENT_ACT_PID_LIMITED | AGENT_ACT_RETURN);
	victim_go(&v);
	for (int i = 0; i < sh->flips; i++) {
		move(&rd, s, as, true);
		usleep(500 + (i * 37) % 700);
		move(&rd, s, as, false);
		usleep(100 + (i * 53) % 500);
	}
	move(&rd, s, as, true);
	victim_go(&v);
	calls = victim_number(&v, "calls");
	user = rider_count(&rd, 0);
	kernel = oracle_count(&entry);
	printf("# %s: %s, %s threads: %ld calls, %lu in userspace, %lu in the kernel\n", sh->victim, sh->symbol,
	       sh->threads, calls, user, kernel);
	assert_true(calls > 0 && user > 0 && (kernel > 0 || !sh->flips));
	if (sh->hits_per_call)
		assert_int_equal(user + kernel, calls * sh->hits_per_call);
	assert_int_equal(rider_hits(&rd, 0), user);
	if (sh->has_return) {
		assert_int_equal(rider_count(&rd, 1) + oracle_count(&ret), user + kernel);
		assert_int_equal(target__pending_returns(rd.t, rd.arena), 0);
	}
	assert_int_equal(victim_wait(&v), 0);
	site__free(s);
	rider_stop(&rd);
	oracle_stop(&entry);
	if (sh->has_return)
		oracle_stop(&ret);
}

static void test_flip_push_rbp(void **state)
{
	(void)state;
	flip_under_load(&(struct shape){"calls", "push_rbp", "8", false, 200, 1});
}

static void test_flip_beginnings(void **state)
{
	static const struct shape shapes[] = {
		{"calls", "push_rbp", "1", false, 5, 1},   {"calls", "endbr", "4", false, 5, 1},
		{"calls", "sub_rsp", "4", false, 5, 1},	   {"calls", "rip_relative", "4", false, 5, 1},
		{"calls", "five_bytes", "4", false, 5, 1}, {"calls", "branches", "4", false, 5, 1},
		{"calls", "loops", "4", false, 5, 4},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
		flip_under_load(&shapes[i]);
}

static void test_flip_return(void **state)
{
	(void)state;
	flip_under_load(&(struct shape){"calls", "push_rbp", "8", true, 200, 1});
}

static void test_return_beginnings(void **state)
{
	static const struct shape shapes[] = {
		{"calls", "endbr", "4", true, 5, 1},	    {"calls", "sub_rsp", "4", true, 5, 1},
		{"calls", "rip_relative", "4", true, 5, 1}, {"calls", "five_bytes", "4", true, 5, 1},
		{"calls", "branches", "4", true, 5, 1},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
		flip_under_load(&shapes[i]);
}

/* Code at 4 MiB: each form of a jump, with one thread and with many, flipped often. */
static void test_flip_low(void **state)
{
	static const struct shape shapes[] = {
		{"low-calls", "push_rbp", "1", false, 100, 1},	  {"low-calls", "push_rbp", "8", false, 200, 1},
		{"low-calls", "push_rbp", "8", true, 200, 1},	  {"low-calls", "push_more", "8", false, 100, 1},
		{"low-calls", "push_more", "4", true, 20, 1},	  {"low-calls", "push_push", "8", false, 100, 1},
		{"low-calls", "push_push", "4", true, 20, 1},	  {"low-calls", "endbr", "8", false, 100, 1},
		{"low-calls", "endbr", "4", true, 20, 1},	  {"low-calls", "sub_rsp", "8", false, 100, 1},
		{"low-calls", "sub_rsp", "1", true, 20, 1},	  {"low-calls", "rip_relative", "4", true, 20, 1},
		{"low-calls", "five_bytes", "4", false, 20, 1},	  {"low-calls", "branches", "4", true, 20, 1},
		{"low-calls", "loops", "4", false, 20, 4},	  {"low-calls", "recursion", "4", true, 20, 0},
		{"stripped-calls", "push_rbp", "4", true, 20, 1}, {"stripped-calls", "endbr", "4", false, 20, 1},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
		flip_under_load(&shapes[i]);
}

/* Taken over and let go again and again, the place is clean each time. */
static void plan_and_free(char *victim)
{
	char *const argv[] = {victim, "all", "2", "0", NULL};
	struct agent_error err = {""};
	struct agent_site *as;
	struct rider rd;
	struct victim v;
	long calls;

	victim_start(&v, argv);
	rider_start(&rd, &rig, v.pid);
	victim_go(&v);
	for (int i = 0; i < 10; i++) {
		struct site *s = plan(&rd, argv[0], "push_rbp", i & 1, 0, SITE_DONE, &err);

		as = site__fill_addresses(s, rd.arena);
		rider_action(&rd, as, 0, 0, i & 1 ? AGENT_ACT_RETURN : 0);
		move(&rd, s, as, true);
		usleep(20000);
		move(&rd, s, as, false);
		site__free(s);
	}
	victim_go(&v);
	calls = victim_number(&v, "calls");
	assert_true(calls > 0 && rider_count(&rd, 0) > 0);
	assert_int_equal(victim_wait(&v), 0);
	rider_stop(&rd);
}

static void test_plan_and_free(void **state)
{
	(void)state;
	plan_and_free("calls");
	plan_and_free("low-calls");
}

static void test_refusals(void **state)
{
	static const struct {
		const char *symbol;
		bool has_return;
	} refused[] = {{"too_short", false}, {"loops_inside", false}};
	char *const argv[] = {"calls", "push_rbp", "1", "1", NULL};
	struct agent_error err = {""};
	struct rider rd;
	struct victim v;

	(void)state;
	victim_start(&v, argv);
	rider_start(&rd, &rig, v.pid);
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		plan(&rd, argv[0], refused[i].symbol, refused[i].has_return, 0, SITE_SKIPPED, &err);
		assert_true(err.text[0] != 0);
	}
	victim_go(&v);
	assert_int_equal(victim_wait(&v), 0);
	rider_stop(&rd);
}

/* The first other thread of the victim. */
static pid_t caller_of(pid_t pid)
{
	char path[64];
	struct dirent *e;
	pid_t tid = 0;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	d = opendir(path);
	assert_non_null(d);
	while ((e = readdir(d)))
		if (atoi(e->d_name) > 0 && atoi(e->d_name) != pid)
			tid = atoi(e->d_name);
	closedir(d);
	return tid;
}

/* Steps the thread, which is attached, to an address. */
static void step_to(pid_t tid, uint64_t addr)
{
	struct user_regs_struct regs = {0};
	int status;

	for (int i = 0; i < 100000 && regs.rip != addr; i++) {
		assert_int_equal(ptrace(PTRACE_SINGLESTEP, tid, NULL, NULL), 0);
		assert_int_equal(waitpid(tid, &status, __WALL), tid);
		assert_true(WIFSTOPPED(status));
		assert_int_equal(ptrace(PTRACE_GETREGS, tid, NULL, &regs), 0);
	}
	assert_int_equal(regs.rip, addr);
}

/* What the file has. */
static void read_code(const char *victim, const char *symbol, uint8_t *bytes, size_t n)
{
	int fd = open(victim_path(victim), O_RDONLY | O_CLOEXEC);

	assert_int_equal(pread(fd, bytes, n, (off_t)victim_symbol(victim, symbol)), n);
	close(fd);
}

static pid_t hold_on_step(const struct victim *v, uint64_t addr)
{
	pid_t tid;

	usleep(2000);
	tid = caller_of(v->pid);
	assert_int_equal(ptrace(PTRACE_ATTACH, tid, NULL, NULL), 0);
	assert_int_equal(waitpid(tid, NULL, __WALL), tid);
	step_to(tid, addr + 2);
	return tid;
}

/*
 * A thread has pushed and not yet jumped when the site is closed. While somebody traces it there, the bytes stay, and
 * the site cannot be freed. Let go, it jumps; stopped by a signal, it is made to.
 */
static void test_step(void **state)
{
	char *const argv[] = {"low-calls", "push_rbp", "1", "0", NULL};
	struct agent_error err = {""};
	struct agent_site *as;
	uint8_t was[8], now[8], code[8];
	struct oracle entry;
	struct rider rd;
	struct victim v;
	struct site *s;
	uint64_t addr;
	pid_t held;
	long calls;

	(void)state;
	victim_start(&v, argv);
	read_code(argv[0], "push_rbp", code, sizeof(code));
	oracle_start(&entry, victim_path(argv[0]), victim_symbol(argv[0], "push_rbp"), false);
	rider_start(&rd, &rig, v.pid);
	s = plan(&rd, argv[0], "push_rbp", false, 3, SITE_DONE, &err);
	as = site__fill_addresses(s, rd.arena);
	as->mode = AGENT_SITE_BOUNCE;
	rider_action(&rd, as, 0, 0, AGENT_ACT_PID_LIMITED);
	addr = site__address(s);
	victim_peek(&v, addr, was, sizeof(was));
	victim_go(&v);
	for (int round = 0; round < 20; round++) {
		bool stopped = round & 1;
		pid_t tid;

		move(&rd, s, as, true);
		tid = hold_on_step(&v, addr);
		check_ok(site__close(s, &err), &err);
		rider_gate(&rd, SHM_UGATE_KERNEL);
		as->mode = AGENT_SITE_BOUNCE;
		assert_int_not_equal(site__disarm(s, &err), 0);
		victim_peek(&v, addr, now, sizeof(now));
		assert_int_equal(now[2], JMP);
		/* A stop that is not yet reported is reported to nobody: the thread stops as its process does. */
		if (stopped)
			assert_int_equal(kill(v.pid, SIGSTOP), 0);
		assert_int_equal(ptrace(PTRACE_DETACH, tid, NULL, NULL), 0);
		if (stopped)
			usleep(5000);
		check_ok(site__disarm(s, &err), &err);
		victim_peek(&v, addr, now, sizeof(now));
		assert_memory_equal(now, was, sizeof(now));
		if (stopped)
			assert_int_equal(kill(v.pid, SIGCONT), 0);
	}
	move(&rd, s, as, true);
	held = hold_on_step(&v, addr);
	check_ok(site__close(s, &err), &err);
	rider_gate(&rd, SHM_UGATE_KERNEL);
	as->mode = AGENT_SITE_BOUNCE;
	for (int i = 0; i < 2; i++)
		assert_int_equal(site__free(s), -EBUSY);
	victim_peek(&v, addr, now, sizeof(now));
	assert_int_equal(now[2], JMP);
	assert_int_equal(ptrace(PTRACE_DETACH, held, NULL, NULL), 0);
	usleep(2000);
	assert_int_equal(site__free(s), 0);
	victim_peek(&v, addr, now, sizeof(now));
	assert_memory_equal(now + 1, code + 1, sizeof(now) - 1);
	victim_go(&v);
	calls = victim_number(&v, "calls");
	printf("# %ld calls, %lu in userspace, %lu in the kernel\n", calls, rider_count(&rd, 0), oracle_count(&entry));
	assert_int_equal(rider_count(&rd, 0) + oracle_count(&entry), calls);
	assert_int_equal(victim_wait(&v), 0);
	rider_stop(&rd);
	oracle_stop(&entry);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_flip_push_rbp), cmocka_unit_test(test_flip_beginnings),
		cmocka_unit_test(test_flip_return),   cmocka_unit_test(test_return_beginnings),
		cmocka_unit_test(test_flip_low),      cmocka_unit_test(test_plan_and_free),
		cmocka_unit_test(test_refusals),      cmocka_unit_test(test_step),
	};

	return rig_tests(&rig, "agent_site", tests, sizeof(tests) / sizeof(tests[0]));
}
