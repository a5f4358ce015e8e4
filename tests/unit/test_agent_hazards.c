// SPDX-License-Identifier: MIT
/* What processes do to themselves while they are probed in userspace: fork, vfork, exec, signals, filters, death. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "agent/site.h"
#include "agent/target.h"
#include "agent_fixture.h"

static struct rig rig;

/* A victim whose work() is served in userspace: entries counted in 0, returns in 1. */
struct probed {
	struct victim v;
	struct rider rd;
	struct site *s;
	pid_t pid;
};

static void probe(struct probed *p, char *const argv[], bool has_return)
{
	struct site_opts o = {.sz = sizeof(o), .has_return = has_return, .noop_prog_fd = rig.noop_fd};
	struct agent_error err = {""};
	struct agent_site *as;

	if (!p->pid) {
		victim_start(&p->v, argv);
		p->pid = p->v.pid;
	}
	rider_start(&p->rd, &rig, p->pid);
	o.path = victim_path(argv[0]);
	o.offset = victim_symbol(argv[0], "work");
	if (site__plan(p->rd.t, &o, &p->s, &err) != SITE_DONE)
		fail_msg("%s", err.text);
	as = site__fill_addresses(p->s, p->rd.arena);
	rider_action(&p->rd, as, 0, 0, AGENT_ACT_PID_LIMITED);
	if (has_return)
		rider_action(&p->rd, as, 1, 1, AGENT_ACT_PID_LIMITED | AGENT_ACT_RETURN);
	rider_gate(&p->rd, SHM_UGATE_OPEN);
	if (site__open(p->s, &err))
		fail_msg("%s", err.text);
}

static void end(struct probed *p)
{
	site__free(p->s);
	rider_stop(&p->rd);
}

/* Runs it to its end: every call it tells of was counted. */
static void counts_all(char *const argv[], bool has_return)
{
	struct probed p = {0};
	long calls;

	probe(&p, argv, has_return);
	victim_go(&p.v);
	calls = victim_number(&p.v, "calls");
	assert_true(calls > 0);
	assert_int_equal(rider_count(&p.rd, 0), calls);
	if (has_return) {
		assert_int_equal(rider_count(&p.rd, 1), calls);
		assert_int_equal(p.rd.arena->flags & AGENT_TARGET_NO_SLOT, 0);
	}
	assert_int_equal(victim_wait(&p.v), 0);
	end(&p);
}

#define BOTH(name, ...)                                                                                                \
	static void name(void **state)                                                                                 \
	{                                                                                                              \
		char *const argv[] = {__VA_ARGS__, NULL};                                                              \
                                                                                                                       \
		(void)state;                                                                                           \
		counts_all(argv, false);                                                                               \
		counts_all(argv, true);                                                                                \
	}

/* As a kernel wants it that lets nobody else write code; here it changes nothing. */
static void test_written_by_the_tracer(void **state)
{
	char *const argv[] = {"signal", "500", NULL};
	struct probed p = {0};
	uint8_t byte;
	long calls;

	(void)state;
	probe(&p, argv, true);
	victim_go(&p.v);
	for (int i = 0; i < 200; i++) {
		assert_int_equal(target_read(p.rd.t, p.s->addr, &byte, 1), 0);
		if (target__alive(p.rd.t) && tracer_write(p.rd.t, p.s->addr, &byte, 1) && target__alive(p.rd.t))
			fail_msg("write %d", i);
	}
	calls = victim_number(&p.v, "calls");
	assert_int_equal(rider_count(&p.rd, 0), calls);
	assert_int_equal(rider_count(&p.rd, 1), calls);
	assert_int_equal(victim_wait(&p.v), 0);
	end(&p);
}

BOTH(test_fork, "fork", "50")
BOTH(test_vfork, "vfork", "50")
BOTH(test_signal, "signal", "500")
BOTH(test_altstack, "signal", "500", "altstack")
BOTH(test_seccomp, "seccomp", "100000")

/* Not PIE: the jump has a step. */
BOTH(test_low_fork, "low-fork", "50")
BOTH(test_low_vfork, "low-vfork", "50")
BOTH(test_low_signal, "low-signal", "500")
BOTH(test_low_altstack, "low-signal", "500", "altstack")
BOTH(test_low_seccomp, "low-seccomp", "100000")

