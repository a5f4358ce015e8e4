// SPDX-License-Identifier: MIT
/* The JIT against the interpreter, form by form; the library that it inlines; what its code may not contain. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <cmocka.h>
#include <Zydis/Zydis.h>

#include "vm-llvm/vm.h"
#include "vm_forms.h"

static const uint8_t library[] = {
#include "tests/unit/vm_library.bc.inc"
};

struct lib_env {
	uint64_t base;
	uint64_t (*call)(uint64_t);
	uint64_t values[64];
};

static const uint32_t lib_maps[][2] = {{0, 1}, {4, 1}, {8, 2}};
static const struct vm_blob blobs[] = {{"lib_maps", lib_maps, sizeof(lib_maps)}, {"not_used", "", 0}};
static const struct vm_compile_opts with_library = {
	.sz = sizeof(with_library),
	.bitcode = library,
	.bitcode_size = sizeof(library),
	.blobs = blobs,
	.n_blobs = 2,
	.atomic_rmw = 1,
};

typedef uint64_t (*entry_fn)(void *ctx, void *env);

/* Maps the code; it must work at any address. */
static entry_fn map_code(const struct vm_code *code, void **mem)
{
	*mem = mmap(NULL, code->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(*mem != MAP_FAILED);
	memcpy(*mem, code->bytes, code->size);
	assert_int_equal(mprotect(*mem, code->size, PROT_READ | PROT_EXEC), 0);
	return (entry_fn)((uintptr_t)*mem + code->entry);
}

/* General registers only, no reference to data outside the code, no system call. */
static void check_code(const struct vm_code *code, const char *what)
{
	ZydisDisassembledInstruction in;

	for (size_t at = 0; at < code->size; at += in.info.length) {
		assert_true(ZYAN_SUCCESS(
			ZydisDisassembleIntel(ZYDIS_MACHINE_MODE_LONG_64, at, code->bytes + at, code->size - at, &in)));
		if (in.info.mnemonic == ZYDIS_MNEMONIC_SYSCALL)
			fail_msg("%s: %s", what, in.text);
		for (size_t i = 0; i < in.info.operand_count; i++) {
			const ZydisDecodedOperand *o = &in.operands[i];
			ZydisRegisterClass class = o->type == ZYDIS_OPERAND_TYPE_REGISTER
							   ? ZydisRegisterGetClass(o->reg.value)
							   : ZYDIS_REGCLASS_INVALID;

			if (class == ZYDIS_REGCLASS_XMM || class == ZYDIS_REGCLASS_YMM || class == ZYDIS_REGCLASS_ZMM ||
			    class == ZYDIS_REGCLASS_MMX || class == ZYDIS_REGCLASS_X87)
				fail_msg("%s: vector register in %s", what, in.text);
			if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.base == ZYDIS_REGISTER_RIP)
				fail_msg("%s: data reference in %s", what, in.text);
		}
	}
}

static void compile(const struct bpf_insn *prog, size_t n, const struct vm_compile_opts *o, struct vm_code *code,
		    const char *what)
{
	char err[256] = "";

	if (vm_compile(prog, n, o, code, err, sizeof(err)))
		fail_msg("%s: %s", what, err);
	check_code(code, what);
}

static void forms_as_interpreter(void **state)
{
	static const struct vm_interp_opts limited = {.sz = sizeof(limited), .max_steps = 100000};
	struct bpf_insn prog[FORM_MAX_INSNS];
	char err[256];

	for (size_t i = 0; i < N_FORMS; i++) {
		size_t n = form_program(&forms[i], prog);
		struct vm_code code;
		entry_fn entry;
		void *mem;

		compile(prog, n, NULL, &code, forms[i].name);
		entry = map_code(&code, &mem);
		for (size_t k = 0; k < N_VALUES * N_VALUES; k++) {
			struct form_ctx want = {.in = {form_values[k / N_VALUES], form_values[k % N_VALUES]}},
					got = want;
			uint64_t r0, r0_jit;

			assert_int_equal(vm_interpret(prog, n, &want, &limited, &r0, err, sizeof(err)), 0);
			r0_jit = entry(&got, NULL);
			if (memcmp(&want, &got, sizeof(want)) || r0 != r0_jit)
				fail_msg("%s of %#lx, %#lx: r0 %#lx r2 %#lx, the interpreter has r0 %#lx r2 %#lx",
					 forms[i].name, want.in[0], want.in[1], got.out[0], got.out[1], want.out[0],
					 want.out[1]);
		}
		munmap(mem, code.size);
		vm_code__clear(&code);
	}
}

