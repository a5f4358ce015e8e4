/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * carry_hook.bpf.c: at the entry of bpf(): does this call concern a mirrored map? If so, its carrier takes over.
 *
 * The descriptor is resolved as the kernel will do it, through the caller's open files, so that duplicates, pinned maps
 * and maps opened by id are all seen. A mirrored map is known by its address: the daemon holds the map, so that no
 * other object can have it; that the file is a map at all is known by its operations, learnt once from a map of the
 * daemon.
 *
 * There are three ways to be at the entry of bpf(), of which the daemon loads one (kernel_features__hook()): the
 * system call's tracepoint, the raw tracepoint of all system calls, and the LSM hook. In all three the carrier runs
 * with the processor to itself: it is not to be preempted while it holds the map's lock and the processor's scratch
 * buffer. At the LSM hook a second program, which may sleep, comes first and makes resident what the carrier will read
 * of the caller's memory; a program that may sleep can be no carrier itself, since it may neither call another one
 * (PROG_ARRAY) nor keep others off the processor.
 *
 * Calls that change something are met again at their end: the carrier has noted them. There the hook is the exit's
 * tracepoint of the same kind, and where the entry is the LSM hook, the end of the kernel's function (fexit).
 */
#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "carry.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* include/linux/fs.h */
#define FMODE_CAN_READ	0x20000
#define FMODE_CAN_WRITE 0x40000

enum { NR_BPF = 321, USER_CS_64 = 0x33, PAGE_SIZE = 4096 };

#define ATTR_SIZE   64		/* as far as the commands on maps go */
#define MAX_TOUCHED (64u << 20) /* what a call may give to be made resident */

const volatile __u32 n_cpus;

__u32 own_tgid; /* the daemon's own calls see the tool's map as it is */
__u64 map_f_op;
__u64 unmet; /* calls that were noted and not met at their exit */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CARRY_MAX);
	__type(key, __u64);   /* address of the struct bpf_map */
	__type(value, __u32); /* place of its carrier */
} carried SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, CARRY_MAX);
	__uint(key_size, 4);
	__uint(value_size, 4);
} carriers SEC(".maps");

/* Programs of two types cannot be in one array. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, CARRY_MAX);
	__uint(key_size, 4);
	__uint(value_size, 4);
} carriers_exit SEC(".maps"); /* where the entry is the LSM hook */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CARRY_CALLS);
	__type(key, __u64); /* pid_tgid */
	__type(value, struct carry_call);
} calls SEC(".maps");

/* For who comes after the daemon. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, CARRY_MAX);
	__type(key, __u64); /* as of carried */
	__type(value, struct carry_known);
} known SEC(".maps");

/* What a command needs of its descriptor; 0: it is none of ours. */
static __always_inline int needs(__u32 cmd)
{
	switch (cmd) {
	case BPF_MAP_LOOKUP_ELEM:
	case BPF_MAP_GET_NEXT_KEY:
	case BPF_MAP_LOOKUP_BATCH:
		return CARRY_READ;
	case BPF_MAP_UPDATE_ELEM:
	case BPF_MAP_DELETE_ELEM:
	case BPF_MAP_UPDATE_BATCH:
	case BPF_MAP_DELETE_BATCH:
		return CARRY_WRITE;
	case BPF_MAP_LOOKUP_AND_DELETE_ELEM:
	case BPF_MAP_LOOKUP_AND_DELETE_BATCH:
		return CARRY_READ | CARRY_WRITE;
	}
	return 0;
}

static __always_inline __u32 fd_offset(__u32 cmd)
{
	switch (cmd) {
	case BPF_MAP_LOOKUP_BATCH:
	case BPF_MAP_LOOKUP_AND_DELETE_BATCH:
	case BPF_MAP_UPDATE_BATCH:
	case BPF_MAP_DELETE_BATCH:
		return offsetof(union bpf_attr, batch.map_fd);
	}
	return offsetof(union bpf_attr, map_fd);
}

/* The way to the table by plain loads, which the kernel guards by itself: every bpf() call on the host goes it. */
static __always_inline struct file *file_of(__u32 fd)
{
	struct fdtable *fdt = bpf_get_current_task_btf()->files->fdt;
	struct file *file = NULL;

	if (fd < fdt->max_fds)
		bpf_probe_read_kernel(&file, sizeof(file), fdt->fd + fd);
	return file;
}

