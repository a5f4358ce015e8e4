/* SPDX-License-Identifier: MIT */
/*
 * probe_tool.h: the command line that the example tools share: TOOL [-p PID] [-d SECONDS] BINARY:FUNCTION. They are
 * ordinary libbpf tools and know nothing of bpftimed.
 */
#ifndef BPFTIME_EXAMPLES_PROBE_TOOL_H
#define BPFTIME_EXAMPLES_PROBE_TOOL_H

#include <stdbool.h>
#include <sys/types.h>
#include <bpf/libbpf.h>

struct probe_tool {
	pid_t pid; /* -1: every process */
	char binary[4096];
	const char *function;
	double seconds; /* 0: until SIGINT */
};

/* Ends the process with 2 and the usage when the command line is wrong. */
void probe_tool__read(struct probe_tool *t, int argc, char **argv);
/* Attaches a program to the function's entry or return. NULL after a message on stderr. */
struct bpf_link *probe_tool__attach(const struct probe_tool *t, struct bpf_program *program, bool at_return);
/* Says "ready", then sleeps until SIGINT, SIGTERM or the end of the time. */
void probe_tool__wait(const struct probe_tool *t);

#endif
