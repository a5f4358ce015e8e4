// SPDX-License-Identifier: MIT
/* tool_aot.c: `bpftime aot compile`: writes the object, and links it when a shared one is asked for. */
#include "aot.h"
#include "tool.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define TABLE_SUFFIX "_bpf"

static bool ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), k = strlen(end);

	return n > k && !strcmp(s + n - k, end);
}

/* "out/my-prog.so" has the table my_prog_bpf. */
static void table_name(const char *output, char *out, size_t size)
{
	const char *base = strrchr(output, '/');
	size_t n;

	base = base ? base + 1 : output;
	n = strcspn(base, ".");
	snprintf(out, size, "%s%.*s" TABLE_SUFFIX, isdigit((unsigned char)*base) ? "_" : "", (int)n, base);
	for (char *c = out; *c; c++)
		if (!isalnum((unsigned char)*c))
			*c = '_';
}

static int write_file(const char *path, const void *data, size_t size)
{
	FILE *f = fopen(path, "w");
	size_t done = f ? fwrite(data, 1, size, f) : 0;

	if (!f || fclose(f) || done != size) {
		tool_complain("'%s' cannot be written: %s", path, strerror(errno));
		return -1;
	}
	return 0;
}

/* binutils' linker: ld for the kind of machine that this is, else with the machine's name before it. */
static const char *linker(const char *triple)
{
	bool arm = triple && !strncmp(triple, "aarch64", 7);

#ifdef __aarch64__
	return arm ? "ld" : "x86_64-linux-gnu-ld";
#else
	return arm ? "aarch64-linux-gnu-ld" : "ld";
#endif
}

static int link_shared(const char *triple, const char *object, const char *output)
{
	const char *ld = linker(triple);
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		execlp(ld, ld, "-shared", "-z", "noexecstack", "-o", output, object, (char *)NULL);
		tool_complain("%s cannot be run: %s (Debian has it in %s)", ld, strerror(errno),
			      strcmp(ld, "ld") ? "binutils-aarch64-linux-gnu" : "binutils");
		_exit(TOOL_USAGE);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid) {
		tool_complain("%s cannot be run: %s", ld, strerror(errno));
		return -1;
	}
	if (!WIFEXITED(status) || WEXITSTATUS(status)) {
		tool_complain("'%s' was not linked", output);
		return -1;
	}
	return 0;
}

static int write_output(const struct tool_args *args, const void *object, size_t size)
{
	char temporary[PATH_MAX];
	int r;

	if (!ends_with(args->output, ".so"))
		return write_file(args->output, object, size);
	if (snprintf(temporary, sizeof(temporary), "%s.o", args->output) >= (int)sizeof(temporary)) {
		tool_complain("'%s' is too long a name", args->output);
		return -1;
	}
	r = write_file(temporary, object, size);
	if (!r)
		r = link_shared(args->triple, temporary, args->output);
	unlink(temporary);
	return r;
}

enum tool_exit tool_aot(const struct tool_args *args)
{
	char err[TOOL_ERR_SIZE] = "", table[256];
	struct vm_aot_opts o = {.sz = sizeof(o),
				.triple = args->triple,
				.cpu = args->cpu,
				.table = args->name,
				.verified = args->verified};
	struct vm_elf *elf;
	void *object;
	size_t size;
	int r;

	if (!args->output || (!ends_with(args->output, ".so") && !ends_with(args->output, ".o"))) {
		tool_complain("aot compile: -o is to name a file that ends with .o or .so");
		return TOOL_USAGE;
	}
	if (!o.table) {
		table_name(args->output, table, sizeof(table));
		o.table = table;
	}
	if (vm_elf__open(args->file, &elf, err, sizeof(err)))
		return tool_complain("%s", err);
	r = vm_aot_compile(elf, &o, &object, &size, err, sizeof(err));
	if (r)
		tool_complain("%s: %s", args->file, err);
	else
		r = write_output(args, object, size);
	free(object);
	vm_elf__free(elf);
	return r ? TOOL_FAILED : TOOL_DONE;
}
