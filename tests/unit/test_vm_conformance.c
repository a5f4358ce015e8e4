// SPDX-License-Identifier: MIT
/*
 * The tables of tests/conformance: each row is a program, what its memory holds, and what it returns. Three answers
 * must agree with the row: of the interpreter, of native code (for any x86-64, and for this CPU), and of the kernel,
 * where its verifier lets the program pass.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "vm-llvm/bpftime-vm.h"
#include "vm_forms.h"

#define MAX_INSNS  64
#define MAX_MEMORY 64
#define STEPS	   100000

#define ADD(d, s)	    I(BPF_ALU64 | BPF_ADD | BPF_X, d, s, 0, 0)
#define LDSX(size, d, s, o) I(BPF_LDX | VM_MODE_MEMSX | (size), d, s, o, 0)
#define ST(size, d, o, i)   I(BPF_ST | BPF_MEM | (size), d, 0, o, i)
#define JA(o)		    I(BPF_JMP | BPF_JA, 0, 0, o, 0)
#define JA32(i)		    I(BPF_JMP32 | BPF_JA, 0, 0, 0, i)
#define LOCAL(i)	    I(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, i)
#define CALLX(d, i)	    I(BPF_JMP | BPF_CALL | BPF_X, d, 0, 0, i)
#define FUNC(d, i)	    LDDW(d, VM_PSEUDO_FUNC, i, 0)

/* ---- one program ---- */

struct program {
	const char *name;
	struct bpf_insn in[MAX_INSNS];
	size_t n;
	uint8_t mem[MAX_MEMORY];
	size_t mem_size;
	uint64_t r0;
};

struct counts {
	size_t programs, kernel;
	bool no_kernel;
};

static void add(struct program *p, struct bpf_insn in)
{
	assert_true(p->n < MAX_INSNS);
	p->in[p->n++] = in;
}

#define ADD_INSN(p, ...) add(p, (struct bpf_insn)__VA_ARGS__)

static void add_number(struct program *p, unsigned int reg, uint64_t v)
{
	const struct bpf_insn pair[] = {LDDW(reg, 0, (int32_t)(uint32_t)v, (int32_t)(uint32_t)(v >> 32))};

	add(p, pair[0]);
	add(p, pair[1]);
}

static uint64_t weigh(void *user, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	return 7 + r1 + 10 * r2 + 100 * r3 + 1000 * r4 + 10000 * r5;
}

static void wrong(const struct program *p, const char *who, uint64_t r0)
{
	fail_msg("%s: %s has %#lx, the table %#lx", p->name, who, r0, p->r0);
}

static void by_interpreter(const struct program *p, const struct bpftime_vm *vm)
{
	const struct bpftime_vm_run_opts opts = {.sz = sizeof(opts), .max_steps = STEPS};
	uint8_t mem[MAX_MEMORY];
	char err[256];
	uint64_t r0;

	memcpy(mem, p->mem, sizeof(mem));
	if (bpftime_vm__interpret(vm, p->mem_size ? mem : NULL, p->mem_size, &opts, &r0, err, sizeof(err)))
		fail_msg("%s: %s", p->name, err);
	if (r0 != p->r0)
		wrong(p, "the interpreter", r0);
}

static void by_native_code(const struct program *p, const struct bpftime_vm_opts *vm_opts, int portable)
{
	const struct bpftime_vm_compile_opts opts = {.sz = sizeof(opts), .portable = portable};
	struct bpftime_vm *vm;
	uint8_t mem[MAX_MEMORY];
	char err[256];
	uint64_t r0 = 0;

	memcpy(mem, p->mem, sizeof(mem));
	if (bpftime_vm__new(&vm, p->in, p->n, vm_opts, err, sizeof(err)) ||
	    bpftime_vm__compile(vm, &opts, err, sizeof(err)))
		fail_msg("%s: %s", p->name, err);
	assert_int_equal(bpftime_vm__call(vm, p->mem_size ? mem : NULL, p->mem_size, &r0), 0);
	if (r0 != p->r0)
		wrong(p, portable ? "portable native code" : "native code", r0);
	bpftime_vm__free(vm);
}

/*
 * The kernel gives back 32 bits only. So the program becomes a subprogram of one that stores its r0 behind the memory,
 * and the memory is the context. Returns whether the verifier let it pass.
 */