/*
 * A hit uses no more of the stack than is said: the victim tells how much was touched, and lives when there is no more.
 * The actions need their return address.
 */
static void does_with_stack(char *name, bool has_return, uint32_t flags, long least, long most)
{
	char room[16];
	char *const argv[] = {name, room, "1000", NULL};

	for (int i = 0; i < 2; i++) {
		struct probed p = {0};
		long touched, calls;

		snprintf(room, sizeof(room), "%ld", i ? most : 2000);
		probe(&p, argv, has_return);
		for (uint32_t k = 0; k < p.rd.arena->site[0].n_actions; k++)
			p.rd.arena->site[0].action[k].flags |= flags;
		agent_site_serve(&p.rd.arena->site[0], 0);
		victim_go(&p.v);
		touched = victim_number(&p.v, "touched");
		calls = victim_number(&p.v, "calls");
		print_message("%s %s: %ld bytes of stack touched\n", name, i ? "at the edge" : "with room", touched);
		assert_int_equal(calls, 1001);
		assert_int_equal(rider_count(&p.rd, 0), calls);
		assert_in_range(touched, least, most);
		assert_int_equal(victim_wait(&p.v), 0);
		end(&p);
	}
}

static void test_stack(void **state)
{
	const long program = sizeof(void *);

	(void)state;
	does_with_stack("edge", false, 0, AGENT_STACK_PLAIN + program, AGENT_STACK_PLAIN + program);
	does_with_stack("low-edge", false, 0, AGENT_STACK_PLAIN + program, AGENT_STACK_PLAIN + program);
	does_with_stack("edge", false, AGENT_ACT_GENERAL, AGENT_STACK_PLAIN + program, AGENT_STACK_GENERAL + program);
	does_with_stack("edge", true, 0, AGENT_STACK_PLAIN + program, AGENT_STACK_GENERAL + program);
	does_with_stack("low-edge", true, 0, AGENT_STACK_PLAIN + program, AGENT_STACK_GENERAL + program);
}

/* The site goes away while children live that were born with the jump in their code. */
static void test_fork_then_free(void **state)
{
	(void)state;
	for (int i = 0; i < 5; i++) {
		char *const argv[] = {i & 2 ? "low-fork" : "fork", "1", "400", NULL};
		struct agent_error err = {""};
		struct probed p = {0};

		probe(&p, argv, i & 1);
		victim_go(&p.v);
		usleep(100000);
		assert_int_equal(site__close(p.s, &err), 0);
		rider_gate(&p.rd, SHM_UGATE_KERNEL);
		site__free(p.s);
		assert_int_equal(victim_number(&p.v, "calls"), 2);
		assert_int_equal(rider_count(&p.rd, 0), 2);
		assert_int_equal(victim_wait(&p.v), 0);
		rider_stop(&p.rd);
	}
}

static pid_t child_of(pid_t pid)
{
	char path[64];
	FILE *f;
	int child = 0;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
	f = fopen(path, "re");
	assert_non_null(f);
	assert_int_equal(fscanf(f, "%d", &child), 1);
	fclose(f);
	return child;
}

/* The bytes of a file that begin at this offset; of work() in a process. */
static void read_bytes(const char *path, uint64_t offset, uint8_t *out, size_t size)
{
	FILE *f = fopen(path, "re");

	assert_non_null(f);
	setvbuf(f, NULL, _IONBF, 0);
	assert_int_equal(fseek(f, (long)offset, SEEK_SET), 0);
	assert_int_equal(fread(out, 1, size, f), size);
	fclose(f);
}

/* Of the victim's program. */
static unsigned int mappings_of(pid_t pid)
{
	char path[32], line[512];
	unsigned int n = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	f = fopen(path, "re");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		n += strstr(line, "/victims/") != NULL;
	fclose(f);
	return n;
}

