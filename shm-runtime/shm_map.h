/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * shm_map.h: the maps of a group: algorithms over an arena, written once.
 *
 * Compiled natively (daemon, tests), to LLVM bitcode (inlined into programs that run in targets, where the geometry is
 *a constant and folds) and to BPF (kernel half and carriers, where the geometry comes from a frozen map, so that the
 * kernel's verifier knows it). Semantics and return codes are those of the kernel's own maps
 * (kernel/bpf/arraymap.c, kernel/bpf/hashtab.c).
 *
 * A hash is an array of chains. A chain is a lock-free list after M. Michael, "High Performance Dynamic Lock-Free Hash
 * Tables and List-Based Sets" (SPAA 2002). Everybody may be killed, or interrupted by a signal handler that enters the
 *same map, between any two instructions; so nobody ever waits for anybody, and every change becomes visible by one
 * compare-and-swap of one *link word*:
 *
 *	 63             25   24  23             0
 *	+-----------------+----+----------------+
 *	|       tag       |mark|   node index   |     index 0: end of the chain
 *	+-----------------+----+----------------+
 *
 * The link word in a node tells the node's successor, and by its mark that the node itself is deleted. Every new value
 *of a word has a new tag, also when the node is freed and used again, so that a compare-and-swap by a thread that slept
 * meanwhile fails.
 *	insert	a filled private node is linked behind the last live node;
 *	delete	the node's own word gets the mark, then its predecessor's word skips it;
 *	replace the node's own word gets the mark and, in the same compare-and-swap, leads to the new node, which leads
 *on to the old successor: no moment without the key, none with two. A marked word never changes while its node is in
 *the chain. So a run of marked nodes is frozen as long as the *anchor*, the live link word in front of it, is
 *unchanged: a reader walks through such runs without writing, checking the anchor after each node; who changes the
 *chain takes a whole run out by one compare-and-swap of the anchor and then owns it.
 *
 * Nodes come from a LIFO list whose head is a link word too, or, while there are some, from those never used. A thread
 *that dies in between leaks what it held: a node, and the place it had reserved in the count. shm_map_repair() finds
 *both.
 *
 * Per-CPU hashes are only added to, and a thread can lose its processor between finding an entry and adding to it. So
 * that an addition is never lost, nor lands under another key, whoever takes the entry out meanwhile, a node stays its
 * key's when the entry ends. The low bits of its hash tell its state, which changes by compare-and-swap:
 *
 *	live ---taken out by a carrier---> taking ---its values handed out---> empty
 *	 ^ \                                                                   |  \
 *	 |  +--deleted by a program--> deleted                                 |   +--its node is needed--> retired
 *	 +------------------------------somebody adds--------------------------+
 *
 * Who adds finds the node in any of the first three states, adds, and then looks at the state. Both are locked
 * instructions or follow one, as are the carrier's change of the state and its reading of the values: so either the
 * carrier has handed the addition out, or one of the two sees that the empty entry is not empty, and it lives again.
 * Who finds that the node was retired takes what has arrived there with him, and begins anew.
 *
 * What was deleted or retired goes to a list of its own, *gone*. From there it comes back only when everybody who could
 * hold a pointer to it has been seen elsewhere: shm_map_collect(), the caller's waiting, shm_map_release(). When no
 * other node is left, one of those that are gone is taken in haste, and counted.
 *
 * The memory is shared with targets, which may be hostile: every index read from it is checked before use, and every
 * loop is bounded. A target can spoil the contents, not the reader.
 *
 * A value pointer from a lookup behaves as with the kernel's preallocated hash: it stays usable, but after a delete or
 *an update of its key it may be another key's value. bpf_map_update_elem() on a plain hash replaces the node and never
 *writes in place: a thread that was stopped between finding and writing would write into somebody else's value.
 */
#ifndef BPFTIME_SHM_MAP_H
#define BPFTIME_SHM_MAP_H

#include "shm.h"

#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif

/* Return codes and flags of the kernel's maps (asm-generic/errno-base.h, linux/bpf.h); no libc header is usable
 * everywhere. */
enum shm_code {
	SHM_ENOENT = 2,
	SHM_E2BIG = 7,
	SHM_ENOMEM = 12,
	SHM_EFAULT = 14,
	SHM_EBUSY = 16,
	SHM_EEXIST = 17,
	SHM_EINVAL = 22,
};

enum shm_flag {
	SHM_ANY = 0,
	SHM_NOEXIST = 1,
	SHM_EXIST = 2,
	SHM_F_LOCK = 4,
};

#define SHM_SWEEP (1u << 16) /* see shm_hash_change() */

#define SHM_MAX_KEY	  512u
#define SHM_MAX_VALUE	  4096u
#define SHM_MAX_VALUE_ALL 65536u /* bytes of one entry's values of all CPUs: a kernel program zeroes them in one go */
#define SHM_MAX_MAP_BYTES (256ull << 20)

#define SHM_INDEX_MASK 0xffffffull
#define SHM_MARK       (1ull << 24)
#define SHM_TAG_ONE    (1ull << 25)

/* States of a node of a per-CPU hash: the low bits of its hash, which are all set in what shm_hash() returns. */
#define SHM_STATE  3ull
#define SHM_LIVE   3ull
#define SHM_TAKING 2ull
#define SHM_EMPTY  1ull
/* Instead of the hash, of nodes that are no key's: not filled or deleted; or retired, when there was nothing in them.
 */
#define SHM_DELETED 0ull
#define SHM_RETIRED 1ull

/* Head of a hash's memory; of arrays' too, unused. One writer's word per cache line. */
struct shm_ctl {
	__u64 free; /* link word: first free node */
	__u64 pad0[7];
	__u64 fresh; /* nodes from this index on have never been used */
	__u64 pad1[7];
	__u64 count; /* entries, and inserts under way */
	__u64 gone;  /* link word: first node that is no entry's, but may be held still */
	__u64 empty; /* nodes in the state SHM_EMPTY */
	__u64 hasty; /* nodes that were used again while they could be held */
	__u64 pad2[4];
};

/* Head of a node; the key (key_room bytes, padded with zeroes) and the values follow. */
struct shm_node {
	__u64 link;
	__u64 hash; /* of the key, and the state; or SHM_DELETED, SHM_RETIRED */
};

#define SHM_CTL_FREE  0u
#define SHM_CTL_FRESH 64u
#define SHM_CTL_COUNT 128u
#define SHM_CTL_GONE  136u
#define SHM_CTL_EMPTY 144u
#define SHM_CTL_HASTY 152u
#define SHM_NODE_HASH 8u
#define SHM_NODE_KEY  16u

_Static_assert(__builtin_offsetof(struct shm_ctl, fresh) == SHM_CTL_FRESH, "layout");
_Static_assert(__builtin_offsetof(struct shm_ctl, count) == SHM_CTL_COUNT, "layout");
_Static_assert(__builtin_offsetof(struct shm_ctl, gone) == SHM_CTL_GONE, "layout");
_Static_assert(__builtin_offsetof(struct shm_ctl, empty) == SHM_CTL_EMPTY, "layout");
_Static_assert(__builtin_offsetof(struct shm_ctl, hasty) == SHM_CTL_HASTY, "layout");
_Static_assert(sizeof(struct shm_ctl) == 192, "layout");
_Static_assert(sizeof(struct shm_node) == SHM_NODE_KEY, "layout");

/* ---- memory access: the only part that differs between the three compilations ---- */

#ifdef __BPF__

/* x86-64 keeps the order of loads and of stores; the kernel's JIT moves nothing; volatile binds the compiler. */
#define shm_read(p)	     (*(const volatile __u64 *)(p))
#define shm_write(p, v)	     (*(volatile __u64 *)(p) = (v))
#define shm_cas(p, old, new) (__sync_val_compare_and_swap((__u64 *)(p), (old), (new)) == (old))
#define shm_fetch_add(p, v)  __sync_fetch_and_add((__u64 *)(p), (v))
#define shm_swap(p, v)	     __sync_lock_test_and_set((__u64 *)(p), (v))
/* Keeps a checked value in the register that was checked, so that the verifier sees the bound. */
#define shm_keep(x) __asm__ volatile("" : "+r"(x))
/*
 * Says again that x, which was checked, is below the limit. Before Linux 6.8 the verifier does not see that of a copy
 * which was saved on the stack before the check; what comes out of here is saved with its bound.
 */
#define shm_bound(x, limit)                                                                                            \
	({                                                                                                             \
		__u64 shm_limit = (limit);                                                                             \
		__asm__ volatile("if %0 < %1 goto +1\n\t%0 = 0" : "+r"(x) : "r"(shm_limit));                           \
	})
/* Steps along a chain, restarts included, and attempts at the free list, before giving up: the verifier walks them all.
 */
#define SHM_MAX_STEPS  40u
#define SHM_MAX_TRIES  32u
#define SHM_MAX_ROUNDS 2u /* whole operations, when their node changes its state */
#define SHM_ADD_ROUNDS 1u
/* Widest access to a caller's key or value; the stack of BPF programs admits aligned accesses only. */
#ifndef SHM_CALLER_WIDTH
#define SHM_CALLER_WIDTH 8u
#endif

#else

#define shm_read(p)	__atomic_load_n((const __u64 *)(p), __ATOMIC_ACQUIRE)
#define shm_write(p, v) __atomic_store_n((__u64 *)(p), (v), __ATOMIC_RELEASE)
#define shm_cas(p, old, new)                                                                                           \
	({                                                                                                             \
		__u64 shm_expected = (old);                                                                            \
		__atomic_compare_exchange_n((__u64 *)(p), &shm_expected, (new), 0, __ATOMIC_SEQ_CST,                   \
					    __ATOMIC_SEQ_CST);                                                         \
	})
#define shm_fetch_add(p, v) __atomic_fetch_add((__u64 *)(p), (v), __ATOMIC_SEQ_CST)
#define shm_swap(p, v)	    __atomic_exchange_n((__u64 *)(p), (v), __ATOMIC_SEQ_CST)
#define shm_keep(x)	    ((void)0)
#define shm_bound(x, limit) ((void)0)
#define SHM_MAX_TRIES	    100000u
#define SHM_MAX_ROUNDS	    100u
#define SHM_ADD_ROUNDS	    SHM_MAX_ROUNDS
#define SHM_CALLER_WIDTH    8u

#endif

#if defined(__BPF__)
#define shm_may_step(step) ((step) < SHM_MAX_STEPS)
#elif defined(SHM_BITCODE)
#define SHM_MAX_STEPS	   100000u
#define shm_may_step(step) ((step) < SHM_MAX_STEPS)
#else
/*
 * What the daemon does for all entries of a map is bounded as a whole: a hostile target makes every chain as long as
 * one call would follow it. Steps that are left to this thread, see shm_work_begin().
 */
extern __thread __u64 shm_steps_left;

static __always_inline int shm_may_step(__u32 step)
{
	return step < 100000u && shm_steps_left && shm_steps_left--;
}
#endif

struct shm_u64_any {
	__u64 v;
} __attribute__((packed, may_alias));
struct shm_u32_any {
	__u32 v;
} __attribute__((packed, may_alias));
struct shm_u16_any {
	__u16 v;
} __attribute__((packed, may_alias));

static __always_inline void *shm_at(void *arena, __u64 off)
{
	return (char *)arena + off;
}

/* A BPF program's load must name its width; clang would split a packed one into bytes. */
#ifdef __BPF__
#define shm_get64(p) (*(const volatile __u64 *)(p))
#define shm_get32(p) (*(const volatile __u32 *)(p))
#define shm_get16(p) (*(const volatile __u16 *)(p))
#define shm_get8(p)  (*(const volatile __u8 *)(p))
#else
#define shm_get64(p) (((const struct shm_u64_any *)(p))->v)
#define shm_get32(p) (((const struct shm_u32_any *)(p))->v)
#define shm_get16(p) (((const struct shm_u16_any *)(p))->v)
#define shm_get8(p)  (*(const __u8 *)(p))
#endif

/* Eight bytes of a caller's key or value, in memory order; what lies behind its size reads as zero and is not touched.
 */
static __always_inline __u64 shm_caller_word(const void *from, __u32 size, __u32 at)
{
	const __u8 *p = (const __u8 *)from + at;
	__u32 left = size - at;
	__u64 w = 0;
	__u32 n;

	if (left >= 8 && SHM_CALLER_WIDTH == 8)
		return shm_get64(p);
	if (left > 8)
		left = 8;
	if (SHM_CALLER_WIDTH >= 4) {
		if (left == 8)
			return shm_get32(p) | (__u64)shm_get32(p + 4) << 32;
		n = 0;
		if (left & 4) {
			w = shm_get32(p);
			n = 4;
		}
		if (left & 2) {
			w |= (__u64)shm_get16(p + n) << (n * 8);
			n += 2;
		}
		if (left & 1)
			w |= (__u64)shm_get8(p + n) << (n * 8);
		return w;
	}
	for (n = 0; n < left; n++)
		w |= (__u64)shm_get8(p + n) << (n * 8);
	return w;
}

/* The next value of a link word: a new tag, no mark. */
static __always_inline __u64 shm_link(__u64 old, __u64 index)
{
	return (((old & ~(SHM_TAG_ONE - 1)) + SHM_TAG_ONE) | index);
}

static __always_inline __u64 shm_node_off(const struct shm_geo *g, __u64 index)
{
	return g->nodes_off + index * g->node_size;
}

static __always_inline int shm_is_hash(const struct shm_geo *g)
{
	return g->kind == SHM_HASH || g->kind == SHM_PERCPU_HASH;
}

static __always_inline int shm_is_percpu(const struct shm_geo *g)
{
	return g->kind == SHM_PERCPU_ARRAY || g->kind == SHM_PERCPU_HASH;
}

/*
 * Zero. The verifier does not know it: what it is added to is any number from then on. So what a loop carries from one
 * step to the next looks the same on every path, and each step is walked once instead of once for every way to it. What
 * is an index or an offset must be checked again behind it.
 */
static __always_inline __u64 shm_zero(void *arena, const struct shm_geo *g)
{
#ifdef __BPF__
	__u64 some = shm_read(shm_at(arena, g->ctl_off)), same = some;

	shm_keep(same);
	return some - same;
#else
	return 0;
#endif
}

/* Is this the offset of a word of the map? Asked where it went through the above; true at all times but for the
 * verifier. */
static __always_inline int shm_word_inside(const struct shm_geo *g, __u64 off)
{
#ifdef __BPF__
	return off <= g->end_off - 8;
#else
	return 1;
#endif
}

/* One multiplication and one shift a word: keys are short, and what a target can choose it can only choose for itself.
 */
static __always_inline __u64 shm_hash(const struct shm_geo *g, const void *key)
{
	__u64 h = g->seed;
	__u32 at;

	for (at = 0; at < g->key_size; at += 8) {
		h = (h ^ shm_caller_word(key, g->key_size, at)) * 0x9e3779b97f4a7c15ull;
		h ^= h >> 32;
	}
	h |= SHM_LIVE;
#ifdef __BPF__
	/*
	 * Two halves in, one word out: there the verifier loses what it knows of the number and whence it came. Else it
	 * would follow the chain once for every key that the program can have in this place as a constant (bpftrace's
	 * hist() has dozens).
	 */
	{
		volatile __u32 half[2] __attribute__((aligned(8)));

		half[0] = (__u32)h;
		half[1] = (__u32)(h >> 32);
		h = *(volatile __u64 *)half;
	}
#endif
	return h;
}

static __always_inline __u64 shm_bucket_off(const struct shm_geo *g, __u64 hash)
{
	return g->buckets_off + (((hash >> 24) & (g->n_buckets - 1)) << 3);
}

/* 0: the node at this offset has this hash, but for these bits, and this key. */
static __always_inline __u64 shm_node_differs(void *arena, const struct shm_geo *g, __u64 off, const void *key,
					      __u64 hash, __u64 but)
{
	const char *have = shm_at(arena, off + SHM_NODE_KEY);
	__u64 diff = (shm_read(shm_at(arena, off + SHM_NODE_HASH)) ^ hash) & ~but;
	__u32 at;

#ifndef __BPF__
	/* The verifier walks all paths anyway: for it, one is better than two. */
	if (diff)
		return diff;
#endif
	for (at = 0; at < g->key_size; at += 8)
		diff |= shm_read(have + at) ^ shm_caller_word(key, g->key_size, at);
	return diff;
}

/* ---- the free list ---- */

/* A node that is the caller's alone, its link word {new tag, 0}; 0: none left. */
static __always_inline __u64 shm_node_take(void *arena, const struct shm_geo *g)
{
	void *head = shm_at(arena, g->ctl_off + SHM_CTL_FREE), *gone = shm_at(arena, g->ctl_off + SHM_CTL_GONE);
	void *fresh = shm_at(arena, g->ctl_off + SHM_CTL_FRESH);
	__u64 index = 0, word, link, haste = 0;
	__u32 i;

	for (i = 0; i < SHM_MAX_TRIES; i++) {
		word = shm_read(head);
		index = word & SHM_INDEX_MASK;
		shm_keep(index);
		if (index == 0 || index >= g->n_nodes) {
			index = 0;
			if (haste)
				return 0;
			if (shm_read(fresh) < g->n_nodes) {
				index = shm_fetch_add(fresh, 1);
				shm_keep(index);
				if (index != 0 && index < g->n_nodes)
					break;
			}
			index = 0;
			head = gone;
			haste = 1;
			continue;
		}
		shm_bound(index, g->n_nodes);
		link = shm_read(shm_at(arena, shm_node_off(g, index)));
		if (shm_cas(head, word, shm_link(word, link & SHM_INDEX_MASK)))
			break;
		index = 0;
	}
	if (index == 0)
		return 0;
	shm_bound(index, g->n_nodes);
	if (haste)
		shm_fetch_add(shm_at(arena, g->ctl_off + SHM_CTL_HASTY), 1);
	return index;
}

/* Nodes that a thread has taken out of the map and not yet given back: linked by their words from first to last. */
struct shm_waste {
	__u64 first;
	__u64 last;
};

/* An entry that was deleted, whose node is not free yet. */
struct shm_taken {
	struct shm_waste waste; /* the node, unless somebody else took it out of the chain, and others that are free */
	__u64 off;		/* of the node */
};

/* first to last are linked already (a run of marked nodes), or one node. */
static __always_inline void shm_waste_add(void *arena, const struct shm_geo *g, struct shm_waste *w, __u64 first,
					  __u64 last)
{
	void *link;

	shm_keep(last);
	if (last == 0 || last >= g->n_nodes)
		return;
	shm_bound(last, g->n_nodes);
	link = shm_at(arena, shm_node_off(g, last));
	shm_write(link, shm_link(shm_read(link), w->first));
	if (w->first == 0)
		w->last = last;
	w->first = first;
}

/* list: SHM_CTL_FREE or SHM_CTL_GONE. */
static __always_inline void shm_waste_give_back(void *arena, const struct shm_geo *g, const struct shm_waste *w,
						__u32 list)
{
	void *head = shm_at(arena, g->ctl_off + list);
	__u64 last = w->last, word;
	void *link;
	__u32 i;

	if (w->first == 0)
		return;
	shm_keep(last);
	if (last == 0 || last >= g->n_nodes)
		return;
	shm_bound(last, g->n_nodes);
	link = shm_at(arena, shm_node_off(g, last));
	for (i = 0; i < SHM_MAX_TRIES; i++) {
		word = shm_read(head);
		shm_write(link, shm_link(shm_read(link), word & SHM_INDEX_MASK));
		if (shm_cas(head, word, shm_link(word, w->first)))
			return;
	}
}

/* ---- chains ---- */

/*
 * Offset of the live node with this key, or 0; but: SHM_STATE: of the node with this key, in any state of a per-CPU
 * hash. Writes nothing.
 */
static __always_inline __u64 shm_hash_find(void *arena, const struct shm_geo *g, const void *key, __u64 hash, __u64 but)
{
	__u64 bucket = shm_bucket_off(g, hash);
	__u64 anchor = bucket, word = shm_read(shm_at(arena, bucket)), cursor = word;
	__u64 index, off, next, differs, zero = shm_zero(arena, g);
	__u32 step;

	for (step = 0; shm_may_step(step); step++) {
		anchor = (anchor + zero) & ~7ull;
		cursor += zero;
		word += zero;
		shm_keep(anchor);
		if (!shm_word_inside(g, anchor))
			return 0;
		shm_bound(anchor, g->end_off - 7);
		index = cursor & SHM_INDEX_MASK;
		shm_keep(index);
		if (index == 0 || index >= g->n_nodes)
			return 0;
		shm_bound(index, g->n_nodes);
		off = shm_node_off(g, index);
		next = shm_read(shm_at(arena, off));
		differs = shm_node_differs(arena, g, off, key, hash, but);
		if (shm_read(shm_at(arena, anchor)) != word) {
			anchor = bucket;
			word = cursor = shm_read(shm_at(arena, bucket));
			continue;
		}
		cursor = next;
		if (next & SHM_MARK)
			continue;
		if (!differs)
			return off;
		anchor = off;
		word = next;
	}
	return 0;
}

/*
 * The one loop that changes chains. node: a filled private node to insert or to put in place of the one with its key;
 * 0: delete. In a per-CPU hash nothing is put in place of anything: -SHM_EEXIST, also when the node with this key is
 * not live, and taken->off says which it is. flags: SHM_SWEEP with node 0: only takes nodes that are deleted already
 * out of the key's chain, as far as the key's own. The node is the map's or free again on return. What was taken out is
 * free or gone, or after success, if taken is not NULL, the caller's.
 */
static __always_inline long shm_hash_change(void *arena, const struct shm_geo *g, const void *key, __u64 hash,
					    __u64 node, __u64 flags, struct shm_taken *taken)
{
	void *count = shm_at(arena, g->ctl_off + SHM_CTL_COUNT);
	__u64 bucket = shm_bucket_off(g, hash), node_off = shm_node_off(g, node);
	__u64 anchor = bucket, word = shm_read(shm_at(arena, bucket)), cursor = word;
	__u64 index, off, next, fresh, differs, run_last = 0;
	struct shm_waste waste = {};
	__u64 zero = shm_zero(arena, g), reserved = 0, done = flags == SHM_SWEEP, runs = 0;
	__u32 step, list = SHM_CTL_FREE;
	long ret = -SHM_EBUSY;

	for (step = 0; shm_may_step(step); step++) {
		anchor = (anchor + zero) & ~7ull;
		cursor += zero;
		word += zero;
		run_last += zero;
		waste.first += zero;
		waste.last += zero;
		reserved += zero;
		done += zero;
		runs += zero;
		shm_keep(anchor);
		if (!shm_word_inside(g, anchor)) {
			ret = -SHM_EFAULT;
			break;
		}
		shm_bound(anchor, g->end_off - 7);
		index = cursor & SHM_INDEX_MASK;
		shm_keep(index);
		if (index == 0) {
			if (!node && shm_is_percpu(g) && (word & SHM_INDEX_MASK)) {
				/* What was deleted is at the end of the chain. */
				fresh = shm_link(word, 0);
				if (!shm_cas(shm_at(arena, anchor), word, fresh))
					goto restart;
				shm_waste_add(arena, g, &waste, word & SHM_INDEX_MASK, run_last);
			}
			ret = done ? 0 : -SHM_ENOENT;
			if (!node || flags == SHM_EXIST)
				break;
			if (!reserved) {
				if (shm_fetch_add(count, 1) >= g->max_entries) {
					shm_fetch_add(count, -1ull);
					ret = -SHM_E2BIG;
					break;
				}
				reserved = 1;
			}
			shm_write(shm_at(arena, node_off), shm_link(shm_read(shm_at(arena, node_off)), 0));
			ret = -SHM_EBUSY;
			if (!shm_cas(shm_at(arena, anchor), word, shm_link(word, node)))
				goto restart;
			if (word & SHM_INDEX_MASK) {
				shm_waste_add(arena, g, &waste, word & SHM_INDEX_MASK, run_last);
				runs = 1;
			}
			ret = 0;
			done = 1;
			reserved = 0;
			break;
		}
		if (index >= g->n_nodes) {
			ret = -SHM_EFAULT;
			break;
		}
		shm_bound(index, g->n_nodes);
		off = shm_node_off(g, index);
		next = shm_read(shm_at(arena, off));
		differs = shm_node_differs(arena, g, off, key, hash, shm_is_percpu(g) ? SHM_STATE : 0);
		if (shm_read(shm_at(arena, anchor)) != word)
			goto restart;
		if (shm_is_percpu(g) && !(next & SHM_MARK) &&
		    shm_read(shm_at(arena, off + SHM_NODE_HASH)) <= SHM_RETIRED) {
			fresh = shm_link(next, next & SHM_INDEX_MASK) | SHM_MARK;
			if (!shm_cas(shm_at(arena, off), next, fresh))
				goto restart;
			next = fresh;
		}
		if (next & SHM_MARK) {
			run_last = index;
			cursor = next;
			continue;
		}
		if ((word & SHM_INDEX_MASK) != index) {
			/* A run of deleted nodes in front of this one: take it out. */
			fresh = shm_link(word, index);
			if (!shm_cas(shm_at(arena, anchor), word, fresh))
				goto restart;
			shm_waste_add(arena, g, &waste, word & SHM_INDEX_MASK, run_last);
			runs = 1;
			word = fresh;
		}
		if (!differs) {
			if (node && (flags == SHM_NOEXIST || shm_is_percpu(g))) {
				if (taken)
					taken->off = off;
				ret = -SHM_EEXIST;
				break;
			}
			if (shm_is_percpu(g)) {
				ret = done ? 0 : -SHM_ENOENT;
				if (done || !shm_cas(shm_at(arena, off + SHM_NODE_HASH), hash, SHM_DELETED))
					break;
				shm_fetch_add(count, -1ull);
				ret = 0;
				done = 1;
				/* Once more, to take it out of the chain. */
				goto restart;
			}
			fresh = next & SHM_INDEX_MASK;
			if (node) {
				shm_write(shm_at(arena, node_off), shm_link(shm_read(shm_at(arena, node_off)), fresh));
				fresh = node;
			}
			if (!shm_cas(shm_at(arena, off), next, shm_link(next, fresh) | SHM_MARK))
				goto restart;
			done = 1;
			ret = 0;
			if (taken)
				taken->off = off;
			if (!node)
				shm_fetch_add(count, -1ull);
			/* When this fails, whoever changed the anchor, or the next to come, takes the node out. */
			if (shm_cas(shm_at(arena, anchor), word, shm_link(word, fresh)))
				shm_waste_add(arena, g, &waste, index, index);
			break;
		}
		anchor = off;
		word = cursor = next;
		continue;
	restart:
		anchor = bucket;
		word = cursor = shm_read(shm_at(arena, bucket));
	}
	if (reserved)
		shm_fetch_add(count, -1ull);
	/* What others have deleted they may be reading still. */
	if (waste.first && (shm_is_percpu(g) || runs))
		list = SHM_CTL_GONE;
	if (node && !done)
		shm_waste_add(arena, g, &waste, node, node);
	if (taken && ret == 0 && !shm_is_percpu(g))
		taken->waste = waste;
	else
		shm_waste_give_back(arena, g, &waste, list);
	return ret;
}

/* ---- values ---- */

static __always_inline void shm_value_copy(const struct shm_geo *g, char *to, const void *value)
{
	__u32 at;

	for (at = 0; at < g->value_size; at += 8)
		shm_write(to + at, shm_caller_word(value, g->value_size, at));
}

/* A private node with key, hash and this CPU's value (0: zero), the other CPUs' values zero. Index or 0. */
static __always_inline __u64 shm_node_fill(void *arena, const struct shm_geo *g, const void *key, __u64 hash,
					   const void *value, __u32 cpu)
{
	__u64 index = shm_node_take(arena, g);
	__u64 cpu_off = (__u64)cpu * g->value_room;
	char *node, *values;
	__u32 at;

	if (index == 0)
		return 0;
	node = shm_at(arena, shm_node_off(g, index));
	shm_write(node, shm_link(shm_read(node), 0));
	shm_write(node + SHM_NODE_HASH, hash);
	for (at = 0; at < g->key_size; at += 8)
		shm_write(node + SHM_NODE_KEY + at, shm_caller_word(key, g->key_size, at));
	values = node + g->value_off;
	if (shm_is_percpu(g) || !value)
		for (at = 0; at < g->n_cpus * g->value_room; at += 8)
			shm_write(values + at, 0);
	if (value)
		shm_value_copy(g, values + cpu_off, value);
	return index;
}

/* ---- the interface ---- */

/* A processor's number that was checked, see shm_bound(). */
static __always_inline __u64 shm_cpu(const struct shm_geo *g, __u32 cpu)
{
	__u64 n = cpu;

	shm_bound(n, g->n_cpus);
	return n;
}

/* Offset of the value of an array's element or of a hash's entry, for this CPU; 0: none. */
static __always_inline __u64 shm_value_off(void *arena, const struct shm_geo *g, const void *key, __u32 cpu)
{
	__u64 off, index;

	if (cpu >= g->n_cpus)
		return 0;
	cpu = shm_cpu(g, cpu);
	if (shm_is_hash(g)) {
		off = shm_hash_find(arena, g, key, shm_hash(g, key), 0);
		if (off == 0)
			return 0;
		return off + g->value_off + (__u64)cpu * g->value_room;
	}
	index = shm_caller_word(key, 4, 0);
	shm_keep(index);
	if (index >= g->max_entries)
		return 0;
	shm_bound(index, g->max_entries);
	return shm_node_off(g, index) + (__u64)cpu * g->value_room;
}

/* bpf_map_lookup_elem(): where this CPU's value is, or NULL. cpu is 0 for maps that are not per-CPU. */
static __always_inline void *shm_map_lookup(void *arena, const struct shm_geo *g, const void *key, __u32 cpu)
{
	__u64 off = shm_value_off(arena, g, key, cpu);

	return off ? shm_at(arena, off) : (void *)0;
}

/* ---- states of a per-CPU hash's nodes ---- */

static __always_inline __u64 shm_in_state(__u64 hash, __u64 state)
{
	return (hash & ~SHM_STATE) | state;
}

/* A place for one more entry. */
static __always_inline long shm_reserve(void *arena, const struct shm_geo *g)
{
	void *count = shm_at(arena, g->ctl_off + SHM_CTL_COUNT);

	if (shm_fetch_add(count, 1) < g->max_entries)
		return 0;
	shm_fetch_add(count, -1ull);
	return -SHM_E2BIG;
}

/* The empty entry takes the place that was reserved, and lives again. -SHM_EBUSY: it is not empty any more, or gone. */
static __always_inline long shm_revive(void *arena, const struct shm_geo *g, __u64 off, __u64 hash)
{
	if (shm_cas(shm_at(arena, off + SHM_NODE_HASH), shm_in_state(hash, SHM_EMPTY), hash)) {
		shm_fetch_add(shm_at(arena, g->ctl_off + SHM_CTL_EMPTY), -1ull);
		return 0;
	}
	shm_fetch_add(shm_at(arena, g->ctl_off + SHM_CTL_COUNT), -1ull);
	return -SHM_EBUSY;
}

/* Is there something in the values of any CPU? */
static __always_inline __u64 shm_node_filled(void *arena, const struct shm_geo *g, __u64 off)
{
	__u64 some = 0;
	__u32 at;

	for (at = 0; at < g->n_cpus * g->value_room; at += 8)
		some |= shm_read(shm_at(arena, off + g->value_off) + at);
	return some;
}

/* Lets an empty entry live again when something has been added to it, and there is room for it. */
static __always_inline void shm_settle(void *arena, const struct shm_geo *g, __u64 off)
{
	__u64 hash = shm_read(shm_at(arena, off + SHM_NODE_HASH));

	if ((hash & SHM_STATE) == SHM_EMPTY && hash != SHM_RETIRED && shm_node_filled(arena, g, off) &&
	    !shm_reserve(arena, g))
		shm_revive(arena, g, off, hash | SHM_LIVE);
}

/*
 * Takes an entry of a per-CPU hash out, as a carrier does it: the caller swaps zeroes for the values, then calls
 * shm_take_end(). Not to be interrupted for long in between. Offset of the node, or 0: no such entry.
 */
static __always_inline __u64 shm_take_begin(void *arena, const struct shm_geo *g, const void *key)
{
	__u64 hash = shm_hash(g, key), off = shm_hash_find(arena, g, key, hash, 0);

	if (off == 0 || !shm_cas(shm_at(arena, off + SHM_NODE_HASH), hash, shm_in_state(hash, SHM_TAKING)))
		return 0;
	shm_fetch_add(shm_at(arena, g->ctl_off + SHM_CTL_COUNT), -1ull);
	return off;
}

static __always_inline void shm_take_end(void *arena, const struct shm_geo *g, __u64 off)
{
	void *at = shm_at(arena, off + SHM_NODE_HASH);
	__u64 hash = shm_read(at);

	if ((hash & SHM_STATE) != SHM_TAKING || !shm_cas(at, hash, shm_in_state(hash, SHM_EMPTY)))
		return;
	shm_fetch_add(shm_at(arena, g->ctl_off + SHM_CTL_EMPTY), 1);
	shm_settle(arena, g, off);
}

/* 1: the node is no key's any more; it is to be taken out of its chain, see shm_sweep(). */
static __always_inline int shm_retire(void *arena, const struct shm_geo *g, __u64 off)
{
	void *at = shm_at(arena, off + SHM_NODE_HASH);
	__u64 hash = shm_read(at);

	if ((hash & SHM_STATE) != SHM_EMPTY || hash == SHM_RETIRED || shm_node_filled(arena, g, off) ||
	    !shm_cas(at, hash, SHM_RETIRED))
		return 0;
	shm_fetch_add(shm_at(arena, g->ctl_off + SHM_CTL_EMPTY), -1ull);
	return 1;
}

/* Takes out of the chain that this key is in what has been retired before it. */
static __always_inline void shm_sweep(void *arena, const struct shm_geo *g, const void *key)
{
	shm_hash_change(arena, g, key, shm_hash(g, key), 0, SHM_SWEEP, (void *)0);
}

/*
 * Something was added to a word of a node that was not live any more. 0: it counts, now or, when the map has been
 * filled up meanwhile, as soon as its key is an entry again. -SHM_EBUSY: the node is its key's no more; *delta is what
 * is to be added to its key instead: all that arrived late in this word, which whoever comes first takes with him.
 */
static __always_inline long shm_add_late(void *arena, const struct shm_geo *g, __u64 off, void *word, __u64 hash,
					 __u64 *delta)
{
	__u64 state;
	__u32 i;

	for (i = 0; i < SHM_MAX_ROUNDS; i++) {
		state = shm_read(shm_at(arena, off + SHM_NODE_HASH));
		/* Of an entry that is being taken out the carrier looks once more at what is in it. */
		if (state == hash || state == shm_in_state(hash, SHM_TAKING))
			return 0;
		/* An addition before the deletion. */
		if (state == SHM_DELETED)
			return 0;
		if (state == SHM_RETIRED) {
			*delta = shm_swap(word, 0);
			return *delta ? -SHM_EBUSY : 0;
		}
		if (state != shm_in_state(hash, SHM_EMPTY)) {
			/* Used again, in haste. */
			shm_fetch_add(word, -*delta);
			return -SHM_EBUSY;
		}
		/* Nothing in it: the carrier had it. */
		if (!shm_read(word) || shm_reserve(arena, g) || !shm_revive(arena, g, off, hash))
			return 0;
	}
	return 0;
}

/* Adds to a node that is not live. -SHM_EBUSY: as shm_add_late(); -SHM_E2BIG: nothing added. */
static __always_inline long shm_add_again(void *arena, const struct shm_geo *g, __u64 off, void *word, __u64 hash,
					  __u64 *delta)
{
	__u64 was_empty = shm_read(shm_at(arena, off + SHM_NODE_HASH)) == shm_in_state(hash, SHM_EMPTY);

	if (was_empty && shm_reserve(arena, g))
		return -SHM_E2BIG;
	shm_fetch_add(word, *delta);
	if (was_empty && !shm_revive(arena, g, off, hash))
		return 0;
	return shm_add_late(arena, g, off, word, hash, delta);
}

/*
 * A new node for the key, with this CPU's value, or with zeroes and the delta at this offset of all values. -SHM_EBUSY:
 * there is one, *found, in whatever state; or 0, others have changed the chain.
 */
static __always_inline long shm_percpu_insert(void *arena, const struct shm_geo *g, const void *key, __u64 hash,
					      const void *value, __u32 cpu, __u64 at, __u64 delta, __u64 *found)
{
	__u64 node = shm_node_fill(arena, g, key, hash, value, cpu);
	struct shm_taken other = {};
	long ret;

	*found = 0;
	if (node == 0)
		return -SHM_ENOMEM;
	if (!value)
		shm_write(shm_at(arena, shm_node_off(g, node) + g->value_off + at), delta);
	ret = shm_hash_change(arena, g, key, hash, node, SHM_NOEXIST, &other);
	if (ret != -SHM_EEXIST)
		return ret;
	*found = other.off;
	return -SHM_EBUSY;
}

/*
 * Inlined like everything here: in a target there is no data, and the geometry must fold.
 * off: a node that was not live any more when the delta had been added to it; 0: none was live.
 */
static __always_inline long shm_percpu_add_slowly(void *arena, const struct shm_geo *g, const void *key, __u64 hash,
						  __u64 at, __u64 delta, __u64 off)
{
	long ret = -SHM_EBUSY;
	__u32 i;

	/* What is computed from it here is not to be kept from before, where it is in the way. */
	__asm__("" : "+r"(hash));
	if (off)
		ret = shm_add_late(arena, g, off, shm_at(arena, off + g->value_off + at), hash, &delta);
	for (i = 0; ret == -SHM_EBUSY && i < SHM_ADD_ROUNDS; i++) {
		ret = shm_percpu_insert(arena, g, key, hash, (void *)0, 0, at, delta, &off);
		if (ret == -SHM_EBUSY && off)
			ret = shm_add_again(arena, g, off, shm_at(arena, off + g->value_off + at), hash, &delta);
	}
	return ret;
}

/* Adds to the word at this offset of the values of all CPUs of a key, which exists afterwards. */
static __always_inline long shm_percpu_add(void *arena, const struct shm_geo *g, const void *key, __u64 at, __u64 delta)
{
	__u64 hash = shm_hash(g, key), off = shm_hash_find(arena, g, key, hash, 0);

	if (__builtin_expect(off != 0, 1)) {
		shm_fetch_add(shm_at(arena, off + g->value_off + at), delta);
		if (__builtin_expect(shm_read(shm_at(arena, off + SHM_NODE_HASH)) == hash, 1))
			return 0;
	}
	return shm_percpu_add_slowly(arena, g, key, hash, at, delta, off);
}

/* An update of the key whose node this is. -SHM_EBUSY: its state has changed. */
static __always_inline long shm_percpu_refresh(void *arena, const struct shm_geo *g, __u64 off, __u64 hash,
					       const void *value, __u64 flags, __u32 cpu)
{
	void *to = shm_at(arena, off + g->value_off + (__u64)cpu * g->value_room);
	__u64 state = hash, word;
	__u32 n, at;
	long ret;

	/* A carrier is not interrupted: in a moment the entry is out. */
	for (n = 0; n < SHM_MAX_TRIES; n++) {
		state = shm_read(shm_at(arena, off + SHM_NODE_HASH));
		if (state != shm_in_state(hash, SHM_TAKING))
			break;
	}
	if (state == hash) {
		if (flags == SHM_NOEXIST)
			return -SHM_EEXIST;
		shm_value_copy(g, to, value);
		return 0;
	}
	if (flags == SHM_EXIST)
		return -SHM_ENOENT;
	if (state != shm_in_state(hash, SHM_EMPTY))
		return -SHM_EBUSY;
	if (shm_reserve(arena, g))
		return -SHM_E2BIG;
	for (at = 0; at < g->value_size; at += 8) {
		word = shm_caller_word(value, g->value_size, at);
		if (word)
			shm_fetch_add(to + at, word);
	}
	ret = shm_revive(arena, g, off, hash);
	for (at = 0; ret && at < g->value_size; at += 8) {
		word = shm_caller_word(value, g->value_size, at);
		if (word)
			shm_fetch_add(to + at, -word);
	}
	return ret;
}

static __always_inline long shm_percpu_update(void *arena, const struct shm_geo *g, const void *key, const void *value,
					      __u64 flags, __u32 cpu)
{
	__u64 hash = shm_hash(g, key), off = shm_hash_find(arena, g, key, hash, SHM_STATE);
	long ret = -SHM_EBUSY;
	__u32 i;

	for (i = 0; i < SHM_MAX_ROUNDS && ret == -SHM_EBUSY; i++) {
		if (off)
			ret = shm_percpu_refresh(arena, g, off, hash, value, flags, cpu);
		if (ret != -SHM_EBUSY || i + 1 == SHM_MAX_ROUNDS)
			break;
		if (flags == SHM_EXIST)
			return -SHM_ENOENT;
		ret = shm_percpu_insert(arena, g, key, hash, value, cpu, 0, 0, &off);
	}
	return ret;
}

/* bpf_map_update_elem() from a program: per-CPU maps get this CPU's value, the others' are zeroed when the key is new.
 */
static __always_inline long shm_map_update(void *arena, const struct shm_geo *g, const void *key, const void *value,
					   __u64 flags, __u32 cpu)
{
	__u64 hash, off, node;

	if (cpu >= g->n_cpus)
		return -SHM_EINVAL;
	cpu = shm_cpu(g, cpu);
	if (!shm_is_hash(g)) {
		if ((shm_is_percpu(g) ? flags : flags & ~(__u64)SHM_F_LOCK) > SHM_EXIST)
			return -SHM_EINVAL;
		off = shm_value_off(arena, g, key, cpu);
		if (off == 0)
			return -SHM_E2BIG;
		if (flags & SHM_NOEXIST)
			return -SHM_EEXIST;
		if (flags & SHM_F_LOCK)
			return -SHM_EINVAL;
		shm_value_copy(g, shm_at(arena, off), value);
		return 0;
	}
	if (flags > SHM_EXIST)
		return -SHM_EINVAL;
	if (shm_is_percpu(g))
		return shm_percpu_update(arena, g, key, value, flags, cpu);
	hash = shm_hash(g, key);
	node = shm_node_fill(arena, g, key, hash, value, cpu);
	if (node == 0)
		return -SHM_ENOMEM;
	return shm_hash_change(arena, g, key, hash, node, flags, (void *)0);
}

/* bpf_map_delete_elem() */
static __always_inline long shm_map_delete(void *arena, const struct shm_geo *g, const void *key)
{
	if (!shm_is_hash(g))
		return -SHM_EINVAL;
	return shm_hash_change(arena, g, key, shm_hash(g, key), 0, 0, (void *)0);
}

/*
 * Deletes an entry of a hash that is not per-CPU and leaves its node to the caller, who reads what it held and then
 * gives it to those that are gone. Who had found the entry before still reaches the node.
 */
static __always_inline long shm_map_take(void *arena, const struct shm_geo *g, const void *key, struct shm_taken *taken)
{
	return shm_hash_change(arena, g, key, shm_hash(g, key), 0, 0, taken);
}

/* Get or insert zero, then atomically add to the __u64 at the start of this CPU's value. */
static __always_inline long shm_map_add(void *arena, const struct shm_geo *g, const void *key, __u64 delta, __u32 cpu)
{
	__u64 hash, off, node;
	long ret;

	if (!shm_is_hash(g)) {
		off = shm_value_off(arena, g, key, cpu);
		if (off == 0)
			return -SHM_E2BIG;
		shm_fetch_add(shm_at(arena, off), delta);
		return 0;
	}
	if (cpu >= g->n_cpus)
		return -SHM_EINVAL;
	cpu = shm_cpu(g, cpu);
	if (shm_is_percpu(g))
		return shm_percpu_add(arena, g, key, (__u64)cpu * g->value_room, delta);
	hash = shm_hash(g, key);
	off = shm_hash_find(arena, g, key, hash, 0);
	if (off == 0) {
		node = shm_node_fill(arena, g, key, hash, (void *)0, cpu);
		if (node == 0)
			return -SHM_ENOMEM;
		shm_write(shm_at(arena, shm_node_off(g, node) + g->value_off), delta);
		ret = shm_hash_change(arena, g, key, hash, node, SHM_NOEXIST, (void *)0);
		if (ret != -SHM_EEXIST)
			return ret;
		off = shm_hash_find(arena, g, key, hash, 0);
		if (off == 0)
			return -SHM_EBUSY;
	}
	shm_fetch_add(shm_at(arena, off + g->value_off), delta);
	return 0;
}

#ifndef __BPF__
/*
 * For going through a map: index from 0 to geo.n_nodes - 1. Returns where the key is (hash: in the node; array:
 * NULL, the index is the key) and by *value where the first CPU's value is; *value is NULL when no live entry is there.
 */
static inline void *shm_map_node(void *arena, const struct shm_geo *g, __u32 index, void **value)
{
	__u64 off = shm_node_off(g, index), hash;
	char *key;

	*value = (void *)0;
	if (index >= g->n_nodes)
		return (void *)0;
	if (!shm_is_hash(g)) {
		*value = shm_at(arena, off);
		return (void *)0;
	}
	if (index == 0 || index >= shm_read(shm_at(arena, g->ctl_off + SHM_CTL_FRESH)))
		return (void *)0;
	hash = shm_read(shm_at(arena, off + SHM_NODE_HASH));
	key = shm_at(arena, off + SHM_NODE_KEY);
	/* What is not reached by its key is free, deleted, or somebody's private node. */
	if (hash <= SHM_RETIRED || shm_hash_find(arena, g, key, shm_hash(g, key), 0) != off)
		return (void *)0;
	*value = shm_at(arena, off + g->value_off);
	return key;
}
#endif

#if !defined(__BPF__) && !defined(SHM_BITCODE)
/*
 * Fills the geometry of a tool's map (attributes of BPF_MAP_CREATE) that begins at arena offset off, a multiple of 64.
 * 0, or -EOPNOTSUPP with *why a sentence fragment that names what is in the way. n_cpus: possible CPUs of the host.
 */
int shm_geo__plan(struct shm_geo *g, __u32 bpf_map_type, __u32 key_size, __u32 value_size, __u32 max_entries,
		  __u32 map_flags, __u32 n_cpus, __u64 off, const char **why);
/*
 * Around work on many entries of a map that hostile targets may write: some hundred steps for each are enough wherever
 * nobody made chains long on purpose; when they are used up, nothing is found or changed any more. Not nested.
 */
void shm_work_begin(const struct shm_geo *g);
void shm_work_end(void);
/* Empties the map: zeroed memory, or a map of the same geometry. Nobody else may work on it. */
void shm_map_init(void *arena, const struct shm_geo *g);
/*
 * Nodes that are gone, and with them so many of the empty ones as exceed `keep`, for the caller alone: linked from the
 * one returned, 0: none. When everybody who had looked anything up before this call has been seen to be elsewhere, the
 * caller gives them back for use by shm_map_release(). Others may work on the map meanwhile. A caller that ends in
 * between leaks them.
 */
__u64 shm_map_collect(void *arena, const struct shm_geo *g, __u64 keep);
void shm_map_release(void *arena, const struct shm_geo *g, __u64 first);
/* How many nodes of a hash were used again before, because no others were left. */
__u64 shm_map_hasty(void *arena, const struct shm_geo *g);
/* Are there so many that the map may come to lack nodes? */
int shm_map_is_short(void *arena, const struct shm_geo *g);
/* What was added to entries that had been taken out counts: they live again. Nobody else may work on the map. */
void shm_map_settle(void *arena, const struct shm_geo *g);
/*
 * Finds what killed threads left behind: rebuilds count and free list, cuts chains that make no sense. Nobody else may
 * work on the map. Returns how many nodes came back, or -ENOMEM.
 */
long shm_map_repair(void *arena, const struct shm_geo *g);
/* Nodes from this index on are nobody's. */
__u64 shm_map_used(void *arena, const struct shm_geo *g);
/* Entries; an array's are all there. */
__u64 shm_map_count(void *arena, const struct shm_geo *g);
/* What a hash says of itself: the same when nobody works on the map, and nobody was killed at it. */
__u64 shm_map_claimed(void *arena, const struct shm_geo *g);
#endif

#endif
