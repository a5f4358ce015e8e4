/* SPDX-License-Identifier: MIT */
/* observe.c: the observer: attaches observe.bpf.c, turns its records into captures and events, watches processes. */
#include <errno.h>
#include <limits.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <time.h>
#include <unistd.h>
#include <bpf/bpf.h>

#include "agent/pid_ns.h"
#include "bpf/arrivals.h"
#include "bpf/observe.skel.h"
#include "bpf/scan.skel.h"
#include "observer.h"
#include "recover.h"

enum { MAX_READY = 64 };

/* ---- attaching ---- */

struct tracepoint {
	const char *name;   /* below syscalls/ */
	size_t prog_offset; /* in struct observe_bpf */
};

#define PROG(p) offsetof(struct observe_bpf, progs.p)

static const struct tracepoint always[] = {{"sys_enter_bpf", PROG(enter_bpf)},
					   {"sys_exit_bpf", PROG(exit_bpf)},
					   {"sys_exit_ioctl", PROG(exit_ioctl)},
					   {0}};

static const struct tracepoint once_watching[] = {
	{"sys_enter_close", PROG(enter_close)},
	{"sys_enter_dup2", PROG(enter_dup)},
	{"sys_enter_dup3", PROG(enter_dup)},
	{"sys_enter_close_range", PROG(enter_close_range)},
	{"sys_enter_mmap", PROG(enter_mmap)},
	{"sys_exit_mmap", PROG(exit_mmap)},
	{"sys_exit_close", PROG(exit_closing)},
	{"sys_exit_dup2", PROG(exit_closing)},
	{"sys_exit_dup3", PROG(exit_closing)},
	{"sys_exit_close_range", PROG(exit_closing)},
	{0},
};

static void detach(struct hook *hooks, size_t *n)
{
	while (*n) {
		(*n)--;
		bpf_link__destroy(hooks[*n].link);
		if (hooks[*n].event_fd >= 0)
			close(hooks[*n].event_fd);
	}
}

static int attach_tracepoint(const char *name, struct bpf_program *prog, struct hook *out)
{
	int fd = tracepoint_open("syscalls", name), err;

	if (fd < 0)
		return fd;
	if (ioctl(fd, PERF_EVENT_IOC_SET_BPF, bpf_program__fd(prog)) || ioctl(fd, PERF_EVENT_IOC_ENABLE, 0)) {
		err = -errno;
		close(fd);
		return err;
	}
	*out = (struct hook){.event_fd = fd};
	return 0;
}

static int attach_tracepoints(struct observer *o, const struct tracepoint *t, struct hook *hooks, size_t *n, char *err,
			      size_t err_size)
{
	int ret;

	for (; t->name; t++) {
		ret = attach_tracepoint(t->name, *(struct bpf_program **)((char *)o->skel + t->prog_offset),
					&hooks[*n]);
		if (ret) {
			snprintf(err, err_size, "cannot attach to tracepoint syscalls/%s: %s", t->name, strerror(-ret));
			detach(hooks, n);
			return ret;
		}
		(*n)++;
	}
	return 0;
}

static int attach_program(struct observer *o, struct bpf_program *prog, char *err, size_t err_size)
{
	struct bpf_link *link = bpf_program__attach(prog);

	if (!link) {
		snprintf(err, err_size, "cannot attach %s: %s", bpf_program__name(prog), strerror(errno));
		return -errno;
	}
	o->hooks[o->n_hooks++] = (struct hook){.link = link, .event_fd = -1};
	return 0;
}

static int attach_all(struct observer *o, char *err, size_t err_size)
{
	int ret = attach_program(o, o->skel->progs.process_exec, err, err_size);

	if (!ret)
		ret = attach_program(o, o->skel->progs.process_fork, err, err_size);
	if (!ret)
		ret = attach_program(o, o->skel->progs.thread_exit, err, err_size);
	if (ret)
		return ret;
	if (o->hook == BPF_HOOK_TRACEPOINT)
		return attach_tracepoints(o, always, o->hooks, &o->n_hooks, err, err_size);
	ret = attach_program(o, o->skel->progs.raw_enter, err, err_size);
	return ret ? ret : attach_program(o, o->skel->progs.raw_exit, err, err_size);
}

/* ---- records ---- */