static bool by_kernel(const struct program *p, struct counts *c)
{
	const struct bpf_insn before[] = {
		MOV(6, 1), MOVI(2, (int32_t)p->mem_size), LOCAL(3), STX(BPF_DW, 6, MAX_MEMORY, 0), MOVI(0, 0), EXIT};
	struct {
		uint8_t mem[MAX_MEMORY];
		uint64_t r0;
	} ctx = {.r0 = 0};
	struct bpf_insn in[MAX_INSNS + N_INSNS(before)];
	union bpf_attr attr = {0};
	int fd;

	memcpy(in, before, sizeof(before));
	memcpy(in + N_INSNS(before), p->in, p->n * sizeof(*in));
	memcpy(ctx.mem, p->mem, sizeof(ctx.mem));
	fd = form_load(in, p->n + N_INSNS(before), NULL, 0);
	c->no_kernel |= fd == -EPERM;
	if (fd < 0)
		return false;
	attr.test.prog_fd = (uint32_t)fd;
	attr.test.ctx_in = (uintptr_t)&ctx;
	attr.test.ctx_size_in = sizeof(ctx);
	assert_int_equal(form_bpf(BPF_PROG_TEST_RUN, &attr), 0);
	close(fd);
	if (ctx.r0 != p->r0)
		wrong(p, "the kernel", ctx.r0);
	return true;
}

static void run(const struct program *p, struct counts *c)
{
	static const struct bpftime_vm_helper helpers[] = {{1000007, weigh}};
	static const struct bpftime_vm_opts opts = {
		.sz = sizeof(opts),
		.features = BPFTIME_VM_CALLX | BPFTIME_VM_FUNC_ADDR,
		.helpers = helpers,
		.n_helpers = 1,
	};
	struct bpftime_vm *vm;
	char err[256];

	if (bpftime_vm__new(&vm, p->in, p->n, &opts, err, sizeof(err)))
		fail_msg("%s: %s", p->name, err);
	by_interpreter(p, vm);
	by_native_code(p, &opts, 0);
	by_native_code(p, &opts, 1);
	if (by_kernel(p, c))
		c->kernel++;
	else if (!c->no_kernel)
		print_message("%s: not for the kernel\n", p->name);
	c->programs++;
	bpftime_vm__free(vm);
}

/* at_least: programs that the kernel has run, where we may load any. */
static void finish(const struct counts *c, size_t at_least)
{
	print_message("%zu programs, %zu of them also by the kernel\n", c->programs, c->kernel);
	if (c->no_kernel)
		print_message("no right to load programs: not compared with the kernel\n");
	else if (form_kernel_has_v4())
		assert_true(c->kernel >= at_least);
}

/* ---- arithmetic ---- */

#define ROW_ALU(...)                                                                                                   \
	{                                                                                                              \
		__VA_ARGS__                                                                                            \
	}
static const struct {
	const char *name;
	uint8_t op;
	int16_t off;
	int width;
	uint64_t dst, src, r0;
} alu_rows[] = {
#include "tests/conformance/alu.rows"
};

static bool fits_imm(uint64_t v, int width)
{
	return width == 32 || (uint64_t)(int64_t)(int32_t)(uint32_t)v == v;
}

static void arithmetic(void **state)
{
	struct counts c = {0};

	for (size_t i = 0; i < N_INSNS(alu_rows); i++) {
		uint8_t class = alu_rows[i].width == 64 ? BPF_ALU64 : BPF_ALU;
		bool immediate =
			fits_imm(alu_rows[i].src, alu_rows[i].width) && !(alu_rows[i].op == BPF_MOV && alu_rows[i].off);
		struct program p = {.name = alu_rows[i].name, .r0 = alu_rows[i].r0}, q = p;

		add_number(&p, 0, alu_rows[i].dst);
		add_number(&p, 3, alu_rows[i].src);
		ADD_INSN(&p, I(class | alu_rows[i].op | BPF_X, 0, 3, alu_rows[i].off, 0));
		ADD_INSN(&p, EXIT);
		run(&p, &c);
		if (!immediate)
			continue;
		add_number(&q, 0, alu_rows[i].dst);
		ADD_INSN(&q, I(class | alu_rows[i].op | BPF_K, 0, 0, alu_rows[i].off, (int32_t)alu_rows[i].src));
		ADD_INSN(&q, EXIT);
		run(&q, &c);
	}
	finish(&c, c.programs * 9 / 10);
}

#define ROW_ONE(...)                                                                                                   \
	{                                                                                                              \
		__VA_ARGS__                                                                                            \
	}
static const struct {
	const char *name;
	uint8_t code;
	int32_t imm;
	uint64_t dst, r0;
} unary_rows[] = {
#include "tests/conformance/unary.rows"
};

static void unary(void **state)
{
	struct counts c = {0};

	for (size_t i = 0; i < N_INSNS(unary_rows); i++) {
		struct program p = {.name = unary_rows[i].name, .r0 = unary_rows[i].r0};

		add_number(&p, 0, unary_rows[i].dst);
		ADD_INSN(&p, I(unary_rows[i].code, 0, 0, 0, unary_rows[i].imm));
		ADD_INSN(&p, EXIT);
		run(&p, &c);
	}
	finish(&c, c.programs);
}

