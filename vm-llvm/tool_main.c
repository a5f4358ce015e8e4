// SPDX-License-Identifier: MIT
/* tool_main.c: bpftime-vm: finds the subcommand, reads its options and runs it. */
#include "tool.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum takes { TAKES_RUN = 1, TAKES_AOT = 2, TAKES_PROGRAM = 4 };

static const struct command {
	const char *group, *name, *synopsis, *summary;
	unsigned int takes;
	enum tool_exit (*run)(const struct tool_args *args);
} commands[] = {
	{"vm", "disasm", "FILE [--section SECTION] [--program NAME]", "the programs of an eBPF object file as text",
	 TAKES_PROGRAM, tool_disasm},
	{"vm", "run", "FILE [--section SECTION] [--program NAME] [--mem FILE] [--engine jit|interp]",
	 "run a program and print what it returns", TAKES_PROGRAM | TAKES_RUN, tool_run},
	{"aot", "compile", "FILE -o OUTPUT.o|OUTPUT.so [--triple TRIPLE] [--cpu CPU] [--name NAME] [--verified]",
	 "native code that a C program links and calls", TAKES_AOT, tool_aot},
};
#define N_COMMANDS (sizeof(commands) / sizeof(commands[0]))

static const struct {
	struct option option; /* val: where in struct tool_args the value goes */
	unsigned int takes;
} known[] = {
	{{"section", required_argument, NULL, offsetof(struct tool_args, section)}, TAKES_PROGRAM},
	{{"program", required_argument, NULL, offsetof(struct tool_args, program)}, TAKES_PROGRAM},
	{{"mem", required_argument, NULL, offsetof(struct tool_args, mem)}, TAKES_RUN},
	{{"engine", required_argument, NULL, offsetof(struct tool_args, engine)}, TAKES_RUN},
	{{"output", required_argument, NULL, offsetof(struct tool_args, output)}, TAKES_AOT},
	{{"triple", required_argument, NULL, offsetof(struct tool_args, triple)}, TAKES_AOT},
	{{"cpu", required_argument, NULL, offsetof(struct tool_args, cpu)}, TAKES_AOT},
	{{"name", required_argument, NULL, offsetof(struct tool_args, name)}, TAKES_AOT},
};
#define N_KNOWN	     (sizeof(known) / sizeof(known[0]))
#define OPT_HELP     1000
#define OPT_VERIFIED 1001

enum tool_exit tool_complain(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("bpftime: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	return TOOL_FAILED;
}

static void show_usage(const char *group, FILE *to)
{
	fputs("Usage:\n", to);
	for (size_t i = 0; i < N_COMMANDS; i++)
		if (!group || !strcmp(commands[i].group, group))
			fprintf(to, "  bpftime %s %s %s\n      %s\n", commands[i].group, commands[i].name,
				commands[i].synopsis, commands[i].summary);
}

/* argv[0] is the subcommand. False after a complaint. */
static bool read_args(struct tool_args *out, const struct command *c, int argc, char **argv, bool *help)
{
	struct option longs[N_KNOWN + 3] = {{"help", no_argument, NULL, OPT_HELP}};
	size_t n = 1;
	int id;

	if (c->takes & TAKES_AOT)
		longs[n++] = (struct option){"verified", no_argument, NULL, OPT_VERIFIED};

	for (size_t i = 0; i < N_KNOWN; i++)
		if (known[i].takes & c->takes)
			longs[n++] = known[i].option;
	opterr = 0;
	while ((id = getopt_long(argc, argv, c->takes & TAKES_AOT ? ":o:" : ":", longs, NULL)) >= 0) {
		if (id == '?' || id == ':') {
			tool_complain(id == '?' ? "%s %s: there is no option '%s'" : "%s %s: '%s' needs a value",
				      c->group, c->name, argv[optind - 1]);
			return false;
		}
		if (id == OPT_HELP)
			*help = true;
		else if (id == OPT_VERIFIED)
			out->verified = true;
		else if (id == 'o')
			out->output = optarg;
		else
			*(const char **)((char *)out + id) = optarg;
	}
	if (!*help && argc - optind != 1) {
		tool_complain("%s %s: one file is to be named", c->group, c->name);
		return false;
	}
	out->file = argv[optind];
	return true;
}

int main(int argc, char **argv)
{
	const struct command *c = NULL;
	struct tool_args args = {0};
	enum tool_exit code;
	bool help = false;

	for (size_t i = 0; argc > 2 && i < N_COMMANDS; i++)
		if (!strcmp(commands[i].group, argv[1]) && !strcmp(commands[i].name, argv[2]))
			c = &commands[i];
	if (!c && argc > 2 && !strcmp(argv[2], "--help")) {
		show_usage(argv[1], stdout);
		return TOOL_DONE;
	}
	if (!c) {
		show_usage(argc > 1 && (!strcmp(argv[1], "vm") || !strcmp(argv[1], "aot")) ? argv[1] : NULL, stderr);
		return TOOL_USAGE;
	}
	if (!read_args(&args, c, argc - 2, argv + 2, &help)) {
		show_usage(c->group, stderr);
		return TOOL_USAGE;
	}
	if (help) {
		show_usage(c->group, stdout);
		return TOOL_DONE;
	}
	code = c->run(&args);
	if (fflush(stdout) && code == TOOL_DONE)
		return tool_complain("the output could not be written");
	return code;
}
