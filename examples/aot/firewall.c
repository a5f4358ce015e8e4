// SPDX-License-Identifier: MIT
/*
 * A C program that calls an eBPF program which was compiled ahead of time:
 *
 *     bpftime aot compile firewall.bpf.o -o firewall.o
 *     cc firewall.c firewall.o
 *
 * allow() is the eBPF program. Its map is an array here; its one helper is the function below.
 */
#include <stdio.h>
#include <stdlib.h>

#include "vm-llvm/bpftime-aot.h"

#define MAP_LOOKUP_ELEM 1 /* BPF_FUNC_map_lookup_elem */

struct request {
	uint32_t port, size;
};

extern struct bpftime_aot firewall_bpf;
extern uint64_t allow(void *ctx, uint64_t r2);

static uint64_t lookup(void *user, uint64_t map, uint64_t key, uint64_t r3, uint64_t r4, uint64_t r5)
{
	uint64_t *values = (void *)(uintptr_t)map;
	uint32_t i = *(uint32_t *)(uintptr_t)key;

	return i < 16 ? (uintptr_t)&values[i] : 0;
}

static void *give_map(void *arg, const struct bpftime_aot_map *map)
{
	return calloc(map->max_entries, map->value_size);
}

static bpftime_aot_helper_fn *give_helper(void *arg, uint32_t id, const char *name)
{
	return id == MAP_LOOKUP_ELEM ? lookup : NULL;
}

int main(void)
{
	const struct bpftime_aot_resolver resolver = {.map = give_map, .helper = give_helper};
	struct request requests[] = {{80, 100}, {23, 100}, {80, 9000}, {443, 1500}};
	char err[256];

	if (bpftime_aot_resolve(&firewall_bpf, &resolver, err, sizeof(err))) {
		fprintf(stderr, "firewall: %s\n", err);
		return 1;
	}
	for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++)
		printf("port %u, %u bytes: %s\n", requests[i].port, requests[i].size,
		       allow(&requests[i], 0) ? "allowed" : "refused");
	for (uint32_t i = 0; i < firewall_bpf.n_maps; i++)
		if (!strcmp(firewall_bpf.maps[i].name, ".bss"))
			printf("%llu calls\n", *(unsigned long long *)firewall_bpf.maps[i].map);
	return 0;
}
