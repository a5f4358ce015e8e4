/* SPDX-License-Identifier: MIT */
/* test_observe.c: programs loaded and attached by child processes, against what the observer says of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <bpf/bpf.h>

#include "daemon/observer.h"
#include "tests/unit/code_offset.h"

enum { MAX_SEEN = 256, WAIT_MS = 5000, N_CHILDREN = 4, N_LOADS = 8, MANY_INSNS = 300000 };

static struct observer *observer;
static pid_t child; /* of the running test */

static struct {
	enum obs_event_kind kind;
	pid_t pid, arg;
} seen[MAX_SEEN];
static size_t n_seen;

static void on_event(void *arg, enum obs_event_kind kind, pid_t pid, pid_t arg2)
{
	if (n_seen == MAX_SEEN)
		return;
	seen[n_seen].kind = kind;
	seen[n_seen].pid = pid;
	seen[n_seen++].arg = arg2;
}

static int setup(enum bpf_hook hook)
{
	char err[256];

	if (!geteuid() && observer__new_with(&observer, hook, on_event, NULL, err, sizeof(err))) {
		print_message("# %s\n", err);
		return -1;
	}
	return 0;
}

static int setup_tracepoint(void **state)
{
	return setup(BPF_HOOK_TRACEPOINT);
}

static int setup_raw(void **state)
{
	return setup(BPF_HOOK_RAW_TRACEPOINT);
}

static int teardown(void **state)
{
	observer__free(observer);
	observer = NULL;
	if (child > 0) {
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
	}
	child = 0;
	n_seen = 0;
	return 0;
}

static void need_root(void)
{
	if (!observer) {
		print_message("# SKIP: needs root\n");
		skip();
	}
}

/* Dispatches until the event is seen. */
static bool wait_for(enum obs_event_kind kind, pid_t pid)
{
	struct pollfd p = {.fd = observer__epoll_fd(observer), .events = POLLIN};

	for (int left = WAIT_MS; left > 0; left -= 10) {
		for (size_t i = 0; i < n_seen; i++)
			if (seen[i].kind == kind && seen[i].pid == pid)
				return true;
		poll(&p, 1, 10);
		assert_int_equal(observer__dispatch(observer), 0);
	}
	return false;
}

/* ---- programs ---- */

static size_t fill_program(struct bpf_insn *insns, size_t n, int map_fd, int seed)
{
	size_t i = 0;

	insns[i++] = (struct bpf_insn){
		.code = BPF_LD | BPF_IMM | BPF_DW, .dst_reg = 1, .src_reg = BPF_PSEUDO_MAP_FD, .imm = map_fd};
	insns[i++] = (struct bpf_insn){0};
	while (i < n - 2)
		insns[i] = (struct bpf_insn){.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 2, .imm = seed + (int)i},
		i++;
	insns[i++] = (struct bpf_insn){.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0};
	insns[i++] = (struct bpf_insn){.code = BPF_JMP | BPF_EXIT};
	return i;
}

static int load(const struct bpf_insn *insns, size_t n)
{
	return bpf_prog_load(BPF_PROG_TYPE_KPROBE, "test_observe", "GPL", insns, n, NULL);
}

static uint32_t id_of(int prog_fd)
{
	struct bpf_prog_info info = {0};
	uint32_t len = sizeof(info);

	return bpf_obj_get_info_by_fd(prog_fd, &info, &len) ? 0 : info.id;
}

static uint32_t map_id_of(int map_fd)
{
	struct bpf_map_info info = {0};
	uint32_t len = sizeof(info);

	return bpf_obj_get_info_by_fd(map_fd, &info, &len) ? 0 : info.id;
}

/* What a child says of a program that it loaded, and holds until it is killed. */
struct told {
	uint32_t prog_id, map_id;
	int seed, n;
};

/* In the child: the map is closed right after the load, as tools may. */
static struct told load_one(int seed, size_t n)
{
	struct bpf_insn *insns = calloc(n, sizeof(*insns));
	int map = bpf_map_create(BPF_MAP_TYPE_HASH, "test_map", 4, 8, 16, NULL);
	struct told told = {.map_id = map_id_of(map), .seed = seed, .n = n};
	int prog;

	fill_program(insns, n, map, seed);
	prog = load(insns, n);
	close(map);
	free(insns);
	told.prog_id = prog >= 0 ? id_of(prog) : 0;
	return told;
}

