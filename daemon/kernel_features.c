/* SPDX-License-Identifier: MIT */
/* kernel_features.c: see kernel_features.h. */
#include "kernel_features.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>
#include <zlib.h>
#include <bpf/libbpf.h>

#include "bpf/lsm_trial.h"
#include "bpf/lsm_trial.skel.h"
#include "bpf/replace_trial.skel.h"

#define BTF_FILE    "/sys/kernel/btf/vmlinux"
#define UPROBE_PMU  "/sys/bus/event_source/devices/uprobe/"
#define LOCKDOWN    "/sys/kernel/security/lockdown"
#define LSM_LIST    "/sys/kernel/security/lsm"
#define FORCE_HOOK  "BPFTIME_HOOK"
#define KCMDLINE    "/proc/cmdline"
#define RUN_CONFIG  "/proc/config.gz"
#define BOOT_CONFIG "/boot/config-"

/* The first line of a file without its newline; "" when there is none. */
static void read_line(const char *path, char *buf, size_t size)
{
	ssize_t n = -1;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd >= 0) {
		n = read(fd, buf, size - 1);
		close(fd);
	}
	buf[n > 0 ? n : 0] = 0;
	buf[strcspn(buf, "\n")] = 0;
}

/* "none [integrity] confidentiality": the word in brackets. */
static void read_lockdown(char *out, size_t size)
{
	char line[128], word[24];

	read_line(LOCKDOWN, line, sizeof(line));
	if (strchr(line, '[') && sscanf(strchr(line, '['), "[%23[a-z]]", word) == 1)
		snprintf(out, size, "%s", word);
	else
		snprintf(out, size, "unknown");
}

/* ---- preemption ---- */

struct preempt_name {
	const char *boot, *config;
	enum preempt_mode mode;
};

static const struct preempt_name preempt_names[] = {
	{"none", "CONFIG_PREEMPT_NONE=y\n", PREEMPT_MODE_NONE},
	{"voluntary", "CONFIG_PREEMPT_VOLUNTARY=y\n", PREEMPT_MODE_VOLUNTARY},
	{"lazy", "CONFIG_PREEMPT_LAZY=y\n", PREEMPT_MODE_LAZY},
	{"full", "CONFIG_PREEMPT=y\n", PREEMPT_MODE_FULL},
};

enum { N_PREEMPT_NAMES = sizeof(preempt_names) / sizeof(preempt_names[0]) };

static enum preempt_mode preempt_from_config(const char *path)
{
	enum preempt_mode mode = PREEMPT_MODE_UNKNOWN;
	gzFile f = gzopen(path, "rbe"); /* reads plain files as well */
	char line[1024];

	if (!f)
		return mode;
	while (mode == PREEMPT_MODE_UNKNOWN && gzgets(f, line, sizeof(line)))
		for (size_t i = 0; i < N_PREEMPT_NAMES; i++)
			if (!strcmp(line, preempt_names[i].config))
				mode = preempt_names[i].mode;
	gzclose(f);
	return mode;
}

/*
 * Where the mode is chosen at boot (PREEMPT_DYNAMIC), `preempt=` decides, else what the kernel was configured with. The
 * kernel would tell in debugfs, but not under lockdown.
 */
static enum preempt_mode read_preempt(const struct utsname *uts)
{
	char line[4096], path[256];
	enum preempt_mode mode;
	char *save = NULL;

	if (strstr(uts->version, "PREEMPT_RT"))
		return PREEMPT_MODE_FULL;
	if (strstr(uts->version, "PREEMPT_DYNAMIC")) {
		read_line(KCMDLINE, line, sizeof(line));
		for (char *w = strtok_r(line, " ", &save); w; w = strtok_r(NULL, " ", &save))
			for (size_t i = 0; i < N_PREEMPT_NAMES; i++)
				if (!strncmp(w, "preempt=", 8) && !strcmp(w + 8, preempt_names[i].boot))
					return preempt_names[i].mode;
	} else if (strstr(uts->version, " PREEMPT ")) {
		return PREEMPT_MODE_FULL;
	}
	mode = preempt_from_config(RUN_CONFIG);
	if (mode == PREEMPT_MODE_UNKNOWN) {
		snprintf(path, sizeof(path), BOOT_CONFIG "%s", uts->release);
		mode = preempt_from_config(path);
	}
	return mode;
}

/* ---- tracepoints ---- */

/* A tracefs that is attached nowhere: only this descriptor leads to it. */
static int open_tracefs(void)
{
	int ctx = fsopen("tracefs", FSOPEN_CLOEXEC), dir = -1;

	if (ctx < 0)
		return -errno;
	if (!fsconfig(ctx, FSCONFIG_CMD_CREATE, NULL, NULL, 0))
		dir = fsmount(ctx, FSMOUNT_CLOEXEC, 0);
	if (dir < 0)
		dir = -errno;
	close(ctx);
	return dir;
}

