// SPDX-License-Identifier: MIT
/* The JIT with all that this CPU has, against the interpreter: vectorised loops, copies that overlap, switches. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <cmocka.h>

#include "vm-llvm/vm.h"
#include "vm_forms.h"

#define MEMORY 1024

typedef uint64_t (*entry_fn)(uint64_t r1, uint64_t r2, struct vm_env *env);

static const struct vm_compile_opts native = {.sz = sizeof(native), .env_calls = 1, .native = 1};
static const struct vm_interp_opts limited = {.sz = sizeof(limited), .max_steps = 1000000};

struct compiled {
	void *mem;
	size_t size;
	entry_fn run;
};

static struct compiled compile(const struct bpf_insn *prog, size_t n, const char *what)
{
	struct compiled c;
	struct vm_code code;
	char err[256];

	if (vm_compile(prog, n, &native, &code, err, sizeof(err)))
		fail_msg("%s: %s", what, err);
	c.size = code.size;
	c.mem = mmap(NULL, code.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(c.mem != MAP_FAILED);
	memcpy(c.mem, code.bytes, code.size);
	assert_int_equal(mprotect(c.mem, c.size, PROT_READ | PROT_EXEC), 0);
	c.run = (entry_fn)((uintptr_t)c.mem + code.entry);
	vm_code__clear(&code);
	return c;
}

static uint64_t run(const struct compiled *c, void *ctx)
{
	struct vm_env env = {0};

	return c->run((uintptr_t)ctx, 0, &env);
}

static void forms_as_interpreter(void **state)
{
	struct bpf_insn prog[FORM_MAX_INSNS];
	char err[256];

	for (size_t i = 0; i < N_FORMS; i++) {
		size_t n = form_program(&forms[i], prog);
		struct compiled c = compile(prog, n, forms[i].name);

		for (size_t k = 0; k < N_VALUES * N_VALUES; k++) {
			struct form_ctx want = {.in = {form_values[k / N_VALUES], form_values[k % N_VALUES]}},
					got = want;
			uint64_t r0;

			assert_int_equal(vm_interpret(prog, n, &want, &limited, &r0, err, sizeof(err)), 0);
			assert_int_equal(run(&c, &got), r0);
			if (memcmp(&want, &got, sizeof(want)))
				fail_msg("%s of %#lx, %#lx", forms[i].name, want.in[0], want.in[1]);
		}
		munmap(c.mem, c.size);
	}
}

static void fill(uint8_t *memory)
{
	uint64_t seed = 88172645463325252ull;

	for (size_t i = 0; i < MEMORY; i++) {
		seed ^= seed << 13;
		seed ^= seed >> 7;
		seed ^= seed << 17;
		memory[i] = (uint8_t)seed;
	}
}

/* Runs both on the same memory, and compares all of it. */
static void both(const struct bpf_insn *prog, size_t n, const char *what, long which)
{
	static uint8_t want[MEMORY], got[MEMORY];
	struct compiled c = compile(prog, n, what);
	uint64_t r0, r;
	char err[256];

	fill(want);
	fill(got);
	assert_int_equal(vm_interpret(prog, n, want, &limited, &r0, err, sizeof(err)), 0);
	r = run(&c, got);
	if (r != r0 || memcmp(want, got, sizeof(want)))
		fail_msg("%s, %ld: %#lx instead of %#lx", what, which, r, r0);
	munmap(c.mem, c.size);
}

/* for (i = 0; i != 256; i += size) to[i] = from[i] + 1, the two so far apart: where they overlap order matters. */
static void overlapping_copies(void **state)
{
	static const uint8_t sizes[] = {BPF_B, BPF_H, BPF_W, BPF_DW};
	static const int bytes[] = {1, 2, 4, 8};

	for (size_t s = 0; s < sizeof(sizes); s++)
		for (int apart = -72; apart <= 72; apart += apart > -10 && apart < 10 ? 1 : 7) {
			const struct bpf_insn prog[] = {
				MOVI(4, 0),
				MOV(2, 1),
				I(BPF_ALU64 | BPF_ADD | BPF_X, 2, 4, 0, 0),
				LDX(sizes[s], 3, 2, 300),
				ADDI(3, 1),
				STX(sizes[s], 2, (int16_t)(300 + apart), 3),
				ADDI(4, bytes[s]),
				I(BPF_JMP | BPF_JNE | BPF_K, 4, 0, -7, 256),
				MOV(0, 3),
				EXIT,
			};

			both(prog, N_INSNS(prog), "copy", apart);
		}
}

/* The frame by a number that is only known when it runs, beside the frame by r10. */
static void frame_by_number(void **state)
{
	const struct bpf_insn prog[] = {
		LDX(BPF_B, 3, 1, 0),
		I(BPF_ALU64 | BPF_AND | BPF_K, 3, 0, 0, 0x38),
		I(BPF_ST | BPF_MEM | BPF_DW, 10, 0, -64, 5),
		I(BPF_ST | BPF_MEM | BPF_DW, 10, 0, -8, 7),
		MOV(2, 10),
		I(BPF_ALU64 | BPF_SUB | BPF_X, 2, 3, 0, 0),
		STX(BPF_DW, 2, -8, 3),
		STX(BPF_DW, 1, 8, 2),
		LDX(BPF_DW, 5, 1, 8),
		I(BPF_ST | BPF_MEM | BPF_B, 5, 0, -7, 99),
		LDX(BPF_DW, 0, 10, -64),
		LDX(BPF_DW, 4, 10, -8),
		I(BPF_ALU64 | BPF_ADD | BPF_X, 0, 4, 0, 0),
		I(BPF_ST | BPF_MEM | BPF_DW, 1, 0, 8, 0),
		EXIT,
	};

	both(prog, N_INSNS(prog), "frame", 0);
}

