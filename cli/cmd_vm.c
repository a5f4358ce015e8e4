/* SPDX-License-Identifier: MIT */
/*
 * `bpftime vm` and `bpftime aot` are another program, bpftime-vm, so that this one does not link the compiler. It
 * stands beside this one in a build folder, and in PREFIX/libexec/bpftimed when installed.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

#define TOOL_NAME   "bpftime-vm"
#define LIBEXEC_DIR BPFTIMED_PREFIX "/libexec/bpftimed"

static enum cli_exit run_tool(const char *group, const struct cli_args *args)
{
	char beside[PATH_MAX] = "", *slash;
	char **argv = calloc((size_t)args->n_words + 3, sizeof(*argv));

	if (!argv) {
		cli_complain("no memory for the command line");
		return CLI_NO;
	}
	argv[0] = (char *)TOOL_NAME;
	argv[1] = (char *)group;
	memcpy(argv + 2, args->words, (size_t)args->n_words * sizeof(*argv));
	if (readlink("/proc/self/exe", beside, sizeof(beside) - sizeof(TOOL_NAME) - 1) > 0) {
		slash = strrchr(beside, '/');
		strcpy(slash ? slash + 1 : beside, TOOL_NAME);
		execv(beside, argv);
	}
	execv(LIBEXEC_DIR "/" TOOL_NAME, argv);
	cli_complain("%s: " LIBEXEC_DIR "/" TOOL_NAME " cannot be run: %s", group, strerror(errno));
	free(argv);
	return CLI_NO;
}

enum cli_exit cmd_vm(const struct cli_args *args)
{
	return run_tool("vm", args);
}

enum cli_exit cmd_aot(const struct cli_args *args)
{
	return run_tool("aot", args);
}
