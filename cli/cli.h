/* SPDX-License-Identifier: MIT */
/*
 * cli.h: what the subcommands of bpftime share: their table, their options, their exit codes.
 */
#ifndef BPFTIME_CLI_H
#define BPFTIME_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum cli_exit {
	CLI_DONE = 0,
	CLI_NO = 1,	     /* the answer is no, or something failed */
	CLI_USAGE = 2,	     /* wrong usage */
	CLI_UNREACHABLE = 3, /* no daemon answers */
};

/* Options that a subcommand takes besides --runtime-dir and --help, which all take. */
enum cli_takes {
	CLI_TAKES_JSON = 1,
	CLI_TAKES_WAIT = 2,	  /* --tool, --state, --timeout */
	CLI_TAKES_TOP = 4,	  /* --interval, --count */
	CLI_TAKES_POLICY_DIR = 8, /* --policy-dir */
	CLI_TAKES_ALL = 16,	  /* words are all that follows: another program reads it */
	CLI_TAKES_EVENTS = 32,	  /* --follow, --tool */
	CLI_TAKES_POLICY = 64,	  /* a --tool that may be a file, --target, --probe */
};

/* The command line, read. Strings are argv's or the environment's. */
struct cli_args {
	const char *runtime_dir;
	const char *policy_dir; /* as policy__load() takes it; NULL: not given */
	bool json, follow;
	pid_t tool;				       /* 0: not given */
	const char *which_tool, *which_target, *probe; /* of policy explain; NULL: not given */
	const char *state;
	double timeout, interval; /* seconds */
	unsigned long count;	  /* 0: no end */
	char **words;		  /* what is not an option */
	int n_words;
};

struct cli_command {
	const char *name;
	const char *synopsis; /* behind the name */
	const char *summary;
	unsigned int takes;	  /* enum cli_takes */
	int min_words, max_words; /* max_words -1: any number */
	enum cli_exit (*run)(const struct cli_args *args);
};

/* All subcommands; the last has no name. */
extern const struct cli_command cli_commands[];

enum cli_exit cmd_status(const struct cli_args *args);
enum cli_exit cmd_ps(const struct cli_args *args);
enum cli_exit cmd_explain(const struct cli_args *args);
enum cli_exit cmd_wait(const struct cli_args *args);
enum cli_exit cmd_top(const struct cli_args *args);
enum cli_exit cmd_metrics(const struct cli_args *args);
enum cli_exit cmd_doctor(const struct cli_args *args);
enum cli_exit cmd_events(const struct cli_args *args);
enum cli_exit cmd_handback(const struct cli_args *args);
enum cli_exit cmd_takeover(const struct cli_args *args);
enum cli_exit cmd_policy(const struct cli_args *args);
enum cli_exit cmd_recover(const struct cli_args *args);
enum cli_exit cmd_vm(const struct cli_args *args);
enum cli_exit cmd_aot(const struct cli_args *args);
enum cli_exit cmd_version(const struct cli_args *args);
enum cli_exit cmd_help(const struct cli_args *args);

/*
 * Executes another program of ours in the place of this one: argv[0], which stands beside this one in a build folder,
 * and in the given one when installed. Returns, after a complaint, when it cannot be.
 */
enum cli_exit cli_become(const char *installed_dir, char **argv);

/* One sentence on stderr, "bpftime: " before it. */
void cli_complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* A process id from a word: 1 to 2^31-1, decimal, nothing else; false and a complaint otherwise. */
bool cli_read_pid(const char *word, pid_t *out);

#endif
