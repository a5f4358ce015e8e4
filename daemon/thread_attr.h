/* SPDX-License-Identifier: MIT */
/* thread_attr.h: how the scheduler treats the calling thread, as in sched_setattr(2), for which the C library has
 * nothing. */
#ifndef BPFTIME_THREAD_ATTR_H
#define BPFTIME_THREAD_ATTR_H

#include <stdint.h>

/* Layout of the kernel's struct sched_attr, its first version (include/uapi/linux/sched/types.h). */
struct thread_attr {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t slice; /* ns; of ordinary threads since Linux 6.12 */
	uint64_t deadline, period;
};

/* Both: 0 or -errno. */
int thread_attr__get(struct thread_attr *a);
int thread_attr__set(const struct thread_attr *a);
/*
 * The calling thread, and those that it starts from now on, leave the processor soon when others want it: after the
 * shortest slice that the kernel gives. Before Linux 6.12 nothing changes. 0 or -errno.
 */
int thread_attr__give_way(void);

#endif
