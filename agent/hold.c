// SPDX-License-Identifier: MIT
/*
 * hold.c: kernel uprobes that do nothing. They keep the kernel's int3 at the site and at the instruction boundaries
 * behind it, so that whoever gets there goes on correctly. Pinned, they outlive the daemon.
 *
 * One uprobe_multi link holds all sites that are planned together: the kernel takes as long to close it as to close one
 * perf event, some 50 to 100 ms, and perf events are closed one after another whoever closes them (event_mutex in
 * kernel/trace/). Kernels before 6.6 have no such links.
 *
 * A perf event that is limited to a process is limited by one thread of it, whose memory is compared with that of who
 * hits the uprobe. A thread that has ended has none: then uprobe_perf_func() (kernel/trace/trace_uprobe.c) asks that
 * the int3 be taken away, and handler_chain() (kernel/events/uprobes.c) does so when no other uprobe there wants it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bury.h"
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

static int arm_one(struct hold *h, const struct site_opts *o, pid_t pid, unsigned int at, struct agent_error *err)
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

/* ---- a link for many ---- */

#define TRACE_UPROBE_MULTI 48 /* BPF_TRACE_UPROBE_MULTI, since Linux 6.6 */

/* struct bpf_attr of BPF_LINK_CREATE for it. */
struct multi_create {
	uint32_t prog, target, attach_type, flags;
	uint64_t path, offsets, ref_ctr_offsets, cookies;
	uint32_t n, multi_flags, pid, pad;
};

static int create_link(const struct multi_create *c)
{
	int fd = (int)syscall(SYS_bpf, BPF_LINK_CREATE, c, sizeof(*c));

	return fd < 0 ? -errno : fd;
}

/* A kernel without such links loads a program for them, too. One that has them looks for the path. */
static bool has_links(int prog)
{
	const uint64_t offset = 0;
	const struct multi_create nowhere = {
		.prog = (uint32_t)prog,
		.attach_type = TRACE_UPROBE_MULTI,
		.path = 1,
		.offsets = (uint64_t)(uintptr_t)&offset,
		.n = 1,
	};

	return create_link(&nowhere) == -EFAULT;
}

/* A program for such links; -1: this kernel has none. */
static int multi_prog_fd = -1;

static void make_multi_prog(void)
{
	static const struct bpf_insn nothing[] = {
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0},
		{.code = BPF_JMP | BPF_EXIT},
	};
	union bpf_attr attr = {.prog_type = BPF_PROG_TYPE_KPROBE,
			       .expected_attach_type = TRACE_UPROBE_MULTI,
			       .insns = (uint64_t)(uintptr_t)nothing,
			       .insn_cnt = 2,
			       .prog_name = "bpftimed_hold",
			       .license = (uint64_t)(uintptr_t) "Dual MIT/GPL"};
	const char *wanted = getenv("BPFTIME_HOLDS");
	int fd = wanted && !strcmp(wanted, "events") ? -1 : (int)syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof(attr));

	if (fd >= 0 && has_links(fd))
		multi_prog_fd = fd;
	else if (fd >= 0)
		close(fd);
}

static int multi_prog(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, make_multi_prog);
	return multi_prog_fd;
}

bool agent_holds_are_links(void)
{
	return multi_prog() >= 0;
}

static int multi_link(const char *path, pid_t pid, const uint64_t *offsets, size_t n)
{
	const struct multi_create c = {
		.prog = (uint32_t)multi_prog(),
		.attach_type = TRACE_UPROBE_MULTI,
		.path = (uint64_t)(uintptr_t)path,
		.offsets = (uint64_t)(uintptr_t)offsets,
		.n = (uint32_t)n,
		.pid = (uint32_t)pid,
	};

	return create_link(&c);
}

static int try_link(struct site *const *s, size_t n, const struct site_opts *o, struct agent_error *err)
{
	uint64_t *offsets = malloc(n * PATCH_MAX * sizeof(*offsets));
	struct hold_link *l = calloc(1, sizeof(*l));
	struct target *t = s[0]->t;
	size_t n_offsets = 0;
	int rc = -ENOMEM;

	for (size_t i = 0; offsets && i < n; i++)
		for (unsigned int k = 0; k < s[i]->size; k++)
			if (s[i]->d.boundary_mask & (1u << k))
				offsets[n_offsets++] = s[i]->offset + k;
	if (offsets && l)
		l->link = rc = multi_link(o->path, t->pid, offsets, n_offsets);
	free(offsets);
	if (l)
		l->at.bucket = malloc(n * sizeof(*l->at.bucket));
	if (rc >= 0 && !l->at.bucket) {
		close(rc);
		rc = -ENOMEM;
	}
	if (rc < 0) {
		if (l)
			free(l->at.bucket);
		free(l);
		return agent_fail(err, rc, "the kernel takes no uprobe at offset 0x%lx of %s: %s", s[0]->offset,
				  o->path, strerror(-rc));
	}
	l->id = t->n_hold_links++;
	l->path_fd = open(o->path, O_PATH | O_CLOEXEC);
	if (o->pin_dir) {
		snprintf(l->pin, sizeof(l->pin), "%s/hold-%d-all-%u", o->pin_dir, t->pid, l->id);
		unlink(l->pin);
		rc = pin(l->link, l->pin);
	}
	if (rc < 0) {
		agent_fail(err, rc, "%s cannot be pinned: %s", l->pin, strerror(-rc));
		close(l->link);
		if (l->path_fd >= 0)
			close(l->path_fd);
		free(l->at.bucket);
		free(l);
		return rc;
	}
	l->refs = (unsigned int)n;
	for (size_t i = 0; i < n; i++) {
		s[i]->held = l;
		l->at.bucket[l->at.n++] = s[i]->instruction;
	}
	return 0;
}