/* The frame is written in a loop, by a pointer that goes round, and read by r10. */
static void frame_in_a_loop(void **state)
{
	const struct bpf_insn prog[] = {
		LDX(BPF_DW, 3, 1, 0),
		I(BPF_ST | BPF_MEM | BPF_DW, 10, 0, -64, 5),
		I(BPF_ST | BPF_MEM | BPF_DW, 10, 0, -48, 6),
		MOV(6, 10),
		ADDI(6, -64),
		MOVI(7, 6),
		STX(BPF_W, 6, 0, 3),
		ADDI(6, 4),
		ADDI(7, -1),
		I(BPF_JMP | BPF_JNE | BPF_K, 7, 0, -4, 0),
		LDX(BPF_DW, 0, 10, -64),
		LDX(BPF_DW, 4, 10, -48),
		I(BPF_ALU64 | BPF_XOR | BPF_X, 0, 4, 0, 0),
		EXIT,
	};

	both(prog, N_INSNS(prog), "frame in a loop", 0);
}

/* A subprogram writes its caller's frame, whose address it finds in memory. */
static void frame_of_the_caller(void **state)
{
	const struct bpf_insn prog[] = {
		MOV(9, 1),
		I(BPF_ST | BPF_MEM | BPF_DW, 10, 0, -16, 1),
		MOV(2, 10),
		ADDI(2, -16),
		STX(BPF_DW, 1, 8, 2),
		I(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 4),
		I(BPF_ST | BPF_MEM | BPF_DW, 9, 0, 8, 0),
		LDX(BPF_DW, 4, 10, -16),
		I(BPF_ALU64 | BPF_ADD | BPF_X, 0, 4, 0, 0),
		EXIT,
		I(BPF_ST | BPF_MEM | BPF_DW, 10, 0, -16, 3),
		LDX(BPF_DW, 3, 1, 8),
		I(BPF_ST | BPF_MEM | BPF_DW, 3, 0, 0, 40),
		LDX(BPF_DW, 0, 10, -16),
		EXIT,
	};

	both(prog, N_INSNS(prog), "frame of the caller", 0);
}

/* A tree of comparisons of w3, as compilers make of a switch over 16 numbers: which number is at which leaf. */
static size_t tree(struct bpf_insn *out, size_t at, int lo, int hi, uint8_t class)
{
	size_t jump = at;

	if (lo == hi) {
		out[at++] = (struct bpf_insn)I(BPF_ALU64 | BPF_MUL | BPF_K, 0, 0, 0, 31);
		out[at++] = (struct bpf_insn)ADDI(0, lo * 7 + 1);
		out[at++] = (struct bpf_insn)EXIT;
		return at;
	}
	if (lo + 1 == hi) {
		out[at++] = (struct bpf_insn)I(class | BPF_JEQ | BPF_K, 3, 0, 3, lo);
		at = tree(out, at, hi, hi, class);
		return tree(out, at, lo, lo, class);
	}
	out[at++] = (struct bpf_insn)I(class | BPF_JSGT | BPF_K, 3, 0, 0, (lo + hi) / 2);
	at = tree(out, at, lo, (lo + hi) / 2, class);
	out[jump].off = (int16_t)(at - jump - 1);
	return tree(out, at, (lo + hi) / 2 + 1, hi, class);
}

static void switches(void **state)
{
	static const int64_t numbers[] = {0, 1, 7, 8, 14, 15, 16, 255, 256, -1, -8, INT32_MIN, INT32_MAX, 0x100000003};

	for (size_t k = 0; k < sizeof(numbers) / sizeof(numbers[0]); k++)
		for (int wide = 0; wide < 2; wide++) {
			struct bpf_insn prog[200] = {
				LDDW(3, 0, (int32_t)numbers[k], (int32_t)(numbers[k] >> 32)),
				LDX(BPF_DW, 0, 1, 0),
				STX(BPF_DW, 1, 8, 3),
				LDX(BPF_DW, 3, 1, 8),
			};
			size_t n = tree(prog, 5, 0, 15, wide ? BPF_JMP : BPF_JMP32);

			both(prog, n, "switch", (long)numbers[k]);
		}
}

/* A chain of equalities, with more than one number at the same leaf, that is entered in its middle as well. */
static void chains(void **state)
{
	for (int number = 0; number < 12; number++) {
		const struct bpf_insn prog[] = {
			MOVI(0, 1),
			MOVI(3, number),
			STX(BPF_DW, 1, 8, 3),
			LDX(BPF_DW, 3, 1, 8),
			I(BPF_JMP | BPF_JSET | BPF_K, 3, 0, 2, 1),
			I(BPF_JMP | BPF_JEQ | BPF_K, 3, 0, 7, 2),
			I(BPF_JMP | BPF_JEQ | BPF_K, 3, 0, 7, 4),
			I(BPF_JMP | BPF_JEQ | BPF_K, 3, 0, 5, 6),
			I(BPF_JMP | BPF_JEQ | BPF_K, 3, 0, 5, 7),
			I(BPF_JMP | BPF_JEQ | BPF_K, 3, 0, 3, 9),
			ADDI(0, 5),
			EXIT,
			ADDI(0, 2),
			ADDI(0, 3),
			ADDI(0, 10),
			EXIT,
		};

		both(prog, N_INSNS(prog), "chain", number);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(forms_as_interpreter),
		cmocka_unit_test(overlapping_copies),
		cmocka_unit_test(frame_by_number),
		cmocka_unit_test(frame_in_a_loop),
		cmocka_unit_test(frame_of_the_caller),
		cmocka_unit_test(switches),
		cmocka_unit_test(chains),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
