/* SPDX-License-Identifier: MIT */
#include "args.h"

#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/policy_files.h"

#define DEFAULT_RUNTIME_DIR "/run/bpftimed"
#define DEFAULT_TIMEOUT	    10.0
#define DEFAULT_INTERVAL    1.0
#define MAX_SECONDS	    86400.0

enum option_id {
	OPT_HELP = 1,
	OPT_RUNTIME_DIR,
	OPT_JSON,
	OPT_TOOL,
	OPT_STATE,
	OPT_TIMEOUT,
	OPT_INTERVAL,
	OPT_COUNT,
	OPT_POLICY_DIR,
	OPT_FOLLOW = 'f', /* as a short one, too */
	OPT_WHICH_TOOL,
	OPT_WHICH_TARGET,
	OPT_PROBE,
};

static const struct {
	struct option option;
	unsigned int takes; /* 0: every subcommand has it */
} known[] = {
	{{"help", no_argument, NULL, OPT_HELP}, 0},
	{{"runtime-dir", required_argument, NULL, OPT_RUNTIME_DIR}, 0},
	{{"json", no_argument, NULL, OPT_JSON}, CLI_TAKES_JSON},
	{{"tool", required_argument, NULL, OPT_TOOL}, CLI_TAKES_WAIT | CLI_TAKES_EVENTS},
	{{"state", required_argument, NULL, OPT_STATE}, CLI_TAKES_WAIT},
	{{"timeout", required_argument, NULL, OPT_TIMEOUT}, CLI_TAKES_WAIT},
	{{"interval", required_argument, NULL, OPT_INTERVAL}, CLI_TAKES_TOP},
	{{"count", required_argument, NULL, OPT_COUNT}, CLI_TAKES_TOP},
	{{"policy-dir", required_argument, NULL, OPT_POLICY_DIR}, CLI_TAKES_POLICY_DIR},
	{{"follow", no_argument, NULL, OPT_FOLLOW}, CLI_TAKES_EVENTS},
	{{"tool", required_argument, NULL, OPT_WHICH_TOOL}, CLI_TAKES_POLICY},
	{{"target", required_argument, NULL, OPT_WHICH_TARGET}, CLI_TAKES_POLICY},
	{{"probe", required_argument, NULL, OPT_PROBE}, CLI_TAKES_POLICY},
};

#define N_KNOWN (sizeof(known) / sizeof(known[0]))

bool cli_is_option(const char *word)
{
	size_t n = strcspn(word, "=");

	for (size_t i = 0; i < N_KNOWN; i++)
		if (n > 2 && !strncmp(word, "--", 2) && strlen(known[i].option.name) == n - 2 &&
		    !strncmp(word + 2, known[i].option.name, n - 2))
			return true;
	return false;
}

bool cli_read_pid(const char *word, pid_t *out)
{
	char *end;
	long n = strtol(word, &end, 10);

	if (*word < '0' || *word > '9' || *end || n < 1 || n > INT_MAX) {
		cli_complain("'%s' is not a process id", word);
		return false;
	}
	*out = (pid_t)n;
	return true;
}

static bool read_seconds(const char *word, double *out)
{
	char *end;
	double seconds = strtod(word, &end);

	if (strspn(word, "0123456789.") != strlen(word) || end == word || *end || seconds > MAX_SECONDS) {
		cli_complain("'%s' is not a number of seconds, at most a day", word);
		return false;
	}
	*out = seconds;
	return true;
}

static bool read_count(const char *word, unsigned long *out)
{
	char *end;
	unsigned long n = strtoul(word, &end, 10);

	if (*word < '1' || *word > '9' || *end) {
		cli_complain("'%s' is not a number from 1", word);
		return false;
	}
	*out = n;
	return true;
}

static bool take_option(struct cli_args *a, enum option_id id, const char *value)
{
	switch (id) {
	case OPT_HELP:
		return true;
	case OPT_RUNTIME_DIR:
		a->runtime_dir = value;
		return true;
	case OPT_POLICY_DIR:
		a->policy_dir = policy_dirs__append(a->policy_dir, value);
		return true;
	case OPT_WHICH_TOOL:
		a->which_tool = value;
		return true;
	case OPT_WHICH_TARGET:
		a->which_target = value;
		return true;
	case OPT_PROBE:
		a->probe = value;
		return true;
	case OPT_JSON:
		a->json = true;
		return true;
	case OPT_FOLLOW:
		a->follow = true;
		return true;
	case OPT_TOOL:
		return cli_read_pid(value, &a->tool);
	case OPT_STATE:
		a->state = value;
		return true;
	case OPT_TIMEOUT:
		return read_seconds(value, &a->timeout);
	case OPT_INTERVAL:
		return read_seconds(value, &a->interval);
	case OPT_COUNT:
		return read_count(value, &a->count);
	}
	return false;
}

static const char *from_env(const char *name, const char *otherwise)
{
	const char *value = getenv(name);

	return value && *value ? value : otherwise;
}

void cli_args__default(struct cli_args *out)
{
	*out = (struct cli_args){
		.runtime_dir = from_env("BPFTIME_RUNTIME_DIR", DEFAULT_RUNTIME_DIR),
		.state = "offloaded",
		.timeout = DEFAULT_TIMEOUT,
		.interval = DEFAULT_INTERVAL,
	};
}

bool cli_args__read(struct cli_args *out, const struct cli_command *command, int argc, char **argv, bool *help)
{
	struct option longs[N_KNOWN + 1] = {0};
	size_t n = 0;
	int id;

	cli_args__default(out);
	*help = false;
	for (size_t i = 0; i < N_KNOWN; i++)
		if (!known[i].takes || (known[i].takes & command->takes))
			longs[n++] = known[i].option;

	opterr = 0;
	optind = 1;
	while ((id = getopt_long(argc, argv, command->takes & CLI_TAKES_EVENTS ? ":f" : ":", longs, NULL)) >= 0) {
		if (id == '?' || id == ':') {
			cli_complain(id == '?' ? "%s: there is no option '%s' (or it takes no value)"
					       : "%s: '%s' needs a value",
				     command->name, argv[optind - 1]);
			return false;
		}
		if (id == OPT_HELP)
			*help = true;
		else if (!take_option(out, id, optarg))
			return false;
	}
	if (!out->policy_dir)
		out->policy_dir = from_env("BPFTIME_POLICY_DIR", POLICY_DEFAULT_DIRS);
	out->words = argv + optind;
	out->n_words = argc - optind;
	if (*help)
		return true;
	if (out->n_words < command->min_words) {
		cli_complain("%s: an argument is missing", command->name);
		return false;
	}
	if (command->max_words >= 0 && out->n_words > command->max_words) {
		cli_complain("%s: '%s' is one argument too many", command->name, out->words[command->max_words]);
		return false;
	}
	return true;
}