static int queue_event(struct observer *o, enum obs_event_kind kind, pid_t pid, pid_t arg)
{
	struct event *grown;

	if (o->n_queue == o->cap_queue) {
		size_t cap = o->cap_queue ? 2 * o->cap_queue : 64;

		grown = realloc(o->queue, cap * sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		o->queue = grown;
		o->cap_queue = cap;
	}
	o->queue[o->n_queue++] = (struct event){.kind = kind, .pid = pid, .arg = arg};
	return 0;
}

static int on_record(void *arg, void *data, size_t size)
{
	const struct obs_rec_head *rec = data;
	struct observer *o = arg;

	switch (rec->kind) {
	case OBS_REC_CODE:
		captures__code(o->captures, data, size);
		break;
	case OBS_REC_LOADED:
		captures__loaded(o->captures, data);
		break;
	case OBS_REC_CHANGED:
		return queue_event(o, OBS_CHANGED, rec->tgid, 0);
	case OBS_REC_EXEC:
		return queue_event(o, OBS_EXEC, rec->tgid, 0);
	case OBS_REC_MAPPED:
		return queue_event(o, OBS_MAPPED, rec->tgid, (pid_t)rec->arg);
	case OBS_REC_LEADER:
		return queue_event(o, OBS_LEADER, rec->tgid, 0);
	case OBS_REC_FORK:
		return queue_event(o, OBS_FORK, rec->tgid, rec->arg);
	}
	return 0;
}

/* A process of our PID namespace has the same number in the initial one, if that is ours. */
static int on_arrival(void *arg, void *data, size_t size)
{
	const struct arrival *a = data;
	struct observer *o = arg;

	return queue_event(o, OBS_ARRIVED, o->ns_level ? 0 : a->tgid, 0);
}

void observer__arrivals(const struct observer *o, int *arrived_fd, int *arrivals_fd)
{
	*arrived_fd = bpf_map__fd(o->skel->maps.arrived);
	*arrivals_fd = bpf_map__fd(o->skel->maps.arrivals);
}

int observer__forks(const struct observer *o, int *kin_fd)
{
	*kin_fd = bpf_map__fd(o->skel->maps.kin);
	return bpf_map__fd(o->skel->maps.forks);
}

void observer__await_arrival(struct observer *o, pid_t tgid)
{
	uint32_t nr = (uint32_t)tgid;

	if (tgid && !o->ns_level)
		__atomic_fetch_and(&o->arrived->word[nr / 64 & (ARRIVED_WORDS - 1)], ~(1ull << (nr & 63)),
				   __ATOMIC_RELAXED);
	else
		memset(o->arrived, 0, sizeof(*o->arrived));
}

/* Reads the ring buffer empty: captures are complete, events are queued. */
static int read_records(struct observer *o)
{
	int ret = ring_buffer__consume(o->ring);
	uint64_t lost = __atomic_load_n(&o->skel->bss->lost, __ATOMIC_RELAXED);

	if (ret >= 0 && lost != o->lost_seen) {
		o->lost_seen = lost;
		ret = queue_event(o, OBS_LOST, 0, 0);
	}
	return ret < 0 ? ret : 0;
}

/* Calls that the kernel let pass without our programs, because another program was at work on the same CPU. */
static uint64_t skipped(const struct observer *o)
{
	struct bpf_prog_info info;
	struct bpf_program *p;
	uint64_t n = 0;
	uint32_t len;

	bpf_object__for_each_program(p, o->skel->obj)
	{
		memset(&info, 0, sizeof(info));
		len = sizeof(info);
		if (!bpf_obj_get_info_by_fd(bpf_program__fd(p), &info, &len))
			n += info.recursion_misses;
	}
	return n;
}

/* At most once a second: each program is asked. */
static int look_for_skipped(struct observer *o)
{
	struct timespec now;
	uint64_t n;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	if (now.tv_sec == o->skipped_asked)
		return 0;
	o->skipped_asked = now.tv_sec;
	n = skipped(o);
	if (n == o->skipped_seen)
		return 0;
	o->skipped_seen = n;
	return queue_event(o, OBS_LOST, 0, 0);
}

static void queue_exit_of(struct observer *o, pid_t tgid)
{
	for (size_t i = 0; i < o->n_watches; i++) {
		if (o->watches[i].tgid == tgid) {
			if (!queue_event(o, OBS_EXIT, tgid, 0))
				observer__unwatch(o, tgid);
			return;
		}
	}
}

int observer__dispatch(struct observer *o)
{
	struct epoll_event ready[MAX_READY];
	struct event event;
	eventfd_t unused;
	int n, ret;

	ret = read_records(o);
	if (!ret)
		ret = look_for_skipped(o);
	if (ret)
		return ret;
	n = epoll_wait(o->epfd, ready, MAX_READY, 0);
	for (int i = 0; i < n; i++)
		if (ready[i].data.u64)
			queue_exit_of(o, ready[i].data.u64);
	eventfd_read(o->wake_fd, &unused);
	/* The callback may add to the queue: observer__prog() reads the ring buffer. */
	for (size_t i = 0; i < o->n_queue; i++) {
		event = o->queue[i];
		o->cb(o->arg, event.kind, event.pid, event.arg);
	}
	o->n_queue = 0;
	return n < 0 && errno != EINTR ? -errno : 0;
}

int observer__epoll_fd(const struct observer *o)
{
	return o->epfd;
}

const char *observer__hook(const struct observer *o)
{
	return bpf_hook__name(o->hook);
}

/* ---- watched processes ---- */

int observer__watch(struct observer *o, pid_t tgid)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.u64 = tgid};
	uint32_t one = 1;
	char err[256];
	void *grown;
	int pidfd, ret;

	for (size_t i = 0; i < o->n_watches; i++)
		if (o->watches[i].tgid == tgid)
			return 0;
	if (o->n_watches == o->cap_watches) {
		o->cap_watches = o->cap_watches ? 2 * o->cap_watches : 16;
		grown = realloc(o->watches, o->cap_watches * sizeof(*o->watches));
		if (!grown)
			return -ENOMEM;
		o->watches = grown;
	}
	pidfd = pidfd_open(tgid, 0);
	if (pidfd < 0)
		return -errno;
	if (bpf_map_update_elem(bpf_map__fd(o->skel->maps.watched), &tgid, &one, BPF_ANY)) {
		ret = -errno;
		goto err_pidfd;
	}
	if (!o->n_close_hooks && o->hook == BPF_HOOK_TRACEPOINT) {
		ret = attach_tracepoints(o, once_watching, o->close_hooks, &o->n_close_hooks, err, sizeof(err));
		if (ret)
			goto err_map;
	}
	if (epoll_ctl(o->epfd, EPOLL_CTL_ADD, pidfd, &ev)) {
		ret = -errno;
		goto err_map;
	}
	o->watches[o->n_watches++] = (struct watch){.tgid = tgid, .pidfd = pidfd};
	return 0;

