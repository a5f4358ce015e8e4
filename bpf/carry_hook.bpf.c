/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * carry_hook.bpf.c: at the entry of bpf(): does this call concern a mirrored map? If so, its carrier takes over.
 *
 * The descriptor is resolved as the kernel will do it, through the caller's open files, so that duplicates, pinned maps
 * and maps opened by id are all seen. A mirrored map is known by its address: the daemon holds the map, so that no
 * other object can have it; that the file is a map at all is known by its operations, learnt once from a map of the
 * daemon.
 *
 * Calls that change something are met again at their end: the carrier has noted them.
 */
#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "carry.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* include/linux/fs.h */
#define FMODE_CAN_READ	0x20000
#define FMODE_CAN_WRITE 0x40000

__u32 own_tgid; /* the daemon's own calls see the tool's map as it is */
__u64 map_f_op;

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
static __always_inline int needs(__u64 cmd)
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

static __always_inline __u32 fd_offset(__u64 cmd)
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

SEC("tracepoint/syscalls/sys_enter_bpf")
int carry_enter(struct trace_event_raw_sys_enter *ctx)
{
	__u64 cmd = ctx->args[0];
	int need = needs(cmd);
	struct bpf_map *map;
	struct file *file;
	__u32 fd = 0, *place;
	__u64 key, caller;

	if (!need || bpf_get_current_pid_tgid() >> 32 == own_tgid)
		return 0;
	if (bpf_probe_read_user(&fd, sizeof(fd), (void *)(ctx->args[1] + fd_offset(cmd))))
		return 0;
	file = file_of(fd);
	if (!file || (__u64)BPF_CORE_READ(file, f_op) != map_f_op)
		return 0;
	map = BPF_CORE_READ(file, private_data);
	key = (__u64)map;
	place = bpf_map_lookup_elem(&carried, &key);
	if (!place || !permitted(file, map, need))
		return 0;
	/* A call that was missed at its exit: this is not that exit. */
	caller = bpf_get_current_pid_tgid();
	bpf_map_delete_elem(&calls, &caller);
	bpf_tail_call(ctx, &carriers, *place);
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_bpf")
int carry_exit(struct trace_event_raw_sys_exit *ctx)
{
	__u64 caller = bpf_get_current_pid_tgid();
	struct carry_call *call = bpf_map_lookup_elem(&calls, &caller);

	if (call)
		bpf_tail_call(ctx, &carriers, call->place);
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
