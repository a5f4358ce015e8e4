/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* At each return of a function: how many there were, and the sum of the second argument, in global variables. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

__u64 count = 0;
__u64 sum = 0;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u64);
} arguments SEC(".maps");

SEC("uprobe")
int BPF_KPROBE(on_entry, unsigned long arg0, unsigned long arg1)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	__u64 value = arg1;

	bpf_map_update_elem(&arguments, &tid, &value, BPF_ANY);
	return 0;
}

SEC("uretprobe")
int on_return(struct pt_regs *ctx)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	__u64 *value = bpf_map_lookup_elem(&arguments, &tid);

	if (!value)
		return 0;
	__sync_fetch_and_add(&count, 1);
	__sync_fetch_and_add(&sum, *value);
	bpf_map_delete_elem(&arguments, &tid);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
