/* SPDX-License-Identifier: MIT */
/*
 * tool.h: bpftime-vm, which `bpftime vm` and `bpftime aot` run: a subcommand is a row of the table in tool_main.c and a
 * file tool_NAME.c.
 */
#ifndef BPFTIME_VM_TOOL_H
#define BPFTIME_VM_TOOL_H

#include "elf.h"

#define TOOL_ERR_SIZE 512

/* As bpftime's: see bpftime(1). */
enum tool_exit {
	TOOL_DONE = 0,
	TOOL_FAILED = 1,
	TOOL_USAGE = 2,
};

/* The command line, read. Strings are argv's, or NULL. */
struct tool_args {
	const char *file;
	const char *section, *program; /* which program of the file */
	const char *mem;	       /* a file: the memory that the program gets */
	const char *engine;	       /* jit, interp */
	const char *output;
	const char *triple, *cpu, *name;
	bool verified; /* the programs are what the kernel's verifier has taken */
};

enum tool_exit tool_disasm(const struct tool_args *args);
enum tool_exit tool_run(const struct tool_args *args);
enum tool_exit tool_aot(const struct tool_args *args);

/* One sentence on stderr, "bpftime: " before it; returns TOOL_FAILED. */
enum tool_exit tool_complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
