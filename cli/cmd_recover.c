/* SPDX-License-Identifier: MIT */
/* Cleaning up is the daemon's business: when there is none, `bpftime recover` becomes one that does nothing else. */
#include "cli.h"

enum cli_exit cmd_recover(const struct cli_args *args)
{
	char *argv[] = {"bpftimed", "--recover", "--runtime-dir", (char *)args->runtime_dir, NULL};

	return cli_become(BPFTIMED_PREFIX "/sbin", argv);
}
