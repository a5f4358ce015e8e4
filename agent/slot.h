/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * slot.h: where a thread's slot is. Compiled into the agent, the JIT's bitcode and the kernel-side programs.
 *
 * A slot is found by the thread's fs base, which the agent reads without a system call. Slots are given out only by
 * kernel-side programs, one of the AGENT_PROBE_WINDOW that agent_slot_nth() names.
 */
#ifndef BPFTIME_AGENT_SLOT_H
#define BPFTIME_AGENT_SLOT_H

#include "abi.h"

#define AGENT_NO_SLOT (~0u)

/*
 * Every hit waits for this, so it is no multiplication. fs bases are a stack with its guard page apart, or one
 * allocation: folding the number of the page tells them apart.
 */
static inline __u32 agent_slot_first(__u64 fs_base)
{
	return (__u32)(fs_base >> 12 ^ fs_base >> 22) & (AGENT_MAX_THREADS - 1);
}

/*
 * Where to look next when that is another's: double hashing, the hash that of Fibonacci (Knuth, The Art of Computer
 * Programming 3, 6.4), so that it does not matter how the first ones lie. TLS blocks are at least 64-byte aligned.
 */
static inline __u32 agent_slot_nth(__u64 fs_base, __u32 n)
{
	__u64 hash = (fs_base >> 6) * 0x9e3779b97f4a7c15ull;

	if (!n)
		return agent_slot_first(fs_base);
	return (__u32)((hash >> 54) + n * (hash >> 40 | 1)) & (AGENT_MAX_THREADS - 1);
}

#endif
