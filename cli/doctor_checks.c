/* SPDX-License-Identifier: MIT */
#include <ctype.h>
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "daemon/policy.h"
#include "doctor.h"
#include "output.h"

#define INITIAL_PID_NS 0xEFFFFFFCu /* PROC_PID_INIT_INO */
#define FSGSBASE       (1 << 1)	   /* HWCAP2_FSGSBASE of x86 */
#define FEW_FDS	       65536ull
#define LITTLE_MEMORY  (256ull << 20) /* ample for LLVM and a large program */
#define MOST_LISTED    5u
#define LINE_SIZE      4096

/* ---- reading ---- */

/* The first line of a file, without its end; false when there is none. */
static bool read_line(const char *path, char *out, size_t size)
{
	FILE *f = fopen(path, "re");
	bool ok = f && fgets(out, (int)size, f);

	if (f)
		fclose(f);
	if (ok)
		out[strcspn(out, "\n")] = 0;
	return ok;
}

static bool read_number(const char *path, long long *out)
{
	char line[64], *end;

	if (!read_line(path, line, sizeof(line)))
		return false;
	*out = strtoll(line, &end, 10);
	return end != line;
}

/* A field of /proc/PID/status without its name. */
static bool read_status(pid_t pid, const char *key, char *out, size_t size)
{
	char path[64], line[LINE_SIZE];
	size_t len = strlen(key);
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	f = fopen(path, "re");
	while (f && !found && fgets(line, sizeof(line), f)) {
		if (strncmp(line, key, len) != 0 || line[len] != ':')
			continue;
		line[strcspn(line, "\n")] = 0;
		snprintf(out, size, "%s", line + len + 1 + strspn(line + len + 1, " \t"));
		found = true;
	}
	if (f)
		fclose(f);
	return found;
}

static void read_comm(pid_t pid, char *out, size_t size)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	if (!read_line(path, out, size))
		snprintf(out, size, "?");
}

/* Calls cb for every process. */
static void each_process(void (*cb)(pid_t pid, void *arg), void *arg)
{
	DIR *dir = opendir("/proc");
	const struct dirent *e;

	while (dir && (e = readdir(dir)))
		if (isdigit((unsigned char)e->d_name[0]))
			cb(atoi(e->d_name), arg);
	if (dir)
		closedir(dir);
}

/* "gdb (12), strace (14) and 3 others" */
struct list {
	char text[256];
	unsigned int n;
};

static void list__add(struct list *l, pid_t pid)
{
	size_t at = strlen(l->text);
	char comm[32];

	read_comm(pid, comm, sizeof(comm));
	if (l->n++ < MOST_LISTED)
		snprintf(l->text + at, sizeof(l->text) - at, "%s%s (%d)", at ? ", " : "", comm, pid);
}

static const char *list__text(struct list *l)
{
	size_t at = strlen(l->text);

	if (l->n > MOST_LISTED)
		snprintf(l->text + at, sizeof(l->text) - at, " and %u others", l->n - MOST_LISTED);
	return l->text;
}

/* The process that is, or would be, bpftimed: the one that runs, else this one, by which it would be started. */
static pid_t daemon_pid(const struct doctor *d)
{
	char path[PATH_MAX];
	long long pid = 0;

	snprintf(path, sizeof(path), "%s/lock", d->args->runtime_dir);
	return d->status && read_number(path, &pid) && pid > 0 ? (pid_t)pid : getpid();
}

static const char *daemon_name(const struct doctor *d)
{
	return daemon_pid(d) == getpid() ? "a bpftimed that is started from here" : "the bpftimed that runs";
}

static bool host_says(const struct doctor *d, const char *key)
{
	return json_object_get_boolean(json_object_object_get(d->host, key));
}

/* ---- who asks, and where ---- */

static void check_user(struct doctor *d)
{
	if (geteuid() == 0)
		doctor__say(d, DOCTOR_OK, "You are root: everything can be looked at.");
	else
		doctor__say(
			d, DOCTOR_WARNING,
			"You are not root, so what the kernel allows, and a daemon that runs, cannot be asked: what "
			"follows is not the whole.");
}

static void check_processor(struct doctor *d)
{
	struct utsname u;

	uname(&u);
	if (strcmp(u.machine, "x86_64") != 0)
		doctor__say(d, DOCTOR_ERROR, "The processor is %s; there is code for x86_64 only.", u.machine);
	else if (!(getauxval(AT_HWCAP2) & FSGSBASE))
		doctor__say(
			d, DOCTOR_ERROR,
			"This processor or kernel does not let programs read their fs base (FSGSBASE), by which the "
			"agent knows threads: nothing is offloaded.");
	else
		doctor__say(d, DOCTOR_OK, "The processor is x86_64 and lets programs read their fs base.");
}

