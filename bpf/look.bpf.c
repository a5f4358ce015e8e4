/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * look.bpf.c: in what does a tool's map differ from the arena? Compared is in the kernel: what is the same, and that is
 * nearly all when a map has been copied a moment ago, is not copied to anybody. Everything in both stays as it is.
 *
 * To find an entry's node takes longer than to compare the two. So it is kept which node it was in the last look, in
 * the order in which the kernel goes through its map, and with what link word. No two values of a node's link word are
 * the same, whatever has become of the node (shm-runtime/shm_map.h): while it stands the node is where it was in its
 * chain.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

#include "look.h"
#include "shm-runtime/shm_map.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

const volatile struct shm_geo look_geo;

__u64 seen;    /* entries of the tool's map */
__u64 changed; /* of these, not as in the arena; the first LOOK_MOST are in look_changes */

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

/* The key, padded to eight bytes, and the values. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, LOOK_MOST);
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

/* Is the node that was this entry's in the last look still a live one? */
static __always_inline int is_there(void *arena, const struct remembered *r, __u64 off)
{
	return shm_read(shm_at(arena, off)) == r->link &&
	       (shm_read(shm_at(arena, off + SHM_NODE_HASH)) & SHM_STATE) == SHM_LIVE;
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
static __always_inline __u64 find(void *arena, const void *key)
{
	__u32 place = (__u32)seen;
	struct remembered *r = bpf_map_lookup_elem(&look_order, &place);
	__u64 off = r ? r->off & ~7ull : 0;

	if (r && is_node(off) && is_there(arena, r, off) && has_key(arena, off, key))
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

static __always_inline void tell(const void *key, const void *own)
{
	__u32 n = (__u32)changed++, at, cpu;
	void *to = bpf_map_lookup_elem(&look_changes, &n);

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

static long look_at(struct bpf_map *map, const void *key, void *own, void *ctx)
{
	__u32 zero = 0;
	void *arena = bpf_map_lookup_elem(&look_arena, &zero), *same = bpf_map_lookup_elem(&look_same, &zero);
	__u64 off, index;

	if (!arena || !same)
		return 1;
	off = shm_is_hash(geo()) ? find(arena, key) & ~7ull : shm_node_off(geo(), *(const __u32 *)key & 0xffffffu);
	seen++;
	if (!is_node(off) || any_differs(shm_at(arena, off + geo()->value_off), key, own)) {
		tell(key, own);
		return 0;
	}
	index = (off - geo()->nodes_off) / geo()->node_size;
	shm_keep(index);
	if (index < geo()->n_nodes)
		*(volatile __u8 *)(same + index) = 1;
	return 0;
}

SEC("syscall")
int look(void *ctx)
{
	seen = changed = 0;
	bpf_for_each_map_elem(&look_tool, look_at, (void *)0, 0);
	return 0;
}
