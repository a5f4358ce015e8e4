/* SPDX-License-Identifier: MIT */
#include "daemon/thread_attr.h"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SHORTEST_NS 100000 /* kernel/sched/syscalls.c, __setparam_fair() */

int thread_attr__get(struct thread_attr *a)
{
	return syscall(SYS_sched_getattr, 0, a, sizeof(*a), 0) ? -errno : 0;
}

int thread_attr__set(const struct thread_attr *a)
{
	return syscall(SYS_sched_setattr, 0, a, 0) ? -errno : 0;
}

int thread_attr__give_way(void)
{
	struct thread_attr a;
	int ret = thread_attr__get(&a);

	a.slice = SHORTEST_NS;
	return ret ? ret : thread_attr__set(&a);
}