static void check_program(const struct told *told)
{
	struct bpf_insn *want = calloc(told->n, sizeof(*want));
	const struct obs_prog *p = observer__prog(observer, told->prog_id);

	assert_true(told->prog_id);
	assert_non_null(p);
	if (p->why_unknown)
		print_message("# %s\n", p->why_unknown);
	assert_non_null(p->insns);
	fill_program(want, told->n, told->map_id, told->seed);
	assert_int_equal(p->n_insns, told->n);
	assert_memory_equal(p->insns, want, told->n * sizeof(*want));
	assert_int_equal(p->n_maps, 1);
	assert_int_equal(p->map_ids[0], told->map_id);
	assert_string_equal(p->license, "GPL");
	assert_string_equal(p->name, "test_observe");
	free(want);
}

static void read_all(int fd, void *buf, size_t size)
{
	for (size_t at = 0; at < size;) {
		ssize_t n = read(fd, (char *)buf + at, size - at);

		assert_true(n > 0);
		at += n;
	}
}

static void test_one_large(void **state)
{
	struct told told;
	int pipes[2];

	need_root();
	assert_int_equal(pipe(pipes), 0);
	child = fork();
	if (!child) {
		told = load_one(7, MANY_INSNS);
		write(pipes[1], &told, sizeof(told));
		pause();
	}
	read_all(pipes[0], &told, sizeof(told));
	close(pipes[0]);
	close(pipes[1]);
	check_program(&told);
}

static void test_concurrent(void **state)
{
	struct told told[N_CHILDREN * N_LOADS], one;
	pid_t pids[N_CHILDREN];
	int pipes[2];

	need_root();
	assert_int_equal(pipe(pipes), 0);
	for (int c = 0; c < N_CHILDREN; c++) {
		pids[c] = fork();
		if (pids[c])
			continue;
		for (int i = 0; i < N_LOADS; i++) {
			one = load_one(c * 1000000 + i * 10000, 100 + i * 2000);
			write(pipes[1], &one, sizeof(one));
		}
		pause();
	}
	read_all(pipes[0], told, sizeof(told));
	close(pipes[0]);
	close(pipes[1]);
	for (size_t i = 0; i < N_CHILDREN * N_LOADS; i++)
		check_program(&told[i]);
	for (int c = 0; c < N_CHILDREN; c++) {
		kill(pids[c], SIGKILL);
		waitpid(pids[c], NULL, 0);
	}
}

/* More than the ring buffer holds while nobody reads it: what does not fit is refused whole, and recovered. */
static void test_full_ring(void **state)
{
	struct told told[N_LOADS];
	int pipes[2];

	need_root();
	assert_int_equal(pipe(pipes), 0);
	child = fork();
	if (!child) {
		for (int i = 0; i < N_LOADS; i++)
			told[i] = load_one(i, MANY_INSNS);
		write(pipes[1], told, sizeof(told));
		pause();
	}
	read_all(pipes[0], told, sizeof(told));
	close(pipes[0]);
	close(pipes[1]);
	for (int i = 0; i < N_LOADS; i++)
		check_program(&told[i]);
}

/* A load that fails (as the first of a loader's retries) leaves nothing, and the next one is captured. */
static void test_failed_load(void **state)
{
	struct bpf_insn bad[] = {{.code = BPF_JMP | BPF_EXIT}};
	struct told told;
	int pipes[2];

	need_root();
	assert_int_equal(pipe(pipes), 0);
	child = fork();
	if (!child) {
		for (int i = 0; i < 5; i++)
			load(bad, 1);
		told = load_one(3, 50);
		write(pipes[1], &told, sizeof(told));
		pause();
	}
	read_all(pipes[0], &told, sizeof(told));
	close(pipes[0]);
	close(pipes[1]);
	check_program(&told);
}

