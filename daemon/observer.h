/* SPDX-License-Identifier: MIT */
/* observer.h: the inside of struct observer, shared by observe.c and scan.c. */
#ifndef BPFTIME_OBSERVER_H
#define BPFTIME_OBSERVER_H

#include <bpf/libbpf.h>

#include "capture.h"
#include "kernel_features.h"
#include "observe.h"

struct observe_bpf;
struct scan_bpf;

enum { MAX_HOOKS = 16 };

/* One attached kernel-side program: a link, or a perf event of our own on a tracepoint. */
struct hook {
	struct bpf_link *link;
	int event_fd;
};

struct watch {
	pid_t tgid;
	int pidfd;
};

/* What is to be told to the owner at the end of dispatch. */
struct event {
	enum obs_event_kind kind;
	pid_t pid, arg;
};

struct observer {
	void (*cb)(void *arg, enum obs_event_kind kind, pid_t pid, pid_t arg2);
	void *arg;
	struct kernel_features kernel;
	enum bpf_hook hook;
	struct observe_bpf *skel;
	struct scan_bpf *scan;
	struct ring_buffer *ring;
	int epfd;    /* the ring buffer, wake_fd and the pidfds of watched processes */
	int wake_fd; /* eventfd: events wait in the queue although the ring buffer has been read */
	struct event *queue;
	size_t n_queue, cap_queue;
	uint64_t lost_seen;
	uint64_t skipped_seen;
	time_t skipped_asked;	      /* second of CLOCK_MONOTONIC */
	struct hook hooks[MAX_HOOKS]; /* attached for the observer's life */
	size_t n_hooks;
	struct hook close_hooks[MAX_HOOKS]; /* attached at the first watch; detaching takes the kernel 80 ms each */
	size_t n_close_hooks;
	struct watch *watches;
	size_t n_watches, cap_watches;
	struct captures *captures;
	uint64_t started_ns; /* CLOCK_BOOTTIME */
	uint32_t ns_level;
	struct arrived *arrived; /* mapped */
};

/* The iterators of scan.bpf.c, with what was learnt about this kernel. 0 or -errno with a sentence. */
int observer__open_scan(struct observer *o, uint32_t ns_level, uint32_t ns_inum, char *err, size_t err_size);
void observer__close_scan(struct observer *o);

/* All that an iterator's program writes, about one process or (0) all. The caller frees *out. Bytes or -errno. */
ssize_t iterator__read(struct bpf_program *prog, pid_t pid, char **out);

/*
 * What kind of file is which, by their operations, learnt from descriptors of our own: of a perf event and a link, made
 * for it, and of up to two more. file_kinds is the program of uprobe_event.h. 0 or -errno.
 */
struct file_kind {
	int fd;
	__u64 *f_op;
};
int file_kinds__learn(struct bpf_program *file_kinds, const struct file_kind *more, size_t n_more, __u64 *fops_perf,
		      __u64 *fops_link);

/* Whether the program may sleep, which its info does not tell. */
bool observer__is_sleepable(struct observer *o, uint32_t prog_id);

/* As observer__new(), with the hook given: for tests. */
int observer__new_with(struct observer **out, enum bpf_hook hook,
		       void (*cb)(void *arg, enum obs_event_kind kind, pid_t pid, pid_t arg2), void *arg, char *err,
		       size_t err_size);

#endif