static uint64_t plus_one(uint64_t v)
{
	return v + 1;
}

static struct lib_env env = {.base = 5, .call = plus_one};

static uint64_t run(const struct bpf_insn *prog, size_t n, void *ctx, const char *what)
{
	struct vm_code code;
	uint64_t r0;
	void *mem;

	compile(prog, n, &with_library, &code, what);
	r0 = map_code(&code, &mem)(ctx, &env);
	munmap(mem, code.size);
	vm_code__clear(&code);
	return r0;
}

static void helpers(void **state)
{
	const struct bpf_insn prog[] = {
		MOVI(1, 1), MOVI(2, 2), MOVI(3, 3),
		MOVI(4, 4), MOVI(5, 5), CALL(7),
		MOV(6, 0),  CALL(5),	I(BPF_ALU64 | BPF_ADD | BPF_X, 6, 0, 0, 0),
		MOV(0, 6),  EXIT,
	};
	const struct bpf_insn value[] = {LDDW(1, BPF_PSEUDO_MAP_VALUE, 1, 8), LDX(BPF_DW, 0, 1, 0), EXIT};

	assert_int_equal(run(prog, N_INSNS(prog), NULL, "helpers"), 5 + 7 + 1 + 20 + 300 + 4000 + 50000 + 6);
	env.values[5] = 42;
	assert_int_equal(run(value, N_INSNS(value), NULL, "map value"), 42);
}

/* A geometry from a blob, a key on the stack, an addition in place. */
static void maps(void **state)
{
	static const struct bpf_insn prog[] = {
		I(BPF_ST | BPF_MEM | BPF_W, 10, 0, -4, 3),
		MOV(2, 10),
		ADDI(2, -4),
		LDDW(1, BPF_PSEUDO_MAP_FD, 2, 0),
		CALL(1),
		I(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 3, 0),
		LDX(BPF_DW, 1, 0, 0),
		ADDI(1, 7),
		STX(BPF_DW, 0, 0, 1),
		MOVI(0, 0),
		EXIT,
	};
	struct vm_code code;
	bool locked = false;

	env.values[8 + 2 * 3] = 100;
	assert_int_equal(run(prog, N_INSNS(prog), NULL, "map"), 0);
	assert_int_equal(env.values[8 + 2 * 3], 107);

	compile(prog, N_INSNS(prog), &with_library, &code, "map");
	assert_true(code.size < 64);
	for (size_t i = 0; i < code.size; i++)
		locked |= code.bytes[i] == 0xf0;
	assert_true(locked);
	vm_code__clear(&code);
}

