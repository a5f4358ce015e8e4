/* SPDX-License-Identifier: MIT */
/*
 * probe.c: the smallest tool: attaches an empty program to a function of a process and waits for its end.
 *
 *   probe [-r] PID FILE OFFSET
 */
#include <bpf/bpf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/uprobe.h"

int main(int argc, char **argv)
{
	const struct bpf_insn insns[] = {
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0},
		{.code = BPF_JMP | BPF_EXIT},
	};
	struct uprobe_opts opts = {.root_pid = getpid()};
	int event, link, err;

	if (argc > 1 && !strcmp(argv[1], "-r")) {
		opts.is_return = true;
		argv++;
		argc--;
	}
	if (argc != 4) {
		fprintf(stderr, "usage: probe [-r] PID FILE OFFSET\n");
		return 2;
	}
	opts.pid = atoi(argv[1]);
	opts.path = argv[2];
	opts.offset = strtoull(argv[3], NULL, 0);
	opts.prog_fd = bpf_prog_load(BPF_PROG_TYPE_KPROBE, "empty", "Dual MIT/GPL", insns, 2, NULL);
	if (opts.prog_fd < 0) {
		perror("probe: loading the program");
		return 1;
	}
	err = uprobe__attach(&opts, &event, &link);
	if (err) {
		fprintf(stderr, "probe: attaching: %s\n", strerror(-err));
		return 1;
	}
	printf("attached\n");
	fflush(stdout);
	pause();
	return 0;
}
