// SPDX-License-Identifier: MIT
/*
 * helpers.c: the kernel's helper functions as compiled programs call them in a target. LLVM bitcode, linked into each
 * program and inlined; bpftime_maps[] is a constant of that program, so that a map operation folds to what its map
 * needs.
 *
 * Names and numbers are those of enum bpf_func_id. What is not here is not carried, and a program that calls it stays
 * in the kernel: so what cannot be exact must not be here. Memory of the target is read by the kernel (service calls),
 * for only the kernel can try a pointer without a fault.
 */
#include <linux/types.h>

#include "agent/ask.h"
#include "shm-runtime/shm_map.h"

/* Errors and flags as the kernel's (asm-generic/errno-base.h, linux/bpf.h). */
#define E_2BIG	       (-7)
#define E_FAULT	       (-14)
#define E_EXIST	       (-17)
#define E_INVAL	       (-22)
#define UPDATE_NOEXIST 1
#define UPDATE_EXIST   2

#define TASK_SIZE      0x7ffffffff000ull /* arch/x86/include/asm/page_64_types.h, four-level page tables */
#define TASK_COMM      16
#define STR_CHUNK      (AGENT_REPLY_SIZE - 8) /* characters: keeps the kernel's word-wise copy in step */
#define VDSO_MONOTONIC 1
#define VDSO_BOOTTIME  7
#define NSEC_PER_SEC   1000000000ull

extern const struct shm_geo bpftime_maps[];

#define HELPER(n)                                                                                                      \
	__u64 bpf_helper_##n(struct agent_env *env, __u64 r1, __u64 r2, __u64 r3, __u64 r4, __u64 r5);                 \
	__u64 bpf_helper_##n(struct agent_env *env, __u64 r1, __u64 r2, __u64 r3, __u64 r4, __u64 r5)

__u64 bpf_map_value(struct agent_env *env, __u32 map, __u32 off);

static __always_inline struct agent_target *target_of(const struct agent_env *env)
{
	return (struct agent_target *)env->target;
}

/* ---- maps ---- */

/* The tool's own array, mapped: what the kernel's array_map_lookup_elem() would give. */
static __always_inline char *direct_lookup(const struct agent_env *env, const struct shm_geo *g, const void *key)
{
	__u32 index = *(const __u32 *)key;

	return index < g->max_entries ? (char *)env->direct[g->seed] + (__u64)index * g->value_room : 0;
}

/* array_map_update_elem() in kernel/bpf/arraymap.c. */
static __always_inline long direct_update(const struct agent_env *env, const struct shm_geo *g, const void *key,
					  const void *value, __u64 flags)
{
	char *to = direct_lookup(env, g, key);

	if (flags > UPDATE_EXIST)
		return E_INVAL;
	if (!to)
		return E_2BIG;
	if (flags == UPDATE_NOEXIST)
		return E_EXIST;
	for (__u32 i = 0; i < g->value_size; i++)
		((volatile char *)to)[i] = ((const char *)value)[i];
	return 0;
}

__u64 bpf_map_value(struct agent_env *env, __u32 map, __u32 off)
{
	const struct shm_geo *g = &bpftime_maps[map];

	return (g->kind == SHM_DIRECT ? env->direct[g->seed] : env->arena + g->nodes_off) + off;
}

/* Which value of a map is this hit's: only per-CPU maps have more than one. */
static __always_inline __u32 value_index(const struct agent_env *env, const struct shm_geo *g)
{
	return shm_is_percpu(g) ? agent_cpu(target_of(env)) : 0;
}

HELPER(1) /* map_lookup_elem(map, key) */
{
	const struct shm_geo *g = &bpftime_maps[r1];

	if (g->kind == SHM_DIRECT)
		return (__u64)direct_lookup(env, g, (void *)r2);
	return (__u64)shm_map_lookup((void *)env->arena, g, (void *)r2, value_index(env, g));
}

