/* SPDX-License-Identifier: MIT */
/*
 * args.h: reads the options of a subcommand.
 */
#ifndef BPFTIME_CLI_ARGS_H
#define BPFTIME_CLI_ARGS_H

#include "cli.h"

/* argv[0] is the subcommand's name. False: CLI_USAGE, after a complaint; *help: --help was asked for. */
bool cli_args__read(struct cli_args *out, const struct cli_command *command, int argc, char **argv, bool *help);
/* "--json", "--tool=42": is there such an option for any subcommand? */
bool cli_is_option(const char *word);
/* What runtime_dir and policy_dir are when no option says otherwise. */
void cli_args__default(struct cli_args *out);

#endif
