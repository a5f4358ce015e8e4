// SPDX-License-Identifier: MIT
/* The library's own functions: options, helpers, tail calls, packets, resolving, limits, and what it refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <libgen.h>
#include <limits.h>

#include "vm-llvm/bpftime-vm.h"
#include "vm_forms.h"

#define LOCAL(i)	    I(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, i)
#define TAIL		    CALL(BPF_FUNC_tail_call)
#define JEQI(d, i, o)	    I(BPF_JMP | BPF_JEQ | BPF_K, d, 0, o, i)
#define PACKET_ABS(s, i)    I(BPF_LD | BPF_ABS | (s), 0, 0, 0, i)
#define PACKET_IND(s, r, i) I(BPF_LD | BPF_IND | (s), 0, r, 0, i)
#define MANY		    1000000

enum engine { INTERPRETER, NATIVE };

static struct bpftime_vm *make(const struct bpf_insn *in, size_t n, const struct bpftime_vm_opts *opts)
{
	struct bpftime_vm *vm;
	char err[256];

	if (bpftime_vm__new(&vm, in, n, opts, err, sizeof(err)))
		fail_msg("%s", err);
	return vm;
}

static void compile(struct bpftime_vm *vm)
{
	char err[256];

	if (bpftime_vm__compile(vm, NULL, err, sizeof(err)))
		fail_msg("%s", err);
}

/* r0, or the error when it is negative, of a compiled program. */
static int64_t run(const struct bpftime_vm *vm, enum engine engine, void *mem, size_t size)
{
	uint64_t r0 = 0;
	char err[256];
	int r;

	if (engine == INTERPRETER)
		r = bpftime_vm__interpret(vm, mem, size, NULL, &r0, err, sizeof(err));
	else
		r = bpftime_vm__call(vm, mem, size, &r0);
	return r ? r : (int64_t)r0;
}

/* The same by both. */
static void expect(const struct bpf_insn *in, size_t n, const struct bpftime_vm_opts *opts, void *mem, size_t size,
		   int64_t r0)
{
	struct bpftime_vm *vm = make(in, n, opts);

	compile(vm);
	assert_int_equal(run(vm, INTERPRETER, mem, size), r0);
	assert_int_equal(run(vm, NATIVE, mem, size), r0);
	bpftime_vm__free(vm);
}

/* ---- tail calls ---- */

struct programs {
	struct bpftime_vm *vm[4];
	unsigned int asked;
};

static struct bpftime_vm *program_at(void *user, uint64_t ctx, uint64_t map, uint32_t index)
{
	struct programs *p = user;

	p->asked++;
	assert_int_equal(map, 77);
	return index < 4 ? p->vm[index] : NULL;
}

/* Program 0 counts in its context and calls itself; what follows is run when the limit is reached. */
static void tail_call_limit(void **state)
{
	static const struct bpf_insn self[] = {
		LDX(BPF_DW, 3, 1, 0), ADDI(3, 1), STX(BPF_DW, 1, 0, 3), MOVI(2, 77), MOVI(3, 0), TAIL, MOVI(0, 5), EXIT,
	};
	struct programs p = {0};
	const struct bpftime_vm_opts opts = {
		.sz = sizeof(opts), .features = BPFTIME_VM_TAIL_CALL, .user = &p, .tail_call = program_at};

	p.vm[0] = make(self, N_INSNS(self), &opts);
	compile(p.vm[0]);
	for (int engine = INTERPRETER; engine <= NATIVE; engine++) {
		uint64_t count = 0;

		assert_int_equal(run(p.vm[0], engine, &count, sizeof(count)), 5);
		assert_int_equal(count, 34);
	}
	bpftime_vm__free(p.vm[0]);
}