/* Instructions in a page of a file that nobody has read in: not captured, and yet known. */
static void test_not_resident(void **state)
{
	char path[] = "/var/tmp/test_observe.XXXXXX";
	struct bpf_insn insns[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 5},
				   {.code = BPF_JMP | BPF_EXIT}};
	const struct obs_prog *p;
	uint32_t id;
	int pipes[2], file;

	need_root();
	file = mkstemp(path);
	assert_true(file >= 0);
	assert_int_equal(write(file, insns, sizeof(insns)), sizeof(insns));
	unlink(path);
	assert_int_equal(pipe(pipes), 0);
	child = fork();
	if (!child) {
		id = id_of(load(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, file, 0), 2));
		write(pipes[1], &id, sizeof(id));
		pause();
	}
	read_all(pipes[0], &id, sizeof(id));
	close(pipes[0]);
	close(pipes[1]);
	close(file);
	p = observer__prog(observer, id);
	assert_non_null(p);
	if (p->why_unknown)
		print_message("# %s\n", p->why_unknown);
	assert_non_null(p->insns);
	assert_int_equal(p->n_insns, 2);
	assert_memory_equal(p->insns, insns, sizeof(insns));
}

/* ---- attachments ---- */

/* A function of this program to attach to. */
extern int observe_victim(int a);
__attribute__((noinline)) int observe_victim(int a)
{
	__asm__ volatile("" ::: "memory");
	return a + 1;
}

static const char *self_exe(void)
{
	static char exe[256];

	if (!exe[0] && readlink("/proc/self/exe", exe, sizeof(exe) - 1) < 0)
		exe[0] = 0;
	return exe;
}

static int open_uprobe(pid_t target, bool is_return)
{
	struct perf_event_attr attr = {.size = sizeof(attr), .config = is_return};
	FILE *f = fopen("/sys/bus/event_source/devices/uprobe/type", "re");

	if (!f || fscanf(f, "%u", &attr.type) != 1)
		abort();
	fclose(f);
	attr.uprobe_path = (uintptr_t)self_exe();
	attr.probe_offset = code_offset((const void *)(uintptr_t)observe_victim);
	return syscall(SYS_perf_event_open, &attr, target, target > 0 ? -1 : 0, -1, PERF_FLAG_FD_CLOEXEC);
}

/* The part of union bpf_attr that makes a uprobe_multi link (Linux 6.6, include/uapi/linux/bpf.h). */
struct multi_attr {
	uint32_t prog_fd, target_fd, attach_type, flags;
	uint64_t path, offsets, ref_ctr_offsets, cookies;
	uint32_t cnt, multi_flags, pid;
};

enum { TRACE_UPROBE_MULTI = 48 };

static int link_multi(void)
{
	struct bpf_insn insns[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0}, {.code = BPF_JMP | BPF_EXIT}};
	LIBBPF_OPTS(bpf_prog_load_opts, opts, .expected_attach_type = (enum bpf_attach_type)TRACE_UPROBE_MULTI);
	uint64_t offsets[] = {code_offset((const void *)(uintptr_t)observe_victim),
			      code_offset((const void *)(uintptr_t)observe_victim) + 1},
		 cookies[] = {11, 22};
	struct multi_attr attr = {.attach_type = TRACE_UPROBE_MULTI, .cnt = 2, .pid = getpid()};

	attr.prog_fd = bpf_prog_load(BPF_PROG_TYPE_KPROBE, "test_multi", "GPL", insns, 2, &opts);
	attr.path = (uintptr_t)self_exe();
	attr.offsets = (uintptr_t)offsets;
	attr.cookies = (uintptr_t)cookies;
	return syscall(SYS_bpf, BPF_LINK_CREATE, &attr, sizeof(attr));
}

/* The child's side of a conversation: told what to do by single letters, it answers with the same letter. */
static void be_a_tool(int in, int out)
{
	struct bpf_insn insns[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0}, {.code = BPF_JMP | BPF_EXIT}};
	LIBBPF_OPTS(bpf_link_create_opts, cookie, .perf_event.bpf_cookie = 0x1234567890abcdef);
	int prog = load(insns, 2), event = -1, link = -1, limited = -1;
	char what;

	while (read(in, &what, 1) == 1) {
		switch (what) {
		case 'a': /* every process, by ioctl */
			event = open_uprobe(-1, false);
			ioctl(event, PERF_EVENT_IOC_SET_BPF, prog);
			ioctl(event, PERF_EVENT_IOC_ENABLE, 0);
			break;
		case 'c': /* itself only, return, by link with a cookie */
			limited = open_uprobe(getpid(), true);
			link = bpf_link_create(prog, limited, BPF_PERF_EVENT, &cookie);
			break;
		case 'm':
			if (link_multi() < 0)
				what = '-';
			break;
		case 'd':
			close(event);
			break;
		case 'e':
			close(link);
			close(limited);
			break;
		case 'f':
			if (!fork())
				_exit(0);
			break;
		case 'x':
			execl("/bin/sleep", "sleep", "100", NULL);
			break;
		}
		write(out, &what, 1);
	}
	_exit(0);
}

