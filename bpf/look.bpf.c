/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * look.bpf.c: in what does a tool's map differ from the arena? Compared is in the kernel: what is the same, and that is
 * nearly all when a map has been copied a moment ago, is not copied to anybody. Everything in both stays as it is.
 *
 * Either from the arena's side (look_nodes): each of its entries is looked up in the tool's map. Several processors can
 * share that, and nodes lie in one row. When the tool's map has so many entries as have been found there, these are all
 * that it has; else, or where the kernel does not say how many they are, from the tool's map's side (look).
 *
 * To find out whether a node is an entry's, or where the node of an entry is, takes longer than to compare the two. So
 * it is kept what came of it in the last look, by node, and by place in the order in which the kernel goes through its
 * map, with the node's link word. No two values of a node's link word are the same, whatever has become of the node
 * (shm-runtime/shm_map.h): while it stands the node is where it was in its chain.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

#include "look.h"
#include "shm-runtime/shm_map.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

const volatile struct shm_geo look_geo;

struct look_part look_parts[LOOK_LOOKERS];
__u64 look_entries; /* of the tool's map */

/* Linux 6.6; before, there is no such number, and look_nodes() cannot be loaded. */
extern __s64 bpf_map_sum_elem_count(const struct bpf_map *map) __ksym __weak;

/* The arena and the tool's map take these places before loading; the others get their sizes then. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, 4096);
} look_arena SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, 8);
} look_tool SEC(".maps");

/* The key, padded to eight bytes, and the values; LOOK_MOST of each looker. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, LOOK_CHANGES);
	__uint(key_size, 4);
	__uint(value_size, 8);
} look_changes SEC(".maps");

/* A byte for each node: the tool's map has the entry as it is there. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, 8);
} look_same SEC(".maps");

struct remembered {
	__u64 off; /* of the node, 0: none */
	__u64 link;
};

/* By the entry's place in the kernel's order. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct remembered);
} look_order SEC(".maps");

/* By node: its link word when it was found to be an entry's. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} look_links SEC(".maps");

static __always_inline const struct shm_geo *geo(void)
{
	const struct shm_geo *g = (const struct shm_geo *)&look_geo;

	__asm__("" : "+r"(g));
	return g;
}

static __always_inline int is_node(__u64 off)
{
	return off && off <= geo()->end_off - geo()->node_size;
}

static __always_inline int is_live(void *arena, __u64 off)
{
	return (shm_read(shm_at(arena, off + SHM_NODE_HASH)) & SHM_STATE) == SHM_LIVE;
}

static __always_inline int has_key(void *arena, __u64 off, const void *key)
{
	__u64 diff = 0;
	__u32 at;

	for (at = 0; at < geo()->key_size; at += 8)
		diff |= shm_read(shm_at(arena, off + SHM_NODE_KEY) + at) ^ shm_caller_word(key, geo()->key_size, at);
	return !diff;
}

/* Offset of the node of a hash, or 0. */
static __always_inline __u64 find(void *arena, const void *key, __u32 place)
{
	struct remembered *r = bpf_map_lookup_elem(&look_order, &place);
	__u64 off = r ? r->off & ~7ull : 0;

	if (r && is_node(off) && shm_read(shm_at(arena, off)) == r->link && is_live(arena, off) &&
	    has_key(arena, off, key))
		return off;
	off = shm_hash_find(arena, geo(), key, shm_hash(geo(), key), 0);
	if (r) {
		r->off = off;
		r->link = is_node(off) ? shm_read(shm_at(arena, off)) : 0;
	}
	return off;
}

static __always_inline int differs(void *have, const void *value)
{
	__u64 diff = 0, mine;
	__u32 at, size = geo()->value_size;

	for (at = 0; at < size; at += 8) {
		mine = shm_read(have + at);
		if (size - at < 8)
			mine &= (1ull << ((size - at) * 8)) - 1;
		diff |= mine ^ shm_caller_word(value, size, at);
	}
	return diff != 0;
}

static __always_inline const void *value_of(const void *key, const void *own, __u32 cpu)
{
	if (!shm_is_percpu(geo()) || cpu == bpf_get_smp_processor_id())
		return own;
	return bpf_map_lookup_percpu_elem(&look_tool, key, cpu);
}

