/* SPDX-License-Identifier: MIT */
/*
 * pairs.c: a tool that joins a uprobe and the tracepoint of the next system call.
 *
 *	pairs WAY[-memory] BINARY:FUNCTION
 *
 *	btf	by tp_btf
 *	raw	by a raw tracepoint
 *	perf	by a perf event
 *
 * With -memory its sums are global variables, else in a hash. At a SIGUSR1 it gives up the tracepoint, and prints
 * "detached". At a SIGINT it prints "entries N", "pairs N", "left N" (calls that no system call followed), and for each
 * thread its number and its pairs.
 */
#include <bpf/bpf.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "examples/probe_tool.h"
#include "tests/tools/pairs.skel.h"

static volatile sig_atomic_t over, detaches;

static void on_signal(int sig)
{
	if (sig == SIGUSR1)
		detaches = 1;
	else
		over = 1;
}

static unsigned long long total(const struct pairs_bpf *skel, unsigned int key)
{
	unsigned long long n = 0;

	if (skel->rodata->in_memory)
		return key ? skel->bss->pairs : skel->bss->entries;
	bpf_map_lookup_elem(bpf_map__fd(skel->maps.totals), &key, &n);
	return n;
}

static unsigned int count(int map, bool print)
{
	unsigned int key, next, n = 0;
	unsigned long long value;

	for (const unsigned int *at = NULL; !bpf_map_get_next_key(map, at, &next); at = &key, n++) {
		key = next;
		if (print && !bpf_map_lookup_elem(map, &key, &value))
			printf("%u %llu\n", key, value);
	}
	return n;
}

static void run(struct bpf_link **tracepoint, int prog_fd)
{
	while (!over) {
		usleep(20000);
		if (!detaches || !*tracepoint)
			continue;
		bpf_link__destroy(*tracepoint);
		*tracepoint = NULL;
		/* The program, too: what is loaded might be attached again. */
		dup2(STDIN_FILENO, prog_fd);
		puts("detached");
		fflush(stdout);
	}
}

int main(int argc, char **argv)
{
	struct sigaction sa = {.sa_handler = on_signal};
	struct bpf_program *prog;
	struct probe_tool tool;
	struct bpf_link *link;
	struct pairs_bpf *skel;
	sigset_t set;

	if (argc != 3)
		return 2;
	probe_tool__read(&tool, 2, (char *[]){argv[0], argv[2], NULL});
	skel = pairs_bpf__open();
	if (!skel)
		return 1;
	skel->rodata->in_memory = strstr(argv[1], "-memory") != NULL;
	prog = !strncmp(argv[1], "btf", 3)   ? skel->progs.on_call
	       : !strncmp(argv[1], "raw", 3) ? skel->progs.on_raw_call
					     : skel->progs.on_perf_call;
	bpf_program__set_autoload(skel->progs.on_call, prog == skel->progs.on_call);
	bpf_program__set_autoload(skel->progs.on_raw_call, prog == skel->progs.on_raw_call);
	bpf_program__set_autoload(skel->progs.on_perf_call, prog == skel->progs.on_perf_call);
	if (pairs_bpf__load(skel)) {
		perror("pairs");
		return 1;
	}
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGUSR1, &sa, NULL);
	sigfillset(&set);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	link = bpf_program__attach(prog);
	skel->links.on_entry = probe_tool__attach(&tool, skel->progs.on_entry, false);
	if (!link || !skel->links.on_entry)
		return 1;
	puts("ready");
	fflush(stdout);
	run(&link, bpf_program__fd(prog));
	printf("entries %llu\npairs %llu\n", total(skel, 0), total(skel, 1));
	count(bpf_map__fd(skel->maps.of_thread), true);
	printf("left %u\n", count(bpf_map__fd(skel->maps.begun), false));
	bpf_link__destroy(link);
	pairs_bpf__destroy(skel);
	return 0;
}
