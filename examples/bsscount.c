/* SPDX-License-Identifier: MIT */
/*
 * bsscount.c: counts the calls of a function and the sizes of its second argument. Its results are global variables of
 *the BPF program (.bss), which it reads through the skeleton's mapping, without a system call. Prints
 *
 *	count N
 *	sum N
 *	log2 K N	for each K with calls: 2^K <= argument < 2^(K+1); zero is -1
 */
#include <stdio.h>

#include "examples/bsscount.skel.h"
#include "examples/probe_tool.h"

static void print_results(const struct bsscount_bpf *skel)
{
	printf("count %llu\n", skel->bss->count);
	printf("sum %llu\n", skel->bss->sum);
	for (size_t i = 0; i < sizeof(skel->bss->slots) / sizeof(skel->bss->slots[0]); i++)
		if (skel->bss->slots[i])
			printf("log2 %d %llu\n", (int)i - 1, skel->bss->slots[i]);
}

int main(int argc, char **argv)
{
	struct bsscount_bpf *skel;
	struct probe_tool tool;
	int code = 1;

	probe_tool__read(&tool, argc, argv);
	skel = bsscount_bpf__open_and_load();
	if (!skel) {
		perror("bsscount: the program cannot be loaded");
		return 1;
	}
	skel->links.on_call = probe_tool__attach(&tool, skel->progs.on_call, false);
	if (skel->links.on_call) {
		probe_tool__wait(&tool);
		print_results(skel);
		code = 0;
	}
	bsscount_bpf__destroy(skel);
	return code;
}
