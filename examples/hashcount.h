/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* hashcount.h: what the program of hashcount and the tool share. */
#ifndef BPFTIME_EXAMPLES_HASHCOUNT_H
#define BPFTIME_EXAMPLES_HASHCOUNT_H

#define HASHCOUNT_THREADS 10240

/* Of one thread. Written by that thread's probes only. */
struct thread_total {
	unsigned long long calls;
	unsigned long long ns;
};

#endif
