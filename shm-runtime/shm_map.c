/* SPDX-License-Identifier: MIT */
/*
 * shm_map.c: what only the daemon does with a map: lay it out, empty it, repair it after somebody was killed.
 */
#include <errno.h>
#include <stdlib.h>

#include <linux/bpf.h>

#include "shm-runtime/shm_map.h"

/*
 * Nodes beyond max_entries: for entries being replaced, for what killed threads hold, and for what is gone or empty. So
 * many that a tool can take everything out, and again what has come since, before the first is free.
 */
#define SPARE_NODES 1024u
#define SPARE_BYTES (8u << 20)
#define SPARE_LEAST 64u

#define LINE 64u

#define STEPS_MOST  (~0ull)
#define STEPS_LEAST (1ull << 20)
#define STEPS_EACH  256u

__thread __u64 shm_steps_left = STEPS_MOST;

void shm_work_begin(const struct shm_geo *g)
{
	shm_steps_left = STEPS_LEAST + (__u64)STEPS_EACH * g->n_nodes;
}

void shm_work_end(void)
{
	shm_steps_left = STEPS_MOST;
}

/* Map types that can be mirrored. */
static const struct {
	__u32 type;
	__u32 kind;
} kinds[] = {
	{BPF_MAP_TYPE_ARRAY, SHM_ARRAY},
	{BPF_MAP_TYPE_HASH, SHM_HASH},
	{BPF_MAP_TYPE_PERCPU_ARRAY, SHM_PERCPU_ARRAY},
	{BPF_MAP_TYPE_PERCPU_HASH, SHM_PERCPU_HASH},
};

/* Flags that change nothing of what programs and readers see. Those for descriptors are enforced by the kernel still.
 */
#define HARMLESS_FLAGS                                                                                                 \
	(BPF_F_NO_PREALLOC | BPF_F_NUMA_NODE | BPF_F_RDONLY | BPF_F_WRONLY | BPF_F_ZERO_SEED | BPF_F_RDONLY_PROG |     \
	 BPF_F_WRONLY_PROG)

static __u64 round_up(__u64 x, __u64 to)
{
	return (x + to - 1) / to * to;
}

static __u32 power_of_two(__u64 x)
{
	__u32 p = 1;

	while (p < x)
		p <<= 1;
	return p;
}

static __u32 spare_nodes(__u32 node_size, __u32 max_entries)
{
	__u64 n = 2ull * max_entries, most = SPARE_BYTES / node_size;

	if (n < SPARE_NODES)
		n = SPARE_NODES;
	if (n > most)
		n = most;
	return n < SPARE_LEAST ? SPARE_LEAST : (__u32)n;
}

static const char *plan_refusal(__u32 kind, __u32 key_size, __u32 value_size, __u32 max_entries, __u32 map_flags,
				__u32 n_cpus)
{
	if (!kind)
		return "maps of its type are not carried";
	if (map_flags & BPF_F_MMAPABLE)
		return "it is shared with the tool by mmap";
	if (map_flags & ~(__u32)HARMLESS_FLAGS)
		return "it was created with a flag that is not carried";
	if (key_size == 0 || value_size == 0 || max_entries == 0)
		return "its sizes are zero";
	if (key_size > SHM_MAX_KEY)
		return "its keys are longer than 512 bytes";
	if (value_size > SHM_MAX_VALUE)
		return "its values are longer than 4096 bytes";
	if ((kind == SHM_ARRAY || kind == SHM_PERCPU_ARRAY) && key_size != 4)
		return "its keys are not those of an array";
	if (n_cpus == 0 || n_cpus > SHM_MAX_CPUS)
		return "the host has more than 256 possible CPUs";
	if (round_up(value_size, 8) * n_cpus > SHM_MAX_VALUE_ALL)
		return "the values of all CPUs of one entry exceed 64 KiB";
	return NULL;
}