HELPER(2) /* map_update_elem(map, key, value, flags) */
{
	const struct shm_geo *g = &bpftime_maps[r1];

	if (g->kind == SHM_DIRECT)
		return direct_update(env, g, (void *)r2, (void *)r3, r4);
	return shm_map_update((void *)env->arena, g, (void *)r2, (void *)r3, r4, value_index(env, g));
}

HELPER(3) /* map_delete_elem(map, key) */
{
	const struct shm_geo *g = &bpftime_maps[r1];

	if (g->kind == SHM_DIRECT)
		return E_INVAL;
	return shm_map_delete((void *)env->arena, g, (void *)r2);
}

HELPER(65537) /* VM_HELPER_MAP_ADD(map, key, &delta), see vm-llvm/additive.h */
{
	const struct shm_geo *g = &bpftime_maps[r1];
	__u64 delta = *(const __u64 *)r3;

	if (g->kind == SHM_DIRECT) {
		char *to = direct_lookup(env, g, (void *)r2);

		if (!to)
			return E_2BIG;
		__atomic_fetch_add((__u64 *)to, delta, __ATOMIC_RELAXED);
		return 0;
	}
	return shm_map_add((void *)env->arena, g, (void *)r2, delta, value_index(env, g));
}

/* ---- memory of the target ---- */

static __always_inline void zero(char *to, __u64 n)
{
	for (__u64 i = 0; i < n; i++)
		((volatile char *)to)[i] = 0;
}

static __always_inline void copy(char *to, const char *from, __u64 n)
{
	for (__u64 i = 0; i < n; i++)
		((volatile char *)to)[i] = from[i];
}

/* bpf_probe_read_user_common(): all or nothing, and zeroes for nothing. */
static __attribute__((noinline)) __u64 read_user(struct agent_env *env, char *to, __u64 size, __u64 from)
{
	struct agent_target *t = target_of(env);
	__u32 slot = agent_begin(t, env->fork_page);
	__s64 result = 0;
	__u64 at, n;

	if (from > TASK_SIZE || size > TASK_SIZE - from)
		result = E_FAULT;
	for (at = 0; at < size && !result; at += n) {
		n = size - at < AGENT_REPLY_SIZE ? size - at : AGENT_REPLY_SIZE;
		result = agent_call(t, env->service, slot, AGENT_OP_READ_USER, from + at, n);
		if (!result)
			copy(to + at, (const char *)agent_slot(t, slot)->reply, n);
	}
	agent_done(t, slot);
	if (result)
		zero(to, size);
	return result;
}

/*
 * strncpy_from_user() (lib/strncpy_from_user.c) copies words and so also zeroes what is behind the NUL in its word, as
 * far as the buffer goes in whole words.
 */
static __always_inline void pad_word(char *to, __u64 size, __u64 nul)
{
	__u64 word_end = (nul & ~7ull) + 8;

	if (word_end <= size)
		zero(to + nul + 1, word_end - nul - 1);
}

/* bpf_probe_read_user_str_common(): length with the NUL, or -EFAULT and zeroes. */
static __attribute__((noinline)) __u64 read_user_str(struct agent_env *env, char *to, __u64 size, __u64 from)
{
	struct agent_target *t = target_of(env);
	__u32 slot = agent_begin(t, env->fork_page);
	__s64 result = 0;
	__u64 at = 0;

	while (at < size) {
		__u64 room = size - at < STR_CHUNK + 1 ? size - at : STR_CHUNK + 1, n;

		result = agent_call(t, env->service, slot, AGENT_OP_READ_USER_STR, from + at, room);
		if (result <= 0)
			break;
		n = (__u64)result;
		copy(to + at, (const char *)agent_slot(t, slot)->reply, n);
		result = (__s64)(at + n);
		/* A full chunk is either a longer string or one that ends right here; the next call tells. */
		if (n < room || room < STR_CHUNK + 1 || at + n == size) {
			pad_word(to, size, at + n - 1);
			break;
		}
		at += STR_CHUNK;
	}
	agent_done(t, slot);
	if (result < 0)
		zero(to, size);
	return result;
}