/* Would the kernel let this file do that? map_get_sys_perms() in kernel/bpf/syscall.c. */
static __always_inline int permitted(struct file *file, struct bpf_map *map, int need)
{
	__u32 mode = BPF_CORE_READ(file, f_mode);

	if (BPF_CORE_READ(map, frozen))
		mode &= ~FMODE_CAN_WRITE;
	if ((need & CARRY_READ) && !(mode & FMODE_CAN_READ))
		return 0;
	return !(need & CARRY_WRITE) || (mode & FMODE_CAN_WRITE);
}

/* The mirrored map that the call is about and whose carrier is turned on, or NULL. */
static __always_inline struct bpf_map *carried_map(__u32 cmd, __u32 fd, __u32 *place)
{
	int need = needs(cmd);
	struct bpf_map *map;
	struct file *file;
	__u32 *at;
	__u64 key;

	file = file_of(fd);
	if (!file || (__u64)BPF_CORE_READ(file, f_op) != map_f_op)
		return NULL;
	map = BPF_CORE_READ(file, private_data);
	key = (__u64)map;
	at = bpf_map_lookup_elem(&carried, &key);
	if (!at || !permitted(file, map, need))
		return NULL;
	*place = *at;
	return map;
}

static __always_inline int is_own(void)
{
	return bpf_get_current_pid_tgid() >> 32 == own_tgid;
}

/* To the carrier. The caller's last call may have been missed at its exit: this is not that exit. */
static __always_inline void enter(void *ctx, __u32 place)
{
	__u64 caller = bpf_get_current_pid_tgid();

	if (!bpf_map_delete_elem(&calls, &caller))
		__sync_fetch_and_add(&unmet, 1);
	bpf_tail_call(ctx, &carriers, place);
}

/* Has the caller's call been noted, and by which carrier? */
static __always_inline int is_noted(__u32 *place)
{
	__u64 caller = bpf_get_current_pid_tgid();
	struct carry_call *call = bpf_map_lookup_elem(&calls, &caller);

	if (call)
		*place = call->place;
	return call != NULL;
}

/* ---- ways in: the system call's tracepoint, and that of all system calls; the attributes are the caller's ---- */

static __always_inline int is_carried(__u32 cmd, __u64 attr, __u32 *place)
{
	__u32 fd = 0;

	if (!needs(cmd) || is_own())
		return 0;
	if (bpf_probe_read_user(&fd, sizeof(fd), (void *)(attr + fd_offset(cmd))))
		return 0;
	return carried_map(cmd, fd, place) != NULL;
}

