/* SPDX-License-Identifier: MIT */
#include "daemon/tracepoint.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/kernel_features.h"

#define VERSION(major, minor) ((major)*1000u + (minor))

static const char *const kind_names[] = {
	[PROBE_UPROBE] = "uprobe",	   [PROBE_URETPROBE] = "uretprobe",	     [PROBE_OTHER] = "other",
	[PROBE_TRACEPOINT] = "tracepoint", [PROBE_RAW_TRACEPOINT] = "rawtracepoint", [PROBE_TP_BTF] = "tp_btf",
};

const char *probe_kind__name(enum probe_kind kind)
{
	return kind_names[kind];
}

struct kernel {
	unsigned int version;
	bool preempts_itself; /* or that is not known */
	bool reschedules;     /* also only where it might sleep */
};

static const struct kernel *this_kernel(void)
{
	static struct kernel k;
	struct kernel_features f;
	unsigned int major = 0, minor = 0;

	if (k.version)
		return &k;
	kernel_features__probe(&f);
	if (sscanf(f.release, "%u.%u", &major, &minor) == 2)
		k.version = VERSION(major, minor);
	k.reschedules = f.preempt != PREEMPT_MODE_NONE;
	k.preempts_itself = kernel_features__is_preemptible(&f);
	return &k;
}

bool tracepoint__is_of_system_calls(const struct obs_probe *o)
{
	if (o->kind == PROBE_TRACEPOINT)
		return !strncmp(o->path, "syscalls:", 9) || !strncmp(o->path, "raw_syscalls:", 13);
	return !strcmp(o->path, "sys_enter") || !strcmp(o->path, "sys_exit");
}

/*
 * Until Linux 6.12 all programs of a tracepoint run in one section without preemption (include/linux/tracepoint.h,
 * __DO_TRACE()). From 6.13 on those at raw sys_enter and sys_exit have one each, and might_fault() between them; those
 * of a perf event still have one together (trace_call_bpf()). From 7.0 on none is sure to, and programs that sleep may
 * be among those of a system call. What trace_call_bpf() skips it counts since 6.7; outside of system calls, in
 * interrupts, it may.
 */
const char *tracepoint__why_not(const struct obs_probe *o)
{
	const struct kernel *k = this_kernel();
	bool is_raw = o->kind != PROBE_TRACEPOINT, of_calls = tracepoint__is_of_system_calls(o);

	if (k->version >= VERSION(7, 0) && (k->preempts_itself || of_calls))
		return "this kernel may let other tasks run between two programs";
	if (k->version >= VERSION(6, 13) && is_raw && of_calls && k->reschedules)
		return "this kernel may let other tasks run between two programs, unless it does not preempt itself "
		       "(preempt=none)";
	if (k->version < VERSION(6, 7) && !is_raw && !of_calls)
		return "this kernel does not tell when it skips programs";
	return NULL;
}

bool tracepoint__is_of_kernel(uint32_t btf_id)
{
	char name[16] = "";
	struct bpf_btf_info info = {.name = (uintptr_t)name, .name_len = sizeof(name)};
	uint32_t len = sizeof(info);
	int fd = bpf_btf_get_fd_by_id(btf_id);
	bool is_it;

	if (fd < 0)
		return false;
	is_it = !bpf_obj_get_info_by_fd(fd, &info, &len) && info.kernel_btf && !strcmp(name, "vmlinux");
	close(fd);
	return is_it;
}

/* Which process and CPU the event is for is nothing to its programs; it is not enabled, for nobody wants its samples.
 */
static int attach_event(const struct obs_probe *o, int prog_fd, int *event_fd, int *link_fd)
{
	LIBBPF_OPTS(bpf_link_create_opts, opts, .perf_event.bpf_cookie = o->cookie);
	struct perf_event_attr attr = {.type = PERF_TYPE_TRACEPOINT,
				       .size = sizeof(attr),
				       .config = o->offset,
				       .sample_period = 1,
				       .disabled = 1};
	int err;

	*event_fd = (int)syscall(SYS_perf_event_open, &attr, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);
	if (*event_fd < 0)
		return -errno;
	*link_fd = bpf_link_create(prog_fd, *event_fd, BPF_PERF_EVENT, &opts);
	if (*link_fd >= 0)
		return 0;
	err = -errno;
	close(*event_fd);
	*event_fd = *link_fd = -1;
	return err;
}

/* union bpf_attr for BPF_RAW_TRACEPOINT_OPEN; the cookie is newer than Debian's headers. */
struct raw_open {
	uint64_t name; /* 0: the program knows */
	uint32_t prog_fd, pad;
	uint64_t cookie;
};

static int attach_raw(const struct obs_probe *o, int prog_fd, int *link_fd)
{
	struct raw_open a = {
		.name = o->kind == PROBE_TP_BTF ? 0 : (uintptr_t)o->path,
		.prog_fd = (uint32_t)prog_fd,
		.cookie = o->cookie,
	};
	size_t size = o->cookie ? sizeof(a) : offsetof(struct raw_open, cookie);
	int fd = (int)syscall(SYS_bpf, BPF_RAW_TRACEPOINT_OPEN, &a, size);

	if (fd < 0)
		return -errno;
	*link_fd = fd;
	return 0;
}

int tracepoint__attach(const struct obs_probe *o, int prog_fd, int *event_fd, int *link_fd)
{
	return o->kind == PROBE_TRACEPOINT ? attach_event(o, prog_fd, event_fd, link_fd)
					   : attach_raw(o, prog_fd, link_fd);
}

uint64_t tracepoint__missed(int prog_fd)
{
	struct bpf_prog_info info = {0};
	uint32_t len = sizeof(info);

	return bpf_obj_get_info_by_fd(prog_fd, &info, &len) ? 0 : info.recursion_misses;
}