static int to_tool, from_tool;

static void start_tool(void)
{
	int in[2], out[2];

	assert_int_equal(pipe(in), 0);
	assert_int_equal(pipe(out), 0);
	child = fork();
	if (!child) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		close_range(3, ~0U, 0); /* the observer's, which came by fork() */
		be_a_tool(0, 1);
	}
	close(in[0]);
	close(out[1]);
	to_tool = in[1];
	from_tool = out[0];
}

static char tell(char what)
{
	assert_int_equal(write(to_tool, &what, 1), 1);
	assert_int_equal(read(from_tool, &what, 1), 1);
	return what;
}

static void leave_tool(void)
{
	close(to_tool);
	close(from_tool);
}

static const struct obs_probe *find_probe(const struct obs_scan *scan, enum probe_kind kind)
{
	for (size_t i = 0; i < scan->n_probes; i++)
		if (scan->probes[i].kind == kind && scan->probes[i].tool == child)
			return &scan->probes[i];
	return NULL;
}

static void scan_or_fail(pid_t pid, struct obs_scan *scan)
{
	char err[256];

	if (observer__scan(observer, pid, scan, err, sizeof(err)))
		fail_msg("%s", err);
}

static void check_probe(const struct obs_probe *p, enum attach_form form)
{
	struct stat st;

	assert_non_null(p);
	assert_int_equal(stat(self_exe(), &st), 0);
	assert_int_equal(p->form, form);
	assert_string_equal(p->path, self_exe());
	assert_int_equal(p->offset, code_offset((const void *)(uintptr_t)observe_victim));
	assert_int_equal(p->dev, st.st_dev);
	assert_int_equal(p->ino, st.st_ino);
	assert_int_equal(p->ref_ctr_offset, 0);
	assert_int_equal(p->n_holders, 1);
	assert_true(p->enabled);
	assert_non_null(observer__prog(observer, p->prog_id)->insns);
}

static void test_attach_and_detach(void **state)
{
	const struct obs_probe *p;
	struct obs_scan scan;
	pid_t scopes[2];

	need_root();
	start_tool();
	scopes[0] = child;
	scopes[1] = 0;
	tell('a');
	assert_true(wait_for(OBS_CHANGED, child));
	tell('c');
	for (int i = 0; i < 2; i++) {
		scan_or_fail(scopes[i], &scan);
		p = find_probe(&scan, PROBE_UPROBE);
		check_probe(p, ATTACH_PERF_EVENT);
		assert_int_equal(p->target, -1);
		assert_int_equal(p->cookie, 0);
		assert_true(p->fd >= 0 && p->link_fd == -1);
		p = find_probe(&scan, PROBE_URETPROBE);
		check_probe(p, ATTACH_PERF_LINK);
		assert_int_equal(p->target, child);
		assert_true(p->cookie == 0x1234567890abcdef);
		assert_true(p->fd >= 0 && p->link_fd >= 0 && p->link_id);
		obs_scan__clear(&scan);
	}
	assert_int_equal(observer__watch(observer, child), 0);
	observer__dispatch(observer);
	n_seen = 0;
	tell('d');
	assert_true(wait_for(OBS_CHANGED, child));
	scan_or_fail(child, &scan);
	assert_null(find_probe(&scan, PROBE_UPROBE));
	assert_non_null(find_probe(&scan, PROBE_URETPROBE));
	obs_scan__clear(&scan);
	n_seen = 0;
	tell('e');
	assert_true(wait_for(OBS_CHANGED, child));
	scan_or_fail(child, &scan);
	assert_int_equal(scan.n_probes, 0);
	obs_scan__clear(&scan);
	leave_tool();
	assert_true(wait_for(OBS_EXIT, child));
}

