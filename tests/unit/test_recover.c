/* SPDX-License-Identifier: MIT */
/*
 * test_recover.c: what stock tools load on this kernel, captured as they loaded it, against what is recovered from the
 * kernel's translation of the same programs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <bpf/bpf.h>

#include "daemon/observer.h"
#include "daemon/recover.h"

enum { WAIT_MS = 15000 };

/* A function of this program that tools probe. */
extern int recover_victim(int a);
__attribute__((noinline)) int recover_victim(int a)
{
	__asm__ volatile("" ::: "memory");
	return a + 1;
}

static struct observer *observer;
static pid_t tool; /* of the running test */

static void on_event(void *arg, enum obs_event_kind kind, pid_t pid, pid_t arg2)
{
}

static int setup(void **state)
{
	char err[256];

	if (geteuid())
		return 0;
	if (observer__new(&observer, on_event, NULL, err, sizeof(err))) {
		print_message("# %s\n", err);
		return -1;
	}
	return 0;
}

static int teardown(void **state)
{
	observer__free(observer);
	return 0;
}

static void need(const char *program)
{
	if (geteuid()) {
		print_message("# SKIP: needs root\n");
		skip();
	}
	if (access(program, X_OK)) {
		print_message("# SKIP: %s is not installed\n", program);
		skip();
	}
}

static pid_t start(char *const argv[])
{
	pid_t pid = fork();
	int null;

	if (!pid) {
		null = open("/dev/null", O_RDWR);
		dup2(null, 0);
		dup2(null, 1);
		dup2(null, 2);
		execv(argv[0], argv);
		_exit(127);
	}
	return pid;
}

/* Again until it has gone: bpftrace forgets a signal that comes before its main loop. */
static int stop_tool(void **state)
{
	struct timespec tick = {.tv_nsec = 200000000};

	while (tool > 0 && !kill(tool, SIGINT) && !waitpid(tool, NULL, WNOHANG))
		nanosleep(&tick, NULL);
	tool = 0;
	return 0;
}

/* Before it execs, the child has this program's descriptors, the observer's own among them. */
static size_t count_uprobes(const struct obs_scan *scan)
{
	size_t n = 0;

	for (size_t i = 0; i < scan->n_probes; i++)
		n += probe_kind__is_uprobe(scan->probes[i].kind);
	return n;
}

/* Scans until the tool has n probes. */
static void wait_for_probes(size_t n, struct obs_scan *scan)
{
	struct timespec tick = {.tv_nsec = 20000000};
	char err[256];

	for (int i = 0; i < WAIT_MS / 20; i++) {
		observer__dispatch(observer);
		if (!observer__scan(observer, tool, scan, err, sizeof(err))) {
			if (count_uprobes(scan) >= n)
				return;
			obs_scan__clear(scan);
		}
		nanosleep(&tick, NULL);
	}
	fail_msg("the tool did not attach %zu probes", n);
}

static void print_difference(const struct obs_prog *p, const struct bpf_insn *r, size_t n)
{
	size_t i;

	for (i = 0; i < n && i < p->n_insns && !memcmp(&r[i], &p->insns[i], sizeof(*r)); i++)
		;
	print_message("# %s: %zu instructions, recovered %zu, first difference at %zu\n", p->name, p->n_insns, n, i);
}