err_map:
	bpf_map_delete_elem(bpf_map__fd(o->skel->maps.watched), &tgid);
err_pidfd:
	close(pidfd);
	return ret;
}

void observer__unwatch(struct observer *o, pid_t tgid)
{
	for (size_t i = 0; i < o->n_watches; i++) {
		if (o->watches[i].tgid != tgid)
			continue;
		bpf_map_delete_elem(bpf_map__fd(o->skel->maps.watched), &tgid);
		close(o->watches[i].pidfd);
		o->watches[i] = o->watches[--o->n_watches];
		return;
	}
}

/* ---- programs and maps ---- */

static int info_by_fd(int fd, void *info, size_t size)
{
	uint32_t len = size;

	memset(info, 0, size);
	return bpf_obj_get_info_by_fd(fd, info, &len) ? -errno : 0;
}

const struct obs_prog *observer__prog(struct observer *o, uint32_t prog_id)
{
	const struct obs_prog *known;
	struct bpf_insn *insns = NULL;
	struct bpf_prog_info info;
	size_t n_insns = 0;
	char reason[256], why[400];
	struct obs_prog *p;
	bool sleepable;
	int fd, err;

	known = captures__find(o->captures, prog_id);
	if (!known) {
		read_records(o); /* its load may be waiting there */
		if (o->n_queue)
			eventfd_write(o->wake_fd, 1);
		known = captures__find(o->captures, prog_id);
	}
	if (known && (known->insns || !captures__may_recover(o->captures, known)))
		return known;
	fd = bpf_prog_get_fd_by_id(prog_id);
	if (fd < 0)
		return NULL;
	err = info_by_fd(fd, &info, sizeof(info));
	if (err) {
		close(fd);
		errno = -err;
		return NULL;
	}
	sleepable = known ? known->sleepable : observer__is_sleepable(o, prog_id);
	err = recover__prog(fd, &info, &insns, &n_insns, sleepable, reason, sizeof(reason));
	close(fd);
	/* Not for ever: the next time there may be memory, or descriptors. */
	if (err == -ENOMEM || err == -EMFILE || err == -ENFILE) {
		errno = -err;
		return NULL;
	}
	if (known)
		return captures__recovered(o->captures, known, insns, n_insns, reason);
	snprintf(why, sizeof(why), "%s, and its bytecode cannot be recovered (%s)",
		 info.load_time < o->started_ns ? "loaded before bpftimed started" : "its load was not seen", reason);
	p = captures__keep(o->captures, &info, insns, n_insns, info.gpl_compatible ? "GPL" : "Proprietary",
			   err ? why : NULL);
	if (!p) {
		errno = ENOMEM;
		return NULL;
	}
	p->sleepable = sleepable;
	return p;
}