static void test_multi_link(void **state)
{
	struct obs_scan scan;
	struct stat st;
	size_t n = 0;

	need_root();
	start_tool();
	if (tell('m') != 'm') {
		leave_tool();
		print_message("# SKIP: this kernel has no uprobe_multi\n");
		skip();
	}
	assert_true(wait_for(OBS_CHANGED, child));
	assert_int_equal(stat(self_exe(), &st), 0);
	scan_or_fail(0, &scan);
	for (size_t i = 0; i < scan.n_probes; i++) {
		const struct obs_probe *p = &scan.probes[i];

		if (p->tool != child)
			continue;
		assert_int_equal(p->kind, PROBE_UPROBE);
		assert_int_equal(p->form, ATTACH_MULTI_LINK);
		assert_string_equal(p->path, self_exe());
		assert_int_equal(p->offset, code_offset((const void *)(uintptr_t)observe_victim) + n);
		assert_int_equal(p->cookie, n ? 22 : 11);
		assert_int_equal(p->target, child);
		assert_int_equal(p->ino, st.st_ino);
		assert_int_equal(observer__prog(observer, p->prog_id)->expected_attach_type, TRACE_UPROBE_MULTI);
		n++;
	}
	assert_int_equal(n, 2);
	obs_scan__clear(&scan);
	leave_tool();
}

static void test_fork_exec_exit(void **state)
{
	char what = 'x';

	need_root();
	start_tool();
	assert_int_equal(observer__watch(observer, child), 0);
	tell('f');
	assert_true(wait_for(OBS_FORK, child));
	for (size_t i = 0; i < n_seen; i++)
		assert_true(seen[i].kind != OBS_FORK || seen[i].arg > 0);
	assert_int_equal(write(to_tool, &what, 1), 1);
	assert_true(wait_for(OBS_EXEC, child));
	kill(child, SIGKILL);
	assert_true(wait_for(OBS_EXIT, child));
	leave_tool();
}

static void test_own_calls(void **state)
{
	struct bpf_insn insns[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0}, {.code = BPF_JMP | BPF_EXIT}};
	int prog, event;

	need_root();
	prog = load(insns, 2);
	event = open_uprobe(-1, false);
	assert_int_equal(ioctl(event, PERF_EVENT_IOC_SET_BPF, prog), 0);
	observer__dispatch(observer);
	for (size_t i = 0; i < n_seen; i++)
		assert_int_not_equal(seen[i].pid, getpid());
	close(event);
	close(prog);
}

static void test_unknown_process(void **state)
{
	struct obs_scan scan;
	char err[256] = "";

	need_root();
	assert_int_equal(observer__scan(observer, 0x3fffff, &scan, err, sizeof(err)), 0);
	assert_int_equal(scan.n_probes, 0);
	assert_int_equal(observer__watch(observer, 0x3fffff), -ESRCH);
}

/* Scans are what the daemon does all the time: their cost, for information. */
static void test_scan_cost(void **state)
{
	struct timespec a, b;
	struct obs_scan scan;
	pid_t scopes[2];

	need_root();
	start_tool();
	tell('a');
	scopes[0] = child;
	scopes[1] = 0;
	for (int i = 0; i < 2; i++) {
		clock_gettime(CLOCK_MONOTONIC, &a);
		for (int k = 0; k < 20; k++) {
			scan_or_fail(scopes[i], &scan);
			obs_scan__clear(&scan);
		}
		clock_gettime(CLOCK_MONOTONIC, &b);
		print_message("# a scan of %s: %ld us\n", i ? "the host" : "one process",
			      ((b.tv_sec - a.tv_sec) * 1000000000 + b.tv_nsec - a.tv_nsec) / 20000);
	}
	leave_tool();
}

/* ---- pending returns ---- */

extern int observe_pending(int in, int out);
__attribute__((noinline)) int observe_pending(int in, int out)
{
	char c = 'p';

	write(out, &c, 1);
	return read(in, &c, 1);
}