/* Which map it is, only the run tells: the table of maps goes with the code, wherever it is mapped. */
static void chosen_map(void **state)
{
	static const struct bpf_insn prog[] = {
		LDX(BPF_DW, 3, 1, 0),
		I(BPF_ST | BPF_MEM | BPF_W, 10, 0, -4, 3),
		MOV(2, 10),
		ADDI(2, -4),
		LDDW(1, BPF_PSEUDO_MAP_FD, 2, 0),
		I(BPF_JMP | BPF_JEQ | BPF_K, 3, 0, 2, 0),
		LDDW(1, BPF_PSEUDO_MAP_FD, 1, 0),
		CALL(1),
		I(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 3, 0),
		LDX(BPF_DW, 1, 0, 0),
		ADDI(1, 7),
		STX(BPF_DW, 0, 0, 1),
		MOVI(0, 0),
		EXIT,
	};
	uint64_t ctx[1] = {0};
	struct vm_code code;
	char err[256] = "";
	entry_fn entry;
	void *mem;

	env.values[4 + 3] = 200;
	env.values[8 + 2 * 3] = 100;
	if (vm_compile(prog, N_INSNS(prog), &with_library, &code, err, sizeof(err)))
		fail_msg("%s", err);
	assert_true(code.size >= sizeof(lib_maps));
	entry = map_code(&code, &mem);
	entry(ctx, &env);
	assert_int_equal(env.values[4 + 3], 200);
	assert_int_equal(env.values[8 + 2 * 3], 107);
	ctx[0] = 1;
	entry(ctx, &env);
	assert_int_equal(env.values[4 + 3], 207);
	assert_int_equal(env.values[8 + 2 * 3], 107);
	munmap(mem, code.size);
	vm_code__clear(&code);
}

/* Every shape of read-add-write that becomes atomic gives the same registers and memory. */
static void atomic_rmw_same(void **state)
{
	static const struct {
		const char *name;
		struct bpf_insn in[4];
	} rows[] = {
		{"64, immediate", {LDX(BPF_DW, 2, 7, 0), ADDI(2, -5), STX(BPF_DW, 7, 0, 2)}},
		{"64, register",
		 {LDX(BPF_DW, 2, 7, 0), I(BPF_ALU64 | BPF_ADD | BPF_X, 2, 3, 0, 0), STX(BPF_DW, 7, 0, 2)}},
		{"64, sum in the other",
		 {LDX(BPF_DW, 2, 7, 0), I(BPF_ALU64 | BPF_ADD | BPF_X, 3, 2, 0, 0), STX(BPF_DW, 7, 0, 3)}},
		{"64, sub", {LDX(BPF_DW, 2, 7, 0), I(BPF_ALU64 | BPF_SUB | BPF_X, 2, 3, 0, 0), STX(BPF_DW, 7, 0, 2)}},
		{"32, 64-bit add", {LDX(BPF_W, 2, 7, 4), ADDI(2, -5), STX(BPF_W, 7, 4, 2)}},
		{"32, 32-bit add",
		 {LDX(BPF_W, 2, 7, 0), I(BPF_ALU | BPF_ADD | BPF_X, 2, 3, 0, 0), STX(BPF_W, 7, 0, 2)}},
		{"32, sum in the other",
		 {LDX(BPF_W, 2, 7, 0), I(BPF_ALU | BPF_ADD | BPF_X, 3, 2, 0, 0), STX(BPF_W, 7, 0, 3)}},
		{"32, sub immediate",
		 {LDX(BPF_W, 2, 7, 0), I(BPF_ALU | BPF_SUB | BPF_K, 2, 0, 0, 9), STX(BPF_W, 7, 0, 2)}},
		{"something between", {LDX(BPF_DW, 2, 7, 0), MOVI(4, 9), ADDI(2, 1), STX(BPF_DW, 7, 0, 2)}},
	};
	static const struct vm_interp_opts limited = {.sz = sizeof(limited), .max_steps = 1000};
	struct vm_compile_opts atomic = {.sz = sizeof(atomic), .atomic_rmw = 1};
	char err[256];

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct bpf_insn prog[16] = {MOV(7, 1), LDX(BPF_DW, 3, 7, 8), MOVI(2, 0)};
		const struct bpf_insn end[] = {STX(BPF_DW, 7, 16, 2), STX(BPF_DW, 7, 24, 3), MOVI(0, 0), EXIT};
		size_t n = 3, len = rows[i].in[3].code ? 4 : 3;
		struct vm_code code;
		entry_fn entry;
		void *mem;
		bool locked = false;

		memcpy(prog + n, rows[i].in, len * sizeof(*prog));
		memcpy(prog + n + len, end, sizeof(end));
		n += len + N_INSNS(end);
		compile(prog, n, &atomic, &code, rows[i].name);
		for (size_t k = 0; k < code.size; k++)
			locked |= code.bytes[k] == 0xf0;
		assert_true(locked);
		entry = map_code(&code, &mem);
		for (size_t k = 0; k < N_VALUES * N_VALUES; k++) {
			uint64_t want[4] = {form_values[k / N_VALUES], form_values[k % N_VALUES]}, got[4], r0;

			memcpy(got, want, sizeof(got));
			assert_int_equal(vm_interpret(prog, n, want, &limited, &r0, err, sizeof(err)), 0);
			entry(got, NULL);
			if (memcmp(want, got, sizeof(want)))
				fail_msg("%s: %lx %lx %lx, wanted %lx %lx %lx", rows[i].name, got[0], got[2], got[3],
					 want[0], want[2], want[3]);
		}
		munmap(mem, code.size);
		vm_code__clear(&code);
	}
}

