/* SPDX-License-Identifier: MIT */
/* victim.h: what the small victims share: a probed function and the protocol of ready, go, calls N. */
#ifndef BPFTIME_VICTIM_H
#define BPFTIME_VICTIM_H

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static atomic_long calls;

/* The function to probe: `work`. Counts itself. */
__attribute__((noinline, used)) long work(long a);
#ifndef VICTIM_HAS_ITS_OWN_WORK
__attribute__((noinline, used)) long work(long a)
{
	__asm__ volatile("" : "+r"(a));
	return 3 * a + 1;
}
#endif

static inline void call_work(void)
{
	long a = atomic_fetch_add(&calls, 1) & 7;

	if (work(a) != 3 * a + 1)
		abort();
}

static inline void ready_and_wait(void)
{
	char line[16];

	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("ready");
	if (!fgets(line, sizeof(line), stdin))
		clearerr(stdin);
}

static inline void tell_calls(void)
{
	printf("calls %ld\n", atomic_load(&calls));
}

#endif
