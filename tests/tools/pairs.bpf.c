/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Each call of a function by a thread, and the thread's next system call: pairs, counted in a hash and in memory. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

const volatile bool in_memory;

__u64 entries = 0;
__u64 pairs = 0;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u64);
} begun SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u64);
} of_thread SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} totals SEC(".maps");

static __always_inline void add(void *map, __u32 key)
{
	__u64 one = 1, *sum = bpf_map_lookup_elem(map, &key);

	if (sum)
		__sync_fetch_and_add(sum, 1);
	else if (bpf_map_update_elem(map, &key, &one, BPF_NOEXIST) && (sum = bpf_map_lookup_elem(map, &key)))
		__sync_fetch_and_add(sum, 1);
}

SEC("uprobe")
int BPF_KPROBE(on_entry, unsigned long arg0, unsigned long arg1)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	__u64 value = arg1;

	bpf_map_update_elem(&begun, &tid, &value, BPF_ANY);
	if (in_memory)
		__sync_fetch_and_add(&entries, 1);
	else
		add(&totals, 0);
	return 0;
}

static __always_inline int next_call(void)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid();

	if (!bpf_map_lookup_elem(&begun, &tid))
		return 0;
	bpf_map_delete_elem(&begun, &tid);
	add(&of_thread, tid);
	if (in_memory)
		__sync_fetch_and_add(&pairs, 1);
	else
		add(&totals, 1);
	return 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(on_call, struct pt_regs *regs, long id)
{
	return id < 0 || !regs ? 0 : next_call();
}

SEC("raw_tp/sys_enter")
int on_raw_call(void *ctx)
{
	return next_call();
}

SEC("tp/raw_syscalls/sys_enter")
int on_perf_call(void *ctx)
{
	return next_call();
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