/* A child has the file's code again, with the int3 of whoever wants one in it and of nobody else. */
static void test_fork_pages(void **state)
{
	char *const argv[] = {"fork", "1", "600", NULL};
	uint64_t offset = victim_symbol("fork", "work");

	(void)state;
	for (int i = 0; i < 2; i++) {
		uint8_t now[64], files[64];
		struct agent_error err = {""};
		struct probed p = {0};
		const struct site *all[1];
		struct oracle o;
		char mem[32];
		uint64_t before;
		pid_t child;

		if (i)
			oracle_start(&o, victim_path("fork"), offset, false);
		probe(&p, argv, false);
		victim_go(&p.v);
		usleep(100000);
		child = child_of(p.pid);
		all[0] = p.s;
		if (agent_repair_child(child, all, 1, &err))
			fail_msg("%s", err.text);
		snprintf(mem, sizeof(mem), "/proc/%d/mem", child);
		read_bytes(mem, site__address(p.s), now, sizeof(now));
		read_bytes(victim_path("fork"), offset, files, sizeof(files));
		if (i) {
			files[0] = 0xcc;
			before = oracle_count(&o);
			usleep(100000);
			assert_true(oracle_count(&o) > before);
		}
		assert_memory_equal(now, files, sizeof(now));
		assert_int_equal(mappings_of(child), mappings_of(p.pid));
		assert_int_equal(victim_number(&p.v, "calls"), 2);
		assert_int_equal(rider_count(&p.rd, 0), 2);
		assert_int_equal(victim_wait(&p.v), 0);
		end(&p);
		if (i)
			oracle_stop(&o);
	}
}

/*
 * The main thread has ended, and with it the uprobes' hold on the process: the kernel takes its int3s away one by one
 * when somebody meets them. Whoever calls while the site goes away must not find half a jump.
 */
static void test_leaderless(void **state)
{
	(void)state;
	for (int i = 0; i < 6; i++) {
		char *const argv[] = {i & 1 ? "low-leaderless" : "leaderless", "5000000", "2", "0", NULL};
		struct agent_error err = {""};
		struct probed p = {0};

		probe(&p, argv, i & 2);
		victim_go(&p.v);
		usleep(20000);
		if (site__close(p.s, &err))
			fail_msg("%s, after %lu hits, end %d", err.text, rider_count(&p.rd, 0), victim_wait(&p.v));
		usleep(10000);
		rider_gate(&p.rd, SHM_UGATE_KERNEL);
		if (site__disarm(p.s, &err))
			fail_msg("%s, after %lu hits, end %d", err.text, rider_count(&p.rd, 0), victim_wait(&p.v));
		site__free(p.s);
		assert_int_equal(victim_number(&p.v, "calls"), 10000000);
		assert_true(rider_count(&p.rd, 0) > 0);
		assert_int_equal(victim_wait(&p.v), 0);
		rider_stop(&p.rd);
	}
}

static void test_exec(void **state)
{
	char *const argv[] = {"exec", "1", NULL};
	struct probed p = {0};

	(void)state;
	probe(&p, argv, true);
	victim_go(&p.v);
	assert_int_equal(victim_number(&p.v, "calls"), 1000);
	assert_int_equal(victim_number(&p.v, "calls"), 1000);
	assert_int_equal(rider_count(&p.rd, 0), 1000);
	assert_false(target__alive(p.rd.t));
	assert_int_equal(victim_wait(&p.v), 0);
	end(&p);
}

static void test_dies(void **state)
{
	(void)state;
	for (int i = 0; i < 5; i++) {
		char *const argv[] = {i & 1 ? "low-dies" : "dies", "30", NULL};
		struct probed p = {0};

		probe(&p, argv, true);
		victim_go(&p.v);
		assert_int_equal(victim_wait(&p.v), -SIGKILL);
		assert_true(rider_count(&p.rd, 0) >= rider_count(&p.rd, 1));
		assert_false(target__alive(p.rd.t));
		end(&p);
	}
}

/* Killed from outside while the agent comes in, is opened, is closed: we go on, with an error at most. */
static void test_killed_meanwhile(void **state)
{
	(void)state;
	for (int i = 0; i < 20; i++) {
		char *const argv[] = {i & 1 ? "low-calls" : "calls", "push_rbp", "4", "0", NULL};
		struct site_opts o = {.sz = sizeof(o), .noop_prog_fd = rig.noop_fd};
		struct agent_error err = {""};
		struct site *s = NULL;
		struct target *t;
		struct victim v;
		pid_t killer;
		struct agent_target *mapped;
		int arena, sites = -1;

		victim_start(&v, argv);
		victim_go(&v);
		killer = fork();
		if (!killer) {
			usleep((useconds_t)i * 300);
			kill(v.pid, SIGKILL);
			_exit(0);
		}
		o.path = victim_path(argv[0]);
		o.offset = victim_symbol(argv[0], "push_rbp");
		arena = agent_service__new_arena(rig.service, &err);
		mapped = agent_arena__map(arena, &sites);
		assert_non_null(mapped);
		if (!target__open(v.pid, &t, &err)) {
			if (!target__inject(t, rig.image, arena, sites, &err) &&
			    site__plan(t, &o, &s, &err) == SITE_DONE) {
				(void)site__open(s, &err);
				(void)site__close(s, &err);
				site__free(s);
			}
			target__free(t);
		}
		agent_arena__unmap(mapped);
		close(sites);
		close(arena);
		assert_int_equal(victim_wait(&v), -SIGKILL);
	}
}

