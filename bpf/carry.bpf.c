/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * carry.bpf.c: the carrier of one mirrored map: runs when bpf() is called on the map, before the kernel serves the
 *call.
 *
 * It makes the tool's map say what the arena says, as far as the call can see it, and does to the arena what the call
 *is about to do to the tool's map. Both then come to the same result, so the return code is the kernel's own.
 *
 *	read a key		bring that key
 *	start an iteration	bring the whole map
 *	update, delete		bring that key; change the arena likewise
 *	read and delete		bring that key (or all); delete it from the arena: the value moves out
 *
 * "Bring" is: present in the arena: copy; absent: delete. It holds the map's lock around reading one key and writing
 *it, so that a slow reader cannot put back an older value over a newer one. Nobody waits long for the lock: who does
 *not get it goes on without.
 */
#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "carry.h"
#include "shm-runtime/shm_map.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define MAX_SPINS  20000
#define MAX_COPIES 3	      /* attempts at a copy during which nobody reuses the node */
#define MAX_BATCH  (1u << 20) /* elements of one batch that are followed */

const volatile struct shm_geo carry_geo;

__u32 busy;	    /* the lock */
__u64 deleted_by;   /* pid_tgid of, */
__u64 deleted_hash; /* and hash of the key of the last delete: see next_key() */

/* The arena and the tool's own map take these places before loading. */
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

/* The attributes are read as far as the kernel defines them for these commands. */
struct carry_attr {
	__u64 word[8];
};

struct scratch {
	__u8 key[SHM_MAX_KEY];
	__u8 value[SHM_MAX_VALUE];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, 4);
	__uint(value_size, sizeof(struct scratch));
} carry_scratch SEC(".maps");

/* Places in the attributes, in words: struct { map_fd; key; value; flags } and struct { in_batch; out_batch; ... }
 * batch. */
enum { ELEM_KEY = 1, ELEM_VALUE = 2, ELEM_FLAGS = 3 };
enum { BATCH_IN = 0, BATCH_KEYS = 2, BATCH_VALUES = 3, BATCH_COUNT_FD = 4, BATCH_ELEM_FLAGS = 5, BATCH_FLAGS = 6 };

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

/* ---- the lock ---- */

static long spin(__u32 i, void *got)
{
	if (__sync_val_compare_and_swap(&busy, 0, 1))
		return 0;
	*(__u64 *)got = 1;
	return 1;
}

static __always_inline __u64 lock(void)
{
	__u64 got = 0;

	bpf_loop(MAX_SPINS, spin, &got, 0);
	return got;
}