static void test_pending_returns(void **state)
{
	uint64_t offset = code_offset((const void *)(uintptr_t)observe_victim) +
			  ((uintptr_t)observe_pending - (uintptr_t)observe_victim),
		 other = offset + 1;
	struct perf_event_attr attr = {.size = sizeof(attr), .config = 1};
	FILE *f = fopen("/sys/bus/event_source/devices/uprobe/type", "re");
	int in[2], out[2], event;
	struct stat st;
	char c;

	need_root();
	assert_non_null(f);
	assert_int_equal(fscanf(f, "%u", &attr.type), 1);
	fclose(f);
	attr.uprobe_path = (uintptr_t)self_exe();
	attr.probe_offset = offset;
	event = syscall(SYS_perf_event_open, &attr, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);
	assert_true(event >= 0);
	assert_int_equal(stat(self_exe(), &st), 0);
	assert_int_equal(pipe(in), 0);
	assert_int_equal(pipe(out), 0);
	child = fork();
	if (!child) {
		observe_pending(in[0], out[1]);
		write(out[1], "q", 1);
		pause();
	}
	assert_int_equal(read(out[0], &c, 1), 1);
	assert_int_equal(observer__pending_returns(observer, child, st.st_ino, &offset, 1), 1);
	assert_int_equal(observer__pending_returns(observer, child, st.st_ino, &other, 1), 0);
	assert_int_equal(observer__pending_returns(observer, child, st.st_ino + 1, &offset, 1), 0);
	assert_int_equal(write(in[1], &c, 1), 1);
	assert_int_equal(read(out[0], &c, 1), 1);
	assert_int_equal(observer__pending_returns(observer, child, st.st_ino, &offset, 1), 0);
	close(event);
	for (int i = 0; i < 2; i++) {
		close(in[i]);
		close(out[i]);
	}
}

/* Only a kernel that does not preempt may have another hook than the raw tracepoint. */
static void test_choice(void **state)
{
	static const enum preempt_mode preemptible[] = {PREEMPT_MODE_UNKNOWN, PREEMPT_MODE_LAZY, PREEMPT_MODE_FULL};
	static const enum preempt_mode others[] = {PREEMPT_MODE_NONE, PREEMPT_MODE_VOLUNTARY};
	struct kernel_features k = {.has_syscall_tp = true};

	unsetenv("BPFTIME_HOOK");
	for (size_t i = 0; i < 3; i++) {
		k.preempt = preemptible[i];
		assert_int_equal(kernel_features__hook(&k), BPF_HOOK_RAW_TRACEPOINT);
		assert_int_equal(kernel_features__observing_hook(&k), BPF_HOOK_RAW_TRACEPOINT);
	}
	for (size_t i = 0; i < 2; i++) {
		k.preempt = others[i];
		assert_int_not_equal(kernel_features__hook(&k), BPF_HOOK_RAW_TRACEPOINT);
		assert_int_equal(kernel_features__observing_hook(&k), BPF_HOOK_TRACEPOINT);
	}
	setenv("BPFTIME_HOOK", "raw-tracepoint", 1);
	assert_int_equal(kernel_features__hook(&k), BPF_HOOK_RAW_TRACEPOINT);
	assert_int_equal(kernel_features__observing_hook(&k), BPF_HOOK_RAW_TRACEPOINT);
	setenv("BPFTIME_HOOK", "lsm", 1);
	assert_int_equal(kernel_features__hook(&k), BPF_HOOK_LSM);
	assert_int_equal(kernel_features__observing_hook(&k), BPF_HOOK_TRACEPOINT);
	unsetenv("BPFTIME_HOOK");
}

#define BY_TRACEPOINT(f) cmocka_unit_test_setup_teardown(f, setup_tracepoint, teardown)
#define BY_RAW_TRACEPOINT(f)                                                                                           \
	{                                                                                                              \
#f "_raw", f, setup_raw, teardown, NULL                                                                \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_choice),		BY_TRACEPOINT(test_one_large),
		BY_TRACEPOINT(test_concurrent),		BY_TRACEPOINT(test_full_ring),
		BY_TRACEPOINT(test_failed_load),	BY_TRACEPOINT(test_not_resident),
		BY_TRACEPOINT(test_attach_and_detach),	BY_TRACEPOINT(test_multi_link),
		BY_TRACEPOINT(test_fork_exec_exit),	BY_TRACEPOINT(test_own_calls),
		BY_TRACEPOINT(test_unknown_process),	BY_TRACEPOINT(test_scan_cost),
		BY_TRACEPOINT(test_pending_returns),	BY_RAW_TRACEPOINT(test_one_large),
		BY_RAW_TRACEPOINT(test_concurrent),	BY_RAW_TRACEPOINT(test_attach_and_detach),
		BY_RAW_TRACEPOINT(test_fork_exec_exit), BY_RAW_TRACEPOINT(test_own_calls),
	};

	observe_victim(1);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