int shm_geo__plan(struct shm_geo *g, __u32 bpf_map_type, __u32 key_size, __u32 value_size, __u32 max_entries,
		  __u32 map_flags, __u32 n_cpus, __u64 off, const char **why)
{
	__u64 nodes, buckets = 0, node_size;
	__u32 kind = 0;

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (kinds[i].type == bpf_map_type)
			kind = kinds[i].kind;
	if (kind == SHM_ARRAY || kind == SHM_HASH)
		n_cpus = 1;
	*why = plan_refusal(kind, key_size, value_size, max_entries, map_flags, n_cpus);
	if (*why)
		return -EOPNOTSUPP;

	*g = (struct shm_geo){
		.kind = kind,
		.key_size = key_size,
		.value_size = value_size,
		.max_entries = max_entries,
		.n_cpus = n_cpus,
		.key_room = (__u32)round_up(key_size, 8),
		.value_room = (__u32)round_up(value_size, 8),
		.ctl_off = round_up(off, LINE),
	};
	node_size = (__u64)g->value_room * n_cpus;
	nodes = max_entries;
	if (shm_is_hash(g)) {
		g->value_off = SHM_NODE_KEY + g->key_room;
		node_size += g->value_off;
		nodes += 1 + spare_nodes((__u32)node_size, max_entries); /* node 0 is the end of chains */
		buckets = power_of_two(2ull * max_entries);
		g->n_buckets = (__u32)buckets;
		/* Only spreads: what is chosen to collide harms him who chooses. */
		g->seed = (max_entries + key_size * 0x10001u + value_size) * 0x9e3779b1u;
	}
	g->buckets_off = round_up(g->ctl_off + sizeof(struct shm_ctl), LINE);
	g->nodes_off = round_up(g->buckets_off + buckets * 8, LINE);
	g->end_off = round_up(g->nodes_off + nodes * node_size, LINE);
	g->node_size = (__u32)node_size;
	g->n_nodes = (__u32)nodes;
	if (g->end_off - g->ctl_off > SHM_MAX_MAP_BYTES || nodes > SHM_INDEX_MASK) {
		*why = "it would need more than 256 MiB";
		return -EOPNOTSUPP;
	}
	return 0;
}

static void empty_word(void *word)
{
	if (shm_read(word))
		shm_write(word, shm_link(shm_read(word), 0));
}

__u64 shm_map_used(void *arena, const struct shm_geo *g)
{
	__u64 fresh = shm_is_hash(g) ? shm_read(shm_at(arena, g->ctl_off + SHM_CTL_FRESH)) : g->n_nodes;

	return fresh < g->n_nodes ? fresh : g->n_nodes;
}

static void gone_forget(void *arena, const struct shm_geo *g)
{
	empty_word(shm_at(arena, g->ctl_off + SHM_CTL_GONE));
	shm_write(shm_at(arena, g->ctl_off + SHM_CTL_EMPTY), 0);
}

/* Tags go on, so that a thread that slept in the middle of a change does none. */
void shm_map_init(void *arena, const struct shm_geo *g)
{
	if (shm_is_hash(g)) {
		for (__u64 i = 0; i < g->n_buckets; i++)
			empty_word(shm_at(arena, g->buckets_off + i * 8));
		for (__u64 i = 1, n = shm_map_used(arena, g); i < n; i++) {
			empty_word(shm_at(arena, shm_node_off(g, i)));
			shm_write(shm_at(arena, shm_node_off(g, i) + SHM_NODE_HASH), 0);
		}
		empty_word(shm_at(arena, g->ctl_off + SHM_CTL_FREE));
		shm_write(shm_at(arena, g->ctl_off + SHM_CTL_FRESH), 1);
		shm_write(shm_at(arena, g->ctl_off + SHM_CTL_COUNT), 0);
		shm_write(shm_at(arena, g->ctl_off + SHM_CTL_HASTY), 0);
		gone_forget(arena, g);
		return;
	}
	for (__u64 at = g->nodes_off, end = at + (__u64)g->n_nodes * g->node_size; at < end; at += 8)
		if (shm_read(shm_at(arena, at)))
			shm_write(shm_at(arena, at), 0);
}

/* ---- nodes that are gone ---- */

