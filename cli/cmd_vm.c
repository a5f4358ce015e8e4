/* SPDX-License-Identifier: MIT */
/* `bpftime vm` and `bpftime aot` are another program, bpftime-vm, so that this one does not link the compiler. */
#include <stdlib.h>
#include <string.h>

#include "cli.h"

static enum cli_exit run_tool(const char *group, const struct cli_args *args)
{
	char **argv = calloc((size_t)args->n_words + 3, sizeof(*argv));
	enum cli_exit code;

	if (!argv) {
		cli_complain("no memory for the command line");
		return CLI_NO;
	}
	argv[0] = (char *)"bpftime-vm";
	argv[1] = (char *)group;
	memcpy(argv + 2, args->words, (size_t)args->n_words * sizeof(*argv));
	code = cli_become(BPFTIMED_PREFIX "/libexec/bpftimed", argv);
	free(argv);
	return code;
}

enum cli_exit cmd_vm(const struct cli_args *args)
{
	return run_tool("vm", args);
}

enum cli_exit cmd_aot(const struct cli_args *args)
{
	return run_tool("aot", args);
}
