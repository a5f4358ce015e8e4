// SPDX-License-Identifier: MIT
/* The notation of instructions against what the kernel's verifier logs; and what it never sees, against a table. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "vm-llvm/disasm.h"
#include "vm_forms.h"

#define LOG_SIZE (1 << 20)

/* The verifier's log of a program, each instruction that it looked at; 0, or -errno when there is no right to ask. */
static int verifier_log(const struct bpf_insn *insns, size_t n, char *log)
{
	union bpf_attr attr = {.prog_type = BPF_PROG_TYPE_SYSCALL, .insn_cnt = n, .prog_flags = BPF_F_SLEEPABLE};
	int fd;

	attr.insns = (uintptr_t)insns;
	attr.license = (uintptr_t) "Dual MIT/GPL";
	log[0] = 0;
	attr.log_buf = (uintptr_t)log;
	attr.log_size = LOG_SIZE;
	attr.log_level = 2;
	fd = form_bpf(BPF_PROG_LOAD, &attr);
	if (fd >= 0)
		close(fd);
	return fd < 0 && errno == EPERM ? -EPERM : 0;
}

/* "3: (b7) r0 = 0     ; R0=0": cuts the state off. False: a line of another kind. */
static bool read_line(char *line, size_t *pc, char **text)
{
	char *end;

	*pc = strtoul(line, text, 10);
	if (*text == line || strncmp(*text, ": (", 3))
		return false;
	*text += 2;
	end = strstr(*text, " ;");
	if (!end)
		end = *text + strlen(*text);
	while (end > *text && end[-1] == ' ')
		end--;
	*end = 0;
	return true;
}

