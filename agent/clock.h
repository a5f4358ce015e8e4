/* SPDX-License-Identifier: MIT */
/* clock.h: for deadlines. */
#ifndef BPFTIME_AGENT_CLOCK_H
#define BPFTIME_AGENT_CLOCK_H

#include <stdint.h>
#include <time.h>

/* CLOCK_MONOTONIC, microseconds. */
static inline int64_t clock_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000ll + ts.tv_nsec / 1000;
}

#endif
