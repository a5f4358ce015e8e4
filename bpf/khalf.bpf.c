/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * khalf.bpf.c: the map algorithms as subprograms. This object is never loaded as it is: daemon/khalf.c appends the
 * functions of its .text to a tool's program and lets their two addresses point to the group's arena and to the
 * constants.
 *
 * The functions are hidden, not static: clang changes the signature of static ones. Each holds the code of all kinds of
 * maps; the verifier walks only what the constants lead to.
 */
#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "arrivals.h"
#include "khalf.h"

const struct khalf_consts khalf_consts SEC(".rodata.khalf") = {};
char khalf_arena[8] SEC(".data.arena");
char khalf_arrived[8] SEC(".data.arrived");
char khalf_arrivals[8] SEC(".data.arrivals"); /* the ring buffer */

/* Addresses that the compiler knows nothing about: it folds neither contents nor offsets. */
static inline __attribute__((always_inline)) const struct khalf_consts *consts(void)
{
	const struct khalf_consts *p;

	__asm__("%0 = khalf_consts ll" : "=r"(p));
	return p;
}

static inline __attribute__((always_inline)) void *arena(void)
{
	void *p;

	__asm__("%0 = khalf_arena ll" : "=r"(p));
	return p;
}

#define SHM_CALLER_WIDTH (consts()->caller_width)
#include "shm-runtime/shm_map.h"

#define khalf_function __attribute__((visibility("hidden"), noinline, used))

static __always_inline const struct shm_geo *geo(__u64 map)
{
	return &consts()->geo[map];
}

static __always_inline __u32 cpu_of(const struct shm_geo *g)
{
	return g->n_cpus > 1 ? bpf_get_smp_processor_id() : 0;
}

/* The daemon is told of the process that hits a probe here, once: it may give it the agent. */
khalf_function long khalf_arrive(void)
{
	struct arrival rec = {.tgid = bpf_get_current_pid_tgid() >> 32};
	__u64 bit = 1ull << (rec.tgid & 63), *word;
	void *ring;

	__asm__("%0 = khalf_arrived ll" : "=r"(word));
	word += (__u32)rec.tgid / 64 & (ARRIVED_WORDS - 1);
	if (*word & bit || __sync_fetch_and_or(word, bit) & bit)
		return 0;
	__asm__("%0 = khalf_arrivals ll" : "=r"(ring));
	bpf_ringbuf_output(ring, &rec, sizeof(rec), 0);
	return 0;
}

khalf_function void *khalf_lookup(__u64 map, const void *key)
{
	const struct shm_geo *g = geo(map);

	return shm_map_lookup(arena(), g, key, cpu_of(g));
}

khalf_function long khalf_update(__u64 map, const void *key, const void *value, __u64 flags)
{
	const struct shm_geo *g = geo(map);

	return shm_map_update(arena(), g, key, value, flags, cpu_of(g));
}

khalf_function long khalf_delete(__u64 map, const void *key)
{
	return shm_map_delete(arena(), geo(map), key);
}

khalf_function long khalf_add(__u64 map, const void *key, const __u64 *delta)
{
	const struct shm_geo *g = geo(map);

	return shm_map_add(arena(), g, key, shm_caller_word(delta, 8, 0), cpu_of(g));
}
