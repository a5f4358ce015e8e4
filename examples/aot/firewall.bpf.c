// SPDX-License-Identifier: MIT
/* A program to be compiled ahead of time: counts calls by port, and lets through what the table of the caller says. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

struct request {
	__u32 port, size;
};

__u64 calls;
const volatile __u32 largest = 1500;

static __noinline __u64 *count_of(__u32 port)
{
	__u32 key = port & 15;

	return bpf_map_lookup_elem(&counts, &key);
}

SEC("firewall")
long allow(struct request *r)
{
	__u64 *count = count_of(r->port);

	calls++;
	if (!count)
		return 0;
	(*count)++;
	return r->size <= largest && r->port != 23;
}

char _license[] SEC("license") = "Dual MIT/GPL";