static __always_inline void unlock(__u64 got)
{
	if (got)
		*(volatile __u32 *)&busy = 0;
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

once long arena_update(__u64 flags)
{
	struct scratch *s = the_scratch();
	void *arena = the_arena();

	return s && arena ? shm_map_update(arena, geo(), s->key, s->value, flags, 0) : -SHM_EFAULT;
}

once long arena_delete(void)
{
	struct scratch *s = the_scratch();
	void *arena = the_arena();

	return s && arena ? shm_map_delete(arena, geo(), s->key) : -SHM_EFAULT;
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

static __always_inline void put(void *to, const void *from, __u32 size)
{
	__u32 at;

	for (at = 0; at + 8 <= size; at += 8)
		*(volatile __u64 *)(to + at) = shm_read(from + at);
	for (; at < size; at++)
		*(volatile __u8 *)(to + at) = *(const volatile __u8 *)(from + at);
}

static __always_inline long put_all_cpus(struct scratch *s, void *values)
{
	__u32 cpu, at;
	void *to;

	to = bpf_map_lookup_percpu_elem(&carry_tool, s->key, 0);
	if (!to) {
		for (at = 0; at < geo()->value_room; at += 8)
			*(volatile __u64 *)(s->value + at) = 0;
		if (bpf_map_update_elem(&carry_tool, s->key, s->value, BPF_ANY))
			return -SHM_E2BIG;
	}
	for (cpu = 0; cpu < geo()->n_cpus; cpu++) {
		to = bpf_map_lookup_percpu_elem(&carry_tool, s->key, cpu);
		if (!to)
			break;
		put(to, values + cpu * geo()->value_room, geo()->value_size);
	}
	return 0;
}

/*
 * What is at off goes to the tool's map under the key. -SHM_E2BIG: no room. An entry that is there is written in place:
 * an update would put it at the head of its chain, and somebody who goes through the map would meet its neighbours
 * again, without end.
 */
once long copy_out(__u64 off)
{
	struct scratch *s = the_scratch();
	void *arena = the_arena(), *to;
	__u32 at;

	if (!s || !arena || !fits(off))
		return -SHM_EFAULT;
	if (shm_is_percpu(geo()))
		return put_all_cpus(s, shm_at(arena, off));
	to = bpf_map_lookup_elem(&carry_tool, s->key);
	if (to) {
		put(to, shm_at(arena, off), geo()->value_size);
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

/* Makes the tool's map say about the key what the arena says. Uses the value buffer. */
once long bring(void)
{
	__u64 got = lock(), off, word;
	long ret = 0;
	int i;

	for (i = 0; i < MAX_COPIES; i++) {
		off = find();
		if (!off) {
			ret = 0;
			if (shm_is_hash(geo()))
				tool_delete();
			break;
		}
		word = node_word(off);
		ret = copy_out(off);
		/* Not when the node was given to another key meanwhile. */
		if (ret || !shm_is_hash(geo()) || (node_word(off) == word && find() == off))
			break;
	}
	unlock(got);
	return ret;
}

static long drop_stale(struct bpf_map *map, const void *key, void *value, void *ctx)
{
	struct scratch *s = the_scratch();
	__u64 got;
	__u32 at;

	if (!s)
		return 1;
	for (at = 0; at < geo()->key_size; at++)
		*(volatile __u8 *)(s->key + at) = *(const volatile __u8 *)(key + at);
	got = lock();
	if (!find())
		tool_delete();
	unlock(got);
	return 0;
}

/* How a whole map is gone through. */
struct sweep {
	__u64 move_out; /* delete from the arena what was brought */
};

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
	if (shm_read(shm_at(arena, off + SHM_NODE_HASH)) == 0)
		return 0;
	for (at = 0; at < geo()->key_room; at += 8)
		*(volatile __u64 *)(s->key + at) = shm_read(shm_at(arena, off + SHM_NODE_KEY) + at);
	/* A free node still has the key that it had; that key may have moved out just now. */
	if (find() != off + geo()->value_off)
		return 0;
	if (bring() == 0 && ((struct sweep *)ctx)->move_out)
		arena_delete();
	return 0;
}

once int bring_all(__u64 move_out)
{
	struct sweep sweep = {.move_out = move_out};
	void *arena = the_arena();
	__u64 n = geo()->max_entries;

	if (!arena)
		return 0;
	if (shm_is_hash(geo())) {
		n = shm_read(shm_at(arena, geo()->ctl_off + SHM_CTL_FRESH));
		if (n > geo()->n_nodes)
			n = geo()->n_nodes;
		bpf_for_each_map_elem(&carry_tool, drop_stale, &sweep, 0);
	}
	bpf_loop((__u32)n, bring_node, &sweep, 0);
	return 0;
}

/* ---- commands ---- */

/* The caller's memory may not be resident: the kernel's own read would wait for it, this one fails. */
once int read_key(__u64 from)
{
	struct scratch *s = the_scratch();

	return !s || bpf_probe_read_user(s->key, geo()->key_size, (void *)from) != 0;
}

once int read_value(__u64 from)
{
	struct scratch *s = the_scratch();
	__u32 last = geo()->value_room - 8;

	if (!s || last > SHM_MAX_VALUE - 8)
		return 1;
	/* The padding goes into the arena too. */
	*(volatile __u64 *)(s->value + last) = 0;
	return bpf_probe_read_user(s->value, geo()->value_size, (void *)from) != 0;
}

/* Values of all CPUs, from the caller to the key's entry. */
once int set_all_cpus(__u64 from)
{
	struct scratch *s = the_scratch();
	void *arena = the_arena();
	__u64 off = find();
	__u32 cpu, at;

	if (!s || !arena || !fits(off))
		return 0;
	for (cpu = 0; cpu < geo()->n_cpus; cpu++) {
		if (read_value(from + cpu * geo()->value_room))
			return 0;
		for (at = 0; at < geo()->value_room; at += 8)
			shm_write(shm_at(arena, off) + cpu * geo()->value_room + at,
				  *(volatile __u64 *)(s->value + at));
	}
	return 0;
}

once long apply_update(__u64 from, __u64 flags)
{
	long ret;

	if (read_value(from))
		return -SHM_EFAULT;
	ret = arena_update(flags);
	if (ret == 0 && shm_is_percpu(geo()))
		set_all_cpus(from);
	return ret;
}

/*
 * The kernel is about to insert the key: its map must have room exactly when the arena has. Other keys in it may be
 * stale, or not there yet. 0: it is so.
 */
once int uneven_room(void)
{
	struct scratch *s = the_scratch();
	void *arena = the_arena();

	if (!s || !arena)
		return 0;
	if (shm_read(shm_at(arena, geo()->ctl_off + SHM_CTL_COUNT)) >= geo()->max_entries)
		return 1;
	if (bpf_map_update_elem(&carry_tool, s->key, s->value, BPF_ANY))
		return 1;
	bpf_map_delete_elem(&carry_tool, s->key);
	return 0;
}

/* Brings the caller's key, and when stale keys leave no room for it, all. 0: the key is in the scratch buffer. */
once int bring_key(__u64 from)
{
	if (read_key(from))
		return 1;
	if (!bring())
		return 0;
	bring_all(0);
	return read_key(from);
}

static __always_inline int update(__u64 key, __u64 from, __u64 flags)
{
	if (flags > BPF_EXIST || bring_key(key))
		return 0;
	if (shm_is_hash(geo()) && flags != BPF_EXIST && !find() && uneven_room()) {
		bring_all(0);
		if (read_key(key))
			return 0;
	}
	apply_update(from, flags);
	return 0;
}

once __u64 hash_of_key(void)
{
	struct scratch *s = the_scratch();

	return s ? shm_hash(geo(), s->key) : 0;
}

static __always_inline int delete (__u64 key)
{
	if (!shm_is_hash(geo()) || bring_key(key))
		return 0;
	arena_delete();
	deleted_hash = hash_of_key();
	deleted_by = bpf_get_current_pid_tgid();
	return 0;
}

static __always_inline int lookup_and_delete(__u64 key)
{
	if (shm_is_hash(geo()) && !bring_key(key))
		arena_delete();
	return 0;
}

static long stop_at_first(struct bpf_map *map, const void *key, void *value, void *ctx)
{
	*(__u64 *)ctx = 1;
	return 1;
}

once int tool_has_key(void)
{
	struct scratch *s = the_scratch();

	return s && bpf_map_lookup_elem(&carry_tool, s->key);
}

/*
 * Without a key, or with one that is not there, the kernel begins at the beginning. A tool that goes through a map and
 * deletes as it goes asks with a key that it has just deleted: the map was brought when it began, and is again when it
 * has come to the end.
 */
static __always_inline int next_key(__u64 key)
{
	__u64 some = 0;

	if (!shm_is_hash(geo()))
		return 0;
	if (key && !read_key(key)) {
		if (tool_has_key())
			return 0;
		if (deleted_by == bpf_get_current_pid_tgid() && deleted_hash == hash_of_key()) {
			bpf_for_each_map_elem(&carry_tool, stop_at_first, &some, 0);
			if (some)
				return 0;
		}
	}
	return bring_all(0);
}

struct batch {
	__u64 keys, values;
	__u64 update;
};

static long batch_element(__u32 i, void *ctx)
{
	struct batch *b = ctx;
	__u64 stride = geo()->value_size;

	if (read_key(b->keys + (__u64)i * geo()->key_size))
		return 1;
	if (shm_is_percpu(geo()))
		stride = (__u64)geo()->value_room * geo()->n_cpus;
	/* The kernel stops at the first that fails, too. */
	if (b->update)
		return apply_update(b->values + i * stride, BPF_ANY) != 0;
	return arena_delete() != 0;
}

static __always_inline int batch(const struct carry_attr *a, __u64 is_update)
{
	struct batch b = {a->word[BATCH_KEYS], a->word[BATCH_VALUES], is_update};
	__u32 count = (__u32)a->word[BATCH_COUNT_FD];

	if (a->word[BATCH_ELEM_FLAGS] || (!is_update && !shm_is_hash(geo())))
		return 0;
	bring_all(0);
	bpf_loop(count < MAX_BATCH ? count : MAX_BATCH, batch_element, &b, 0);
	return 0;
}

static __always_inline int serve(const struct carry_attr *a, __u64 cmd)
{
	__u64 key = a->word[ELEM_KEY];

	switch (cmd) {
	case BPF_MAP_LOOKUP_ELEM:
		/* A key that cannot be read here can be read by the kernel: then it must find all. */
		return bring_key(key) ? bring_all(0) : 0;
	case BPF_MAP_GET_NEXT_KEY:
		return next_key(key);
	case BPF_MAP_UPDATE_ELEM:
		return update(key, a->word[ELEM_VALUE], a->word[ELEM_FLAGS]);
	case BPF_MAP_DELETE_ELEM:
		return delete (key);
	case BPF_MAP_LOOKUP_AND_DELETE_ELEM:
		return a->word[ELEM_FLAGS] ? 0 : lookup_and_delete(key);
	case BPF_MAP_LOOKUP_BATCH:
		return a->word[BATCH_IN] ? 0 : bring_all(0);
	case BPF_MAP_LOOKUP_AND_DELETE_BATCH:
		if (a->word[BATCH_IN] || a->word[BATCH_ELEM_FLAGS] || !shm_is_hash(geo()))
			return 0;
		return bring_all(1);
	case BPF_MAP_UPDATE_BATCH:
		return batch(a, 1);
	case BPF_MAP_DELETE_BATCH:
		return batch(a, 0);
	}
	return 0;
}

/* What the caller gave to bpf(), where the kernel has not copied it yet. */
static __always_inline void called(__u32 cmd, __u64 attr, __u64 size)
{
	struct carry_attr a = {};

	if (size > sizeof(a))
		size = sizeof(a);
	if (!bpf_probe_read_user(&a, size, (void *)attr))
		serve(&a, cmd);
}

/* Behind a tail call from the hook, in its place: for each way of hooking the same carrier; the daemon loads one. */

SEC("tracepoint/syscalls/sys_enter_bpf")
int carry_tracepoint(struct trace_event_raw_sys_enter *ctx)
{
	called(ctx->args[0], ctx->args[1], ctx->args[2]);
	return 0;
}

SEC("raw_tp/sys_enter")
int carry_raw(struct bpf_raw_tracepoint_args *ctx)
{
	struct pt_regs *regs = (struct pt_regs *)ctx->args[0];

	called(BPF_CORE_READ(regs, di), BPF_CORE_READ(regs, si), BPF_CORE_READ(regs, dx));
	return 0;
}

/* The kernel's own copy of the attributes, zero behind what the caller gave. Whatever happens here, the call goes on.
 */
SEC("lsm/bpf")
int BPF_PROG(carry_lsm, int cmd, union bpf_attr *attr)
{
	struct carry_attr a = {};

	if (!bpf_probe_read_kernel(&a, sizeof(a), attr))
		serve(&a, (__u32)cmd);
	return 0;
}
