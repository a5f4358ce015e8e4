/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * carry_map.h: what a carrier (bpf/carry.bpf.c) does with the map in the arena and the tool's map beside it: the lock,
 * bringing, moving out, settling.
 *
 * "Bring" is: present in the arena: copy to the tool's map; absent: delete there. It holds the map's lock around
 * reading one key and writing it, so that a slow reader cannot put back an older value over a newer one.
 *
 * Who changes the map *holds* it from the entry of his call to its exit: between the two, arena and tool's map differ
 * on purpose, and nobody else touches the tool's map. Who comes meanwhile waits. After PATIENCE_NS, because the call
 * sleeps in a page fault for example, he goes on and sees the tool's map as it is: older, never wrong.
 *
 * All that is done only while the group's gate is open: else the tool's map is the truth, and calls are let pass. The
 * daemon holds the map ("seal") while it copies it out of the arena, and while it turns the gate.
 *
 * The entry of a per-CPU hash that is taken out leaves its node behind, empty, see shm_map.h. Programs that add in
 * place by a pointer that they had looked up before do not look back: what they add to an empty node is seen when next
 * something is asked about its key, or about all keys ("settle").
 */
#ifndef BPFTIME_BPF_CARRY_MAP_H
#define BPFTIME_BPF_CARRY_MAP_H

#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "carry.h"
#include "shm-runtime/shm_map.h"

#define MAX_SPINS  (8u << 20) /* for the lock: all that bpf_loop() has, a good part of a second */
#define MAX_TRIES  4
#define MAX_COPIES 3 /* attempts at a copy during which nobody reuses the node */

#define PATIENCE_NS 10000000ull	 /* for who holds the map, in one call */
#define MAX_WAIT    (1u << 20)	 /* looks at who holds it: more than fit into the above */
#define HOLD_NS	    2000000000ll /* who holds longer has been missed at the exit */

const volatile struct shm_geo carry_geo;
const volatile __u32 carry_place;

__u32 busy;	    /* the lock */
__u32 sealed;	    /* the holder is the daemon, and turns the gate */
__u64 begun, ended; /* calls that change the map, at their entry, holding it, and at their exit */
__u64 holder;	    /* pid_tgid of who holds the map, */
__u64 held_since;   /* and when he began; written under the lock */
__u64 missed;	    /* calls whose key could not be read even at the exit, or that did not get the lock */
__u64 deleted_by;   /* pid_tgid of, */
__u64 deleted_hash; /* and hash of the key of the last delete: see next_key() */

/* The arena, the tool's own map and the hook's map of calls take these places before loading. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, 4096);
} carry_arena SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, 8);
} carry_tool SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CARRY_CALLS);
	__type(key, __u64);
	__type(value, struct carry_call);
} carry_calls SEC(".maps");

/* A caller's attributes, as far as the kernel defines them for the commands that are followed. */
struct carry_attr {
	__u64 word[8];
};

/* What would be too much for the stack: older kernels count frames in steps of 32 bytes. */
struct scratch {
	__u8 key[SHM_MAX_KEY];
	__u8 value[SHM_MAX_VALUE];
	__u64 until; /* no more waiting after this time */
	struct shm_taken taken;
	struct carry_call call;
	struct carry_attr attr;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, sizeof(struct scratch));
} carry_scratch SEC(".maps");

static __always_inline const struct shm_geo *geo(void)
{
	const struct shm_geo *g = (const struct shm_geo *)&carry_geo;

	__asm__("" : "+r"(g));
	return g;
}

static __always_inline void *the_arena(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&carry_arena, &zero);
}

static __always_inline struct scratch *the_scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&carry_scratch, &zero);
}

/* Does the arena say what is in the map? Asked under the lock, or holding the map. */
static __always_inline int is_open(void)
{
	void *arena = the_arena();

	return arena && (shm_read(shm_at(arena, __builtin_offsetof(struct shm_group_hdr, kgate))) & SHM_KGATE_CARRIED);
}

/* ---- the lock ---- */

static long spin(__u32 i, void *got)
{
	if (__sync_val_compare_and_swap(&busy, 0, 1))
		return 0;
	*(__u64 *)got = 1;
	return 1;
}

/*
 * Nobody is interrupted who has it, but a hypervisor can take his processor away for milliseconds. 0: it took too long,
 * nothing may be done.
 */
static __always_inline __u64 lock(void)
{
	__u64 got = 0;

	bpf_loop(MAX_SPINS, spin, &got, 0);
	if (!got)
		__sync_fetch_and_add(&missed, 1);
	return got;
}

static __always_inline void unlock(__u64 got)
{
	if (got)
		*(volatile __u32 *)&busy = 0;
}

/* ---- who holds the map ---- */