/* Those that the kernel takes; a link is made of all of its places or of none. */
static void link_all(struct site *const *s, size_t n, const struct site_opts *o, struct agent_error *err)
{
	int rc = try_link(s, n, o, err);

	if (!rc || n == 1 || rc == -ESRCH || rc == -EMFILE || rc == -ENOMEM)
		return;
	link_all(s, n / 2, o, err);
	link_all(s + n / 2, n - n / 2, o, err);
}

static struct hold *new_holds(size_t n)
{
	struct hold *h = malloc(n * sizeof(*h));

	for (size_t i = 0; h && i < n; i++)
		h[i] = (struct hold){.event = -1, .link = -1};
	return h;
}

static enum site_result hold_one(struct site *s, const struct site_opts *o, struct agent_error *err)
{
	struct site_opts own = *o;

	own.offset = s->offset;
	own.index = s->index;
	s->path_fd = open(o->path, O_PATH | O_CLOEXEC);
	s->hold = new_holds(PATCH_MAX);
	if (!s->hold)
		return agent_fail(err, 0, "out of memory"), SITE_FAILED;
	for (unsigned int i = 0; i < s->size; i++)
		if ((s->d.boundary_mask & (1u << i)) && arm_one(&s->hold[i], &own, s->t->pid, i, err)) {
			hold_drop_all(s);
			return SITE_SKIPPED;
		}
	return SITE_DONE;
}

enum site_result hold_sites(struct site *const *s, size_t n, const struct site_opts *o, struct agent_error *err)
{
	enum site_result r = SITE_DONE;
	struct stat st = {0};

	(void)stat(o->path, &st);
	for (size_t i = 0; i < n; i++) {
		s[i]->instruction = instruction_bucket(st.st_dev, st.st_ino, s[i]->offset);
		instruction_use(s[i]->instruction);
		s[i]->is_used = true;
	}
	if (agent_holds_are_links()) {
		link_all(s, n, o, err);
		for (size_t i = 0; i < n; i++)
			r = s[i]->held ? r : SITE_SKIPPED;
		return r;
	}
	for (size_t i = 0; i < n; i++)
		if (hold_one(s[i], o, err))
			r = SITE_SKIPPED;
	return r;
}

/* ---- the end ---- */

static void let_end(const char *pin, pid_t pid, int link, int event, const struct instructions *at, bool aside)
{
	if (pin[0])
		unlink(pin);
	uprobes_end(pid, link, event, at, aside);
}

static void hold_drop(struct hold *h, const struct site *s, bool aside)
{
	const struct instructions at = {.bucket = (uint32_t *)&s->instruction, .n = 1};

	let_end(h->pin, s->t->pid, h->link, h->event, &at, aside);
	*h = (struct hold){.event = -1, .link = -1};
}

static void hold_link_put(struct hold_link *l, pid_t pid, bool aside)
{
	if (--l->refs)
		return;
	let_end(l->pin, pid, l->link, -1, &l->at, aside);
	if (l->path_fd >= 0)
		close(l->path_fd);
	free(l->at.bucket);
	free(l);
}

/* ---- of processes whose main thread has ended ---- */

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

	int path_fd = s->held ? s->held->path_fd : s->path_fd;

	if (s->stand_ins || path_fd < 0 || !is_ending(s->t->pid))
		return;
	n = proc_threads(s->t->pid, &tids);
	if (n < 0)
		return;
	s->stand_ins = new_holds(STAND_INS * PATCH_MAX);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", path_fd);
	opts.path = path;
	for (int i = 0, k = 0; s->stand_ins && i < n && k < STAND_INS; i++) {
		if (tids[i] == s->t->pid || is_ending(tids[i]))
			continue;
		/* That at the first byte last: it closes an open site. */
		for (int at = (int)s->size - 1; at >= 0; at--)
			if (s->d.boundary_mask & (1u << at))
				(void)arm_one(&s->stand_ins[k * PATCH_MAX + at], &opts, tids[i], (unsigned int)at,
					      &ignored);
		k++;
	}
	free(tids);
}

void hold_drop_all(struct site *s)
{
	bool aside = !target__alive(s->t);

	if (s->is_used)
		instruction_unuse(s->instruction);
	s->is_used = false;
	if (s->held)
		hold_link_put(s->held, s->t->pid, aside);
	for (int i = 0; s->hold && i < PATCH_MAX; i++)
		hold_drop(&s->hold[i], s, aside);
	for (int i = 0; s->stand_ins && i < STAND_INS * PATCH_MAX; i++)
		hold_drop(&s->stand_ins[i], s, aside);
	free(s->hold);
	free(s->stand_ins);
	s->hold = s->stand_ins = NULL;
	s->held = NULL;
}
