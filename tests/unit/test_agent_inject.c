// SPDX-License-Identifier: MIT
/* Memory is brought into processes that are blocked, busy, filtered or in another namespace, and they do not notice. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "agent_fixture.h"

static struct rig rig;

static int count_fds(pid_t pid)
{
	char path[64];
	struct dirent *e;
	int n = 0;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	d = opendir(path);
	assert_non_null(d);
	while ((e = readdir(d)))
		n += e->d_name[0] != '.';
	closedir(d);
	return n;
}

static int count_maps(pid_t pid)
{
	char path[64], line[512];
	int n = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	f = fopen(path, "re");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		n++;
	fclose(f);
	return n;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e6 + (double)ts.tv_nsec / 1e3;
}

/* The agent once, then a mapping in and out, again and again. */
static void in_and_out(pid_t pid, int rounds, const char *what)
{
	struct agent_error err = {""};
	int fds = count_fds(pid), maps;
	double *took = calloc((size_t)rounds, sizeof(*took));
	struct rider rd;

	rider_start(&rd, &rig, pid);
	assert_int_equal(count_fds(pid), fds);
	maps = count_maps(pid);
	for (int i = 0; i < rounds; i++) {
		struct target_mapping m = {.fd = rd.code_fd, .size = 4096, .prot = PROT_READ | PROT_EXEC};

		took[i] = now_us();
		if (target__map(rd.t, &m, 1, &err))
			fail_msg("%s", err.text);
		took[i] = now_us() - took[i];
		if (target__unmap(rd.t, &m, 1, &err))
			fail_msg("%s", err.text);
	}
	qsort(took, (size_t)rounds, sizeof(*took), by_value);
	printf("# %s: a mapping in %.0f us (median), %.0f us (worst of %d)\n", what, took[rounds / 2], took[rounds - 1],
	       rounds);
	free(took);
	assert_int_equal(count_fds(pid), fds);
	assert_true(count_maps(pid) <= maps + 1 && count_maps(pid) >= maps - 1);
	assert_true(target__alive(rd.t));
	rider_stop(&rd);
}

static void test_blocked(void **state)
{
	char *const argv[] = {"blocked", NULL};
	struct victim v;

	(void)state;
	victim_start(&v, argv);
	in_and_out(v.pid, 500, "blocked");
	victim_go(&v);
	assert_int_equal(victim_number(&v, "disturbed"), 0);
	assert_int_equal(victim_wait(&v), 0);
}

static void test_hot(void **state)
{
	char *const argv[] = {"hot", "1", NULL};
	struct victim v;

	(void)state;
	victim_start(&v, argv);
	in_and_out(v.pid, 500, "hot");
	victim_go(&v);
	assert_true(victim_number(&v, "calls") > 0);
	assert_int_equal(victim_wait(&v), 0);
}

static void test_seccomp(void **state)
{
	char *const argv[] = {"seccomp", "1000", NULL};
	struct victim v;

	(void)state;
	victim_start(&v, argv);
	in_and_out(v.pid, 50, "strict seccomp");
	victim_go(&v);
	assert_int_equal(victim_number(&v, "calls"), 1000);
	assert_int_equal(victim_wait(&v), 0);
}

/* In a process of its own: a filter is never taken away. Its own children have it, too; so the victim is started
 * before. */
static void inject_filtered(pid_t victim)
{
	struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog filter = {.len = 1, .filter = &allow};
	const uint8_t nothing[] = {0xc3};
	struct target_mapping m = {
		.fd = agent_code_memfd("test-nothing", nothing, 1), .size = 4096, .prot = PROT_READ | PROT_EXEC};
	struct agent_error err = {""};
	struct target *t;

	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) || target__open(victim, &t, &err))
		_exit(1);
	if (target__map(t, &m, 1, &err) != -95 /* EOPNOTSUPP */)
		_exit(2);
	target__free(t);
	_exit(strstr(err.text, "has a seccomp filter") ? 0 : 3);
}

static void test_seccomp_of_both(void **state)
{
	char *const argv[] = {"seccomp", "1000", NULL};
	struct victim v;
	int status;
	pid_t pid;

	(void)state;
	victim_start(&v, argv);
	pid = fork();
	if (!pid)
		inject_filtered(v.pid);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	victim_go(&v);
	assert_int_equal(victim_number(&v, "calls"), 1000);
	assert_int_equal(victim_wait(&v), 0);
}

static void test_signals(void **state)
{
	char *const argv[] = {"signal", "3000", NULL};
	struct victim v;

	(void)state;
	victim_start(&v, argv);
	victim_go(&v);
	usleep(100000);
	in_and_out(v.pid, 300, "5,000 signals a second");
	assert_true(victim_number(&v, "calls") > 0);
	assert_int_equal(victim_wait(&v), 0);
}

