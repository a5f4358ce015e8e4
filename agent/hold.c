// SPDX-License-Identifier: MIT
/*
 * hold.c: kernel uprobes that do nothing. They keep the kernel's int3 at the site and at the instruction boundaries
 * behind it, so that whoever gets there goes on correctly. Pinned, they outlive the daemon.
 *
 * A perf event that is limited to a process is limited by one thread of it, whose memory is compared with that of who
 * hits the uprobe. A thread that has ended has none: then uprobe_perf_func() (kernel/trace/trace_uprobe.c) asks that
 * the int3 be taken away, and handler_chain() (kernel/events/uprobes.c) does so when no other uprobe there wants it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "aside.h"
#include "site.h"

#define STAND_INS  3 /* threads; one that lives is enough */
#define STAT_FLAGS 9 /* of /proc/PID/stat, proc(5) */
#define PF_EXITING 4 /* in them, include/linux/sched.h */

static int uprobe_pmu(void)
{
	FILE *f = fopen("/sys/bus/event_source/devices/uprobe/type", "re");
	int type = -1;

	if (!f)
		return -ENOENT;
	if (fscanf(f, "%d", &type) != 1)
		type = -EPROTO;
	fclose(f);
	return type;
}

static int link_create(int prog, int event)
{
	union bpf_attr attr = {.link_create = {.prog_fd = (uint32_t)prog,
					       .target_fd = (uint32_t)event,
					       .attach_type = BPF_PERF_EVENT}};
	int fd = (int)syscall(SYS_bpf, BPF_LINK_CREATE, &attr, sizeof(attr));

	return fd < 0 ? -errno : fd;
}

static int pin(int fd, const char *path)
{
	union bpf_attr attr = {.pathname = (uint64_t)(uintptr_t)path, .bpf_fd = (uint32_t)fd};

	return syscall(SYS_bpf, BPF_OBJ_PIN, &attr, sizeof(attr)) ? -errno : 0;
}

int hold_arm(struct hold *h, const struct site_opts *o, pid_t pid, unsigned int at, struct agent_error *err)
{
	struct perf_event_attr a = {.size = sizeof(a)};
	int type = uprobe_pmu(), rc;

	if (type < 0)
		return agent_fail(err, type, "this kernel has no uprobes");
	a.type = (uint32_t)type;
	a.uprobe_path = (uint64_t)(uintptr_t)o->path;
	a.probe_offset = o->offset + at;
	h->event = (int)syscall(SYS_perf_event_open, &a, pid, -1, -1, PERF_FLAG_FD_CLOEXEC);
	if (h->event < 0) {
		rc = -errno;
		h->event = -1;
		return agent_fail(err, rc, "the kernel takes no uprobe at offset 0x%lx of %s: %s", o->offset + at,
				  o->path, strerror(-rc));
	}
	if (o->noop_prog_fd < 0)
		return 0;
	h->link = link_create(o->noop_prog_fd, h->event);
	if (h->link < 0) {
		h->link = -1;
		/* before Linux 5.15 perf events have no links, and so no pins */
		if (ioctl(h->event, PERF_EVENT_IOC_SET_BPF, o->noop_prog_fd))
			return agent_fail(err, -errno, "the no-op program cannot be attached: %s", strerror(errno));
		return 0;
	}
	if (!o->pin_dir)
		return 0;
	snprintf(h->pin, sizeof(h->pin), "%s/hold-%d-%d-%u", o->pin_dir, pid, o->index, at);
	unlink(h->pin);
	rc = pin(h->link, h->pin);
	if (rc) {
		agent_fail(err, rc, "%s cannot be pinned: %s", h->pin, strerror(-rc));
		h->pin[0] = 0;
	}
	return rc;
}

static void close_both(int link, int event)
{
	if (link >= 0)
		close(link);
	if (event >= 0)
		close(event);
}

void hold_drop(struct hold *h)
{
	if (h->pin[0])
		unlink(h->pin);
	close_both(h->link, h->event);
	*h = (struct hold){.event = -1, .link = -1};
}

/* ---- of processes that have ended ---- */

#define MOST_CLOSERS 32

static int n_closers;

struct closing {
	int link, event;
};

static void *closer(void *arg)
{
	struct closing c = *(struct closing *)arg;

	free(arg);
	close_both(c.link, c.event);
	__atomic_sub_fetch(&n_closers, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

/*
 * Closing a uprobe takes the kernel up to 100 ms, in which it waits for programs that might run. Nobody has to wait
 * with it for a process that is gone.
 */
static void drop_aside(struct hold *h)
{
	struct closing *c = h->event >= 0 || h->link >= 0 ? malloc(sizeof(*c)) : NULL;

	if (c) {
		*c = (struct closing){h->link, h->event};
		if (__atomic_add_fetch(&n_closers, 1, __ATOMIC_SEQ_CST) <= MOST_CLOSERS && !thread_aside(closer, c)) {
			h->link = h->event = -1;
		} else {
			__atomic_sub_fetch(&n_closers, 1, __ATOMIC_SEQ_CST);
			free(c);
		}
	}
	hold_drop(h);
}

/* From here on it has no memory, or soon will not. */
static bool is_ending(pid_t tid)
{
	uint64_t flags;

	return proc_stat_field(tid, STAT_FLAGS, &flags) || (flags & PF_EXITING);
}

void hold_stand_in(struct site *s)
{
	struct site_opts opts = {.sz = sizeof(opts), .offset = s->offset, .noop_prog_fd = s->noop_prog_fd};
	struct agent_error ignored;
	char path[32];
	pid_t *tids;
	int n;

	if (s->stand_ins || s->path_fd < 0 || !is_ending(s->t->pid))
		return;
	n = proc_threads(s->t->pid, &tids);
	if (n < 0)
		return;
	s->stand_ins = malloc(STAND_INS * PATCH_MAX * sizeof(*s->stand_ins));
	for (int i = 0; s->stand_ins && i < STAND_INS * PATCH_MAX; i++)
		s->stand_ins[i] = (struct hold){.event = -1, .link = -1};
	snprintf(path, sizeof(path), "/proc/self/fd/%d", s->path_fd);
	opts.path = path;
	for (int i = 0, k = 0; s->stand_ins && i < n && k < STAND_INS; i++) {
		if (tids[i] == s->t->pid || is_ending(tids[i]))
			continue;
		/* That at the first byte last: it closes an open site. */
		for (int at = (int)s->size - 1; at >= 0; at--)
			if (s->d.boundary_mask & (1u << at))
				(void)hold_arm(&s->stand_ins[k * PATCH_MAX + at], &opts, tids[i], (unsigned int)at,
					       &ignored);
		k++;
	}
	free(tids);
}

void hold_drop_all(struct site *s)
{
	void (*drop)(struct hold * h) = target__alive(s->t) ? hold_drop : drop_aside;

	for (int i = 0; i < PATCH_MAX; i++)
		drop(&s->hold[i]);
	for (int i = 0; s->stand_ins && i < STAND_INS * PATCH_MAX; i++)
		drop(&s->stand_ins[i]);
	free(s->stand_ins);
	s->stand_ins = NULL;
}