/* The program that is called has r1 and nothing else; a tail call of what is not there goes on behind it. */
static void tail_call_goes(void **state)
{
	static const struct bpf_insn first[] = {
		MOVI(6, 1000), MOVI(2, 77), MOVI(3, 2), TAIL, MOVI(2, 77), MOVI(3, 1), TAIL, MOVI(0, 1), EXIT,
	};
	static const struct bpf_insn second[] = {
		LDX(BPF_DW, 0, 1, 0),
		I(BPF_ALU64 | BPF_ADD | BPF_X, 0, 6, 0, 0),
		I(BPF_ALU64 | BPF_ADD | BPF_X, 0, 2, 0, 0),
		I(BPF_ALU64 | BPF_ADD | BPF_X, 0, 3, 0, 0),
		EXIT,
	};
	struct programs p = {0};
	const struct bpftime_vm_opts opts = {
		.sz = sizeof(opts), .features = BPFTIME_VM_TAIL_CALL, .user = &p, .tail_call = program_at};
	uint64_t mem = 42;

	p.vm[0] = make(first, N_INSNS(first), &opts);
	p.vm[1] = make(second, N_INSNS(second), &opts);
	compile(p.vm[0]);
	assert_int_equal(run(p.vm[0], INTERPRETER, &mem, 8), 42);
	assert_int_equal(run(p.vm[0], NATIVE, &mem, 8), 1); /* the second is not compiled */
	compile(p.vm[1]);
	assert_int_equal(run(p.vm[0], NATIVE, &mem, 8), 42);
	assert_int_equal(p.asked, 6);
	bpftime_vm__free(p.vm[0]);
	bpftime_vm__free(p.vm[1]);
}

/* A tail call in a subprogram returns to who called the subprogram. */
static void tail_call_in_subprogram(void **state)
{
	static const struct bpf_insn first[] = {
		LOCAL(2), ADDI(0, 100), EXIT, MOVI(2, 77), MOVI(3, 1), TAIL, MOVI(0, 1), EXIT,
	};
	static const struct bpf_insn second[] = {MOVI(0, 7), EXIT};
	struct programs p = {0};
	const struct bpftime_vm_opts opts = {
		.sz = sizeof(opts), .features = BPFTIME_VM_TAIL_CALL, .user = &p, .tail_call = program_at};

	p.vm[0] = make(first, N_INSNS(first), &opts);
	p.vm[1] = make(second, N_INSNS(second), &opts);
	compile(p.vm[0]);
	compile(p.vm[1]);
	assert_int_equal(run(p.vm[0], INTERPRETER, NULL, 0), 107);
	assert_int_equal(run(p.vm[0], NATIVE, NULL, 0), 107);
	bpftime_vm__free(p.vm[0]);
	bpftime_vm__free(p.vm[1]);
}

/* ---- packets ---- */

static const uint8_t packet[] = {0x01, 0x02, 0x83, 0x04, 0x05};

static int64_t load_packet(void *user, uint64_t ctx, uint32_t offset, uint32_t size)
{
	uint64_t v = 0;

	assert_int_equal(ctx, 0x1234);
	if (offset > sizeof(packet) || size > sizeof(packet) - offset)
		return -1;
	for (uint32_t i = 0; i < size; i++)
		v = v << 8 | packet[offset + i];
	return (int64_t)v;
}

static void packets(void **state)
{
	static const struct {
		struct bpf_insn in;
		int64_t r0;
	} rows[] = {
		{PACKET_ABS(BPF_B, 2), 0x83 + 1},
		{PACKET_ABS(BPF_H, 1), 0x0283 + 1},
		{PACKET_ABS(BPF_W, 1), 0x02830405 + 1},
		{PACKET_IND(BPF_B, 7, 1), 0x83 + 1},
		{PACKET_IND(BPF_H, 7, 2), 0x0405 + 1},
		{PACKET_IND(BPF_W, 7, 0), 0x02830405 + 1},
		{PACKET_IND(BPF_B, 7, -1), 0x01 + 1},
		{PACKET_ABS(BPF_W, 2), 0},
		{PACKET_ABS(BPF_B, 5), 0},
		{PACKET_IND(BPF_B, 7, -2), 0},
		{PACKET_ABS(BPF_B, -1), 0},
	};
	const struct bpftime_vm_opts opts = {.sz = sizeof(opts), .features = BPFTIME_VM_PACKET, .packet = load_packet};

	for (size_t i = 0; i < N_INSNS(rows); i++) {
		const struct bpf_insn in[] = {MOVI(6, 0x1234), MOVI(7, 1), MOVI(0, 9), rows[i].in, ADDI(0, 1), EXIT};

		expect(in, N_INSNS(in), &opts, NULL, 0, rows[i].r0);
	}
}