/* Asked under the lock. */
static __always_inline int held_by_other(void)
{
	__u64 who = *(volatile __u64 *)&holder;
	__s64 held = bpf_ktime_get_ns() - *(volatile __u64 *)&held_since;

	return who && who != bpf_get_current_pid_tgid() && held < HOLD_NS;
}

struct wait {
	__u64 until;
	__u64 got;  /* the lock */
	__u64 free; /* nobody else holds the map */
};

static long look(__u32 i, void *ctx)
{
	struct wait *w = ctx;

	w->got = lock();
	if (!w->got)
		return 1;
	if (!held_by_other()) {
		w->free = 1;
		return 1;
	}
	unlock(w->got);
	return bpf_ktime_get_ns() > w->until;
}

/* Takes the lock while nobody else holds the map and the gate is open. Who did not get it once does not try again in
 * the same call. */
static __always_inline struct wait enter(struct scratch *s)
{
	struct wait w = {.until = s->until};

	if (!w.until)
		return w;
	bpf_loop(MAX_WAIT, look, &w, 0);
	if (w.free && !is_open()) {
		unlock(w.got);
		w.free = w.got = 0;
	}
	if (!w.free && !w.got)
		s->until = 0;
	return w;
}

/*
 * ---- the arena, each operation once ----
 *
 * Functions that are not static are verified once, each for itself, and not again wherever they are called. Their
 * arguments can be numbers only: the key is in the scratch buffer.
 */

#define once __attribute__((noinline))

/* Offset of the value of CPU 0, or 0. */
once __u64 find(void)
{
	struct scratch *s = the_scratch();
	void *arena = the_arena();

	return s && arena ? shm_value_off(arena, geo(), s->key, 0) : 0;
}

/* Is this where a node can be? Always true, or 0; what such a function returned is a number to the verifier. */
static __always_inline int is_node(__u64 off)
{
	return off && off <= geo()->end_off - geo()->node_size;
}

/* The node with the key in a per-CPU hash, in whatever state, or 0. */
once __u64 find_node(void)
{
	struct scratch *s = the_scratch();
	void *arena = the_arena();

	if (!s || !arena || geo()->kind != SHM_PERCPU_HASH)
		return 0;
	return shm_hash_find(arena, geo(), s->key, shm_hash(geo(), s->key), SHM_STATE);
}

once long refresh(__u64 off, __u64 flags)
{
	struct scratch *s = the_scratch();
	void *arena = the_arena();

	off &= ~7ull;
	if (!s || !arena || !is_node(off) || geo()->kind != SHM_PERCPU_HASH)
		return -SHM_EFAULT;
	return shm_percpu_refresh(arena, geo(), off, shm_hash(geo(), s->key), s->value, flags, 0);
}

once long insert(void)
{
	struct scratch *s = the_scratch();
	void *arena = the_arena();
	__u64 found;

	if (!s || !arena || geo()->kind != SHM_PERCPU_HASH)
		return -SHM_EFAULT;
	return shm_percpu_insert(arena, geo(), s->key, shm_hash(geo(), s->key), s->value, 0, 0, 0, &found);
}

once long try_update(__u64 flags)
{
	struct scratch *s = the_scratch();
	void *arena = the_arena();
	__u64 off;

	if (!s || !arena)
		return -SHM_EFAULT;
	if (geo()->kind != SHM_PERCPU_HASH)
		return shm_map_update(arena, geo(), s->key, s->value, flags, 0);
	off = find_node();
	if (off)
		return refresh(off, flags);
	return flags == SHM_EXIST ? -SHM_ENOENT : insert();
}

/* A program walks few steps of a chain before it gives up, and while others change the chain it begins again. */
static __always_inline long arena_update(__u64 flags)
{
	long ret = -SHM_EBUSY;
	int i;

	for (i = 0; i < MAX_TRIES && ret == -SHM_EBUSY; i++)
		ret = try_update(flags);
	return ret;
}

once long arena_delete(void)
{
	struct scratch *s = the_scratch();
	void *arena = the_arena();

	return s && arena ? shm_map_delete(arena, geo(), s->key) : -SHM_EFAULT;
}

once long try_take(void)
{
	struct scratch *s = the_scratch();
	void *arena = the_arena();
	struct shm_taken taken = {};
	long ret;

	if (!s || !arena || !shm_is_hash(geo()))
		return -SHM_ENOENT;
	if (shm_is_percpu(geo())) {
		s->taken.off = shm_take_begin(arena, geo(), s->key);
		return s->taken.off ? 0 : -SHM_ENOENT;
	}
	ret = shm_map_take(arena, geo(), s->key, &taken);
	s->taken = taken;
	return ret;
}

/* Takes the entry out, but its node is not done with before take_end(). Offset of the value of CPU 0, or 0: no such
 * key. */