/* In the tracer. */
static int kill_while_stopped(struct target *t, void *arg)
{
	struct agent_error err = {""};
	struct stopped s;
	pid_t *tids;
	int n = proc_threads(t->pid, &tids);

	(void)arg;
	assert_true(n > 1);
	assert_int_equal(thread_stop(t, tids[n - 1], 1000, &s, &err), 0);
	free(tids);
	kill(t->pid, SIGKILL);
	thread_resume(t, &s);
	return 0;
}

static int n_threads(pid_t pid)
{
	pid_t *tids = NULL;
	int n = proc_threads(pid, &tids);

	free(tids);
	return n;
}

/* Who waits for a process that was killed while one of its threads was traced waits for it alone, not for us. */
static void test_killed_while_stopped(void **state)
{
	char *const argv[] = {"calls", "push_rbp", "4", "0", NULL};
	struct agent_error err = {""};
	struct target *t;
	struct victim v;

	(void)state;
	victim_start(&v, argv);
	victim_go(&v);
	for (int i = 0; i < 10000 && n_threads(v.pid) < 2; i++)
		usleep(1000);
	assert_int_equal(target__open(v.pid, &t, &err), 0);
	assert_int_equal(tracer_run(t, kill_while_stopped, NULL), 0);
	alarm(10);
	assert_int_equal(victim_wait(&v), -SIGKILL);
	alarm(0);
	target__free(t);
}

static void test_pidns(void **state)
{
	char *const argv[] = {"pidns", "1000", NULL};
	struct probed p = {0};
	char line[64];
	long calls;
	int to[2], from[2];
	pid_t outer;

	(void)state;
	assert_int_equal(pipe(to), 0);
	assert_int_equal(pipe(from), 0);
	outer = fork();
	if (!outer) {
		dup2(to[0], 0);
		dup2(from[1], 1);
		execv(victim_path("pidns"), argv);
		_exit(127);
	}
	close(to[0]);
	close(from[1]);
	p.v = (struct victim){outer, fdopen(to[1], "w"), fdopen(from[0], "r")};
	p.pid = (pid_t)victim_number(&p.v, "pid");
	assert_true(p.pid > 0);
	assert_non_null(fgets(line, sizeof(line), p.v.out));
	assert_string_equal(line, "ready\n");
	probe(&p, argv, true);
	victim_go(&p.v);
	calls = victim_number(&p.v, "calls");
	assert_int_equal(rider_count(&p.rd, 0), calls);
	assert_int_equal(rider_count(&p.rd, 1), calls);
	assert_int_equal(victim_wait(&p.v), 0);
	end(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_stack),
		cmocka_unit_test(test_low_fork),
		cmocka_unit_test(test_low_vfork),
		cmocka_unit_test(test_low_signal),
		cmocka_unit_test(test_low_altstack),
		cmocka_unit_test(test_low_seccomp),
		cmocka_unit_test(test_fork),
		cmocka_unit_test(test_fork_then_free),
		cmocka_unit_test(test_fork_pages),
		cmocka_unit_test(test_vfork),
		cmocka_unit_test(test_leaderless),
		cmocka_unit_test(test_exec),
		cmocka_unit_test(test_signal),
		cmocka_unit_test(test_altstack),
		cmocka_unit_test(test_seccomp),
		cmocka_unit_test(test_pidns),
		cmocka_unit_test(test_dies),
		cmocka_unit_test(test_killed_meanwhile),
		cmocka_unit_test(test_written_by_the_tracer),
		cmocka_unit_test(test_killed_while_stopped),
	};

	return rig_tests(&rig, "agent_hazards", tests, sizeof(tests) / sizeof(tests[0]));
}