/* ---- what stands for something outside ---- */

static int resolve(void *user, const struct bpf_insn *insn, uint64_t *value)
{
	if (insn->code == (BPF_JMP | BPF_CALL))
		*value = (uint64_t)insn->imm + 100;
	else
		*value = (uint64_t)insn->src_reg << 60 | (uint64_t)insn[1].imm << 32 | (uint32_t)insn->imm;
	return insn->imm == 13 ? -ENOENT : 0;
}

static uint64_t times_two(void *user, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	return 2 * r1;
}

static void resolving(void **state)
{
	static const struct bpftime_vm_helper helpers[] = {{105, times_two}};
	const struct bpftime_vm_opts opts = {
		.sz = sizeof(opts),
		.features = BPFTIME_VM_KFUNC | BPFTIME_VM_MAP_IDX | BPFTIME_VM_BTF_ID,
		.resolve = resolve,
		.helpers = helpers,
		.n_helpers = 1,
	};
	const struct bpf_insn kfunc[] = {MOVI(1, 21), I(BPF_JMP | BPF_CALL, 0, VM_PSEUDO_KFUNC, 0, 5), EXIT};
	static const unsigned int kinds[] = {BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE, VM_PSEUDO_BTF_ID,
					     VM_PSEUDO_MAP_IDX, VM_PSEUDO_IDX_VAL};
	const struct bpf_insn missing[] = {MOVI(0, 0), LDDW(1, BPF_PSEUDO_MAP_FD, 13, 0), EXIT};
	struct bpftime_vm *vm;
	char err[256];

	for (size_t i = 0; i < N_INSNS(kinds); i++) {
		const struct bpf_insn in[] = {LDDW(0, kinds[i], 9, 3), EXIT};

		expect(in, N_INSNS(in), &opts, NULL, 0, (int64_t)((uint64_t)kinds[i] << 60 | 3ull << 32 | 9));
	}
	expect(kfunc, N_INSNS(kfunc), &opts, NULL, 0, 42);
	assert_int_equal(bpftime_vm__new(&vm, missing, N_INSNS(missing), &opts, err, sizeof(err)), -ENOENT);
	assert_string_equal(err, "instruction 1: immediate 13 cannot be resolved: No such file or directory");
	assert_null(vm);
	assert_int_equal(bpftime_vm__new(&vm, missing, N_INSNS(missing), NULL, err, sizeof(err)), -EOPNOTSUPP);
}

/* ---- what the interpreter allows ---- */