static const struct {
	int cap;
	const char *name, *what_for;
} capabilities[] = {
	{CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "make perf events for uprobes, and mount a BPF file system"},
	{CAP_BPF, "CAP_BPF", "load programs"},
	{CAP_PERFMON, "CAP_PERFMON", "load programs that read memory"},
	{CAP_SYS_PTRACE, "CAP_SYS_PTRACE", "put the agent into processes"},
	{CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE", "open the files that tools probe"},
};

static void check_capabilities(struct doctor *d)
{
	uint64_t have = 0;
	bool all = true;
	char line[64];

	if (geteuid() != 0 || !read_status(daemon_pid(d), "CapEff", line, sizeof(line)))
		return;
	have = strtoull(line, NULL, 16);
	for (size_t i = 0; i < sizeof(capabilities) / sizeof(capabilities[0]); i++) {
		if (have & (1ull << capabilities[i].cap))
			continue;
		all = false;
		doctor__say(d, DOCTOR_ERROR, "The capability %s is missing: without it %s cannot %s.",
			    capabilities[i].name, daemon_name(d), capabilities[i].what_for);
	}
	if (all)
		doctor__say(d, DOCTOR_OK, "The capabilities that bpftimed needs are there.");
}

static void check_seccomp(struct doctor *d)
{
	char line[16];

	if (!read_status(daemon_pid(d), "Seccomp", line, sizeof(line)))
		return;
	if (line[0] == '0')
		doctor__say(d, DOCTOR_OK, "No seccomp filter is in the way.");
	else
		doctor__say(
			d, DOCTOR_WARNING,
			"Under the seccomp filter that is there %s cannot suspend those of other processes: probes in "
			"processes that have one stay in the kernel. That of bpftimed.service goes by "
			"seccomp-targets.conf, see bpftimed(8).",
			daemon_name(d));
}

static void check_namespaces(struct doctor *d)
{
	struct stat st;

	if (stat("/proc/self/ns/pid", &st))
		return;
	if (st.st_ino == INITIAL_PID_NS)
		doctor__say(d, DOCTOR_OK, "This is the host itself, not a container: all processes can be seen.");
	else
		doctor__say(d, DOCTOR_NOTE,
			    "This is a container: tools and targets outside it are not seen, and stay in the kernel.");
}

/* ---- the kernel ---- */

static void check_kernel(struct doctor *d)
{
	const char *missing = member_text(d->host, "missing");
	struct utsname u;

	uname(&u);
	if (!d->host) {
		if (geteuid() == 0)
			doctor__say(d, DOCTOR_ERROR,
				    "bpftimed, which knows what to look for in the kernel, cannot be run: "
				    "is it installed?");
		return;
	}
	if (*missing)
		doctor__say(d, DOCTOR_ERROR, "Linux %s does not do: %s.", u.release, missing);
	else
		doctor__say(d, DOCTOR_OK, "Linux %s has what bpftimed needs: BTF, raw tracepoints, perf uprobes.",
			    u.release);
}

static void check_lockdown(struct doctor *d)
{
	const char *mode = member_text(d->host, "lockdown");

	if (strcmp(mode, "confidentiality") == 0)
		doctor__say(d, DOCTOR_WARNING,
			    "The kernel's lockdown mode is confidentiality: it refuses programs that read the kernel's "
			    "memory, bpftimed's own as well as tools'.");
	else if (strcmp(mode, "integrity") == 0)
		doctor__say(
			d, DOCTOR_NOTE,
			"The kernel's lockdown mode is integrity: it refuses programs that write memory of processes "
			"(bpf_probe_write_user), with bpftimed and without.");
	else if (strcmp(mode, "none") == 0)
		doctor__say(d, DOCTOR_OK, "The kernel is not locked down.");
	else if (*mode)
		doctor__say(d, DOCTOR_NOTE,
			    "Whether the kernel is locked down cannot be told (/sys/kernel/security/lockdown); what it "
			    "refuses was found out by trying.");
}

static void check_hook(struct doctor *d)
{
	const char *hook = member_text(d->host, "hook"), *preempt = member_text(d->host, "preempt");

	if (strcmp(hook, "lsm") == 0)
		doctor__say(d, DOCTOR_OK,
			    "Calls of bpf() are met at an LSM hook, which costs other system calls nothing.");
	else if (strcmp(hook, "tracepoint") == 0)
		doctor__say(
			d, DOCTOR_NOTE,
			"Calls of bpf() are met at the system call's tracepoint: every system call on this host costs "
			"30 to 45 ns more while bpftimed runs. An LSM hook would cost nothing, but BPF LSM programs do "
			"not run here (lsm=...,bpf).");
	else if (*hook)
		doctor__say(
			d, DOCTOR_NOTE,
			"Calls of bpf() are met at a raw tracepoint, because the kernel may preempt itself (preempt: "
			"%s): every system call on this host costs 180 to 230 ns more while bpftimed runs.",
			preempt);
}

static void check_switch(struct doctor *d)
{
	if (!*member_text(d->host, "hook"))
		return;
	if (host_says(d, "freplace"))
		doctor__say(d, DOCTOR_OK,
			    "Programs of tools can be replaced in their place (freplace), where they have BTF.");
	else
		doctor__say(d, DOCTOR_NOTE,
			    "The kernel does not let programs be replaced (freplace): where hits reach the kernel, a "
			    "tool's "
			    "attachment is parked instead, see bpftimed(8).");
}

static void check_holds(struct doctor *d)
{
	const char *holds = member_text(d->host, "holds");

	if (strcmp(holds, "links") == 0)
		doctor__say(d, DOCTOR_OK, "Probed places are held by uprobe_multi links.");
	else if (*holds)
		doctor__say(
			d, DOCTOR_WARNING,
			"The kernel has no uprobe_multi links (Linux 6.6): probes in programs that are not PIE mostly "
			"stay in the kernel.");
}

static void check_jit(struct doctor *d)
{
	long long on;

	if (!read_number("/proc/sys/net/core/bpf_jit_enable", &on))
		return;
	if (on)
		doctor__say(d, DOCTOR_OK, "The kernel compiles BPF programs.");
	else
		doctor__say(d, DOCTOR_WARNING,
			    "net.core.bpf_jit_enable is 0: the kernel interprets BPF programs, which makes all hits "
			    "that it "
			    "serves slower.");
}

static void check_bpffs(struct doctor *d)
{
	FILE *f = fopen("/proc/filesystems", "re");
	char line[128];
	bool found = false;

	if (!f)
		return;
	while (!found && fgets(line, sizeof(line), f))
		found = strcmp(line + strcspn(line, "\t") + 1, "bpf\n") == 0;
	fclose(f);
	if (found)
		doctor__say(d, DOCTOR_OK,
			    "There is a BPF file system, which keeps probes working when bpftimed is killed.");
	else
		doctor__say(d, DOCTOR_ERROR,
			    "The kernel has no BPF file system, in which bpftimed keeps what must outlive "
			    "it.");
}

static void check_tracefs(struct doctor *d)
{
	static const char *const files[] = {"/sys/kernel/tracing/uprobe_events",
					    "/sys/kernel/debug/tracing/uprobe_events"};
	char line[LINE_SIZE];
	unsigned int n = 0;
	FILE *f = NULL;

	for (size_t i = 0; !f && i < sizeof(files) / sizeof(files[0]); i++)
		f = fopen(files[i], "re");
	while (f && fgets(line, sizeof(line), f))
		n++;
	if (f)
		fclose(f);
	if (n)
		doctor__say(d, DOCTOR_NOTE,
			    "%u uprobe(s) were made through tracefs (perf probe, trace-cmd). They have no BPF program "
			    "and stay "
			    "in the kernel; while one is enabled, hits of other probes on its instruction are the "
			    "kernel's, "
			    "too.",
			    n);
}

/* ---- settings ---- */

static void check_memfd(struct doctor *d)
{
	long long mode;

	if (read_number("/proc/sys/vm/memfd_noexec", &mode) && mode >= 2)
		doctor__say(
			d, DOCTOR_ERROR,
			"vm.memfd_noexec is %lld: no memory may be executed that is not a file's, so that there is no "
			"place for compiled programs. 0 or 1 would do.",
			mode);
	else
		doctor__say(d, DOCTOR_OK, "Memory for compiled programs may be executed (vm.memfd_noexec).");
}

static void check_ptrace(struct doctor *d)
{
	long long scope = 0;

	if (read_number("/proc/sys/kernel/yama/ptrace_scope", &scope) && scope >= 3)
		doctor__say(
			d, DOCTOR_ERROR,
			"kernel.yama.ptrace_scope is %lld: nobody may attach to processes, so that no process can get "
			"the agent. It can be changed by a reboot only; 0 to 2 would do.",
			scope);
	else
		doctor__say(d, DOCTOR_OK, "Root may attach to processes.");
}

static void check_selinux(struct doctor *d)
{
	long long enforces = 0;

	if (read_number("/sys/fs/selinux/enforce", &enforces) && enforces)
		doctor__say(d, DOCTOR_NOTE,
			    "SELinux enforces its policy. If it denies bpftimed something (ausearch -m avc -c "
			    "bpftimed), that "
			    "probe stays in the kernel.");
}

static void check_descriptors(struct doctor *d)
{
	long long most = 0;

	/* It raises its own limit. */
	if (!read_number("/proc/sys/fs/nr_open", &most))
		return;
	if ((unsigned long long)most < FEW_FDS)
		doctor__say(
			d, DOCTOR_WARNING,
			"A process may have no more than %lld descriptors. Each target and each place costs some: with "
			"many, probes stay in the kernel.",
			most);
	else
		doctor__say(d, DOCTOR_OK, "bpftimed may have %lld descriptors.", most);
}

/* memory.max of the process's cgroup (version 2), or -1: no limit, or not known. */
static long long memory_limit(pid_t pid)
{
	char line[LINE_SIZE], path[LINE_SIZE + 64];
	long long limit = -1;

	snprintf(path, sizeof(path), "/proc/%d/cgroup", pid);
	if (!read_line(path, line, sizeof(line)) || strncmp(line, "0::", 3) != 0)
		return -1;
	snprintf(path, sizeof(path), "/sys/fs/cgroup%s/memory.max", line + 3);
	return read_number(path, &limit) ? limit : -1;
}

static void check_memory(struct doctor *d)
{
	long long limit = memory_limit(daemon_pid(d));

	if (limit >= 0 && (unsigned long long)limit < LITTLE_MEMORY)
		doctor__say(
			d, DOCTOR_WARNING,
			"Its cgroup lets %s have %lld MiB of memory, which may not do for compiling large programs: "
			"they stay in the kernel then.",
			daemon_name(d), limit >> 20);
}

/* ---- other processes ---- */

struct processes {
	struct list traced, shadowed, probing, daemons;
	unsigned int n;
};

/* Does the descriptor have a BPF program at a uprobe? */
static bool is_uprobe(pid_t pid, int fd)
{
	union bpf_attr attr = {.task_fd_query = {.pid = (uint32_t)pid, .fd = (uint32_t)fd}};

	return syscall(SYS_bpf, BPF_TASK_FD_QUERY, &attr, sizeof(attr)) == 0 &&
	       (attr.task_fd_query.fd_type == BPF_FD_TYPE_UPROBE ||
		attr.task_fd_query.fd_type == BPF_FD_TYPE_URETPROBE);
}

static bool has_uprobes(pid_t pid)
{
	char path[PATH_MAX], what[64];
	const struct dirent *e;
	bool found = false;
	ssize_t n;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	while (dir && !found && (e = readdir(dir))) {
		n = readlinkat(dirfd(dir), e->d_name, what, sizeof(what) - 1);
		what[n > 0 ? n : 0] = 0;
		found = strcmp(what, "anon_inode:[perf_event]") == 0 && is_uprobe(pid, atoi(e->d_name));
	}
	if (dir)
		closedir(dir);
	return found;
}

static void look_at_process(pid_t pid, void *arg)
{
	struct processes *all = arg;
	char line[128];

	all->n++;
	if (read_status(pid, "TracerPid", line, sizeof(line)) && atoi(line) > 0)
		list__add(&all->traced, pid);
	if (read_status(pid, "x86_Thread_features", line, sizeof(line)) && strstr(line, "shstk"))
		list__add(&all->shadowed, pid);
	/* It holds uprobes at its own places. */
	read_comm(pid, line, sizeof(line));
	if (strcmp(line, "bpftimed") == 0)
		list__add(&all->daemons, pid);
	else if (has_uprobes(pid))
		list__add(&all->probing, pid);
}

static void check_processes(struct doctor *d)
{
	struct processes all = {0};

	each_process(look_at_process, &all);
	if (all.traced.n)
		doctor__say(d, DOCTOR_WARNING,
			    "Probes stay in the kernel in processes that a debugger or tracer has: %s.",
			    list__text(&all.traced));
	if (all.shadowed.n)
		doctor__say(d, DOCTOR_WARNING, "Probes stay in the kernel in processes that use a shadow stack: %s.",
			    list__text(&all.shadowed));
	if (!all.traced.n && !all.shadowed.n)
		doctor__say(d, DOCTOR_OK, "No process is under a debugger or uses a shadow stack, of %u.", all.n);
	if (all.daemons.n && !d->status)
		doctor__say(d, DOCTOR_WARNING,
			    "bpftimed runs with another runtime folder; the tools and targets that it has taken are "
			    "its: %s.",
			    list__text(&all.daemons));
	if (all.probing.n && !d->status)
		doctor__say(d, DOCTOR_NOTE, "Tools that have uprobes, and are taken over when bpftimed starts: %s.",
			    list__text(&all.probing));
}

/* ---- bpftimed ---- */

static void check_compiler(struct doctor *d)
{
	if (d->host && !*member_text(d->host, "compiler"))
		doctor__say(d, DOCTOR_ERROR, "The compiler, bpftimed-jit, is not where bpftimed looks for it.");
	else if (d->host)
		doctor__say(d, DOCTOR_OK, "The compiler is %s.", member_text(d->host, "compiler"));
}

static void check_policy(struct doctor *d)
{
	struct policy_errors errors = {0};
	struct policy *p = NULL;

	if (geteuid() != 0 && access(d->args->policy_dir, R_OK | X_OK) && errno == EACCES) {
		doctor__say(d, DOCTOR_NOTE, "The policy in %s is for root to read.", d->args->policy_dir);
		return;
	}
	policy__load(d->args->policy_dir, &p, &errors);
	if (p)
		doctor__say(d, DOCTOR_OK, "The policy in %s has no mistakes: %zu files, %zu rules.",
			    d->args->policy_dir, policy__files(p), policy__rules(p));
	for (size_t i = 0; i < errors.n; i++)
		doctor__say(d, d->status ? DOCTOR_WARNING : DOCTOR_ERROR, "The policy %s: %s",
			    d->status ? "has a mistake, and an older one is in force"
				      : "has a mistake, with which bpftimed does "
					"not start",
			    errors.text[i]);
	policy_errors__clear(&errors);
	policy__free(p);
}

static void check_daemon(struct doctor *d)
{
	if (d->status)
		doctor__say(d, DOCTOR_OK,
			    "bpftimed %s runs: %" PRId64 " tools, %" PRId64 " probes in userspace, %" PRId64
			    " in the kernel.",
			    member_text(d->status, "version"), member_number(d->status, "tools"),
			    member_number(d->status, "probes_userspace"), member_number(d->status, "probes_kernel"));
	else
		doctor__say(d, DOCTOR_NOTE,
			    "No bpftimed answers in %s: nothing is offloaded until one runs (systemctl start "
			    "bpftimed).",
			    d->args->runtime_dir);
}

static bool is_said(const struct json_object *said, const char *reason)
{
	return json_object_object_get_ex(said, reason, NULL);
}

/* One sentence for each reason that probes of a tool have. */
static void say_reasons(struct doctor *d, const json_object *tool)
{
	json_object *said = json_object_new_object();

	for (size_t i = 0; i < member_length(tool, "probes"); i++) {
		const json_object *probe = member_element(tool, "probes", i);
		const char *reason = member_text(probe, "reason");

		if (!*reason || is_said(said, reason))
			continue;
		json_object_object_add(said, reason, NULL);
		doctor__say(d, DOCTOR_NOTE, "Of %s (%" PRId64 ") %s stays in the kernel: %s.",
			    member_text(tool, "comm"), member_number(tool, "pid"), member_text(probe, "path"), reason);
	}
	json_object_put(said);
}

static void check_tools(struct doctor *d)
{
	for (size_t i = 0; d->ps && i < json_object_array_length(d->ps); i++)
		say_reasons(d, json_object_array_get_idx(d->ps, i));
}

const struct doctor_check doctor_checks[] = {
	{"user", check_user},
	{"processor", check_processor},
	{"kernel", check_kernel},
	{"lockdown", check_lockdown},
	{"hook", check_hook},
	{"switch", check_switch},
	{"holds", check_holds},
	{"jit", check_jit},
	{"bpffs", check_bpffs},
	{"compiler", check_compiler},
	{"capabilities", check_capabilities},
	{"seccomp", check_seccomp},
	{"namespaces", check_namespaces},
	{"memfd", check_memfd},
	{"ptrace", check_ptrace},
	{"selinux", check_selinux},
	{"descriptors", check_descriptors},
	{"memory", check_memory},
	{"processes", check_processes},
	{"tracefs", check_tracefs},
	{"policy", check_policy},
	{"daemon", check_daemon},
	{"tools", check_tools},
	{0},
};