/* ---- jumps ---- */

#define ROW_JUMP(...)                                                                                                  \
	{                                                                                                              \
		__VA_ARGS__                                                                                            \
	}
static const struct {
	const char *name;
	uint8_t op;
	int width;
	uint64_t dst, src;
	int taken;
} jump_rows[] = {
#include "tests/conformance/jump.rows"
};

/* Numbers come from memory, so that no engine knows beforehand where it goes. */
static void jumps(void **state)
{
	struct counts c = {0};

	for (size_t i = 0; i < N_INSNS(jump_rows); i++) {
		uint8_t class = jump_rows[i].width == 64 ? BPF_JMP : BPF_JMP32;

		for (int imm = 0; imm <= fits_imm(jump_rows[i].src, jump_rows[i].width); imm++) {
			struct program p = {
				.name = jump_rows[i].name, .mem_size = 16, .r0 = jump_rows[i].taken ? 1 : 2};

			memcpy(p.mem, &jump_rows[i].dst, 8);
			memcpy(p.mem + 8, &jump_rows[i].src, 8);
			ADD_INSN(&p, LDX(BPF_DW, 3, 1, 0));
			ADD_INSN(&p, LDX(BPF_DW, 4, 1, 8));
			ADD_INSN(&p, MOVI(0, 1));
			if (imm)
				ADD_INSN(&p, I(class | jump_rows[i].op | BPF_K, 3, 0, 1, (int32_t)jump_rows[i].src));
			else
				ADD_INSN(&p, I(class | jump_rows[i].op | BPF_X, 3, 4, 1, 0));
			ADD_INSN(&p, MOVI(0, 2));
			ADD_INSN(&p, EXIT);
			run(&p, &c);
		}
	}
	finish(&c, c.programs);
}

/* ---- atomic instructions ---- */

#define ROW_ATOMIC(...)                                                                                                \
	{                                                                                                              \
		__VA_ARGS__                                                                                            \
	}
static const struct {
	const char *name;
	int width;
	int32_t op;
	uint64_t r0, memory, src, src_after, r0_after, memory_after;
} atomic_rows[] = {
#include "tests/conformance/atomic.rows"
};

/* which: 0 the source afterwards, 1 r0, 2 the memory, which is on the stack, 3 the memory, which is not. */
static void atomics(void **state)
{
	struct counts c = {0};

	for (size_t i = 0; i < N_INSNS(atomic_rows); i++) {
		uint8_t size = atomic_rows[i].width == 64 ? BPF_DW : BPF_W;

		for (int which = 0; which < 4; which++) {
			struct program p = {.name = atomic_rows[i].name,
					    .mem_size = 8,
					    .r0 = which == 0   ? atomic_rows[i].src_after
						  : which == 1 ? atomic_rows[i].r0_after
							       : atomic_rows[i].memory_after};
			unsigned int base = which == 3 ? 1 : 10;
			int16_t off = which == 3 ? 0 : -8;

			add_number(&p, 0, atomic_rows[i].r0);
			add_number(&p, 3, atomic_rows[i].src);
			add_number(&p, 4, atomic_rows[i].memory);
			ADD_INSN(&p, STX(BPF_DW, base, off, 4));
			ADD_INSN(&p, I(BPF_STX | BPF_ATOMIC | size, base, 3, off, atomic_rows[i].op));
			if (which == 0)
				ADD_INSN(&p, MOV(0, 3));
			if (which >= 2)
				ADD_INSN(&p, LDX(BPF_DW, 0, base, off));
			ADD_INSN(&p, EXIT);
			run(&p, &c);
		}
	}
	finish(&c, c.programs * 3 / 4);
}

/* ---- whole programs ---- */

#define ROW_PROGRAM(text, memory, result, ...)                                                                         \
	{                                                                                                              \
		text, {__VA_ARGS__}, sizeof((struct bpf_insn[]){__VA_ARGS__}) / sizeof(struct bpf_insn), memory,       \
			sizeof(memory) - 1, result                                                                     \
	}
static const struct program programs[] = {
#include "tests/conformance/program.rows"
};

static void whole_programs(void **state)
{
	struct counts c = {0};

	for (size_t i = 0; i < N_INSNS(programs); i++)
		run(&programs[i], &c);
	finish(&c, c.programs * 3 / 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(arithmetic), cmocka_unit_test(unary),		cmocka_unit_test(jumps),
		cmocka_unit_test(atomics),    cmocka_unit_test(whole_programs),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
