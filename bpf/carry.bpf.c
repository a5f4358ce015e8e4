/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * carry.bpf.c: the carrier of one mirrored map: runs when bpf() is called on the map, before the kernel serves the
 * call, and when the call changes something, once more at its end.
 *
 * It makes the tool's map say what the arena says, as far as the call can see it, and does to the arena what the call
 * is about to do to the tool's map. Both then come to the same result, so the return code is the kernel's own.
 *
 *	read a key		bring that key
 *	start an iteration	bring the whole map
 *	update, delete		bring that key; change the arena likewise
 *	read and delete		take the entry out of the arena: its value moves into the tool's map
 *	the same in a batch	bring the whole map; do so with the entries that the kernel is about to come by
 *
 * Late: the caller's key or value may be in a page that is not resident. The kernel waits for it, a program here
 * cannot. Then the whole map is brought at the entry, and the arena is changed at the exit, if the kernel says that
 * it has done the call: the page is there now. What programs in userspace did to the key meanwhile is kept in per-CPU
 * maps, which are added to only; in others a value that changed meanwhile counts as written after the call.
 */
#include "carry_map.h"

#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define MAX_BATCH (1u << 20) /* elements of one batch that are followed */

/* Linux 7, include/uapi/linux/bpf.h: an update of a per-CPU map gives one value, for the CPU in the upper half, or for
 * all. */
#define FOR_CPU	 (1ull << 3) /* BPF_F_CPU */
#define FOR_ALL	 (1ull << 4) /* BPF_F_ALL_CPUS */
#define FOR_BOTH (FOR_CPU | FOR_ALL)
#define MODES	 ((__u64)(BPF_NOEXIST | BPF_EXIST))

/* Places in the attributes, in words: struct { map_fd; key; value; flags } and struct { in_batch; out_batch; ... }
 * batch. */
enum { ELEM_KEY = 1, ELEM_VALUE = 2, ELEM_FLAGS = 3 };
enum { BATCH_IN = 0, BATCH_KEYS = 2, BATCH_VALUES = 3, BATCH_COUNT_FD = 4, BATCH_ELEM_FLAGS = 5, BATCH_FLAGS = 6 };

/* ---- calls from entry to exit ---- */

static long try_hold(__u32 i, void *ctx)
{
	struct wait *w = ctx;

	look(i, w);
	if (!w->free)
		return bpf_ktime_get_ns() > w->until;
	*(volatile __u64 *)&holder = bpf_get_current_pid_tgid();
	*(volatile __u64 *)&held_since = bpf_ktime_get_ns();
	unlock(w->got);
	return 1;
}

static __always_inline void let_go(void)
{
	__u64 got = lock();

	if (*(volatile __u64 *)&holder == bpf_get_current_pid_tgid())
		*(volatile __u64 *)&holder = 0;
	unlock(got);
}

/* A call that was noted by a carrier in this place before us is none of ours. */
static __always_inline void end_change(void)
{
	if (*(volatile __u64 *)&ended < *(volatile __u64 *)&begun)
		__sync_fetch_and_add(&ended, 1);
	let_go();
}

/*
 * The caller's call changes the map from here to its exit, where note() has him met. 1: he holds it. Who gets tired
 * while the daemon does cannot be sure on which side of the turn he is.
 */
once int hold(void)
{
	struct scratch *s = the_scratch();
	struct wait w = {};

	if (!s)
		return 0;
	w.until = s->until;
	bpf_loop(MAX_WAIT, try_hold, &w, 0);
	if (!w.free && *(volatile __u32 *)&sealed)
		__sync_fetch_and_add(&missed, 1);
	__sync_fetch_and_add(&begun, 1);
	return w.free != 0;
}

once int note(void)
{
	__u64 caller = bpf_get_current_pid_tgid();
	struct scratch *s = the_scratch();

	if (s && bpf_map_update_elem(&carry_calls, &caller, &s->call, BPF_ANY)) {
		if (s->call.late)
			__sync_fetch_and_add(&missed, 1);
		end_change();
	}
	return 0;
}

/* Holding the map: the tool's map is the truth, and the kernel's call all that is to be done. */
static __always_inline int pass(struct scratch *s)
{
	s->call.passes = 1;
	return note();
}

static __always_inline struct carry_call *noted(void)
{
	__u64 caller = bpf_get_current_pid_tgid();

	return bpf_map_lookup_elem(&carry_calls, &caller);
}