SEC("tracepoint/syscalls/sys_enter_bpf")
int enter_tracepoint(struct trace_event_raw_sys_enter *ctx)
{
	__u32 place;

	if (is_carried(ctx->args[0], ctx->args[1], &place))
		enter(ctx, place);
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_bpf")
int exit_tracepoint(struct trace_event_raw_sys_exit *ctx)
{
	__u32 place;

	if (is_noted(&place))
		bpf_tail_call(ctx, &carriers, place);
	return 0;
}

SEC("raw_tp/sys_enter")
int enter_raw(struct bpf_raw_tracepoint_args *ctx)
{
	struct pt_regs *regs = (struct pt_regs *)ctx->args[0];
	__u32 place;

	/* Where a number of 32-bit system calls is the same, the code segment differs. */
	if (ctx->args[1] != NR_BPF || BPF_CORE_READ(regs, cs) != USER_CS_64)
		return 0;
	if (is_carried(BPF_CORE_READ(regs, di), BPF_CORE_READ(regs, si), &place))
		enter(ctx, place);
	return 0;
}

SEC("raw_tp/sys_exit")
int exit_raw(struct bpf_raw_tracepoint_args *ctx)
{
	struct pt_regs *regs = (struct pt_regs *)ctx->args[0];
	__u32 place;

	if (BPF_CORE_READ(regs, orig_ax) == NR_BPF && is_noted(&place))
		bpf_tail_call(ctx, &carriers, place);
	return 0;
}

/* ---- way in: the LSM hook; the attributes are the kernel's copy. Nothing here has an opinion on the call ---- */

static __always_inline __u32 fd_in(__u32 cmd, const union bpf_attr *attr)
{
	__u32 fd = ~0u;

	bpf_probe_read_kernel(&fd, sizeof(fd), (const void *)attr + fd_offset(cmd));
	return fd;
}

SEC("lsm/bpf")
int BPF_PROG(enter_lsm, int cmd, union bpf_attr *attr)
{
	__u32 place;

	if (needs(cmd) && !is_own() && carried_map(cmd, fd_in(cmd, attr), &place))
		enter(ctx, place);
	return 0;
}

static __always_inline int leave_lsm(void *ctx)
{
	__u32 place;

	if (is_noted(&place))
		bpf_tail_call(ctx, &carriers_exit, place);
	return 0;
}

SEC("fexit/__x64_sys_bpf")
int BPF_PROG(exit_lsm, const struct pt_regs *regs, long ret)
{
	return leave_lsm(ctx);
}

/*
 * Where these programs are preempted the kernel skips one at an exit while another task is in the middle of it on this
 * processor. There is a second one then, for what the first one has not met: to be skipped by both, a call would have
 * to come while two tasks stand still at once, one in each, before or after the part that cannot be preempted.
 */
SEC("fexit/__x64_sys_bpf")
int BPF_PROG(exit_lsm_again, const struct pt_regs *regs, long ret)
{
	return leave_lsm(ctx);
}

struct touched {
	__u64 from, end;
};

static long touch_page(__u32 i, void *arg)
{
	struct touched *r = arg;
	__u64 at = i ? (r->from & -PAGE_SIZE) + (__u64)i * PAGE_SIZE : r->from;
	char byte;

	return at >= r->end || bpf_copy_from_user(&byte, sizeof(byte), (void *)at);
}

static __always_inline void touch(__u64 from, __u64 size)
{
	struct touched r = {from, from + size};

	if (from && size && size < MAX_TOUCHED)
		bpf_loop(size / PAGE_SIZE + 2, touch_page, &r, 0);
}

/* One value as the caller passes it: of a per-CPU map those of all processors. */
static __always_inline __u64 value_bytes(struct bpf_map *map)
{
	__u32 type = BPF_CORE_READ(map, map_type), size = BPF_CORE_READ(map, value_size);

	if (type == BPF_MAP_TYPE_PERCPU_HASH || type == BPF_MAP_TYPE_PERCPU_ARRAY)
		return (__u64)((size + 7) & ~7u) * n_cpus;
	return size;
}

/*
 * Attached after enter_lsm, and so run before it. When it is skipped, or a page goes away again in between, the carrier
 * does what it does at the tracepoints.
 */
SEC("lsm.s/bpf")
int BPF_PROG(touch_lsm, int cmd, union bpf_attr *attr)
{
	union bpf_attr a = {};
	struct bpf_map *map;
	__u64 count = 1;
	__u32 place;

	if (!needs(cmd) || is_own())
		return 0;
	map = carried_map(cmd, fd_in(cmd, attr), &place);
	if (!map || bpf_probe_read_kernel(&a, ATTR_SIZE, attr))
		return 0;
	switch (cmd) {
	case BPF_MAP_UPDATE_BATCH:
	case BPF_MAP_DELETE_BATCH:
		count = a.batch.count;
		touch(a.batch.keys, count * BPF_CORE_READ(map, key_size));
		if (cmd == BPF_MAP_UPDATE_BATCH)
			touch(a.batch.values, count * value_bytes(map));
		break;
	case BPF_MAP_LOOKUP_AND_DELETE_BATCH:
		touch(a.batch.in_batch, sizeof(__u32));
		break;
	case BPF_MAP_UPDATE_ELEM:
		touch(a.value, value_bytes(map));
		/* fallthrough */
	case BPF_MAP_LOOKUP_ELEM:
	case BPF_MAP_GET_NEXT_KEY:
	case BPF_MAP_DELETE_ELEM:
	case BPF_MAP_LOOKUP_AND_DELETE_ELEM:
		touch(a.key, BPF_CORE_READ(map, key_size));
		break;
	}
	return 0;
}

SEC("syscall")
int carry_learn(struct carry_learn *a)
{
	struct file *file = file_of(a->fd);

	if (!file)
		return 1;
	a->map = (__u64)BPF_CORE_READ(file, private_data);
	a->f_op = (__u64)BPF_CORE_READ(file, f_op);
	return 0;
}
