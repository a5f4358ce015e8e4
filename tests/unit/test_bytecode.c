/* SPDX-License-Identifier: MIT */
/* test_bytecode.c: facts about programs, on programs of a few instructions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <asm/ptrace.h>
#include <string.h>

#include "daemon/bytecode.h"
#include "daemon/digest.h"

#define LDX(dst, src, offset)                                                                                          \
	{                                                                                                              \
		.code = BPF_LDX | BPF_MEM | BPF_DW, .dst_reg = dst, .src_reg = src, .off = offset                      \
	}
#define STX(dst, src, offset)                                                                                          \
	{                                                                                                              \
		.code = BPF_STX | BPF_MEM | BPF_DW, .dst_reg = dst, .src_reg = src, .off = offset                      \
	}
#define MOV(dst, src)                                                                                                  \
	{                                                                                                              \
		.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = dst, .src_reg = src                                    \
	}
#define ADD(dst, number)                                                                                               \
	{                                                                                                              \
		.code = BPF_ALU64 | BPF_ADD | BPF_K, .dst_reg = dst, .imm = number                                     \
	}
#define CALL(how, what)                                                                                                \
	{                                                                                                              \
		.code = BPF_JMP | BPF_CALL, .src_reg = how, .imm = what                                                \
	}
#define EXIT                                                                                                           \
	{                                                                                                              \
		.code = BPF_JMP | BPF_EXIT                                                                             \
	}
#define REG(name) ((short)offsetof(struct pt_regs, name))

/* FIPS 180-4's examples for "abc". */
static void test_digests(void **state)
{
	static const uint8_t one[] = {0xa9, 0x99, 0x3e, 0x36, 0x47, 0x06, 0x81, 0x6a, 0xba, 0x3e};
	static const uint8_t two[] = {0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41};
	static const uint8_t two_long[] = {0x24, 0x8d, 0x6a, 0x61, 0xd2, 0x06, 0x38, 0xb8};
	const char *text = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
	uint8_t digest[32];

	sha1("abc", 3, digest);
	assert_memory_equal(digest, one, sizeof(one));
	sha256("abc", 3, digest);
	assert_memory_equal(digest, two, sizeof(two));
	sha256(text, strlen(text), digest);
	assert_memory_equal(digest, two_long, sizeof(two_long));
}

#define FEW(...)                                                                                                       \
	bytecode__reads_few_registers((const struct bpf_insn[]){__VA_ARGS__},                                          \
				      sizeof((const struct bpf_insn[]){__VA_ARGS__}) / sizeof(struct bpf_insn))

static void test_few_registers(void **state)
{
	assert_true(FEW(EXIT));
	assert_true(FEW(LDX(0, 1, REG(rdi)), EXIT));
	assert_true(FEW(MOV(6, 1), CALL(0, 14), LDX(1, 6, REG(rax)), LDX(2, 6, REG(rsp)), LDX(3, 6, REG(rip)), EXIT));
	/* A map's value may be read at any offset, a changed one included. */
	assert_true(FEW(MOV(6, 1), CALL(0, 1), LDX(1, 0, REG(rbx)), ADD(0, 8), LDX(1, 6, REG(rsi)), EXIT));
	assert_true(FEW(LDX(1, 1, REG(rdi)), ADD(1, 8), EXIT));

	assert_false(FEW(LDX(0, 1, REG(rbx)), EXIT));
	assert_false(FEW(LDX(0, 1, REG(eflags)), EXIT));
	assert_false(FEW(LDX(0, 1, REG(orig_rax)), EXIT));
	assert_false(FEW(LDX(0, 1, REG(cs)), EXIT));
	assert_false(FEW(MOV(6, 1), MOV(7, 6), LDX(0, 7, REG(rbp)), EXIT));
	/* The copy comes after the use, in a loop. */
	assert_false(FEW(LDX(0, 7, REG(rbp)), MOV(7, 6), MOV(6, 1), EXIT));
	assert_false(FEW(STX(10, 1, -8), LDX(3, 10, -8), LDX(0, 3, REG(r12)), EXIT));
	assert_false(FEW(MOV(6, 1), ADD(6, 8), LDX(0, 6, REG(rdi)), EXIT));
	assert_false(FEW(CALL(BPF_PSEUDO_CALL, 1), EXIT, LDX(0, 1, REG(rdi)), EXIT));
}

#define SEES(...)                                                                                                      \
	bytecode__sees_ip((const struct bpf_insn[]){__VA_ARGS__},                                                      \
			  sizeof((const struct bpf_insn[]){__VA_ARGS__}) / sizeof(struct bpf_insn))

static void test_sees_ip(void **state)
{
	(void)state;
	assert_false(SEES(EXIT));
	assert_false(SEES(MOV(6, 1), CALL(0, 14), LDX(1, 6, REG(rax)), LDX(2, 6, REG(rsp)), LDX(3, 6, REG(cs)), EXIT));
	assert_false(SEES(LDX(0, 1, REG(rbx)), CALL(0, BPF_FUNC_get_attach_cookie), EXIT));
	/* What was read elsewhere, at that offset. */
	assert_false(SEES(MOV(6, 1), CALL(0, 1), LDX(1, 0, REG(rip)), EXIT));
	assert_false(SEES(MOV(6, 1), MOV(3, 7), CALL(0, BPF_FUNC_probe_read), EXIT));

	assert_true(SEES(LDX(0, 1, REG(rip)), EXIT));
	assert_true(SEES(LDX(0, 1, REG(rip) + 4), EXIT));
	assert_true(SEES(MOV(6, 1), MOV(7, 6), LDX(0, 7, REG(rip)), EXIT));
	assert_true(SEES(STX(10, 1, -8), LDX(3, 10, -8), LDX(0, 3, REG(rip)), EXIT));
	assert_true(SEES(CALL(0, BPF_FUNC_get_func_ip), EXIT));
	assert_true(SEES(MOV(3, 1), CALL(0, BPF_FUNC_probe_read), EXIT));
	assert_true(SEES(MOV(6, 1), ADD(6, 8), LDX(0, 6, REG(rdi)), EXIT));
	assert_true(SEES(CALL(BPF_PSEUDO_CALL, 1), EXIT, LDX(0, 1, REG(rdi)), EXIT));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_digests),
		cmocka_unit_test(test_few_registers),
		cmocka_unit_test(test_sees_ip),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