static uint64_t block_sum(const char *from, size_t n, int c, size_t m)
{
	unsigned char block[1000] = {0};
	uint64_t sum = 0;

	memcpy(block + 8, from, n);
	memset(block + 500, c, m);
	for (int i = 0; i < 1000; i++)
		sum = sum * 31 + block[i];
	return sum;
}

static const struct bpf_insn blocks[] = {MOVI(2, 400), MOVI(3, 0x5a), MOVI(4, 300), CALL(100), EXIT};

static void block_operations(void **state)
{
	const struct bpf_insn variable[] = {
		MOV(6, 1), LDX(BPF_DW, 2, 6, 0), MOVI(3, 1), LDX(BPF_DW, 4, 6, 8), CALL(100), EXIT};
	const struct bpf_insn table[] = {LDX(BPF_DW, 2, 1, 0), MOVI(3, 3), LDX(BPF_DW, 1, 1, 8), CALL(101), EXIT};
	const uint64_t answers[] = {3, 77, 1009, 13, 1200, 123456, 409, 91, 1};
	uint64_t ctx[100] = {400, 300};

	assert_int_equal(run(blocks, N_INSNS(blocks), ctx, "blocks"), block_sum((char *)ctx, 400, 0x5a, 300));
	assert_int_equal(run(variable, N_INSNS(variable), ctx, "variable blocks"), block_sum((char *)ctx, 400, 1, 300));
	for (uint64_t i = 0; i < 9; i++) {
		ctx[1] = i;
		assert_int_equal(run(table, N_INSNS(table), ctx, "table"), answers[i]);
	}
}