/* ---- who injects is killed ---- */

static void inject_until_killed(pid_t pid, int code_fd, int ready)
{
	struct agent_error err;
	struct target *t;
	int rc = target__open(pid, &t, &err);

	for (int i = 0; !rc; i++) {
		struct target_mapping m = {.fd = code_fd, .size = 4096, .prot = PROT_READ | PROT_EXEC};

		rc = target__map(t, &m, 1, &err);
		if (!rc)
			rc = target__unmap(t, &m, 1, &err);
		if (!rc && !i)
			rc = write(ready, "x", 1) != 1;
	}
	fprintf(stderr, "%s\n", err.text);
	_exit(1);
}

static int field_of_status(pid_t pid, const char *field)
{
	char path[64], line[256];
	int value = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	f = fopen(path, "re");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (!strncmp(line, field, strlen(field)))
			value = atoi(line + strlen(field));
	fclose(f);
	return value;
}

/* A thread is an injector's for less than a tenth of the time. Not for ever: the injector may be between two stops. */
static void wait_until_traced(pid_t pid)
{
	for (int i = 0; i < 500 && !field_of_status(pid, "TracerPid:"); i++)
		;
}

/* Somebody kills the daemon at any moment of an injection, again and again: the target does not notice. */
static void kill_injectors(char *const argv[], int rounds, const char *end, long want)
{
	const uint8_t nothing[] = {0xc3};
	int code_fd = agent_code_memfd("test-nothing", nothing, sizeof(nothing)), in_the_middle = 0, fds, maps;
	struct victim v;

	assert_true(code_fd >= 0);
	assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
	victim_start(&v, argv);
	fds = count_fds(v.pid);
	maps = count_maps(v.pid);
	srand(1);
	for (int i = 0; i < rounds; i++) {
		int ready[2], status;
		pid_t injector;
		char c;

		assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
		injector = fork();
		assert_true(injector >= 0);
		if (!injector)
			inject_until_killed(v.pid, code_fd, ready[1]);
		close(ready[1]);
		assert_int_equal(read(ready[0], &c, 1), 1);
		usleep((useconds_t)(rand() % 3000));
		if (i % 2)
			wait_until_traced(v.pid);
		assert_int_equal(kill(injector, SIGKILL), 0);
		in_the_middle += field_of_status(v.pid, "TracerPid:") != 0;
		assert_int_equal(waitpid(injector, &status, 0), injector);
		assert_true(WIFSIGNALED(status));
		/* What it left is our child now: its tracer, which ends. */
		assert_true(waitpid(-1, NULL, __WALL) > 0);
		assert_int_equal(field_of_status(v.pid, "TracerPid:"), 0);
		close(ready[0]);
	}
	printf("# %s: killed %d times, %d times while a thread was ours\n", argv[1] ? argv[1] : argv[0], rounds,
	       in_the_middle);
	assert_true(in_the_middle > rounds / 10);
	assert_int_equal(count_fds(v.pid), fds);
	/* A mapping that was finished when its owner was killed stays; what was not finished is gone. */
	assert_true(count_maps(v.pid) <= maps + rounds);
	victim_go(&v);
	assert_int_equal(victim_number(&v, end), want);
	assert_int_equal(victim_wait(&v), 0);
	close(code_fd);
}

static void test_killed(void **state)
{
	char *const spin[] = {"steady", "spin", NULL}, *const wait[] = {"steady", "wait", NULL},
		    *const blocked[] = {"blocked", NULL}, *const seccomp[] = {"seccomp", "1000", NULL},
		    *const ignores[] = {"steady", "spin", "ignore", NULL};

	(void)state;
	kill_injectors(spin, 300, "wrong", 0);
	kill_injectors(ignores, 100, "wrong", 0);
	kill_injectors(wait, 300, "wrong", 0);
	kill_injectors(blocked, 100, "disturbed", 0);
	kill_injectors(seccomp, 100, "calls", 1000);
}

/* ---- the main thread ends ---- */

static void test_leaderless(void **state)
{
	char *const argv[] = {"leaderless", "3000", "2", NULL};
	struct agent_error err = {""};
	struct target_mapping m;
	struct target *again;
	struct rider rd;
	struct victim v;

	(void)state;
	victim_start(&v, argv);
	rider_start(&rd, &rig, v.pid);
	victim_go(&v);
	usleep(200000);
	assert_true(target__alive(rd.t));
	m = (struct target_mapping){.fd = rd.code_fd, .size = 4096, .prot = PROT_READ | PROT_EXEC};
	for (int i = 0; i < 50; i++) {
		if (target__map(rd.t, &m, 1, &err) || target__quiesce(rd.t, NULL, 0, 1000, &err))
			fail_msg("%s", err.text);
		if (target__unmap(rd.t, &m, 1, &err))
			fail_msg("%s", err.text);
		m.addr = 0;
	}
	assert_int_not_equal(target__open(v.pid, &again, &err), 0);
	assert_non_null(strstr(err.text, "the main thread"));
	assert_int_equal(victim_number(&v, "calls"), 6000);
	rider_stop(&rd);
	assert_int_equal(victim_wait(&v), 0);
}

