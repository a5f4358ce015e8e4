/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * slot.h: where a thread's slot is. Compiled into the agent, the JIT's bitcode and the kernel-side programs.
 *
 * A slot is found by the thread's fs base, which the agent reads without a system call. Slots are given out only by
 * kernel-side programs; a slot stays within AGENT_PROBE_WINDOW of where its fs base hashes to.
 */
#ifndef BPFTIME_AGENT_SLOT_H
#define BPFTIME_AGENT_SLOT_H

#include "abi.h"

#define AGENT_NO_SLOT (~0u)

/* Fibonacci hashing (Knuth, The Art of Computer Programming 3, 6.4); TLS blocks are at least 64-byte aligned. */
static inline __u32 agent_slot_first(__u64 fs_base)
{
	return (__u32)(((fs_base >> 6) * 0x9e3779b97f4a7c15ull) >> 40) & (AGENT_MAX_THREADS - 1);
}

static inline __u32 agent_slot_nth(__u64 fs_base, __u32 n)
{
	return (agent_slot_first(fs_base) + n) & (AGENT_MAX_THREADS - 1);
}

#endif