/* Calls fn on a stack of our own and tells how much of it was written. */
static size_t stack_used(entry_fn fn, void *ctx)
{
	static uint8_t stack[65536] __attribute__((aligned(64)));
	uint8_t *top = stack + sizeof(stack) - 64;
	size_t at = 0;
	uint64_t r0;

	memset(stack, 0xa5, sizeof(stack));
	__asm__ volatile("movq %%rsp, %%rbx; movq %[top], %%rsp; call *%[fn]; movq %%rbx, %%rsp"
			 : "=a"(r0), "+D"(ctx)
			 : [top] "r"(top), [fn] "r"(fn), "S"(&env)
			 : "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "memory", "cc");
	while (stack[at] == 0xa5)
		at++;
	return (size_t)(top - (stack + at));
}

static void stack_bound(void **state)
{
	const struct bpf_insn deep[] = {
		MOV(6, 1),
		I(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 2),
		MOVI(0, 0),
		EXIT,
		/* a frame whose address leaves it, of 512 bytes */
		MOV(1, 10),
		ADDI(1, -512),
		STX(BPF_DW, 1, 0, 6),
		I(BPF_ST | BPF_MEM | BPF_DW, 10, 0, -8, 1),
		MOVI(2, 500),
		MOVI(3, 1),
		MOVI(4, 2),
		CALL(100),
		EXIT,
	};
	const struct {
		const struct bpf_insn *in;
		size_t n;
	} rows[] = {{blocks, N_INSNS(blocks)}, {deep, N_INSNS(deep)}};
	uint64_t ctx[100] = {0};

	for (size_t i = 0; i < 2; i++) {
		struct vm_code code;
		size_t used;
		void *mem;

		compile(rows[i].in, rows[i].n, &with_library, &code, "stack");
		used = stack_used(map_code(&code, &mem), ctx);
		print_message("stack: %zu used, %zu stated\n", used, code.stack_size);
		assert_true(used <= code.stack_size);
		assert_true(code.stack_size < used + 256);
		munmap(mem, code.size);
		vm_code__clear(&code);
	}
}

static void refusals(void **state)
{
	const struct {
		struct bpf_insn in[4];
		size_t n;
		const char *says;
	} rows[] = {
		{{CALL(99), EXIT}, 2, "instruction 0: helper 99 is not carried"},
		{{CALL(102), EXIT}, 2, "does not define the function 'nowhere'"},
		{{CALL(103), EXIT}, 2, "variable 'counter'"},
		{{MOVI(0, 0)}, 1, "ends without exit"},
		{{I(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 1), EXIT,
		  I(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, -1), EXIT},
		 4,
		 "calls itself"},
	};
	struct vm_compile_opts broken = {.sz = sizeof(broken), .bitcode = "nonsense", .bitcode_size = 8};
	const struct bpf_insn empty[] = {MOVI(0, 0), EXIT};
	struct vm_code code;
	char err[256];

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		err[0] = 0;
		if (!vm_compile(rows[i].in, rows[i].n, &with_library, &code, err, sizeof(err)))
			fail_msg("row %zu is not refused", i);
		assert_null(code.bytes);
		if (!strstr(err, rows[i].says))
			fail_msg("row %zu: '%s' does not say '%s'", i, err, rows[i].says);
	}
	assert_true(vm_compile(empty, 2, &broken, &code, err, sizeof(err)) < 0);
	assert_non_null(strstr(err, "cannot be read"));
}

static void compile_time(void **state)
{
	struct bpf_insn prog[140];
	struct timespec a, b;
	struct vm_code code;
	size_t n = 0;
	double ms;

	prog[n++] = (struct bpf_insn)MOV(6, 1);
	while (n < 130) {
		const struct bpf_insn part[] = {
			LDX(BPF_DW, 1, 6, 0),
			I(BPF_STX | BPF_MEM | BPF_W, 10, 1, -4, 0),
			MOV(2, 10),
			ADDI(2, -4),
			LDDW(1, BPF_PSEUDO_MAP_FD, 1, 0),
			CALL(1),
			I(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 3, 0),
			LDX(BPF_DW, 1, 0, 0),
			ADDI(1, 1),
			STX(BPF_DW, 0, 0, 1),
		};

		memcpy(prog + n, part, sizeof(part));
		n += N_INSNS(part);
	}
	prog[n++] = (struct bpf_insn)MOVI(0, 0);
	prog[n++] = (struct bpf_insn)EXIT;
	clock_gettime(CLOCK_MONOTONIC, &a);
	compile(prog, n, &with_library, &code, "long");
	clock_gettime(CLOCK_MONOTONIC, &b);
	ms = (b.tv_sec - a.tv_sec) * 1e3 + (b.tv_nsec - a.tv_nsec) / 1e6;
	print_message("%zu instructions: %.1f ms, %zu bytes, %zu bytes of stack\n", n, ms, code.size, code.stack_size);
	vm_code__clear(&code);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(forms_as_interpreter),
		cmocka_unit_test(helpers),
		cmocka_unit_test(maps),
		cmocka_unit_test(chosen_map),
		cmocka_unit_test(atomic_rmw_same),
		cmocka_unit_test(block_operations),
		cmocka_unit_test(stack_bound),
		cmocka_unit_test(refusals),
		cmocka_unit_test(compile_time),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
