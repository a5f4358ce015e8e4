/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* How often and how long each thread is in a function: a hash of starts, written at entry and deleted at return. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "examples/hashcount.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, HASHCOUNT_THREADS);
	__type(key, __u32);
	__type(value, __u64);
} starts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, HASHCOUNT_THREADS);
	__type(key, __u32);
	__type(value, struct thread_total);
} totals SEC(".maps");

SEC("uprobe")
int on_entry(struct pt_regs *ctx)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	__u64 now = bpf_ktime_get_ns();

	bpf_map_update_elem(&starts, &tid, &now, BPF_ANY);
	return 0;
}

SEC("uretprobe")
int on_return(struct pt_regs *ctx)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	__u64 *start = bpf_map_lookup_elem(&starts, &tid), ns;
	struct thread_total *total, first = {};

	if (!start)
		return 0;
	ns = bpf_ktime_get_ns() - *start;
	bpf_map_delete_elem(&starts, &tid);
	total = bpf_map_lookup_elem(&totals, &tid);
	if (total) {
		total->calls++;
		total->ns += ns;
		return 0;
	}
	first.calls = 1;
	first.ns = ns;
	bpf_map_update_elem(&totals, &tid, &first, BPF_NOEXIST);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