/* Every program of the tool is recovered; the same as was captured unless the verifier cut dead code from it. */
static void check_tool(char *const argv[], size_t n_probes, bool may_be_cut)
{
	struct bpf_prog_info info;
	struct bpf_insn *insns;
	const struct obs_prog *p;
	struct obs_scan scan;
	uint32_t len;
	size_t n;
	char why[256];
	bool same;
	int fd, err;

	tool = start(argv);
	wait_for_probes(n_probes, &scan);
	for (size_t i = 0; i < scan.n_probes; i++) {
		p = observer__prog(observer, scan.probes[i].prog_id);
		assert_non_null(p);
		if (p->why_unknown)
			print_message("# %s\n", p->why_unknown);
		assert_non_null(p->insns);
		fd = bpf_prog_get_fd_by_id(p->id);
		assert_true(fd >= 0);
		memset(&info, 0, sizeof(info));
		len = sizeof(info);
		assert_int_equal(bpf_obj_get_info_by_fd(fd, &info, &len), 0);
		insns = NULL;
		err = recover__prog(fd, &info, &insns, &n, false, why, sizeof(why));
		close(fd);
		if (err)
			print_message("# %s (%zu instructions): %s\n", p->name, p->n_insns, why);
		assert_int_equal(err, 0);
		same = n == p->n_insns && !memcmp(insns, p->insns, n * sizeof(*insns));
		if (!same && !(may_be_cut && n < p->n_insns)) {
			print_difference(p, insns, n);
			fail();
		}
		free(insns);
	}
	obs_scan__clear(&scan);
}

#define BPFTRACE "/usr/bin/bpftrace"

/* The script probes recover_victim of this program: U and R stand for its entry and its return. */
static void check_script(const char *script, size_t n_probes)
{
	char text[4096] = "", exe[256] = "";
	ssize_t len = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	char *argv[] = {(char *)BPFTRACE, (char *)"-e", text, NULL};

	assert_true(len > 0);
	need(BPFTRACE);
	for (const char *s = script; *s; s++) {
		size_t at = strlen(text);

		if (*s == 'U' || *s == 'R')
			snprintf(text + at, sizeof(text) - at, "%s:%s:recover_victim",
				 *s == 'U' ? "uprobe" : "uretprobe", exe);
		else
			snprintf(text + at, sizeof(text) - at, "%c", *s);
	}
	check_tool(argv, n_probes, false);
}

static void test_count(void **state)
{
	check_script("U { @ = count(); }", 1);
}

static void test_keyed_count(void **state)
{
	check_script("U { @[tid] = count(); @c[comm] = count(); @cpu[cpu] = count(); }", 1);
}

static void test_sum_and_str(void **state)
{
	check_script("U { @[comm, arg0] = sum(arg2); @s[str(arg0)] = count(); }", 1);
}

static void test_hist(void **state)
{
	check_script("U { @ = hist(arg1); @l = lhist(arg0, 0, 100, 10); @a = avg(arg1); @m = max(arg0); }", 1);
}

static void test_start_delete(void **state)
{
	check_script(
		"U { @start[tid] = nsecs; } R /@start[tid]/ { @ns = hist(nsecs - @start[tid]); delete(@start[tid]); }",
		2);
}

static void test_division(void **state)
{
	check_script("U { @a = arg0 / arg1; @b = arg0 % arg1; @c = arg0 % 7; }", 1);
}

static void test_stacks_and_output(void **state)
{
	check_script("U { @k[kstack] = count(); @u[ustack(3)] = count(); printf(\"%d\\n\", pid); }", 1);
}

static void test_loop(void **state)
{
	check_script("U { $i = 0; unroll(5) { $i = $i + arg0; if ($i > 3) { @x[$i] = count(); } } }", 1);
}

static void test_funclatency(void **state)
{
	char exe[300] = "";
	char *argv[] = {(char *)"/usr/sbin/funclatency", exe, NULL};
	ssize_t len = readlink("/proc/self/exe", exe, 200);

	assert_true(len > 0);
	strcat(exe, ":recover_victim");
	need(argv[0]);
	check_tool(argv, 2, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_count, stop_tool),
		cmocka_unit_test_teardown(test_keyed_count, stop_tool),
		cmocka_unit_test_teardown(test_sum_and_str, stop_tool),
		cmocka_unit_test_teardown(test_hist, stop_tool),
		cmocka_unit_test_teardown(test_start_delete, stop_tool),
		cmocka_unit_test_teardown(test_division, stop_tool),
		cmocka_unit_test_teardown(test_loop, stop_tool),
		cmocka_unit_test_teardown(test_stacks_and_output, stop_tool),
		cmocka_unit_test_teardown(test_funclatency, stop_tool),
	};

	recover_victim(1);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, setup, teardown);
}