static void memory(void **state)
{
	static const uint8_t constants[4] = {1, 2, 3, 4};
	uint8_t mem[8] = {0};
	const struct {
		struct bpf_insn in[4];
		const char *says; /* NULL: allowed */
	} rows[] = {
		{{LDX(BPF_DW, 0, 1, 0), EXIT}, NULL},
		{{LDX(BPF_B, 0, 1, 7), EXIT}, NULL},
		{{LDX(BPF_B, 0, 1, 8), EXIT}, "instruction 0: reads 1 bytes at"},
		{{LDX(BPF_B, 0, 1, -1), EXIT}, "instruction 0: reads 1 bytes at"},
		{{LDX(BPF_DW, 0, 1, 1), EXIT}, "instruction 0: reads 8 bytes at"},
		{{I(BPF_ST | BPF_MEM | BPF_W, 1, 0, 4, 1), EXIT}, NULL},
		{{I(BPF_ST | BPF_MEM | BPF_W, 1, 0, 5, 1), EXIT}, "instruction 0: writes 4 bytes at"},
		{{LDX(BPF_W, 0, 3, 0), EXIT}, "reads 4 bytes at 0x0, which is no memory"},
		{{MOVI(3, -1), LDX(BPF_DW, 0, 3, 0), EXIT}, "instruction 1: reads 8 bytes at 0xffffffffffffffff"},
		{{I(BPF_ST | BPF_MEM | BPF_DW, 10, 0, -512, 1), EXIT}, NULL},
		{{I(BPF_ST | BPF_MEM | BPF_DW, 10, 0, -513, 1), EXIT}, "writes 8 bytes"},
		{{I(BPF_ST | BPF_MEM | BPF_DW, 10, 0, -4, 1), EXIT}, "writes 8 bytes"},
		{{I(BPF_STX | BPF_ATOMIC | BPF_W, 1, 0, 6, BPF_ADD), EXIT}, "writes 4 bytes"},
	};
	const struct bpf_insn read_constant[] = {LDDW(3, BPF_PSEUDO_MAP_VALUE, 0, 0), LDX(BPF_W, 0, 3, 0), EXIT};
	const struct bpf_insn write_constant[] = {LDDW(3, BPF_PSEUDO_MAP_VALUE, 0, 0), STX(BPF_B, 3, 0, 1), EXIT};
	const struct bpftime_vm_region region = {(uintptr_t)constants, sizeof(constants), 0};
	const struct bpftime_vm_run_opts with_region = {.sz = sizeof(with_region), .regions = &region, .n_regions = 1};
	struct bpf_insn both[2][4];
	char err[256];
	uint64_t r0;

	for (size_t i = 0; i < N_INSNS(rows); i++) {
		size_t n = rows[i].in[2].code ? 3 : 2;
		struct bpftime_vm *vm = make(rows[i].in, n, NULL);
		int r = bpftime_vm__interpret(vm, mem, sizeof(mem), NULL, &r0, err, sizeof(err));

		assert_int_equal(r, rows[i].says ? -EFAULT : 0);
		if (rows[i].says && !strstr(err, rows[i].says))
			fail_msg("row %zu: '%s' does not say '%s'", i, err, rows[i].says);
		bpftime_vm__free(vm);
	}
	memcpy(both[0], read_constant, sizeof(read_constant));
	memcpy(both[1], write_constant, sizeof(write_constant));
	for (size_t i = 0; i < 2; i++) {
		struct bpftime_vm *vm;

		both[i][0].src_reg = 0;
		both[i][0].imm = (int32_t)(uint32_t)(uintptr_t)constants;
		both[i][1].imm = (int32_t)(uint32_t)((uintptr_t)constants >> 32);
		vm = make(both[i], 4, NULL);
		assert_int_equal(bpftime_vm__interpret(vm, NULL, 0, NULL, &r0, err, sizeof(err)), -EFAULT);
		assert_int_equal(bpftime_vm__interpret(vm, NULL, 0, &with_region, &r0, err, sizeof(err)),
				 i ? -EFAULT : 0);
		bpftime_vm__free(vm);
	}
}

static void limits(void **state)
{
	const struct bpf_insn endless[] = {MOVI(0, 0), I(BPF_JMP | BPF_JA, 0, 0, -2, 0), EXIT};
	const struct bpf_insn recursion[] = {LOCAL(1), EXIT, LOCAL(-1), EXIT};
	const struct bpftime_vm_run_opts budget = {.sz = sizeof(budget), .max_steps = 1000};
	struct bpftime_vm *vm = make(endless, N_INSNS(endless), NULL);
	char err[256];
	uint64_t r0;

	assert_int_equal(bpftime_vm__interpret(vm, NULL, 0, &budget, &r0, err, sizeof(err)), -ELOOP);
	bpftime_vm__free(vm);
	vm = make(recursion, N_INSNS(recursion), NULL);
	assert_int_equal(bpftime_vm__interpret(vm, NULL, 0, &budget, &r0, err, sizeof(err)), -E2BIG);
	assert_int_equal(bpftime_vm__compile(vm, NULL, err, sizeof(err)), -E2BIG);
	bpftime_vm__free(vm);
}