static __always_inline __u64 take(struct scratch *s)
{
	long ret = -SHM_EBUSY;
	int i;

	for (i = 0; i < MAX_TRIES && ret == -SHM_EBUSY; i++)
		ret = try_take();
	return ret ? 0 : s->taken.off + geo()->value_off;
}

/* Empty nodes of which there are more are not kept for their keys. */
static __always_inline __u64 empty_most(void)
{
	return (geo()->n_nodes - geo()->max_entries) / 2;
}

once int sweep(void)
{
	struct scratch *s = the_scratch();
	void *arena = the_arena();

	if (s && arena && shm_is_hash(geo()))
		shm_sweep(arena, geo(), s->key);
	return 0;
}

/* The values have been read. */
once int take_end(void)
{
	struct scratch *s = the_scratch();
	void *arena = the_arena();
	__u64 off;

	if (!s || !arena || !shm_is_hash(geo()))
		return 0;
	off = s->taken.off & ~7ull;
	if (!shm_is_percpu(geo())) {
		struct shm_waste waste = s->taken.waste;

		shm_waste_give_back(arena, geo(), &waste, SHM_CTL_GONE);
		return 0;
	}
	if (!is_node(off))
		return 0;
	shm_take_end(arena, geo(), off);
	if (shm_read(shm_at(arena, geo()->ctl_off + SHM_CTL_EMPTY)) > empty_most() && shm_retire(arena, geo(), off))
		sweep();
	return 0;
}

/* What was added to the key's empty node counts. */
once int settle(void)
{
	struct scratch *s = the_scratch();
	void *arena = the_arena();
	__u64 off;

	if (!s || !arena || geo()->kind != SHM_PERCPU_HASH)
		return 0;
	off = find_node() & ~7ull;
	if (is_node(off))
		shm_settle(arena, geo(), off);
	return 0;
}

/* Is this a place where a value of all CPUs fits? Always true; what find() returned is a number to the verifier. */
static __always_inline int fits(__u64 off)
{
	return off && off <= geo()->end_off - (__u64)geo()->n_cpus * geo()->value_room;
}

/* The word that changes when a node is freed or used anew. */
once __u64 node_word(__u64 value_off)
{
	__u64 off = value_off - geo()->value_off;
	void *arena = the_arena();

	if (!arena || !shm_is_hash(geo()) || off > geo()->end_off - 8)
		return 0;
	return shm_read(shm_at(arena, off));
}

/* ---- bring ---- */

/* A word of the arena; moving: who adds to it later starts at zero. */
static __always_inline __u64 word_out(void *from, __u64 moving)
{
	return moving ? shm_swap(from, 0) : shm_read(from);
}

static __always_inline void put(void *to, void *from, __u32 size, __u64 moving)
{
	__u64 word;
	__u32 at;

	for (at = 0; at + 8 <= size; at += 8)
		*(volatile __u64 *)(to + at) = word_out(from + at, moving);
	if (at < size)
		for (word = word_out(from + at, moving); at < size; at++, word >>= 8)
			*(volatile __u8 *)(to + at) = (__u8)word;
}

static __always_inline void zero_value(struct scratch *s)
{
	__u32 at;

	for (at = 0; at < geo()->value_room; at += 8)
		*(volatile __u64 *)(s->value + at) = 0;
}

static __always_inline long put_all_cpus(struct scratch *s, void *values, __u64 moving)
{
	__u32 cpu;
	void *to;

	to = bpf_map_lookup_percpu_elem(&carry_tool, s->key, 0);
	if (!to) {
		zero_value(s);
		if (bpf_map_update_elem(&carry_tool, s->key, s->value, BPF_ANY))
			return -SHM_E2BIG;
	}
	for (cpu = 0; cpu < geo()->n_cpus; cpu++) {
		to = bpf_map_lookup_percpu_elem(&carry_tool, s->key, cpu);
		if (!to)
			break;
		put(to, values + cpu * geo()->value_room, geo()->value_size, moving);
	}
	return 0;
}

/*
 * What is at off goes to the tool's map under the key. -SHM_E2BIG: no room. An entry that is there is written in place:
 * an update would put it at the head of its chain, and somebody who goes through the map would meet its neighbours
 * again, without end.
 */
once long copy_out(__u64 off, __u64 moving)
{
	struct scratch *s = the_scratch();
	void *arena = the_arena(), *to;
	__u32 at;

	off &= ~7ull;
	if (!s || !arena || !fits(off))
		return -SHM_EFAULT;
	if (shm_is_percpu(geo()))
		return put_all_cpus(s, shm_at(arena, off), moving);
	to = bpf_map_lookup_elem(&carry_tool, s->key);
	if (to) {
		put(to, shm_at(arena, off), geo()->value_size, 0);
		return 0;
	}
	for (at = 0; at < geo()->value_room; at += 8)
		*(volatile __u64 *)(s->value + at) = shm_read(shm_at(arena, off) + at);
	return bpf_map_update_elem(&carry_tool, s->key, s->value, BPF_ANY);
}