static __always_inline int forget(void)
{
	__u64 caller = bpf_get_current_pid_tgid();

	bpf_map_delete_elem(&carry_calls, &caller);
	return 0;
}

/* Nothing was done at the entry. */
static __always_inline void note_late(struct scratch *s)
{
	s->call.late = 1;
	bring_all();
	note();
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

/* The flags of an update are of one value for a key of a per-CPU map. */
static __always_inline int gives_one(__u64 flags)
{
	return shm_is_percpu(geo()) && (flags & FOR_BOTH);
}

/* 0: all values that the caller gives for one key can be read. */
once int values_unreadable(__u64 from, __u64 flags)
{
	__u32 cpu;

	if (gives_one(flags))
		return read_value(from);
	for (cpu = 0; cpu < geo()->n_cpus; cpu++)
		if (read_value(from + cpu * geo()->value_room))
			return 1;
	return 0;
}

/* Values of all CPUs that the flags name, from the caller to the key's entry. */
once int set_cpus(__u64 from, __u64 flags)
{
	struct scratch *s = the_scratch();
	void *arena = the_arena();
	__u64 off = find();
	__u32 cpu, at;

	if (!s || !arena || !fits(off))
		return 0;
	for (cpu = 0; cpu < geo()->n_cpus; cpu++) {
		if ((flags & FOR_CPU) && cpu != flags >> 32)
			continue;
		if (read_value(gives_one(flags) ? from : from + cpu * geo()->value_room))
			return 0;
		for (at = 0; at < geo()->value_room; at += 8)
			shm_write(shm_at(arena, off) + cpu * geo()->value_room + at,
				  *(volatile __u64 *)(s->value + at));
	}
	return 0;
}

/* BPF_ANY, BPF_NOEXIST or BPF_EXIST, with FOR_CPU or FOR_ALL where the kernel has accepted them. */
once long apply_update(__u64 from, __u64 flags)
{
	struct scratch *s = the_scratch();
	long ret;

	if (!s || values_unreadable(from, flags) || read_value(from))
		return -SHM_EFAULT;
	if (flags & FOR_CPU) {
		/* A new entry is zero for the others; one that is there keeps what they have. */
		zero_value(s);
		ret = arena_update(BPF_NOEXIST);
		if (ret == -SHM_EEXIST)
			ret = 0;
	} else {
		ret = arena_update(flags & MODES);
	}
	if (ret == 0 && shm_is_percpu(geo()))
		set_cpus(from, flags);
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
	bring_all();
	return read_key(from);
}

/* A program was faster than the caller: the kernel must find what the arena found. */
static __always_inline void agree(long ret, __u64 flags)
{
	if (ret == -SHM_E2BIG)
		bring_all();
	else if (ret || flags == BPF_EXIST)
		bring();
	else if (flags == BPF_NOEXIST)
		tool_delete();
}

static __always_inline int update(struct scratch *s, __u64 key, __u64 from, __u64 flags)
{
	hold();
	if (!is_open())
		return pass(s);
	/* Of other flags the kernel knows whether it accepts them; so do we at the exit. */
	if (flags > BPF_EXIST || values_unreadable(from, flags) || bring_key(key)) {
		note_late(s);
		return 0;
	}
	if (shm_is_hash(geo()) && flags != BPF_EXIST && !find() && uneven_room()) {
		bring_all();
		if (read_key(key)) {
			note_late(s);
			return 0;
		}
	}
	agree(apply_update(from, flags), flags);
	return note();
}

once __u64 hash_of_key(void)
{
	struct scratch *s = the_scratch();

	return s ? shm_hash(geo(), s->key) : 0;
}

/* Out of the arena, and into the tool's map: there it is found and deleted by the kernel. -SHM_ENOENT: no such key. */
static __always_inline long move_out(void)
{
	struct scratch *s = the_scratch();
	__u64 off = s ? take(s) : 0;

	if (!off)
		return -SHM_ENOENT;
	copy_out(off, 1);
	take_end();
	return 0;
}

static __always_inline int delete (struct scratch *s, __u64 key)
{
	if (!shm_is_hash(geo()))
		return 0;
	hold();
	if (!is_open())
		return pass(s);
	if (bring_key(key)) {
		note_late(s);
		return 0;
	}
	deleted_hash = hash_of_key();
	deleted_by = bpf_get_current_pid_tgid();
	if (move_out())
		tool_delete();
	return note();
}

static __always_inline int lookup_and_delete(struct scratch *s, __u64 key)
{
	int has;

	if (!shm_is_hash(geo()))
		return 0;
	has = hold();
	if (!is_open())
		return pass(s);
	/* Who does not hold the map gets what the tool's map has, and settles it afterwards. */
	if (!has || bring_key(key)) {
		note_late(s);
		return 0;
	}
	if (move_out())
		tool_delete();
	return note();
}

static long stop_at_first(struct bpf_map *map, const void *key, void *value, void *ctx)
{
	*(__u64 *)ctx = 1;
	return 1;
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
	return bring_all();
}

/* ---- batches ---- */

/* Bytes that the caller has for the values of one key. */
static __always_inline __u64 values_stride(__u64 flags)
{
	return shm_is_percpu(geo()) && !gives_one(flags) ? (__u64)geo()->value_room * geo()->n_cpus : geo()->value_size;
}

/*
 * One element of an update or a delete, from the entry (0) or, when the kernel has done it already, from the exit (1).
 * 1: cannot be read here; 2: failed, and the kernel stops there, too.
 */
once int batch_element(__u64 i, __u64 is_late)
{
	struct scratch *s = the_scratch();
	long ret;

	if (!s || read_key(s->call.key + i * geo()->key_size))
		return 1;
	if (s->call.cmd == BPF_MAP_UPDATE_BATCH) {
		ret = apply_update(s->call.value + i * values_stride(s->call.flags), s->call.flags & ~MODES);
		return ret == -SHM_EFAULT ? 1 : ret != 0 ? 2 : 0;
	}
	if (is_late)
		ret = arena_delete();
	else
		ret = move_out();
	return ret && !is_late ? 2 : 0;
}

static long batch_at_entry(__u32 i, void *ctx)
{
	struct scratch *s = the_scratch();
	int ret = batch_element(i, 0);

	if (!s)
		return 1;
	if (ret != 1)
		s->call.done = i + 1;
	return ret != 0;
}

static __always_inline int batch_change(struct scratch *s, __u32 count)
{
	if (s->call.cmd == BPF_MAP_DELETE_BATCH && (s->call.flags || !shm_is_hash(geo())))
		return 0;
	hold();
	if (!is_open())
		return pass(s);
	s->call.planned = count;
	if (s->call.flags) {
		note_late(s);
		return 0;
	}
	bring_all();
	bpf_loop(count < MAX_BATCH ? count : MAX_BATCH, batch_at_entry, NULL, 0);
	/* What could not be read here is done at the exit. */
	s->call.late = 1;
	return note();
}

/* The bucket in which the kernel has a key of its map, seen from the key in its entry. */
static __always_inline __u32 bucket_of(const void *key)
{
	__u32 hash = 0, mask = geo()->max_entries - 1;

	bpf_probe_read_kernel(
		&hash, sizeof(hash),
		key - (bpf_core_field_offset(struct htab_elem, key) - bpf_core_field_offset(struct htab_elem, hash)));
	mask |= mask >> 1;
	mask |= mask >> 2;
	mask |= mask >> 4;
	mask |= mask >> 8;
	mask |= mask >> 16;
	return hash & mask;
}

/* What the kernel hands out in one call: whole buckets in their order, as long as they fit. */
struct drain {
	__u32 first, end; /* buckets */
	__u32 room;
	__u32 whole;	 /* entries of the buckets before this one */
	__u32 bucket, n; /* and in this one until now */
	__u32 pad;
};

static long plan_drain(struct bpf_map *map, const void *key, void *value, void *ctx)
{
	__u32 bucket = bucket_of(key);
	struct drain *d = ctx;

	if (bucket < d->first)
		return 0;
	if (bucket != d->bucket) {
		d->whole += d->n;
		d->n = 0;
		d->bucket = bucket;
	}
	if (++d->n <= d->room - d->whole)
		return 0;
	d->end = bucket;
	d->n = 0;
	return 1;
}

static long drain_one(struct bpf_map *map, const void *key, void *value, void *ctx)
{
	struct scratch *s = the_scratch();
	__u32 bucket = bucket_of(key);
	struct drain *d = ctx;

	if (!s || bucket >= d->end)
		return 1;
	if (bucket < d->first)
		return 0;
	set_key(s, key);
	move_out();
	return 0;
}

static __always_inline int drain(struct scratch *s, __u64 in_batch, __u32 count)
{
	struct drain d = {.end = ~0u, .room = count, .bucket = ~0u};
	int has;

	if (s->call.flags || !count || !shm_is_hash(geo()))
		return 0;
	s->call.planned = count;
	has = hold();
	if (!is_open())
		return pass(s);
	if (!has || (in_batch && bpf_probe_read_user(&d.first, sizeof(d.first), (void *)in_batch))) {
		note_late(s);
		return 0;
	}
	bring_all();
	bpf_for_each_map_elem(&carry_tool, plan_drain, &d, 0);
	bpf_for_each_map_elem(&carry_tool, drain_one, &d, 0);
	s->call.bucket = d.first;
	s->call.end = d.end;
	s->call.planned = d.whole + d.n;
	return note();
}

/* ---- at the exit ---- */

/* The entry in the tool's map has moved out of the arena, but was not handed out: back. */
once int put_back(void)
{
	struct scratch *s = the_scratch();
	__u32 cpu, at;
	void *from;

	if (!s)
		return 0;
	if (shm_is_percpu(geo())) {
		for (cpu = 0; cpu < geo()->n_cpus; cpu++) {
			for (at = 0; at < geo()->value_room; at += 8) {
				__u64 word;

				from = bpf_map_lookup_percpu_elem(&carry_tool, s->key, cpu);
				if (!from)
					return 0;
				word = 0;
				bpf_probe_read_kernel(&word, geo()->value_size - at < 8 ? geo()->value_size - at : 8,
						      from + at);
				add_word(cpu * geo()->value_room + at, word);
			}
		}
		return 0;
	}
	from = bpf_map_lookup_elem(&carry_tool, s->key);
	if (!from)
		return 0;
	zero_value(s);
	for (at = 0; at < geo()->value_size; at++)
		*(volatile __u8 *)(s->value + at) = *(volatile __u8 *)(from + at);
	arena_update(BPF_NOEXIST);
	return 0;
}

static long put_back_one(struct bpf_map *map, const void *key, void *value, void *ctx)
{
	struct scratch *s = the_scratch();
	__u32 bucket = bucket_of(key);

	if (!s || bucket >= s->call.end)
		return 1;
	if (bucket < s->call.bucket)
		return 0;
	set_key(s, key);
	put_back();
	return 0;
}

/* What is left of a value after the caller's part of it; in a plain map, how it differs from that. 0: nothing. */
once __u64 value_left(__u64 off)
{
	struct scratch *s = the_scratch();
	void *arena = the_arena();
	__u64 left = 0;
	__u32 at;

	if (!s || !arena || !fits(off))
		return 1;
	if (shm_is_percpu(geo())) {
		for (at = 0; at < geo()->n_cpus * geo()->value_room; at += 8)
			left |= shm_read(shm_at(arena, off) + at);
		return left;
	}
	for (at = 0; at < geo()->value_room; at += 8)
		left |= shm_read(shm_at(arena, off) + at) ^ *(volatile __u64 *)(s->value + at);
	return left;
}

once int subtract(__u64 off, __u64 from)
{
	struct scratch *s = the_scratch();
	void *arena = the_arena();
	__u32 cpu, at;

	off &= ~7ull;
	if (!s || !arena || !fits(off))
		return 0;
	for (cpu = 0; cpu < geo()->n_cpus; cpu++) {
		if (read_value(from + cpu * geo()->value_room))
			return 0;
		for (at = 0; at < geo()->value_room; at += 8)
			shm_fetch_add(shm_at(arena, off) + cpu * geo()->value_room + at,
				      -*(volatile __u64 *)(s->value + at));
	}
	return 0;
}

/* The kernel has handed out and deleted this: out of the arena with it, but not with what has come since. */
once int move_out_late(__u64 key, __u64 values)
{
	struct scratch *s = the_scratch();
	__u64 off;

	if (!s || read_key(key) || values_unreadable(values, BPF_ANY)) {
		__sync_fetch_and_add(&missed, 1);
		return 0;
	}
	off = find();
	if (!fits(off))
		return 0;
	if (shm_is_percpu(geo()))
		subtract(off, values);
	if (value_left(off))
		return 0;
	if (take(s))
		take_end();
	return 0;
}

static long late_element(__u32 i, void *ctx)
{
	struct scratch *s = the_scratch();
	__u64 n = i;

	if (!s)
		return 1;
	if (s->call.cmd == BPF_MAP_LOOKUP_AND_DELETE_BATCH) {
		move_out_late(s->call.key + n * geo()->key_size, s->call.value + n * values_stride(s->call.flags));
		return 0;
	}
	n += s->call.done;
	if (batch_element(n, 1) == 1)
		__sync_fetch_and_add(&missed, 1);
	return 0;
}

/* Elements that the kernel says it has served. */
static __always_inline __u32 batch_served(const struct scratch *s)
{
	__u32 n = 0;

	bpf_probe_read_user(&n, sizeof(n), (void *)(s->call.uattr + offsetof(union bpf_attr, batch.count)));
	return n < MAX_BATCH ? n : MAX_BATCH;
}

static __always_inline void leave_batch(struct scratch *s, long ret)
{
	__u32 n = batch_served(s);

	if (s->call.cmd == BPF_MAP_LOOKUP_AND_DELETE_BATCH && !s->call.late) {
		if ((ret && ret != -SHM_ENOENT) || n != s->call.planned)
			bpf_for_each_map_elem(&carry_tool, put_back_one, NULL, 0);
	} else if (n > s->call.done && (!ret || ret == -SHM_ENOENT || n < s->call.planned)) {
		/* After other failures the number can be the caller's own still. */
		bpf_loop(n - s->call.done, late_element, NULL, 0);
	}
}

static __always_inline void leave_one(struct scratch *s, long ret)
{
	if (s->call.cmd == BPF_MAP_LOOKUP_AND_DELETE_ELEM && !s->call.late) {
		/* Failed, and not because there was nothing: it may be there still. */
		if (ret && ret != -SHM_ENOENT && !read_key(s->call.key))
			put_back();
		return;
	}
	if (!s->call.late || ret)
		return;
	if (s->call.cmd == BPF_MAP_LOOKUP_AND_DELETE_ELEM) {
		move_out_late(s->call.key, s->call.value);
		return;
	}
	if (read_key(s->call.key)) {
		__sync_fetch_and_add(&missed, 1);
		return;
	}
	if (s->call.cmd == BPF_MAP_DELETE_ELEM)
		arena_delete();
	else if (apply_update(s->call.value, s->call.flags & ~MODES) == -SHM_EFAULT)
		__sync_fetch_and_add(&missed, 1);
}

static __always_inline int serve(struct scratch *s)
{
	const struct carry_attr *a = &s->attr;
	__u64 key = a->word[ELEM_KEY];
	__u32 count = (__u32)a->word[BATCH_COUNT_FD];

	s->call.key = key;
	s->call.value = a->word[ELEM_VALUE];
	s->call.flags = a->word[ELEM_FLAGS];
	switch (s->call.cmd) {
	case BPF_MAP_LOOKUP_ELEM:
		/* A key that cannot be read here can be read by the kernel: then it must find all. */
		return is_open() && bring_key(key) ? bring_all() : 0;
	case BPF_MAP_GET_NEXT_KEY:
		return is_open() ? next_key(key) : 0;
	case BPF_MAP_UPDATE_ELEM:
		return update(s, key, s->call.value, s->call.flags);
	case BPF_MAP_DELETE_ELEM:
		return delete (s, key);
	case BPF_MAP_LOOKUP_AND_DELETE_ELEM:
		return s->call.flags ? 0 : lookup_and_delete(s, key);
	case BPF_MAP_LOOKUP_BATCH:
		return is_open() ? bring_all() : 0;
	}
	s->call.key = a->word[BATCH_KEYS];
	s->call.value = a->word[BATCH_VALUES];
	s->call.flags = a->word[BATCH_ELEM_FLAGS];
	switch (s->call.cmd) {
	case BPF_MAP_LOOKUP_AND_DELETE_BATCH:
		s->call.flags |= a->word[BATCH_FLAGS];
		return drain(s, a->word[BATCH_IN], count);
	case BPF_MAP_UPDATE_BATCH:
	case BPF_MAP_DELETE_BATCH:
		return batch_change(s, count);
	}
	return 0;
}

static __always_inline int enter_call(struct scratch *s, __u32 cmd, __u64 uattr)
{
	__builtin_memset(&s->call, 0, sizeof(s->call));
	s->call.place = carry_place;
	s->call.cmd = cmd;
	s->call.uattr = uattr;
	return serve(s);
}

/* What the caller gave to bpf(), where the kernel has not copied it yet. */
static __always_inline int enter_by_user(struct scratch *s, __u32 cmd, __u64 uattr, __u64 size)
{
	__builtin_memset(&s->attr, 0, sizeof(s->attr));
	if (size > sizeof(s->attr))
		size = sizeof(s->attr);
	if (bpf_probe_read_user(&s->attr, size, (void *)uattr))
		return 0;
	return enter_call(s, cmd, uattr);
}

static __always_inline int leave_call(struct scratch *s, const struct carry_call *call, long ret)
{
	s->call = *call;
	switch (s->call.passes ? 0 : s->call.cmd) {
	case 0:
		break;
	case BPF_MAP_LOOKUP_AND_DELETE_BATCH:
	case BPF_MAP_UPDATE_BATCH:
	case BPF_MAP_DELETE_BATCH:
		leave_batch(s, ret);
		break;
	default:
		leave_one(s, ret);
	}
	end_change();
	return forget();
}

static __always_inline struct scratch *begin(void)
{
	struct scratch *s = the_scratch();

	if (s)
		s->until = bpf_ktime_get_ns() + PATIENCE_NS;
	return s;
}

/*
 * Behind a tail call from the hook, in its place: for each way of hooking the same carrier; the daemon loads one. It is
 * one program for entry and exit where both are of one type, because the kernel takes its time to verify it. A call
 * that has been noted is at its exit.
 */

SEC("tracepoint/syscalls/sys_enter_bpf")
int carry_tracepoint(struct trace_event_raw_sys_enter *ctx)
{
	struct carry_call *call = noted();
	struct scratch *s = begin();

	if (!s)
		return 0;
	if (!call)
		return enter_by_user(s, ctx->args[0], ctx->args[1], (__u32)ctx->args[2]);
	return leave_call(s, call, *(long *)((void *)ctx + offsetof(struct trace_event_raw_sys_exit, ret)));
}

SEC("raw_tp/sys_enter")
int carry_raw(struct bpf_raw_tracepoint_args *ctx)
{
	struct pt_regs *regs = (struct pt_regs *)ctx->args[0];
	struct carry_call *call = noted();
	struct scratch *s = begin();

	if (!s)
		return 0;
	if (!call)
		return enter_by_user(s, BPF_CORE_READ(regs, di), BPF_CORE_READ(regs, si),
				     (__u32)BPF_CORE_READ(regs, dx));
	return leave_call(s, call, (long)ctx->args[1]);
}

/*
 * The kernel's own copy of the attributes, zero behind what the caller gave; where the caller's are is known at the
 * exit only.
 */
static __always_inline void enter_by_kernel(int cmd, const union bpf_attr *attr)
{
	struct scratch *s = begin();

	if (s && !bpf_probe_read_kernel(&s->attr, sizeof(s->attr), attr))
		enter_call(s, cmd, 0);
}

static __always_inline void leave_by_kernel(const struct pt_regs *regs, long ret)
{
	struct carry_call *call = noted();
	struct scratch *s = begin();

	if (!s || !call)
		return;
	call->uattr = BPF_CORE_READ(regs, si);
	leave_call(s, call, ret);
}

/* Whatever happens here, the call goes on. */
SEC("lsm/bpf")
int BPF_PROG(carry_lsm, int cmd, union bpf_attr *attr)
{
	enter_by_kernel(cmd, attr);
	return 0;
}

SEC("fexit/__x64_sys_bpf")
int BPF_PROG(carry_lsm_exit, const struct pt_regs *regs, long ret)
{
	leave_by_kernel(regs, ret);
	return 0;
}

/*
 * The same where the kernel preempts these programs and they can keep it from that themselves (Linux 6.10): for all of
 * what is done with the lock and the scratch buffer.
 */
extern void bpf_preempt_disable(void) __ksym __weak;
extern void bpf_preempt_enable(void) __ksym __weak;

SEC("lsm/bpf")
int BPF_PROG(carry_lsm_alone, int cmd, union bpf_attr *attr)
{
	bpf_preempt_disable();
	enter_by_kernel(cmd, attr);
	bpf_preempt_enable();
	return 0;
}

SEC("fexit/__x64_sys_bpf")
int BPF_PROG(carry_lsm_exit_alone, const struct pt_regs *regs, long ret)
{
	bpf_preempt_disable();
	leave_by_kernel(regs, ret);
	bpf_preempt_enable();
	return 0;
}

/* By the daemon, which is not interrupted here: it holds the map, if nobody is changing it: 0. */
SEC("raw_tp")
int carry_seal(struct bpf_raw_tracepoint_args *ctx)
{
	__u64 got = lock();
	int free = got && !held_by_other() && *(volatile __u64 *)&begun == *(volatile __u64 *)&ended;

	if (free) {
		*(volatile __u64 *)&holder = bpf_get_current_pid_tgid();
		*(volatile __u64 *)&held_since = bpf_ktime_get_ns();
		*(volatile __u32 *)&sealed = ctx->args[0];
	}
	unlock(got);
	return !free;
}