/* Eight frames are allowed, nine are not; callx counts as well, at run time. */
static void nesting(void **state)
{
	const struct bpftime_vm_opts opts = {.sz = sizeof(opts), .features = BPFTIME_VM_CALLX | BPFTIME_VM_FUNC_ADDR};
	/* f(r1) = r1 == 0 ? 0 : 1 + f(r1 - 1), by its address */
	const struct bpf_insn deep[] = {
		LDX(BPF_DW, 1, 1, 0),
		LOCAL(1),
		EXIT,
		MOVI(0, 0),
		JEQI(1, 0, 5),
		ADDI(1, -1),
		LDDW(6, VM_PSEUDO_FUNC, -4, 0),
		I(BPF_JMP | BPF_CALL | BPF_X, 6, 0, 0, 0),
		ADDI(0, 1),
		EXIT,
	};
	const struct bpf_insn nowhere[] = {MOVI(0, 3), MOVI(3, 99), I(BPF_JMP | BPF_CALL | BPF_X, 3, 0, 0, 0), EXIT};
	uint64_t depth = 6;

	expect(deep, N_INSNS(deep), &opts, &depth, sizeof(depth), 6);
	depth = 7;
	struct bpftime_vm *vm = make(deep, N_INSNS(deep), &opts);

	compile(vm);
	assert_int_equal(run(vm, INTERPRETER, &depth, sizeof(depth)), -E2BIG);
	assert_int_equal(run(vm, NATIVE, &depth, sizeof(depth)), -EFAULT);
	bpftime_vm__free(vm);
	expect(nowhere, N_INSNS(nowhere), &opts, NULL, 0, -EFAULT);
}

/* ---- what is refused ---- */

static void refusals(void **state)
{
	static const struct {
		struct bpf_insn in[4];
		size_t n;
		const char *says;
	} rows[] = {
		{{EXIT}, 0, "no instructions"},
		{{MOVI(0, 0)}, 1, "instruction 0: the subprogram ends without exit"},
		{{I(BPF_JMP | BPF_JA, 0, 0, 5, 0), EXIT}, 2, "instruction 0: goes to 6"},
		{{I(BPF_JMP32 | BPF_JA, 0, 0, 0, INT32_MAX), EXIT}, 2, "instruction 0: goes to 2147483648"},
		{{I(BPF_JMP32 | BPF_JA, 0, 0, 0, INT32_MIN), EXIT}, 2, "instruction 0: goes to -2147483647"},
		{{LOCAL(INT32_MAX), EXIT}, 2, "instruction 0: goes to 2147483648"},
		{{LOCAL(-1), EXIT}, 2, "instruction 0: goes to 0"},
		{{MOVI(11, 0), EXIT}, 2, "instruction 0: there is no register r11"},
		{{MOV(0, 15), EXIT}, 2, "instruction 0: there is no register r15"},
		{{MOVI(10, 0), EXIT}, 2, "instruction 0: writes the frame pointer"},
		{{MOVI(0, 0), {.code = 0xff}, EXIT}, 3, "instruction 1 (opcode 0xff)"},
		{{MOVI(0, 0), {.code = 0}, EXIT}, 3, "instruction 1 (opcode 0x00)"},
		{{LDDW(0, 0, 1, 1)}, 1, "instruction 0: half of a 64-bit immediate"},
		{{{.code = 0x18}, MOVI(0, 1), EXIT}, 3, "instruction 0 (opcode 0x18): malformed 64-bit immediate"},
		{{LDDW(0, 7, 1, 1), EXIT}, 3, "64-bit immediate of unknown kind"},
		{{TAIL, EXIT}, 2, "tail call"},
		{{I(BPF_JMP | BPF_CALL | BPF_X, 1, 0, 0, 0), EXIT}, 2, "what a register holds"},
		{{I(BPF_JMP | BPF_CALL | BPF_X, 1, 0, 0, 2), EXIT}, 2, "malformed call"},
		{{PACKET_ABS(BPF_B, 0), EXIT}, 2, "legacy packet access"},
		{{PACKET_ABS(BPF_DW, 0), EXIT}, 2, "malformed legacy packet access"},
	};
	struct bpftime_vm *vm;
	char err[256];

	for (size_t i = 0; i < N_INSNS(rows); i++) {
		assert_int_equal(bpftime_vm__new(&vm, rows[i].in, rows[i].n, NULL, err, sizeof(err)), -EINVAL);
		assert_null(vm);
		if (!strstr(err, rows[i].says))
			fail_msg("row %zu: '%s' does not say '%s'", i, err, rows[i].says);
	}
}

