/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* Calls of a function, the sum of its second argument, and a histogram of it, in global variables. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#define SLOTS 65 /* [0]: zero; [n]: 2^(n-1) <= value < 2^n */

__u64 count = 0;
__u64 sum = 0;
__u64 slots[SLOTS] = {};

static __always_inline __u32 slot_of(__u64 v)
{
	__u32 n = v != 0;

	for (__u32 shift = 32; shift; shift >>= 1) {
		if (v >> shift) {
			v >>= shift;
			n += shift;
		}
	}
	return n;
}

SEC("uprobe")
int BPF_KPROBE(on_call, unsigned long arg0, unsigned long arg1)
{
	__u32 slot = slot_of(arg1);

	__sync_fetch_and_add(&count, 1);
	__sync_fetch_and_add(&sum, arg1);
	if (slot < SLOTS)
		__sync_fetch_and_add(&slots[slot], 1);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