once long tool_delete(void)
{
	struct scratch *s = the_scratch();

	return s ? bpf_map_delete_elem(&carry_tool, s->key) : 0;
}

once int tool_has_key(void)
{
	struct scratch *s = the_scratch();

	return s && bpf_map_lookup_elem(&carry_tool, s->key);
}

/* Makes the tool's map say about the key what the arena says. Uses the value buffer. */
once long bring(void)
{
	struct scratch *s = the_scratch();
	struct wait w;
	__u64 off, word;
	long ret = 0;
	int i;

	if (!s)
		return 0;
	w = enter(s);
	if (!w.free)
		return 0;
	for (i = 0; i < MAX_COPIES; i++) {
		off = find();
		if (!off && geo()->kind == SHM_PERCPU_HASH) {
			settle();
			off = find();
		}
		if (!off) {
			ret = 0;
			if (shm_is_hash(geo()))
				tool_delete();
			break;
		}
		word = node_word(off);
		ret = copy_out(off, 0);
		/* Not when the node was given to another key meanwhile. */
		if (ret || !shm_is_hash(geo()) || (node_word(off) == word && find() == off))
			break;
	}
	unlock(w.got);
	return ret;
}

static __always_inline void set_key(struct scratch *s, const void *key)
{
	__u32 at;

	for (at = 0; at < geo()->key_size; at++)
		*(volatile __u8 *)(s->key + at) = *(const volatile __u8 *)(key + at);
}

static long drop_stale(struct bpf_map *map, const void *key, void *value, void *ctx)
{
	struct scratch *s = the_scratch();
	struct wait w;

	if (!s)
		return 1;
	set_key(s, key);
	w = enter(s);
	if (!w.free)
		return 1;
	if (!find())
		tool_delete();
	unlock(w.got);
	return 0;
}

static long bring_node(__u32 i, void *ctx)
{
	struct scratch *s = the_scratch();
	void *arena = the_arena();
	__u64 index = i, off;
	__u32 at;

	if (!s || !arena)
		return 1;
	if (!shm_is_hash(geo())) {
		*(volatile __u32 *)s->key = i;
		bring();
		return 0;
	}
	shm_keep(index);
	if (index == 0 || index >= geo()->n_nodes)
		return 0;
	off = shm_node_off(geo(), index);
	if (geo()->kind == SHM_PERCPU_HASH)
		shm_settle(arena, geo(), off);
	if (shm_read(shm_at(arena, off + SHM_NODE_HASH)) <= SHM_RETIRED)
		return 0;
	for (at = 0; at < geo()->key_room; at += 8)
		*(volatile __u64 *)(s->key + at) = shm_read(shm_at(arena, off + SHM_NODE_KEY) + at);
	/* A free node still has the key that it had; that key may have moved out just now. */
	if (find() != off + geo()->value_off)
		return 0;
	bring();
	return 0;
}

once int bring_all(void)
{
	void *arena = the_arena();
	__u64 n = geo()->max_entries;

	if (!arena)
		return 0;
	if (shm_is_hash(geo())) {
		n = shm_read(shm_at(arena, geo()->ctl_off + SHM_CTL_FRESH));
		if (n > geo()->n_nodes)
			n = geo()->n_nodes;
		bpf_for_each_map_elem(&carry_tool, drop_stale, NULL, 0);
	}
	bpf_loop((__u32)n, bring_node, NULL, 0);
	return 0;
}

once long try_add(__u64 off, __u64 at, __u64 delta)
{
	struct scratch *s = the_scratch();
	void *arena = the_arena(), *word;

	off &= ~7ull;
	at &= ~7ull;
	if (!s || !arena || !is_node(off) || geo()->kind != SHM_PERCPU_HASH ||
	    at > (__u64)geo()->n_cpus * geo()->value_room - 8)
		return -SHM_EFAULT;
	shm_bound(at, (__u64)geo()->n_cpus * geo()->value_room - 7);
	word = shm_at(arena, off + geo()->value_off) + at;
	return shm_add_again(arena, geo(), off, word, shm_hash(geo(), s->key), &delta);
}

/* Adds to one word of the key's value in a per-CPU hash; there is such a key afterwards. */
once int add_word(__u64 at, __u64 delta)
{
	struct scratch *s = the_scratch();
	long ret = -SHM_EBUSY;
	__u64 off;
	int i;

	if (!s)
		return 0;
	for (i = 0; i < MAX_TRIES && ret == -SHM_EBUSY; i++) {
		off = find_node();
		if (!off) {
			zero_value(s);
			insert();
			off = find_node();
		}
		if (off)
			ret = try_add(off, at, delta);
	}
	return 0;
}

#endif