/* A million instructions: they are checked and run; none of the ways to make them slow or deep does harm. */
static void large(void **state)
{
	struct bpf_insn *in = calloc(MANY, sizeof(*in));
	static const struct bpf_insn plus_one = ADDI(0, 1), end = EXIT, half = I(BPF_LD | BPF_IMM | BPF_DW, 1, 0, 0, 1);
	static const struct bpf_insn back = I(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, -1, 0);
	struct bpftime_vm *vm;
	char err[256];

	assert_non_null(in);
	for (size_t i = 0; i < MANY; i++)
		in[i] = plus_one;
	assert_int_equal(bpftime_vm__new(&vm, in, MANY, NULL, err, sizeof(err)), -EINVAL);
	assert_string_equal(err, "instruction 999999: the subprogram ends without exit");
	in[MANY - 1] = end;
	vm = make(in, MANY, NULL);
	assert_int_equal(run(vm, INTERPRETER, NULL, 0), MANY - 1);
	bpftime_vm__free(vm);
	in[MANY - 1] = half;
	assert_int_equal(bpftime_vm__new(&vm, in, MANY, NULL, err, sizeof(err)), -EINVAL);
	for (size_t i = 1; i < MANY - 1; i++)
		in[i] = back;
	in[MANY - 1] = end;
	vm = make(in, MANY, NULL);
	assert_int_equal(bpftime_vm__compile(vm, NULL, err, sizeof(err)), -E2BIG);
	assert_string_equal(err, "a program of 1000000 instructions has too many branches");
	bpftime_vm__free(vm);
	/* Each instruction but the last calls the next. */
	for (size_t i = 0; i < MANY; i += 2) {
		in[i] = (struct bpf_insn)LOCAL(1);
		in[i + 1] = end;
	}
	in[MANY - 2] = plus_one;
	vm = make(in, MANY, NULL);
	assert_int_equal(bpftime_vm__compile(vm, NULL, err, sizeof(err)), -E2BIG);
	bpftime_vm__free(vm);
	free(in);
}

/* ---- options, and code ---- */

static void options(void **state)
{
	const struct bpf_insn in[] = {MOVI(0, 1), EXIT};
	const struct bpftime_vm_helper twice[] = {{5, times_two}, {5, times_two}}, none[] = {{5, NULL}};
	struct {
		struct bpftime_vm_opts opts;
		uint64_t more;
	} newer = {.opts = {.sz = sizeof(newer)}};
	struct bpftime_vm_opts helpers = {.sz = sizeof(helpers), .helpers = twice, .n_helpers = 2};
	struct bpftime_vm_opts older = {.sz = offsetof(struct bpftime_vm_opts, helpers), .n_helpers = 1};
	struct bpftime_vm *vm;
	char err[256];

	assert_int_equal(bpftime_vm__new(&vm, in, 2, &newer.opts, err, sizeof(err)), 0);
	bpftime_vm__free(vm);
	newer.more = 1;
	assert_int_equal(bpftime_vm__new(&vm, in, 2, &newer.opts, err, sizeof(err)), -E2BIG);
	assert_int_equal(bpftime_vm__new(&vm, in, 2, &older, err, sizeof(err)), 0);
	bpftime_vm__free(vm);
	assert_int_equal(bpftime_vm__new(&vm, in, 2, &helpers, err, sizeof(err)), -EINVAL);
	assert_string_equal(err, "helper 5 has two functions");
	helpers.helpers = none;
	helpers.n_helpers = 1;
	assert_int_equal(bpftime_vm__new(&vm, in, 2, &helpers, NULL, 0), -EINVAL);
	bpftime_vm__free(NULL);
}

static const char *worker_path(void)
{
	static char path[PATH_MAX];
	char self[PATH_MAX] = "";

	assert_true(readlink("/proc/self/exe", self, sizeof(self) - 1) > 0);
	snprintf(path, sizeof(path), "%s/../../bpftime-vm-worker", dirname(self));
	return path;
}