/* The old forms read either memory. Kernel memory is not for targets: see AGENT_TARGET_KERNEL_READ. */
static __always_inline int is_kernel_address(struct agent_env *env, char *to, __u64 size, __u64 from)
{
	if (from < TASK_SIZE)
		return 0;
	__atomic_fetch_or(&target_of(env)->flags, AGENT_TARGET_KERNEL_READ, __ATOMIC_RELAXED);
	zero(to, size);
	return 1;
}

HELPER(4) /* probe_read(dst, size, src) */
{
	return is_kernel_address(env, (char *)r1, (__u32)r2, r3) ? E_FAULT : read_user(env, (char *)r1, (__u32)r2, r3);
}

HELPER(45) /* probe_read_str(dst, size, src) */
{
	return is_kernel_address(env, (char *)r1, (__u32)r2, r3) ? E_FAULT
								 : read_user_str(env, (char *)r1, (__u32)r2, r3);
}

HELPER(112) /* probe_read_user(dst, size, src) */
{
	return read_user(env, (char *)r1, (__u32)r2, r3);
}

HELPER(114) /* probe_read_user_str(dst, size, src) */
{
	return read_user_str(env, (char *)r1, (__u32)r2, r3);
}

/* ---- time ---- */

static __always_inline __u64 read_clock(struct agent_env *env, int clock, __u64 op)
{
	struct {
		__s64 sec, nsec;
	} ts;

	if (!env->vdso_gettime || ((int (*)(int, void *))env->vdso_gettime)(clock, &ts))
		return agent_ask(target_of(env), env->service, env->fork_page, op, 0);
	return (__u64)ts.sec * NSEC_PER_SEC + (__u64)ts.nsec;
}

HELPER(5) /* ktime_get_ns() */
{
	return read_clock(env, VDSO_MONOTONIC, AGENT_OP_KTIME);
}

HELPER(125) /* ktime_get_boot_ns() */
{
	return read_clock(env, VDSO_BOOTTIME, AGENT_OP_KTIME_BOOT);
}

/* ---- who and where ---- */

HELPER(8) /* get_smp_processor_id() */
{
	return agent_cpu(target_of(env));
}

HELPER(14) /* get_current_pid_tgid() */
{
	struct agent_target *t = target_of(env);
	const struct agent_thread *self = agent_self(t, env->service, env->fork_page);

	return self ? self->pid_tgid : (__u64)agent_ask(t, env->service, env->fork_page, AGENT_OP_PID_TGID, 0);
}

HELPER(15) /* get_current_uid_gid() */
{
	return agent_ask(target_of(env), env->service, env->fork_page, AGENT_OP_UID_GID, 0);
}

/* strscpy_pad() of a name that is always terminated. */
static __always_inline void put_comm(char *to, __u32 size, const char *comm)
{
	__u32 i = 0;

	for (; i + 1 < size && i + 1 < TASK_COMM && comm[i]; i++)
		((volatile char *)to)[i] = comm[i];
	zero(to + i, size - i);
}

HELPER(16) /* get_current_comm(buf, size) */
{
	struct agent_target *t = target_of(env);
	const struct agent_thread *self = agent_self(t, env->service, env->fork_page);
	__u32 slot;

	if (self) {
		put_comm((char *)r1, (__u32)r2, self->comm);
		return 0;
	}
	slot = agent_begin(t, env->fork_page);
	agent_call(t, env->service, slot, AGENT_OP_COMM, 0, 0);
	put_comm((char *)r1, (__u32)r2, (const char *)agent_slot(t, slot)->reply);
	agent_done(t, slot);
	return 0;
}

HELPER(173) /* get_func_ip(ctx) */
{
	return env->func_ip;
}

HELPER(174) /* get_attach_cookie(ctx) */
{
	return env->cookie;
}
