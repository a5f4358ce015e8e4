/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * arrivals.h: processes that a kernel half has served, each told once: it may be given the agent. `arrived` has a bit
 * for every process, numbered as the initial PID namespace numbers them; `arrivals` is a ring buffer with a record for
 * each that was new. The bit of a process that begins, or that executes another program, is cleared
 * (bpf/observe.bpf.c); the daemon clears it when it wants to be told again.
 *
 * The including file provides the fixed-width types.
 */
#ifndef BPFTIME_BPF_ARRIVALS_H
#define BPFTIME_BPF_ARRIVALS_H

enum {
	ARRIVED_MAX_PID = 1 << 22, /* PID_MAX_LIMIT of include/linux/threads.h */
	ARRIVED_WORDS = ARRIVED_MAX_PID / 64,
	ARRIVALS_RING_SIZE = 1 << 16,
};

/* The only element of the array `arrived`. */
struct arrived {
	__u64 word[ARRIVED_WORDS];
};

struct arrival {
	__s32 tgid; /* in the initial PID namespace */
	__u32 pad;
};

#endif