/* Somebody added to it in place when it had been retired. */
static void settle_retired(void *arena, const struct shm_geo *g, __u64 off)
{
	for (__u64 at = 0; at < (__u64)g->n_cpus * g->value_room; at += 8) {
		__u64 word = shm_swap(shm_at(arena, off + g->value_off + at), 0);

		if (word)
			shm_percpu_add(arena, g, shm_at(arena, off + SHM_NODE_KEY), at, word);
	}
}

void shm_map_settle(void *arena, const struct shm_geo *g)
{
	if (g->kind != SHM_PERCPU_HASH)
		return;
	for (__u64 i = 1, used = shm_map_used(arena, g); i < used; i++) {
		__u64 off = shm_node_off(g, i);

		if (shm_read(shm_at(arena, off + SHM_NODE_HASH)) == SHM_RETIRED)
			settle_retired(arena, g, off);
		else
			shm_settle(arena, g, off);
	}
}

/* Empty nodes from where they lie, not from those that were emptied first. */
static void retire(void *arena, const struct shm_geo *g, __u64 keep)
{
	void *empty = shm_at(arena, g->ctl_off + SHM_CTL_EMPTY);

	for (__u64 i = 1, used = shm_map_used(arena, g); i < used && shm_read(empty) > keep; i++) {
		__u64 off = shm_node_off(g, i);

		if (shm_retire(arena, g, off))
			shm_sweep(arena, g, shm_at(arena, off + SHM_NODE_KEY));
	}
}

/* How many nodes a list holds; what it says is not trusted further. */
static __u64 count_list(void *arena, const struct shm_geo *g, __u32 list)
{
	__u64 index = shm_read(shm_at(arena, g->ctl_off + list)) & SHM_INDEX_MASK, n = 0;

	while (index && index < g->n_nodes && n < g->n_nodes) {
		n++;
		index = shm_read(shm_at(arena, shm_node_off(g, index))) & SHM_INDEX_MASK;
	}
	return n;
}

__u64 shm_map_claimed(void *arena, const struct shm_geo *g)
{
	return shm_is_hash(g) ? shm_read(shm_at(arena, g->ctl_off + SHM_CTL_COUNT)) : 0;
}

__u64 shm_map_hasty(void *arena, const struct shm_geo *g)
{
	return shm_is_hash(g) ? shm_read(shm_at(arena, g->ctl_off + SHM_CTL_HASTY)) : 0;
}

int shm_map_is_short(void *arena, const struct shm_geo *g)
{
	__u64 spare = g->n_nodes - g->max_entries, spent;

	if (!shm_is_hash(g))
		return 0;
	spent = count_list(arena, g, SHM_CTL_GONE) + shm_read(shm_at(arena, g->ctl_off + SHM_CTL_EMPTY));
	return spent > spare / 4;
}

__u64 shm_map_collect(void *arena, const struct shm_geo *g, __u64 keep)
{
	void *gone = shm_at(arena, g->ctl_off + SHM_CTL_GONE);

	if (!shm_is_hash(g))
		return 0;
	if (shm_is_percpu(g)) {
		shm_work_begin(g);
		retire(arena, g, keep);
		shm_work_end();
	}
	for (__u32 i = 0; i < SHM_MAX_TRIES; i++) {
		__u64 word = shm_read(gone);

		if (shm_cas(gone, word, shm_link(word, 0)))
			return word & SHM_INDEX_MASK;
	}
	return 0;
}

void shm_map_release(void *arena, const struct shm_geo *g, __u64 first)
{
	shm_work_begin(g);
	/* A target can have made a circle of it. */
	for (__u64 n = 0; first && first < g->n_nodes && n < g->n_nodes; n++) {
		struct shm_waste one = {first, first};
		__u64 off = shm_node_off(g, first);

		first = shm_read(shm_at(arena, off)) & SHM_INDEX_MASK;
		if (shm_is_percpu(g) && shm_read(shm_at(arena, off + SHM_NODE_HASH)) == SHM_RETIRED)
			settle_retired(arena, g, off);
		shm_write(shm_at(arena, off + SHM_NODE_HASH), SHM_DELETED);
		shm_waste_give_back(arena, g, &one, SHM_CTL_FREE);
	}
	shm_work_end();
}