/* ---- who is in the middle of something ---- */

#define WORK_SIZE 16 /* of work() at least */

/* Whoever sleeps is outside whatever lies on its stack, but for one that a signal took out of the middle. */
static void check_asleep(const char *how, bool inside)
{
	char *const argv[] = {"asleep", (char *)how, NULL};
	struct agent_error err = {""};
	struct code_range work;
	struct rider rd;
	struct victim v;

	victim_start(&v, argv);
	rider_start(&rd, &rig, v.pid);
	victim_go(&v);
	work.start = (uint64_t)victim_number(&v, "work");
	work.end = work.start + WORK_SIZE;
	usleep(50000);
	assert_int_equal(target__quiesce(rd.t, &work, 1, 200, &err), inside ? -ETIMEDOUT : 0);
	assert_int_equal(target__left(rd.t, &work, 1, 200, &err), -ETIMEDOUT);
	work.start += 4096;
	work.end += 4096;
	assert_int_equal(target__quiesce(rd.t, &work, 1, 1000, &err), 0);
	victim_go(&v);
	assert_int_equal(victim_number(&v, "calls"), inside);
	rider_stop(&rd);
	assert_int_equal(victim_wait(&v), 0);
}

static void test_asleep(void **state)
{
	(void)state;
	check_asleep("left", false);
	check_asleep("interrupted", true);
	check_asleep("altstack", true);
}

/* ---- it becomes another program ---- */

/* The process executes itself all the time, also in the middle of an injection. */
static void test_exec(void **state)
{
	char *const argv[] = {"exec", "3000", NULL};
	const uint8_t nothing[] = {0xc3};
	int code_fd = agent_code_memfd("test-nothing", nothing, sizeof(nothing)), injected = 0, tried = 0;
	struct victim v;

	(void)state;
	victim_start(&v, argv);
	victim_go(&v);
	for (int generation = 0; generation <= 3000;) {
		struct target_mapping m = {.fd = code_fd, .size = 4096, .prot = PROT_READ | PROT_EXEC};
		struct agent_error err = {""};
		struct target *t;

		if (!target__open(v.pid, &t, &err)) {
			injected += !target__map(t, &m, 1, &err);
			tried++;
			target__free(t);
		}
		for (int i = 0; i < 2 && generation <= 3000; i++, generation++)
			assert_int_equal(victim_number(&v, "calls"), 1000);
	}
	assert_int_equal(victim_wait(&v), 0);
	printf("# tried %d times, %d times in time\n", tried, injected);
	close(code_fd);
}

static void test_catches_calls(void **state)
{
	char *const argv[] = {"dispatch", NULL};
	const uint8_t nothing[] = {0xc3};
	struct target_mapping m = {
		.fd = agent_code_memfd("test-nothing", nothing, 1), .size = 4096, .prot = PROT_READ | PROT_EXEC};
	struct agent_error err = {""};
	struct target *t;
	struct victim v;

	(void)state;
	victim_start(&v, argv);
	assert_int_equal(target__open(v.pid, &t, &err), 0);
	assert_int_equal(target__map(t, &m, 1, &err), -95 /* EOPNOTSUPP */);
	assert_non_null(strstr(err.text, "system calls of its own"));
	target__free(t);
	close(m.fd);
	victim_go(&v);
	assert_int_equal(victim_number(&v, "calls"), 0);
	assert_int_equal(victim_wait(&v), 0);
}

static void refused(pid_t pid, int want)
{
	struct agent_error err = {""};
	struct target *t;

	assert_int_equal(target__open(pid, &t, &err), want);
	assert_true(err.text[0] != 0);
}

static void test_refused(void **state)
{
	(void)state;
	refused(0x7ffffffe, -3 /* ESRCH */);
	refused(getpid(), -1 /* EPERM */);
	refused(2, -95 /* EOPNOTSUPP: a kernel thread */);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_blocked),		cmocka_unit_test(test_hot),
		cmocka_unit_test(test_seccomp),		cmocka_unit_test(test_signals),
		cmocka_unit_test(test_killed),		cmocka_unit_test(test_leaderless),
		cmocka_unit_test(test_asleep),		cmocka_unit_test(test_catches_calls),
		cmocka_unit_test(test_refused),		cmocka_unit_test(test_exec),
		cmocka_unit_test(test_seccomp_of_both),
	};

	return rig_tests(&rig, "agent_inject", tests, sizeof(tests) / sizeof(tests[0]));
}
