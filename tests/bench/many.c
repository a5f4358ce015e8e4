/* SPDX-License-Identifier: MIT */
/*
 * many.c: a tool with many probes: attaches a program that counts to many offsets of a file, in every process, and
 * waits for its end. For every probe a program of its own, as tools do.
 *
 *   many FILE <OFFSETS
 */
#include <bpf/bpf.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "daemon/uprobe.h"

static int load(int map)
{
	/* key = 0; v = lookup(map, &key); if (v) lock *v += 1; return 0 */
	const struct bpf_insn insns[] = {
		{.code = BPF_ST | BPF_MEM | BPF_W, .dst_reg = 10, .off = -4},
		{.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = 2, .src_reg = 10},
		{.code = BPF_ALU64 | BPF_ADD | BPF_K, .dst_reg = 2, .imm = -4},
		{.code = BPF_LD | BPF_DW | BPF_IMM, .dst_reg = 1, .src_reg = BPF_PSEUDO_MAP_FD, .imm = map},
		{0},
		{.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_map_lookup_elem},
		{.code = BPF_JMP | BPF_JEQ | BPF_K, .dst_reg = 0, .off = 2},
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 1, .imm = 1},
		{.code = BPF_STX | BPF_DW | BPF_ATOMIC, .dst_reg = 0, .src_reg = 1, .imm = BPF_ADD},
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0},
		{.code = BPF_JMP | BPF_EXIT},
	};

	return bpf_prog_load(BPF_PROG_TYPE_KPROBE, "many", "Dual MIT/GPL", insns, sizeof(insns) / sizeof(insns[0]),
			     NULL);
}

int main(int argc, char **argv)
{
	struct rlimit limit = {1 << 16, 1 << 16};
	struct uprobe_opts opts = {.root_pid = getpid(), .pid = -1};
	int map = bpf_map_create(BPF_MAP_TYPE_ARRAY, "many", 4, 8, 1, NULL), n = 0;

	if (argc != 2) {
		fprintf(stderr, "usage: many FILE <OFFSETS\n");
		return 2;
	}
	setrlimit(RLIMIT_NOFILE, &limit);
	opts.path = argv[1];
	while (scanf("%lx", &opts.offset) == 1) {
		int event, link, err;

		opts.prog_fd = load(map);
		err = opts.prog_fd < 0 ? opts.prog_fd : uprobe__attach(&opts, &event, &link);
		if (err) {
			fprintf(stderr, "many: offset 0x%lx: %s\n", opts.offset, strerror(-err));
			close(opts.prog_fd);
			continue;
		}
		n++;
	}
	printf("attached %d\n", n);
	fflush(stdout);
	pause();
	return 0;
}
