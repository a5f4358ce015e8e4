// SPDX-License-Identifier: MIT
/*
 * bpftime-vm-plugin: what conformance suites of others run for each of their programs. It uses the public library only.
 *
 *	bpftime-vm-plugin [MEM] [--jit | --interpret] [--program HEX]
 *
 * The program comes as hex bytes on standard input, or after --program. MEM are hex bytes, too: r1 points to them, r2
 *is how many. r0 goes to standard output in hex, with exit status 0; a reason goes to standard error, with 1.
 */
#include "bpftime-vm.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct bytes {
	uint8_t *data;
	size_t size;
};

static int hex_digit(int c)
{
	return c >= '0' && c <= '9' ? c - '0' : isxdigit(c) ? tolower(c) - 'a' + 10 : -1;
}

/* Hex bytes with anything blank between them, each perhaps with 0x before it. Returns whether they are. */
static bool parse_hex(const char *text, struct bytes *out)
{
	out->data = malloc(strlen(text) / 2 + 1);
	out->size = 0;
	while (out->data && *text) {
		if (isspace((unsigned char)*text) || *text == ',') {
			text++;
			continue;
		}
		if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X'))
			text += 2;
		if (hex_digit(text[0]) < 0 || hex_digit(text[1]) < 0)
			return false;
		out->data[out->size++] = (uint8_t)(hex_digit(text[0]) * 16 + hex_digit(text[1]));
		text += 2;
	}
	return out->data;
}

static char *read_input(void)
{
	size_t size = 0, room = 4096;
	char *text = malloc(room), *larger;

	while (text) {
		size_t n = fread(text + size, 1, room - size - 1, stdin);

		size += n;
		text[size] = 0;
		if (n == 0)
			return text;
		if (size + 1 < room)
			continue;
		room *= 2;
		larger = realloc(text, room);
		if (!larger)
			free(text);
		text = larger;
	}
	return NULL;
}

/* ---- helpers that such suites call by number ---- */

static uint64_t gather_bytes(void *user, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e)
{
	return (a & 0xff) << 32 | (b & 0xff) << 24 | (c & 0xff) << 16 | (d & 0xff) << 8 | (e & 0xff);
}

static uint64_t frob_bytes(void *user, uint64_t p, uint64_t n, uint64_t c, uint64_t d, uint64_t e)
{
	for (uint64_t i = 0; i < n; i++)
		((uint8_t *)(uintptr_t)p)[i] ^= 42;
	return p;
}

static uint64_t no_op(void *user, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e)
{
	return 0;
}

/* The largest number whose square is not above n. */
static uint64_t square_root(void *user, uint64_t n, uint64_t b, uint64_t c, uint64_t d, uint64_t e)
{
	uint64_t root = 0;

	for (uint64_t bit = 1ull << 31; bit; bit >>= 1)
		if ((root | bit) * (root | bit) <= n)
			root |= bit;
	return root;
}

static uint64_t compare_strings(void *user, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e)
{
	return (uint64_t)(int64_t)strcmp((const char *)(uintptr_t)a, (const char *)(uintptr_t)b);
}

static uint64_t unwind(void *user, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e)
{
	return a;
}

static const struct bpftime_vm_helper helpers[] = {
	{0, gather_bytes}, {1, frob_bytes}, {2, no_op}, {3, square_root}, {4, compare_strings}, {5, unwind},
};

#define NO_OP 2 /* the number of no_op() above */

/* A function of the runtime (call with source register 2), of which suites want no more than that it can be called. */
static int resolve(void *user, const struct bpf_insn *insn, uint64_t *value)
{
	*value = NO_OP;
	return insn->code == (BPF_JMP | BPF_CALL) ? 0 : -EOPNOTSUPP;
}

/* ---- a run ---- */

static int fail(const char *reason)
{
	fprintf(stderr, "%s\n", reason);
	return 1;
}

static int run(const struct bytes *program, const struct bytes *memory, bool interpret)
{
	const struct bpftime_vm_opts opts = {
		.sz = sizeof(opts),
		.features = BPFTIME_VM_CALLX | BPFTIME_VM_FUNC_ADDR | BPFTIME_VM_KFUNC,
		.resolve = resolve,
		.helpers = helpers,
		.n_helpers = sizeof(helpers) / sizeof(helpers[0]),
	};
	uint8_t *mem = memory->size ? memory->data : NULL;
	char err[512] = "";
	struct bpftime_vm *vm;
	uint64_t r0 = 0;
	int r;

	if (program->size % sizeof(struct bpf_insn))
		return fail("the program is not a whole number of instructions");
	r = bpftime_vm__new(&vm, (const struct bpf_insn *)program->data, program->size / sizeof(struct bpf_insn), &opts,
			    err, sizeof(err));
	if (r)
		return fail(err);
	if (interpret) {
		r = bpftime_vm__interpret(vm, mem, memory->size, NULL, &r0, err, sizeof(err));
	} else {
		r = bpftime_vm__compile(vm, NULL, err, sizeof(err));
		if (!r && bpftime_vm__call(vm, mem, memory->size, &r0)) {
			snprintf(err, sizeof(err), "the program calls what is no function");
			r = -1;
		}
	}
	bpftime_vm__free(vm);
	if (r)
		return fail(err);
	printf("%llx\n", (unsigned long long)r0);
	return 0;
}

int main(int argc, char **argv)
{
	struct bytes program = {0}, memory = {0};
	const char *mem_text = "", *program_text = NULL;
	bool interpret = false, seen_mem = false;
	char *input = NULL;
	int r;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--interpret"))
			interpret = true;
		else if (!strcmp(argv[i], "--jit"))
			interpret = false;
		else if (!strcmp(argv[i], "--debug"))
			fprintf(stderr, "bpftime-vm %s\n", bpftime_vm_version());
		else if (!strcmp(argv[i], "--program") && i + 1 < argc)
			program_text = argv[++i];
		else if (argv[i][0] == '-' || (argv[i][0] && seen_mem))
			return fail("usage: bpftime-vm-plugin [MEM] [--jit | --interpret] [--program HEX]");
		else if (argv[i][0]) {
			mem_text = argv[i];
			seen_mem = true;
		}
	}
	if (!program_text)
		program_text = input = read_input();
	if (!program_text || !parse_hex(program_text, &program))
		r = fail("the program is not given as hex bytes");
	else if (!parse_hex(mem_text, &memory))
		r = fail("the memory is not given as hex bytes");
	else
		r = run(&program, &memory, interpret);
	free(input);
	free(program.data);
	free(memory.data);
	return r;
}
