/* SPDX-License-Identifier: MIT */
/*
 * hashcount.c: how often and how long each thread of a process is in a function. Its results are in a hash, which it
 *reads by system calls. Prints
 *
 *	thread TID CALLS NS	for each thread
 *	calls N
 *	starts N		calls that have begun and not returned
 */
#include <stdio.h>
#include <bpf/bpf.h>

#include "examples/hashcount.h"
#include "examples/hashcount.skel.h"
#include "examples/probe_tool.h"

static unsigned long long print_totals(int fd)
{
	unsigned long long calls = 0;
	__u32 tid, *before = NULL;
	struct thread_total total;

	for (; bpf_map_get_next_key(fd, before, &tid) == 0; before = &tid) {
		if (bpf_map_lookup_elem(fd, &tid, &total))
			continue;
		printf("thread %u %llu %llu\n", tid, total.calls, total.ns);
		calls += total.calls;
	}
	return calls;
}

static unsigned long count_entries(int fd)
{
	unsigned long n = 0;
	__u32 tid, *before = NULL;

	for (; bpf_map_get_next_key(fd, before, &tid) == 0; before = &tid)
		n++;
	return n;
}

int main(int argc, char **argv)
{
	struct hashcount_bpf *skel;
	struct probe_tool tool;
	int code = 1;

	probe_tool__read(&tool, argc, argv);
	skel = hashcount_bpf__open_and_load();
	if (!skel) {
		perror("hashcount: the program cannot be loaded");
		return 1;
	}
	skel->links.on_return = probe_tool__attach(&tool, skel->progs.on_return, true);
	skel->links.on_entry = probe_tool__attach(&tool, skel->progs.on_entry, false);
	if (skel->links.on_return && skel->links.on_entry) {
		probe_tool__wait(&tool);
		printf("calls %llu\n", print_totals(bpf_map__fd(skel->maps.totals)));
		printf("starts %lu\n", count_entries(bpf_map__fd(skel->maps.starts)));
		code = 0;
	}
	hashcount_bpf__destroy(skel);
	return code;
}