static __always_inline int any_differs(void *have, const void *key, const void *own)
{
	__u32 cpu;

	for (cpu = 0; cpu < geo()->n_cpus; cpu++) {
		const void *value = value_of(key, own, cpu);

		if (!value || differs(have + cpu * geo()->value_room, value))
			return 1;
	}
	return 0;
}

static __always_inline void tell(__u32 looker, const void *key, const void *own)
{
	__u64 n = look_parts[looker].changed++;
	__u32 index = looker * LOOK_MOST + (__u32)n, at, cpu;
	void *to = n < LOOK_MOST ? bpf_map_lookup_elem(&look_changes, &index) : (void *)0;

	if (!to)
		return;
	for (at = 0; at < geo()->key_size; at += 8)
		*(volatile __u64 *)(to + at) = shm_caller_word(key, geo()->key_size, at);
	to += geo()->key_room;
	for (cpu = 0; cpu < geo()->n_cpus; cpu++) {
		const void *value = value_of(key, own, cpu);

		for (at = 0; value && at < geo()->value_size; at += 8)
			*(volatile __u64 *)(to + cpu * geo()->value_room + at) =
				shm_caller_word(value, geo()->value_size, at);
	}
}

static __always_inline void compare(__u32 looker, void *arena, __u64 off, const void *key, const void *own)
{
	__u32 zero = 0;
	void *same = bpf_map_lookup_elem(&look_same, &zero);
	__u64 index;

	look_parts[looker].seen++;
	if (!is_node(off) || any_differs(shm_at(arena, off + geo()->value_off), key, own)) {
		tell(looker, key, own);
		return;
	}
	index = (off - geo()->nodes_off) / geo()->node_size;
	shm_keep(index);
	if (same && index < geo()->n_nodes)
		*(volatile __u8 *)(same + index) = 1;
}

/* ---- from the tool's map's side ---- */

static long look_at(struct bpf_map *map, const void *key, void *own, void *ctx)
{
	__u32 zero = 0;
	void *arena = bpf_map_lookup_elem(&look_arena, &zero);

	if (!arena)
		return 1;
	compare(0, arena,
		shm_is_hash(geo()) ? find(arena, key, (__u32)look_parts[0].seen) & ~7ull
				   : shm_node_off(geo(), *(const __u32 *)key & 0xffffffu),
		key, own);
	return 0;
}

SEC("syscall")
int look(void *ctx)
{
	bpf_for_each_map_elem(&look_tool, look_at, (void *)0, 0);
	return 0;
}

/* ---- from the arena's side ---- */

/* Is the node an entry's? */
static __always_inline int is_entry(void *arena, __u32 index, __u64 off)
{
	void *key = shm_at(arena, off + SHM_NODE_KEY);
	__u64 *known = bpf_map_lookup_elem(&look_links, &index), link = shm_read(shm_at(arena, off));

	if (!known || !is_live(arena, off))
		return 0;
	if (*known == link)
		return 1;
	if (shm_hash_find(arena, geo(), key, shm_hash(geo(), key), 0) != off)
		return 0;
	*known = link;
	return 1;
}

struct going {
	__u32 looker, from;
};

static long look_from(__u32 i, void *ctx)
{
	const struct going *g = ctx;
	__u32 zero = 0, looker = g->looker & (LOOK_LOOKERS - 1), index = g->from + i;
	void *arena = bpf_map_lookup_elem(&look_arena, &zero);
	__u64 off = shm_node_off(geo(), index & 0xffffffu) & ~7ull;
	void *key, *own;

	if (!arena || !is_node(off))
		return 1;
	if (shm_is_hash(geo()) && !is_entry(arena, index, off))
		return 0;
	key = shm_is_hash(geo()) ? shm_at(arena, off + SHM_NODE_KEY) : (void *)&index;
	own = bpf_map_lookup_elem(&look_tool, key);
	if (own)
		compare(looker, arena, off, key, own);
	return 0;
}

/* ctx: which looker. */
SEC("syscall")
int look_nodes(__u32 *ctx)
{
	struct going g = {.looker = *ctx & (LOOK_LOOKERS - 1)};
	struct look_part *part = &look_parts[g.looker];

	g.from = (__u32)part->from;
	if (part->to > part->from)
		bpf_loop((__u32)(part->to - part->from), look_from, &g, 0);
	if (g.looker == 0 && shm_is_hash(geo()))
		look_entries = (__u64)bpf_map_sum_elem_count((struct bpf_map *)&look_tool);
	return 0;
}
