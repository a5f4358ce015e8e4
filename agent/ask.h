/* SPDX-License-Identifier: MIT */
/*
 * ask.h: what code in a target can find out: CPU, own slot, and through agent_service() what only the kernel knows.
 * Compiled into the agent image and into the bitcode that compiled programs are linked with.
 *
 * A service call brings its answer back in the caller's slot. A signal handler may interrupt it and make another one on
 * the same thread, so a slot is claimed (busy) before use and a spare one taken when it is not to be had.
 */
#ifndef BPFTIME_AGENT_ASK_H
#define BPFTIME_AGENT_ASK_H

#include "slot.h"

typedef void (*agent_service_fn)(__u64 op, __u64 slot, __u64 a, __u64 b, __u64 c);

static inline __u64 agent_fs_base(void)
{
	__u64 base;

	__asm__("rdfsbase %0" : "=r"(base));
	return base;
}

static inline void agent_pause(void)
{
	__asm__ volatile("pause" ::: "memory");
}

/* The kernel keeps cpu | node << 12 in TSC_AUX and in the limit of segment 15 (arch/x86/include/asm/segment.h). */
static inline __u32 agent_cpu(const struct agent_target *t)
{
	__u64 aux = 0;

	if (__builtin_expect(t->flags & AGENT_TARGET_RDPID, 1))
		__asm__ volatile("rdpid %0" : "=r"(aux));
	else
		__asm__ volatile("lsl %1, %k0" : "+r"(aux) : "r"(0x7b) : "cc");
	return aux & 0xfff;
}

static inline int agent_in_fork_child(__u64 fork_page)
{
	return *(volatile __u32 *)fork_page == 0;
}

/* Index of the calling thread's slot or AGENT_NO_SLOT. */
static inline __u32 agent_find_slot(const struct agent_target *t, __u64 fs_base)
{
	__u32 n;

	/* A thread without one is in no slot: 0 says that it is free. */
	for (n = 0; fs_base && n < AGENT_PROBE_WINDOW; n++) {
		__u32 i = agent_slot_nth(fs_base, n);

		if (__atomic_load_n(&t->thread[i].fs_base, __ATOMIC_ACQUIRE) == fs_base)
			return i;
	}
	return AGENT_NO_SLOT;
}

static inline struct agent_thread *agent_slot(struct agent_target *t, __u32 index)
{
	return index < AGENT_MAX_THREADS ? &t->thread[index] : &t->spare[index - AGENT_MAX_THREADS];
}

static inline int agent_claim(struct agent_thread *slot)
{
	__u64 idle = 0;

	return __atomic_compare_exchange_n(&slot->busy, &idle, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

/* A slot whose reply the caller may use until agent_done(): its own when known and idle, else a spare one. */
static inline __u32 agent_begin(struct agent_target *t, __u64 fork_page)
{
	__u64 fs_base = agent_fs_base();
	__u32 i, round;

	if (!agent_in_fork_child(fork_page)) {
		i = agent_find_slot(t, fs_base);
		if (i != AGENT_NO_SLOT && agent_claim(&t->thread[i]))
			return i;
	}
	/* Held spares are released within microseconds, unless their holder was killed or left by longjmp. */
	for (round = 0; round < 1u << 16; round++) {
		for (i = 0; i < AGENT_MAX_SPARES; i++)
			if (agent_claim(&t->spare[i]))
				return AGENT_MAX_THREADS + i;
		agent_pause();
	}
	return AGENT_MAX_THREADS + (agent_slot_first(fs_base) & (AGENT_MAX_SPARES - 1));
}

static inline void agent_done(struct agent_target *t, __u32 index)
{
	__atomic_store_n(&agent_slot(t, index)->busy, 0, __ATOMIC_RELEASE);
}

/* One service call. The result is in the slot. */
static inline __s64 agent_call(struct agent_target *t, __u64 service, __u32 index, __u64 op, __u64 a, __u64 b)
{
	struct agent_thread *slot = agent_slot(t, index);

	__atomic_store_n(&slot->result, -38 /* ENOSYS: nobody answered */, __ATOMIC_RELAXED);
	((agent_service_fn)service)(op, index, a, b, 0);
	return __atomic_load_n(&slot->result, __ATOMIC_RELAXED);
}

/* For questions that are answered by one number. */
static inline __s64 agent_ask(struct agent_target *t, __u64 service, __u64 fork_page, __u64 op, __u64 a)
{
	__u32 index = agent_begin(t, fork_page);
	__s64 result = agent_call(t, service, index, op, a, 0);

	agent_done(t, index);
	return result;
}

/* The calling thread's slot when it says who the thread is (registered on the way when need be), else NULL. */
static inline struct agent_thread *agent_self(struct agent_target *t, __u64 service, __u64 fork_page)
{
	__u64 fs_base = agent_fs_base();
	struct agent_thread *slot;
	__u32 i;

	if (agent_in_fork_child(fork_page))
		return 0;
	i = agent_find_slot(t, fs_base);
	if (i == AGENT_NO_SLOT) {
		agent_ask(t, service, fork_page, AGENT_OP_REGISTER, fs_base);
		i = agent_find_slot(t, fs_base);
		if (i == AGENT_NO_SLOT)
			return 0;
	}
	slot = &t->thread[i];
	return __atomic_load_n(&slot->state, __ATOMIC_ACQUIRE) == AGENT_THREAD_KNOWN ? slot : 0;
}

#endif