/* ---- repair ---- */

/* Is this node, which is linked, an entry? What is not live is so when there is something in it. */
static int is_entry(void *arena, const struct shm_geo *g, __u64 off)
{
	__u64 hash = shm_read(shm_at(arena, off + SHM_NODE_HASH));

	if (!shm_is_percpu(g) || (hash & SHM_STATE) == SHM_LIVE)
		return 1;
	if (hash <= SHM_RETIRED || !shm_node_filled(arena, g, off))
		return 0;
	shm_write(shm_at(arena, off + SHM_NODE_HASH), hash | SHM_LIVE);
	return 1;
}

/* Keeps of a chain what is live and makes sense; marks it in live[]. Returns how many. */
static __u64 repair_chain(void *arena, const struct shm_geo *g, __u64 bucket, __u8 *live)
{
	void *anchor = shm_at(arena, bucket);
	__u64 word = shm_read(anchor), kept = 0;

	for (;;) {
		__u64 index = word & SHM_INDEX_MASK, off = shm_node_off(g, index), next, hash;

		if (index == 0)
			break;
		if (index >= g->n_nodes || live[index]) {
			index = 0;
			shm_write(anchor, shm_link(shm_read(anchor), 0));
			break;
		}
		next = shm_read(shm_at(arena, off));
		if ((next & SHM_MARK) || !is_entry(arena, g, off)) {
			/* 2: seen, so that a circle of deleted nodes ends; free all the same. */
			live[index] = 2;
			word = next;
			shm_write(anchor, shm_link(shm_read(anchor), next & SHM_INDEX_MASK));
			continue;
		}
		hash = shm_read(shm_at(arena, off + SHM_NODE_HASH));
		if (hash != shm_hash(g, shm_at(arena, off + SHM_NODE_KEY)) || shm_bucket_off(g, hash) != bucket) {
			shm_write(anchor, shm_link(shm_read(anchor), 0));
			break;
		}
		live[index] = 1;
		kept++;
		anchor = shm_at(arena, off);
		word = next;
	}
	return kept;
}

long shm_map_repair(void *arena, const struct shm_geo *g)
{
	__u64 used, kept = 0, had, freed = 0, head = 0;
	void *free_word = shm_at(arena, g->ctl_off + SHM_CTL_FREE);
	__u8 *live;

	if (!shm_is_hash(g))
		return 0;
	live = calloc(g->n_nodes, 1);
	if (!live)
		return -ENOMEM;
	had = count_list(arena, g, SHM_CTL_FREE) + count_list(arena, g, SHM_CTL_GONE);
	for (__u64 i = 0; i < g->n_buckets; i++)
		kept += repair_chain(arena, g, g->buckets_off + i * 8, live);
	/* A chain that reaches a node never handed out was made up: such nodes count as used from now on. */
	used = shm_map_used(arena, g);
	if (used == 0)
		used = 1;
	for (__u64 i = used; i < g->n_nodes; i++)
		if (live[i])
			used = i + 1;
	for (__u64 i = used; i-- > 1;) {
		void *link = shm_at(arena, shm_node_off(g, i));

		if (live[i] == 1)
			continue;
		shm_write(link, shm_link(shm_read(link), head));
		shm_write(shm_at(arena, shm_node_off(g, i) + SHM_NODE_HASH), 0);
		head = i;
		freed++;
	}
	shm_write(free_word, shm_link(shm_read(free_word), head));
	shm_write(shm_at(arena, g->ctl_off + SHM_CTL_FRESH), used);
	shm_write(shm_at(arena, g->ctl_off + SHM_CTL_COUNT), kept);
	gone_forget(arena, g);
	free(live);
	return freed > had ? (long)(freed - had) : 0;
}

__u64 shm_map_count(void *arena, const struct shm_geo *g)
{
	__u64 n = 0;

	if (!shm_is_hash(g))
		return g->max_entries;
	for (__u64 i = 1, used = shm_map_used(arena, g); i < used; i++) {
		void *value;

		n += shm_map_node(arena, g, (__u32)i, &value) != NULL;
	}
	return n;
}
