/* SPDX-License-Identifier: MIT */
/*
 * main.c: bpftime: finds the subcommand and runs it. A subcommand is a row of cli_commands[] and a file cmd_NAME.c.
 */
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "args.h"
#include "cli.h"

const struct cli_command cli_commands[] = {
	{"status", "[--json]", "how bpftimed works here, and what it carries", CLI_TAKES_JSON, 0, 0, cmd_status},
	{"ps", "[--json]", "tools, their probes, and where these run", CLI_TAKES_JSON, 0, 0, cmd_ps},
	{"explain", "TOOL_PID [--json]", "why each probe of a tool runs where it runs", CLI_TAKES_JSON, 1, 1,
	 cmd_explain},
	{"wait", "--tool PID [--state STATE] [--timeout SECONDS] [--json]",
	 "until a tool is offloaded (or partly, or kernel)", CLI_TAKES_JSON | CLI_TAKES_WAIT, 0, 0, cmd_wait},
	{"top", "[--interval SECONDS] [--count N] [--json]", "hits per second, again and again",
	 CLI_TAKES_JSON | CLI_TAKES_TOP, 0, 0, cmd_top},
	{"events", "[-f|--follow] [--tool PID] [--json]", "what bpftimed has decided, and what it decides",
	 CLI_TAKES_JSON | CLI_TAKES_EVENTS, 0, 0, cmd_events},
	{"metrics", "", "everything that can be counted, as OpenMetrics", 0, 0, 0, cmd_metrics},
	{"doctor", "[--json] [--policy-dir DIR]", "what will and will not be offloaded on this host, and why",
	 CLI_TAKES_JSON | CLI_TAKES_POLICY_DIR, 0, 0, cmd_doctor},
	{"handback", "TOOL_PID", "give a tool's probes back to the kernel, and keep them there", 0, 1, 1, cmd_handback},
	{"takeover", "TOOL_PID", "after handback: take them over again", 0, 1, 1, cmd_takeover},
	{"policy", "check|show|explain [--json] [--policy-dir DIR]",
	 "look for mistakes in policy files; what they decide",
	 CLI_TAKES_JSON | CLI_TAKES_POLICY_DIR | CLI_TAKES_POLICY, 1, -1, cmd_policy},
	{"recover", "", "take away what a bpftimed that was killed has left on this host", 0, 0, 0, cmd_recover},
	{"vm", "run|disasm FILE [OPTION...]", "run or show programs of an eBPF object file, without bpftimed",
	 CLI_TAKES_ALL, 0, -1, cmd_vm},
	{"aot", "compile FILE -o OUTPUT [OPTION...]", "native code of an eBPF object file, for C programs",
	 CLI_TAKES_ALL, 0, -1, cmd_aot},
	{"version", "[--json]", "the versions of bpftime and of the bpftimed that runs", CLI_TAKES_JSON, 0, 0,
	 cmd_version},
	{"help", "[COMMAND]", "show this, or the usage of a command", 0, 0, 1, cmd_help},
	{0},
};

void cli_complain(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("bpftime: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
}

static const struct cli_command *find_command(const char *name)
{
	for (const struct cli_command *c = cli_commands; c->name; c++)
		if (strcmp(c->name, name) == 0)
			return c;
	return NULL;
}

static void show_usage(const struct cli_command *c, FILE *to)
{
	fprintf(to, "Usage: bpftime %s%s%s%s\n%c%s.\n", c->name, *c->synopsis ? " " : "", c->synopsis,
		c->takes & CLI_TAKES_ALL ? "" : " [--runtime-dir DIR]", toupper((unsigned char)*c->summary),
		c->summary + 1);
}

static void show_all(FILE *to)
{
	fputs("Usage: bpftime COMMAND [ARGUMENT...] [--runtime-dir DIR]\n"
	      "Asks bpftimed, which runs the uprobe programs of unchanged tools in userspace.\n\n",
	      to);
	for (const struct cli_command *c = cli_commands; c->name; c++)
		fprintf(to, "  %-9s %-48s %s\n", c->name, c->synopsis, c->summary);
	fputs("\nExit codes: 0 done, 1 the answer is no or something failed, 2 wrong usage, 3 bpftimed is not "
	      "reachable.\n"
	      "See bpftime(1).\n",
	      to);
}

static enum cli_exit unknown_command(const char *name)
{
	if (cli_is_option(name))
		cli_complain("'%s' must stand behind the command; 'bpftime help' shows how", name);
	else
		cli_complain("there is no %s '%s'; 'bpftime help' shows them", *name == '-' ? "option" : "command",
			     name);
	return CLI_USAGE;
}

enum cli_exit cmd_help(const struct cli_args *args)
{
	const struct cli_command *c = args->n_words ? find_command(args->words[0]) : NULL;

	if (args->n_words && !c)
		return unknown_command(args->words[0]);
	if (c)
		show_usage(c, stdout);
	else
		show_all(stdout);
	return CLI_DONE;
}

int main(int argc, char **argv)
{
	const struct cli_command *c;
	struct cli_args args;
	enum cli_exit code;
	bool help;

	if (argc < 2) {
		show_all(stderr);
		return CLI_USAGE;
	}
	cli_args__default(&args);
	if (strcmp(argv[1], "--help") == 0)
		return cmd_help(&args);
	if (strcmp(argv[1], "--version") == 0)
		return cmd_version(&args);
	c = find_command(argv[1]);
	if (!c)
		return unknown_command(argv[1]);
	if (c->takes & CLI_TAKES_ALL) {
		args.words = argv + 2;
		args.n_words = argc - 2;
		return c->run(&args);
	}
	if (!cli_args__read(&args, c, argc - 1, argv + 1, &help)) {
		show_usage(c, stderr);
		return CLI_USAGE;
	}
	if (help) {
		show_usage(c, stdout);
		return CLI_DONE;
	}
	code = c->run(&args);
	if (fflush(stdout) && code == CLI_DONE) {
		cli_complain("the output could not be written");
		return CLI_NO;
	}
	return code;
}