static void compiled_elsewhere(void **state)
{
	static const struct bpftime_vm_helper helpers[] = {{9, times_two}, {3, times_two}};
	const struct bpftime_vm_opts opts = {.sz = sizeof(opts), .helpers = helpers, .n_helpers = 2};
	const struct bpftime_vm_compile_opts in_worker = {.sz = sizeof(in_worker), .worker = worker_path()};
	const struct bpftime_vm_compile_opts no_worker = {.sz = sizeof(no_worker), .worker = "/nonexistent/worker"};
	const struct bpf_insn in[] = {MOVI(1, 21), CALL(9), EXIT}, unknown[] = {CALL(4), EXIT};
	struct bpftime_vm *vm = make(in, N_INSNS(in), &opts);
	uint64_t r0;
	char err[256];

	assert_int_equal(bpftime_vm__call(vm, NULL, 0, &r0), -ENOENT);
	assert_int_equal(bpftime_vm__compile(vm, &no_worker, err, sizeof(err)), -ENOENT);
	if (bpftime_vm__compile(vm, &in_worker, err, sizeof(err)))
		fail_msg("%s", err);
	assert_int_equal(run(vm, NATIVE, NULL, 0), 42);
	assert_int_equal(bpftime_vm__compile(vm, NULL, err, sizeof(err)), -EEXIST);
	bpftime_vm__free(vm);
	vm = make(unknown, N_INSNS(unknown), &opts);
	assert_int_equal(bpftime_vm__compile(vm, &in_worker, err, sizeof(err)), -EOPNOTSUPP);
	assert_string_equal(err, "instruction 0: helper 4 is not carried");
	bpftime_vm__free(vm);
}

/* Helpers given as bitcode get the user's pointer, as those of the table do, and are preferred to them. */
static void inlined_helpers(void **state)
{
	static const uint8_t library[] = {
#include "tests/unit/vm_library.bc.inc"
	};
	static const struct bpftime_vm_helper helpers[] = {{7, times_two}, {8, times_two}};
	uint64_t base = 1000;
	const struct bpftime_vm_opts opts = {.sz = sizeof(opts), .helpers = helpers, .n_helpers = 2, .user = &base};
	const struct bpftime_vm_compile_opts with = {
		.sz = sizeof(with), .bitcode = library, .bitcode_size = sizeof(library)};
	const struct bpf_insn in[] = {
		MOVI(1, 5), CALL(8), MOV(6, 0), MOVI(1, 1), CALL(7), I(BPF_ALU64 | BPF_ADD | BPF_X, 0, 6, 0, 0), EXIT};
	struct bpftime_vm *vm = make(in, N_INSNS(in), &opts);
	char err[256];

	if (bpftime_vm__compile(vm, &with, err, sizeof(err)))
		fail_msg("%s", err);
	assert_int_equal(run(vm, NATIVE, NULL, 0), 10 + 1000 + 7 + 1);
	assert_int_equal(run(vm, INTERPRETER, NULL, 0), 10 + 2);
	bpftime_vm__free(vm);
}

/* The code can be called by itself, is where it says, and no page is writable and executable. */
static void code(void **state)
{
	const struct bpf_insn in[] = {LDX(BPF_W, 0, 1, 0), I(BPF_ALU64 | BPF_MUL | BPF_X, 0, 2, 0, 0), EXIT};
	struct bpftime_vm *vm = make(in, N_INSNS(in), NULL);
	struct bpftime_vm_env env;
	size_t size, entry;
	uint32_t mem = 7;
	char line[512];
	FILE *f;

	assert_null(bpftime_vm__function(vm));
	assert_null(bpftime_vm__code(vm, &size, &entry));
	compile(vm);
	bpftime_vm__env(vm, &env);
	assert_int_equal(bpftime_vm__function(vm)((uintptr_t)&mem, 6, &env), 42);
	assert_non_null(bpftime_vm__code(vm, &size, &entry));
	assert_true(entry < size);
	f = fopen("/proc/self/maps", "r");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		assert_null(strstr(line, " rwx"));
	fclose(f);
	assert_int_equal(bpftime_vm__insns(vm, &size)[0].code, in[0].code);
	assert_int_equal(size, N_INSNS(in));
	bpftime_vm__free(vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tail_call_limit),
		cmocka_unit_test(tail_call_goes),
		cmocka_unit_test(tail_call_in_subprogram),
		cmocka_unit_test(packets),
		cmocka_unit_test(resolving),
		cmocka_unit_test(memory),
		cmocka_unit_test(limits),
		cmocka_unit_test(nesting),
		cmocka_unit_test(refusals),
		cmocka_unit_test(large),
		cmocka_unit_test(options),
		cmocka_unit_test(compiled_elsewhere),
		cmocka_unit_test(inlined_helpers),
		cmocka_unit_test(code),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