/* Compares every line of the log; returns how many there were. */
static size_t compare(const struct bpf_insn *prog, size_t n, char *log, const char *name)
{
	char text[VM_DISASM_SIZE], *save = NULL, *want;
	size_t pc, compared = 0;

	for (char *line = strtok_r(log, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (!read_line(line, &pc, &want))
			continue;
		assert_true(pc < n);
		vm_disasm(prog, n, pc, NULL, text, sizeof(text));
		if (strcmp(text, want))
			fail_msg("%s: '%s', the kernel says '%s'", name, text, want);
		compared++;
	}
	return compared;
}

static void forms_as_kernel(void **state)
{
	struct bpf_insn prog[FORM_MAX_INSNS];
	char *log = malloc(LOG_SIZE);
	size_t compared = 0;

	for (size_t i = 0; i < N_FORMS; i++) {
		size_t n = form_program(&forms[i], prog);

		if (verifier_log(prog, n, log)) {
			free(log);
			print_message("no right to load programs: not compared with the kernel\n");
			skip();
		}
		compared += compare(prog, n, log, forms[i].name);
	}
	free(log);
	print_message("%zu instructions compared\n", compared);
	assert_true(compared > 1500);
}

/* What the verifier logs before it refuses the program, or takes it: the last instruction. */
static void odd_ones_as_kernel(void **state)
{
	static const struct bpf_insn rows[] = {
		CALL(5),
		CALL(14),
		I(BPF_JMP | VM_OP_JCOND, 0, 0, 0, 0),
		I(BPF_LD | BPF_ABS | BPF_W, 0, 0, 0, 4),
		I(BPF_LD | BPF_IND | BPF_H, 0, 1, 0, 4),
		I(BPF_STX | BPF_ATOMIC | BPF_DW, 2, 10, -8, 0x100),
		I(BPF_STX | BPF_ATOMIC | BPF_B, 2, 10, -8, 0x100),
		I(BPF_STX | BPF_ATOMIC | BPF_W, 10, 1, -8, 0x110),
		I(BPF_JMP32 | BPF_JA, 0, 0, 0, 0),
	};
	struct bpf_insn prog[] = {MOVI(0, 1), STX(BPF_DW, 10, -8, 0), MOVI(0, 0), MOVI(1, 0), EXIT};
	char *log = malloc(LOG_SIZE);
	size_t compared = 0;

	for (size_t i = 0; i < N_INSNS(rows); i++) {
		prog[2] = rows[i];
		if (verifier_log(prog, N_INSNS(prog), log)) {
			free(log);
			skip();
		}
		compared += compare(prog, N_INSNS(prog), log, "odd");
	}
	free(log);
	assert_true(compared > N_INSNS(rows));
}

static const char *map_name(void *arg, int32_t imm)
{
	return imm == 7 ? "counts" : NULL;
}

static const char *sub_name(void *arg, size_t pc)
{
	return pc == 4 ? "fourth" : NULL;
}

static void as_told(void **state)
{
	static const struct {
		struct bpf_insn in[2];
		const char *text;
	} rows[] = {
		{{MOVI(0, 0)}, "(b7) r0 = 0"},
		{{MOVI(0, -5)}, "(b7) r0 = -5"},
		{{I(BPF_JMP | BPF_CALL, 0, 0, 0, 1)}, "(85) call bpf_map_lookup_elem#1"},
		{{I(BPF_JMP | BPF_CALL, 0, 0, 0, 99999)}, "(85) call unknown#99999"},
		{{I(BPF_JMP | BPF_CALL, 0, 0, 0, -1)}, "(85) call unknown#-1"},
		{{I(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 3)}, "(85) call pc+3#fourth"},
		{{I(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 4)}, "(85) call pc+4"},
		{{I(BPF_JMP | BPF_CALL, 0, VM_PSEUDO_KFUNC, 0, 77)}, "(85) call kernel-function#77"},
		{{I(BPF_JMP | BPF_JGT | BPF_K, 1, 0, 3, 5)}, "(25) if r1 > 0x5 goto pc+3"},
		{{I(BPF_JMP32 | BPF_JSET | BPF_K, 1, 0, -3, -1)}, "(46) if w1 & 0xffffffff goto pc-3"},
		{{STX(BPF_DW, 10, -8, 1)}, "(7b) *(u64 *)(r10 -8) = r1"},
		{{I(BPF_STX | BPF_ATOMIC | BPF_DW, 1, 2, 0, BPF_ADD)}, "(db) lock *(u64 *)(r1 +0) += r2"},
		{{I(BPF_STX | BPF_ATOMIC | BPF_W, 1, 2, 4, BPF_XOR | BPF_FETCH)},
		 "(c3) r2 = atomic_fetch_xor((u32 *)(r1 +4), r2)"},
		{{LDDW(1, BPF_PSEUDO_MAP_FD, 7, 0)}, "(18) r1 = map[counts]"},
		{{LDDW(1, BPF_PSEUDO_MAP_FD, 8, 0)}, "(18) r1 = map[fd:8]"},
		{{LDDW(1, BPF_PSEUDO_MAP_VALUE, 7, 16)}, "(18) r1 = map[counts][0]+16"},
		{{LDDW(1, VM_PSEUDO_MAP_IDX, 3, 0)}, "(18) r1 = map[idx:3]"},
		{{LDDW(1, VM_PSEUDO_FUNC, 3, 0)}, "(18) r1 = subprog[+3]"},
		{{LDDW(1, 0, 1, -1)}, "(18) r1 = 0xffffffff00000001"},
		{{I(BPF_ALU64 | BPF_MOV | BPF_X, 1, 2, 1, 0x10000)}, "(bf) r1 = addr_space_cast(r2, 1, 0)"},
		{{I(BPF_ALU64 | BPF_MOV | BPF_X, 1, 2, -1, 0)}, "(bf) r1 = &(void __percpu *)(r2)"},
		{{I(BPF_ALU64 | BPF_END | BPF_X, 1, 0, 0, 16)}, "(df) BUG_alu64_df"},
		{{I(BPF_ALU | 0xe0, 1, 0, 0, 16)}, "(e4) BUG_alu_e4"},
		{{I(BPF_LDX | BPF_ABS | BPF_W, 1, 2, 0, 0)}, "(21) BUG_ldx_21"},
		{{I(BPF_ST | BPF_ATOMIC | BPF_W, 1, 2, 0, 0)}, "(c2) nospec"},
		{{I(BPF_ST | BPF_IND | BPF_W, 1, 2, 0, 0)}, "(42) BUG_st_42"},
		{{I(BPF_STX | BPF_ATOMIC | BPF_W, 1, 2, 0, 0x77)}, "(c3) BUG_c3"},
		{{I(BPF_LD | BPF_IMM | BPF_W, 1, 0, 0, 0)}, "(00) BUG_ld_00"},
		{{I(BPF_JMP | 0xf0, 1, 0, 0, 0)}, "(f5) BUG_jmp_f5"},
		{{I(BPF_JMP32 | BPF_EXIT, 1, 0, 0, 0)}, "(96) BUG_jmp32_96"},
	};
	struct vm_names names = {.sz = sizeof(names), .map = map_name, .sub = sub_name};
	char text[VM_DISASM_SIZE];

	for (size_t i = 0; i < N_INSNS(rows); i++) {
		size_t slots = rows[i].in[0].code == (BPF_LD | BPF_IMM | BPF_DW) ? 2 : 1;

		assert_int_equal(vm_disasm(rows[i].in, 2, 0, &names, text, sizeof(text)), slots);
		assert_string_equal(text, rows[i].text);
	}
}

/* Any 8 bytes have a text, within the buffer; half an immediate is read no further than the program goes. */
static void anything(void **state)
{
	struct bpf_insn in = {0};
	char text[VM_DISASM_SIZE], small[8];
	uint64_t seed = 88172645463325252ull;

	for (unsigned int i = 0; i < 200000; i++) {
		seed ^= seed << 13;
		seed ^= seed >> 7;
		seed ^= seed << 17;
		memcpy(&in, &seed, sizeof(in));
		assert_int_equal(vm_disasm(&in, 1, 0, NULL, text, sizeof(text)), 1);
		assert_true(strlen(text) > 5 && strlen(text) < sizeof(text) - 1);
		vm_disasm(&in, 1, 0, NULL, small, sizeof(small));
		assert_int_equal(strlen(small), sizeof(small) - 1);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(forms_as_kernel),
		cmocka_unit_test(odd_ones_as_kernel),
		cmocka_unit_test(as_told),
		cmocka_unit_test(anything),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
