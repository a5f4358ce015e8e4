// SPDX-License-Identifier: MIT
/* What test_vm_elf reads: maps of both kinds of size, data, subprograms, several sections. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct key {
	int a, b;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 7);
	__type(key, struct key);
	__type(value, long[3]);
} pairs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 5);
	__uint(key_size, 4);
	__uint(value_size, 24);
} numbers SEC(".maps");

long started = 40;
static long calls;
const char greeting[] = "greetings";

static __noinline int deeper(int n)
{
	return n * 3 + (int)started;
}

__noinline int helper_of_both(int n)
{
	calls++;
	return deeper(n) + 2;
}

SEC("first")
int one(void *ctx)
{
	return helper_of_both(1);
}

SEC("second")
int two(void *ctx)
{
	struct key k = {1, 2};
	long value[3] = {4, 5, 6}, *found;

	bpf_map_update_elem(&pairs, &k, value, 0);
	found = bpf_map_lookup_elem(&pairs, &k);
	return found ? (int)found[1] + helper_of_both(greeting[0]) : -1;
}

SEC("second")
int three(void *ctx)
{
	int n = 4;
	long *value = bpf_map_lookup_elem(&numbers, &n);

	if (!value)
		return -1;
	value[2] += 9;
	return (int)value[2] + (int)calls;
}

char _license[] SEC("license") = "Dual MIT/GPL";