/* Its number for perf_event_open(), or -errno. */
static int tracepoint_id(const char *category, const char *name)
{
	char path[256], text[16] = "";
	int dir, fd, err = 0;

	dir = open_tracefs();
	if (dir < 0)
		return dir;
	snprintf(path, sizeof(path), "events/%s/%s/id", category, name);
	fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		err = errno ? -errno : -ENOENT;
	if (fd >= 0)
		close(fd);
	close(dir);
	return err ? err : atoi(text);
}

int tracepoint_open(const char *category, const char *name)
{
	struct perf_event_attr attr = {.type = PERF_TYPE_TRACEPOINT, .size = sizeof(attr), .sample_period = 1};
	int id = tracepoint_id(category, name), fd;

	if (id < 0)
		return id;
	attr.config = (unsigned int)id;
	fd = (int)syscall(SYS_perf_event_open, &attr, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* ---- hooks ---- */

static const struct {
	const char *shown, *option;
} hook_names[] = {
	[BPF_HOOK_TRACEPOINT] = {"tracepoint", "tracepoint"},
	[BPF_HOOK_RAW_TRACEPOINT] = {"raw tracepoint", "raw-tracepoint"},
	[BPF_HOOK_LSM] = {"lsm", "lsm"},
	[BPF_HOOK_LSM_ALONE] = {"lsm", "lsm-alone"},
};

static bool hook_by_name(const char *name, enum bpf_hook *out)
{
	for (size_t i = 0; i < sizeof(hook_names) / sizeof(hook_names[0]); i++) {
		if (!strcmp(name, hook_names[i].option)) {
			*out = (enum bpf_hook)i;
			return true;
		}
	}
	return false;
}

static int quiet(enum libbpf_print_level level, const char *fmt, va_list ap)
{
	return 0;
}

/* Calls bpf() in a way that changes nothing, and looks whether the programs of the trial have seen it. */
static bool trial_succeeds(struct lsm_trial_bpf *t)
{
	char byte = LSM_TRIAL_BYTE;
	uint64_t attr = (uintptr_t)&byte;

	if (lsm_trial_bpf__load(t) || lsm_trial_bpf__attach(t))
		return false;
	syscall(SYS_bpf, LSM_TRIAL_CMD, &attr, sizeof(attr));
	return t->bss->seen == 1 && t->bss->seen_sleepable == 1 && t->bss->seen_exit == 1;
}

/* Do programs at the LSM hook of bpf(), those that may sleep too, and at the end of the call load, attach and run?
 * Refusals are expected. */
static bool lsm_fires(void)
{
	struct lsm_trial_bpf *t;
	libbpf_print_fn_t print;
	char line[256];
	bool ret;

	read_line(LSM_LIST, line, sizeof(line));
	if (line[0] && !strstr(line, "bpf"))
		return false;
	print = libbpf_set_print(quiet);
	t = lsm_trial_bpf__open();
	ret = t && trial_succeeds(t);
	lsm_trial_bpf__destroy(t);
	libbpf_set_print(print);
	return ret;
}

void kernel_features__probe(struct kernel_features *k)
{
	struct utsname uts;
	char line[64];
	unsigned int bit = 0;

	memset(k, 0, sizeof(*k));
	uname(&uts);
	snprintf(k->release, sizeof(k->release), "%s", uts.release);
	read_lockdown(k->lockdown, sizeof(k->lockdown));
	k->preempt = read_preempt(&uts);
	k->has_btf = !access(BTF_FILE, R_OK);
	k->has_raw_tp = k->has_btf && libbpf_probe_bpf_prog_type(BPF_PROG_TYPE_RAW_TRACEPOINT, NULL) == 1;
	k->has_syscall_tp = tracepoint_id("syscalls", "sys_enter_bpf") > 0;
	read_line(UPROBE_PMU "type", line, sizeof(line));
	k->uprobe_pmu = atoi(line);
	read_line(UPROBE_PMU "format/retprobe", line, sizeof(line));
	if (sscanf(line, "config:%u", &bit) == 1 && bit < 32)
		k->uprobe_ret_mask = 1U << bit;
}

int kernel_features__missing(const struct kernel_features *k, char *err, size_t err_size)
{
	const char *forced = getenv(FORCE_HOOK);
	enum bpf_hook hook;

	if (!k->has_btf)
		snprintf(err, err_size,
			 "this kernel has no BTF (" BTF_FILE "), which bpftimed needs to read kernel objects");
	else if (!k->has_raw_tp)
		snprintf(err, err_size,
			 "this kernel does not let bpftimed load BPF programs (lockdown: %s); is it root?",
			 k->lockdown);
	else if (!k->uprobe_pmu)
		snprintf(err, err_size, "this kernel has no perf uprobes (" UPROBE_PMU ")");
	else if (forced && *forced && !hook_by_name(forced, &hook))
		snprintf(err, err_size,
			 FORCE_HOOK "=%s names no hook: lsm, lsm-alone, raw-tracepoint and tracepoint do", forced);
	else if (!k->has_syscall_tp && kernel_features__observing_hook(k) == BPF_HOOK_TRACEPOINT)
		snprintf(err, err_size, "this kernel has no system call tracepoints (tracefs events/syscalls)");
	else
		return 0;
	return -ENOTSUP;
}

static bool forced_hook(enum bpf_hook *out)
{
	const char *name = getenv(FORCE_HOOK);

	return name && hook_by_name(name, out);
}

bool kernel_features__is_preemptible(const struct kernel_features *k)
{
	return k->preempt != PREEMPT_MODE_NONE && k->preempt != PREEMPT_MODE_VOLUNTARY;
}

static bool preempts;

static void ask_preempts(void)
{
	struct kernel_features k;

	kernel_features__probe(&k);
	preempts = kernel_features__is_preemptible(&k);
}

bool kernel_features__preempts(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, ask_preempts);
	return preempts;
}

/* Since some kernel between 6.18 and 7.2 programs of raw tracepoints are preempted, and skipped then. */
static bool preempts_raw_tracepoints(const struct kernel_features *k)
{
	int major = 0, minor = 0;

	sscanf(k->release, "%d.%d", &major, &minor);
	return major > 6 || (major == 6 && minor > 18);
}

/* May programs switch preemption off? Before Linux 6.15 they could then call no function that is verified by itself. */
static bool can_forbid_preemption(void)
{
	return libbpf_find_vmlinux_btf_id("bpf_preempt_disable", BPF_TRACE_FENTRY) > 0;
}

enum bpf_hook kernel_features__hook(const struct kernel_features *k)
{
	enum bpf_hook hook;

	if (forced_hook(&hook))
		return hook;
	if (!kernel_features__is_preemptible(k) && lsm_fires())
		return BPF_HOOK_LSM;
	if (kernel_features__is_preemptible(k) && preempts_raw_tracepoints(k) && can_forbid_preemption() && lsm_fires())
		return BPF_HOOK_LSM_ALONE;
	return kernel_features__observing_hook(k);
}

enum bpf_hook kernel_features__observing_hook(const struct kernel_features *k)
{
	enum bpf_hook hook;

	if (forced_hook(&hook) && hook != BPF_HOOK_LSM && hook != BPF_HOOK_LSM_ALONE)
		return hook;
	return !kernel_features__is_preemptible(k) && k->has_syscall_tp ? BPF_HOOK_TRACEPOINT : BPF_HOOK_RAW_TRACEPOINT;
}

/* ---- freplace ---- */

static bool load_one(struct replace_trial_bpf *t, struct bpf_program *only)
{
	bpf_program__set_autoload(t->progs.replaced, only == t->progs.replaced);
	bpf_program__set_autoload(t->progs.replacing, only == t->progs.replacing);
	return !replace_trial_bpf__load(t);
}

static bool replace(struct replace_trial_bpf *first, struct replace_trial_bpf *second)
{
	struct bpf_link *link;
	int fd;

	if (!load_one(first, first->progs.replaced))
		return false;
	fd = bpf_program__fd(first->progs.replaced);
	if (bpf_program__set_attach_target(second->progs.replacing, fd, "replaced") ||
	    !load_one(second, second->progs.replacing))
		return false;
	link = bpf_program__attach_freplace(second->progs.replacing, fd, "replaced");
	bpf_link__destroy(link);
	return link != NULL;
}

bool kernel_features__can_replace(void)
{
	static int can = -1;

	if (can < 0) {
		libbpf_print_fn_t print = libbpf_set_print(quiet);
		struct replace_trial_bpf *first = replace_trial_bpf__open(), *second = replace_trial_bpf__open();

		can = first && second && replace(first, second);
		replace_trial_bpf__destroy(first);
		replace_trial_bpf__destroy(second);
		libbpf_set_print(print);
	}
	return can;
}

const char *preempt_mode__name(enum preempt_mode mode)
{
	for (size_t i = 0; i < N_PREEMPT_NAMES; i++)
		if (preempt_names[i].mode == mode)
			return preempt_names[i].boot;
	return "unknown";
}

const char *bpf_hook__name(enum bpf_hook hook)
{
	return hook_names[hook].shown;
}
