// SPDX-License-Identifier: MIT
#include "cpus.h"

#include <errno.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

int cpu_go(int cpu)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET((size_t)cpu, &one);
	return sched_setaffinity(0, sizeof(one), &one) ? -errno : 0;
}

/* The one we came from is the last: who ran on another is not kept waiting by what we do next. */
static bool visit_all(const cpu_set_t *all)
{
	int own = sched_getcpu();

	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (cpu != own && CPU_ISSET((size_t)cpu, all) && cpu_go(cpu))
			return false;
	return own < 0 || !cpu_go(own);
}

static void wait_for_all(void)
{
	const struct timespec nap = {.tv_nsec = 50000000};

	if (syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0))
		nanosleep(&nap, NULL);
}

void cpus_visit(void)
{
	cpu_set_t all;
	bool done = false;

	if (!sched_getaffinity(0, sizeof(all), &all)) {
		done = CPU_COUNT(&all) >= get_nprocs() && visit_all(&all);
		sched_setaffinity(0, sizeof(all), &all);
	}
	if (!done)
		wait_for_all();
}