int observer__map(struct observer *o, uint32_t map_id, struct obs_map *out)
{
	struct bpf_map_info info;
	int fd = bpf_map_get_fd_by_id(map_id), err;
	char path[64], line[128];
	int frozen = 0;
	FILE *f;

	if (fd < 0)
		return -errno;
	err = info_by_fd(fd, &info, sizeof(info));
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	f = fopen(path, "re"); /* only here does the kernel tell whether a map is frozen */
	while (f && fgets(line, sizeof(line), f))
		sscanf(line, "frozen: %d", &frozen);
	if (f)
		fclose(f);
	close(fd);
	if (err)
		return err;
	*out = (struct obs_map){.id = info.id,
				.type = info.type,
				.key_size = info.key_size,
				.value_size = info.value_size,
				.max_entries = info.max_entries,
				.flags = info.map_flags,
				.frozen = frozen};
	memcpy(out->name, info.name, sizeof(out->name));
	return 0;
}

/* ---- the observer ---- */

/* By what kernel halves tell of processes: they outlive the daemon, and go on to tell the next one. */
static const struct {
	const char *map, *pin;
} told_by[] = {{"arrived", "observe-arrived"}, {"arrivals", "observe-arrivals"}};

static int reuse_maps(struct observer *o, const char *dir)
{
	char path[PATH_MAX];
	int ret = 0;

	for (size_t i = 0; i < sizeof(told_by) / sizeof(told_by[0]) && !ret; i++) {
		int fd;

		snprintf(path, sizeof(path), "%s/%s", dir, told_by[i].pin);
		fd = bpf_obj_get(path);
		ret = fd < 0 ? -errno
			     : bpf_map__reuse_fd(bpf_object__find_map_by_name(o->skel->obj, told_by[i].map), fd);
		if (fd >= 0)
			close(fd);
	}
	return ret;
}

int observer__pin(struct observer *o, const char *dir)
{
	char path[PATH_MAX];

	for (size_t i = 0; i < sizeof(told_by) / sizeof(told_by[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, told_by[i].pin);
		unlink(path);
		if (bpf_obj_pin(bpf_object__find_map_fd_by_name(o->skel->obj, told_by[i].map), path))
			return -errno;
	}
	return 0;
}

/* from: as of observer__adopt(), or NULL. */
static int open_programs(struct observer *o, const char *from, char *err, size_t err_size)
{
	uint32_t level = pid_ns__level(), inum = pid_ns__inum();
	void *arrived;
	int ret = observer__open_scan(o, level, inum, err, err_size);

	if (ret)
		return ret;
	o->skel = observe_bpf__open();
	if (!o->skel) {
		snprintf(err, err_size, "cannot open the observing programs: %s", strerror(errno));
		return -errno;
	}
	o->skel->rodata->ns_level = level;
	o->skel->rodata->ns_inum = inum;
	o->skel->rodata->self = getpid();
	o->skel->bss->fops_perf = o->scan->bss->fops_perf;
	o->skel->bss->fops_link = o->scan->bss->fops_link;
	o->skel->bss->fops_map = o->scan->bss->fops_map;
	o->skel->bss->fops_prog = o->scan->bss->fops_prog;
	o->ns_level = level;
	ret = from ? reuse_maps(o, from) : 0;
	if (!ret)
		ret = observe_bpf__load(o->skel);
	if (ret) {
		snprintf(err, err_size, "the kernel refuses the observing programs: %s", strerror(-ret));
		return ret;
	}
	arrived = mmap(NULL, sizeof(*o->arrived), PROT_READ | PROT_WRITE, MAP_SHARED,
		       bpf_map__fd(o->skel->maps.arrived), 0);
	if (arrived == MAP_FAILED) {
		ret = -errno;
		snprintf(err, err_size, "the memory of the observing programs cannot be mapped: %s", strerror(-ret));
		return ret;
	}
	o->arrived = arrived;
	return 0;
}

static int open_ring(struct observer *o, char *err, size_t err_size)
{
	struct epoll_event ev = {.events = EPOLLIN};

	o->epfd = epoll_create1(EPOLL_CLOEXEC);
	o->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	o->ring = ring_buffer__new(bpf_map__fd(o->skel->maps.ring), on_record, o, NULL);
	if (o->epfd < 0 || o->wake_fd < 0 || !o->ring ||
	    ring_buffer__add(o->ring, bpf_map__fd(o->skel->maps.arrivals), on_arrival, o) ||
	    epoll_ctl(o->epfd, EPOLL_CTL_ADD, ring_buffer__epoll_fd(o->ring), &ev) ||
	    epoll_ctl(o->epfd, EPOLL_CTL_ADD, o->wake_fd, &ev)) {
		snprintf(err, err_size, "cannot open the ring buffer: %s", strerror(errno));
		return -errno;
	}
	return 0;
}

static int make(struct observer **out, enum bpf_hook hook, const char *from,
		void (*cb)(void *arg, enum obs_event_kind kind, pid_t pid, pid_t arg2), void *arg, char *err,
		size_t err_size)
{
	struct observer *o = calloc(1, sizeof(*o));
	struct timespec now;
	int ret;

	if (!o) {
		snprintf(err, err_size, "out of memory");
		return -ENOMEM;
	}
	o->epfd = o->wake_fd = -1;
	o->cb = cb;
	o->arg = arg;
	o->hook = hook;
	clock_gettime(CLOCK_BOOTTIME, &now);
	o->started_ns = now.tv_sec * 1000000000ULL + now.tv_nsec;
	o->captures = captures__new();
	kernel_features__probe(&o->kernel);
	ret = o->captures ? kernel_features__missing(&o->kernel, err, err_size) : -ENOMEM;
	if (!ret)
		ret = open_programs(o, from, err, err_size);
	if (!ret)
		ret = open_ring(o, err, err_size);
	if (!ret)
		ret = attach_all(o, err, err_size);
	if (ret) {
		observer__free(o);
		return ret;
	}
	*out = o;
	return 0;
}

int observer__new_with(struct observer **out, enum bpf_hook hook,
		       void (*cb)(void *arg, enum obs_event_kind kind, pid_t pid, pid_t arg2), void *arg, char *err,
		       size_t err_size)
{
	return make(out, hook, NULL, cb, arg, err, err_size);
}

int observer__adopt(struct observer **out, const char *dir,
		    void (*cb)(void *arg, enum obs_event_kind kind, pid_t pid, pid_t arg2), void *arg, char *err,
		    size_t err_size)
{
	struct kernel_features k;

	kernel_features__probe(&k);
	return make(out, kernel_features__observing_hook(&k), dir, cb, arg, err, err_size);
}

int observer__new(struct observer **out, void (*cb)(void *arg, enum obs_event_kind kind, pid_t pid, pid_t arg2),
		  void *arg, char *err, size_t err_size)
{
	struct kernel_features k;

	kernel_features__probe(&k);
	return observer__new_with(out, kernel_features__observing_hook(&k), cb, arg, err, err_size);
}

void observer__free(struct observer *o)
{
	if (!o)
		return;
	while (o->n_watches)
		observer__unwatch(o, o->watches[0].tgid);
	free(o->watches);
	detach(o->close_hooks, &o->n_close_hooks);
	detach(o->hooks, &o->n_hooks);
	ring_buffer__free(o->ring);
	if (o->arrived)
		munmap(o->arrived, sizeof(*o->arrived));
	if (o->epfd >= 0)
		close(o->epfd);
	if (o->wake_fd >= 0)
		close(o->wake_fd);
	free(o->queue);
	observe_bpf__destroy(o->skel);
	observer__close_scan(o);
	captures__free(o->captures);
	free(o);
}
