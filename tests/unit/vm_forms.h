/* SPDX-License-Identifier: MIT */
/*
 * vm_forms.h: one row per form of instruction, for the tests that run it by interpreter, JIT and kernel.
 *
 * A fragment works on r2 and r3 (inputs), r0 (= r2 before it) and on the stack: r10 - 8 holds r2, r10 - 16 holds r3.
 * Afterwards r0, r2, r3 and both slots are stored to the context: struct form_ctx.
 */
#ifndef TESTS_VM_FORMS_H
#define TESTS_VM_FORMS_H

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <sys/syscall.h>
#include <linux/bpf.h>

#include "vm-llvm/insn.h"

struct form_ctx {
	uint64_t in[2];
	uint64_t out[5]; /* r0, r2, r3, r10 - 8, r10 - 16 */
};

struct form {
	const char *name;
	struct bpf_insn in[8];
};

/* clang-format off */
#define I(c, d, s, o, i) { .code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i) }
/* clang-format on */
#define MOV(d, s)	   I(BPF_ALU64 | BPF_MOV | BPF_X, d, s, 0, 0)
#define MOVI(d, i)	   I(BPF_ALU64 | BPF_MOV | BPF_K, d, 0, 0, i)
#define ADDI(d, i)	   I(BPF_ALU64 | BPF_ADD | BPF_K, d, 0, 0, i)
#define LDX(size, d, s, o) I(BPF_LDX | BPF_MEM | (size), d, s, o, 0)
#define STX(size, d, o, s) I(BPF_STX | BPF_MEM | (size), d, s, o, 0)
#define CALL(id)	   I(BPF_JMP | BPF_CALL, 0, 0, 0, id)
#define EXIT		   I(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)
#define LDDW(d, s, lo, hi) I(BPF_LD | BPF_IMM | BPF_DW, d, s, 0, lo), I(0, 0, 0, 0, hi)
#define N_INSNS(a)	   (sizeof(a) / sizeof((a)[0]))

/* Tables, one row per form. */
/* clang-format off */
#define ALU_FORMS(text, op, off) \
	{ text " r2, r3", { I(BPF_ALU64 | (op) | BPF_X, 2, 3, off, 0) } }, \
	{ text " r2, -7", { I(BPF_ALU64 | (op) | BPF_K, 2, 0, off, -7) } }, \
	{ text " w2, w3", { I(BPF_ALU | (op) | BPF_X, 2, 3, off, 0) } }, \
	{ text " w2, -7", { I(BPF_ALU | (op) | BPF_K, 2, 0, off, -7) } }
#define SHIFT_FORMS(text, op) \
	{ text " r2, r3", { I(BPF_ALU64 | (op) | BPF_X, 2, 3, 0, 0) } }, \
	{ text " r2, 13", { I(BPF_ALU64 | (op) | BPF_K, 2, 0, 0, 13) } }, \
	{ text " w2, w3", { I(BPF_ALU | (op) | BPF_X, 2, 3, 0, 0) } }, \
	{ text " w2, 13", { I(BPF_ALU | (op) | BPF_K, 2, 0, 0, 13) } }
#define JUMP_FORMS(text, op) \
	{ text " r2, r3", { I(BPF_JMP | (op) | BPF_X, 2, 3, 1, 0), MOVI(0, 77) } }, \
	{ text " r2, -1", { I(BPF_JMP | (op) | BPF_K, 2, 0, 1, -1), MOVI(0, 77) } }, \
	{ text " w2, w3", { I(BPF_JMP32 | (op) | BPF_X, 2, 3, 1, 0), MOVI(0, 77) } }, \
	{ text " w2, 5", { I(BPF_JMP32 | (op) | BPF_K, 2, 0, 1, 5), MOVI(0, 77) } }
#define ATOMIC_FORMS(text, op) \
	{ text " 64", { I(BPF_STX | BPF_ATOMIC | BPF_DW, 10, 3, -8, op) } }, \
	{ text " 32", { I(BPF_STX | BPF_ATOMIC | BPF_W, 10, 3, -8, op) } }
#define MEM_FORMS(text, size) \
	{ "load " text, { LDX(size, 2, 10, -16) } }, \
	{ "store " text, { STX(size, 10, -8, 3) } }, \
	{ "store immediate " text, { I(BPF_ST | BPF_MEM | (size), 10, 0, -8, -2) } }

static const struct form forms[] = {
	{ "nothing", { MOVI(0, 1) } },
	ALU_FORMS("add", BPF_ADD, 0),
	ALU_FORMS("sub", BPF_SUB, 0),
	ALU_FORMS("mul", BPF_MUL, 0),
	ALU_FORMS("div", BPF_DIV, 0),
	ALU_FORMS("mod", BPF_MOD, 0),
	ALU_FORMS("sdiv", BPF_DIV, 1),
	ALU_FORMS("smod", BPF_MOD, 1),
	{ "sdiv r2, -1", { I(BPF_ALU64 | BPF_DIV | BPF_K, 2, 0, 1, -1) } },
	{ "smod w2, -1", { I(BPF_ALU | BPF_MOD | BPF_K, 2, 0, 1, -1) } },
	ALU_FORMS("or", BPF_OR, 0),
	ALU_FORMS("and", BPF_AND, 0),
	ALU_FORMS("xor", BPF_XOR, 0),
	ALU_FORMS("mov", BPF_MOV, 0),
	SHIFT_FORMS("lsh", BPF_LSH),
	SHIFT_FORMS("rsh", BPF_RSH),
	SHIFT_FORMS("arsh", BPF_ARSH),
	{ "neg r2", { I(BPF_ALU64 | BPF_NEG, 2, 0, 0, 0) } },
	{ "neg w2", { I(BPF_ALU | BPF_NEG, 2, 0, 0, 0) } },
	{ "movsx r2, r3, 8", { I(BPF_ALU64 | BPF_MOV | BPF_X, 2, 3, 8, 0) } },
	{ "movsx r2, r3, 16", { I(BPF_ALU64 | BPF_MOV | BPF_X, 2, 3, 16, 0) } },
	{ "movsx r2, r3, 32", { I(BPF_ALU64 | BPF_MOV | BPF_X, 2, 3, 32, 0) } },
	{ "movsx w2, w3, 8", { I(BPF_ALU | BPF_MOV | BPF_X, 2, 3, 8, 0) } },
	{ "movsx w2, w3, 16", { I(BPF_ALU | BPF_MOV | BPF_X, 2, 3, 16, 0) } },
	{ "le16", { I(BPF_ALU | BPF_END | BPF_TO_LE, 2, 0, 0, 16) } },
	{ "le32", { I(BPF_ALU | BPF_END | BPF_TO_LE, 2, 0, 0, 32) } },
	{ "le64", { I(BPF_ALU | BPF_END | BPF_TO_LE, 2, 0, 0, 64) } },
	{ "be16", { I(BPF_ALU | BPF_END | BPF_TO_BE, 2, 0, 0, 16) } },
	{ "be32", { I(BPF_ALU | BPF_END | BPF_TO_BE, 2, 0, 0, 32) } },
	{ "be64", { I(BPF_ALU | BPF_END | BPF_TO_BE, 2, 0, 0, 64) } },
	{ "bswap16", { I(BPF_ALU64 | BPF_END, 2, 0, 0, 16) } },
	{ "bswap32", { I(BPF_ALU64 | BPF_END, 2, 0, 0, 32) } },
	{ "bswap64", { I(BPF_ALU64 | BPF_END, 2, 0, 0, 64) } },
	JUMP_FORMS("jeq", BPF_JEQ),
	JUMP_FORMS("jne", BPF_JNE),
	JUMP_FORMS("jgt", BPF_JGT),
	JUMP_FORMS("jge", BPF_JGE),
	JUMP_FORMS("jlt", BPF_JLT),
	JUMP_FORMS("jle", BPF_JLE),
	JUMP_FORMS("jsgt", BPF_JSGT),
	JUMP_FORMS("jsge", BPF_JSGE),
	JUMP_FORMS("jslt", BPF_JSLT),
	JUMP_FORMS("jsle", BPF_JSLE),
	JUMP_FORMS("jset", BPF_JSET),
	{ "gotol", { I(BPF_JMP32 | BPF_JA, 0, 0, 0, 1), MOVI(0, 77), MOVI(2, 5), I(BPF_JMP | BPF_JEQ | BPF_K, 2, 0, -3, 9) } },
	MEM_FORMS("1", BPF_B),
	MEM_FORMS("2", BPF_H),
	MEM_FORMS("4", BPF_W),
	MEM_FORMS("8", BPF_DW),
	{ "load signed 1", { I(BPF_LDX | VM_MODE_MEMSX | BPF_B, 2, 10, -16, 0) } },
	{ "load signed 2", { I(BPF_LDX | VM_MODE_MEMSX | BPF_H, 2, 10, -16, 0) } },
	{ "load signed 4", { I(BPF_LDX | VM_MODE_MEMSX | BPF_W, 2, 10, -16, 0) } },
	{ "lddw", { LDDW(2, 0, -2, 0x12345678) } },
	{ "stack by register", { MOV(2, 10), ADDI(2, -16), LDX(BPF_W, 0, 2, 4), STX(BPF_H, 2, 10, 0), MOVI(2, 0) } },
	ATOMIC_FORMS("atomic add", BPF_ADD),
	ATOMIC_FORMS("atomic or", BPF_OR),
	ATOMIC_FORMS("atomic and", BPF_AND),
	ATOMIC_FORMS("atomic xor", BPF_XOR),
	ATOMIC_FORMS("fetch add", BPF_ADD | BPF_FETCH),
	ATOMIC_FORMS("fetch or", BPF_OR | BPF_FETCH),
	ATOMIC_FORMS("fetch and", BPF_AND | BPF_FETCH),
	ATOMIC_FORMS("fetch xor", BPF_XOR | BPF_FETCH),
	ATOMIC_FORMS("xchg", BPF_XCHG),
	ATOMIC_FORMS("cmpxchg that hits", BPF_CMPXCHG),
	{ "cmpxchg 64 that misses", { ADDI(0, 1), I(BPF_STX | BPF_ATOMIC | BPF_DW, 10, 3, -8, BPF_CMPXCHG) } },
	{ "cmpxchg 32 that misses", { ADDI(0, 1), I(BPF_STX | BPF_ATOMIC | BPF_W, 10, 3, -8, BPF_CMPXCHG) } },
	{ "loop", { MOVI(4, 0), I(BPF_ALU64 | BPF_ADD | BPF_X, 0, 3, 0, 0), ADDI(4, 1),
		    I(BPF_JMP | BPF_JLT | BPF_K, 4, 0, -3, 10) } },
	/* r0 = f(r3): f has a frame of its own. Jumps over f, which begins two instructions on. */
	{ "local call", { MOV(1, 3), I(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 7), MOVI(2, 0), MOVI(3, 0) } },
};
/* clang-format on */
#define N_FORMS (sizeof(forms) / sizeof(forms[0]))

static const uint64_t form_values[] = {
	0,
	1,
	5,
	9,
	0x7f,
	0x80,
	0xffff,
	0x7fffffff,
	0x80000000,
	0xffffffff,
	0x100000000,
	0x8000000000000000,
	0x7fffffffffffffff,
	~0ull,
	~6ull,
	0x0123456789abcdef,
	0xfedcba9876543210,
};
#define N_VALUES (sizeof(form_values) / sizeof(form_values[0]))

#define FORM_MAX_INSNS 40

/* The whole program of a form. The subprogram at the end is there for "local call" only. */
static inline size_t form_program(const struct form *f, struct bpf_insn *out)
{
	static const struct bpf_insn before[] = {
		MOV(6, 1), LDX(BPF_DW, 2, 6, 0),   LDX(BPF_DW, 3, 6, 8),
		MOV(0, 2), STX(BPF_DW, 10, -8, 2), STX(BPF_DW, 10, -16, 3),
	};
	static const struct bpf_insn after[] = {
		STX(BPF_DW, 6, 16, 0),
		STX(BPF_DW, 6, 24, 2),
		STX(BPF_DW, 6, 32, 3),
		LDX(BPF_DW, 0, 10, -8),
		STX(BPF_DW, 6, 40, 0),
		LDX(BPF_DW, 0, 10, -16),
		STX(BPF_DW, 6, 48, 0),
		MOVI(0, 0),
		EXIT,
	};
	static const struct bpf_insn sub[] = {
		STX(BPF_DW, 10, -8, 1), MOVI(6, 4), I(BPF_STX | BPF_ATOMIC | BPF_DW, 10, 6, -8, BPF_ADD),
		LDX(BPF_DW, 0, 10, -8), EXIT,
	};
	size_t n = 0, len = 8;

	while (len && !f->in[len - 1].code && !f->in[len - 1].imm && !f->in[len - 1].dst_reg)
		len--;
	memcpy(out, before, sizeof(before));
	n = N_INSNS(before);
	memcpy(out + n, f->in, len * sizeof(*out));
	for (size_t i = n; i < n + len; i++)
		if (out[i].code == (BPF_JMP | BPF_CALL) && out[i].src_reg == BPF_PSEUDO_CALL)
			out[i].imm = n + len + N_INSNS(after) - i - 1;
	n += len;
	memcpy(out + n, after, sizeof(after));
	n += N_INSNS(after);
	if (!strcmp(f->name, "local call")) {
		memcpy(out + n, sub, sizeof(sub));
		n += N_INSNS(sub);
	}
	return n;
}

static inline long form_bpf(int cmd, union bpf_attr *attr)
{
	return syscall(SYS_bpf, cmd, attr, sizeof(*attr));
}

/* The kernel as the oracle: a program of type SYSCALL. The fd or -errno; log gets the verifier's words. */
static inline int form_load(const struct bpf_insn *insns, size_t n, char *log, size_t log_size)
{
	union bpf_attr attr = {.prog_type = BPF_PROG_TYPE_SYSCALL, .insn_cnt = n, .prog_flags = BPF_F_SLEEPABLE};
	int fd;

	attr.insns = (uintptr_t)insns;
	attr.license = (uintptr_t) "Dual MIT/GPL";
	if (log) {
		log[0] = 0;
		attr.log_buf = (uintptr_t)log;
		attr.log_size = log_size;
		attr.log_level = 1;
	}
	fd = form_bpf(BPF_PROG_LOAD, &attr);
	return fd < 0 ? -errno : fd;
}

/* Whether the kernel has the instructions of v4 (Linux 6.6): sign-extending moves and what came with them. */
static inline int form_kernel_has_v4(void)
{
	static const struct bpf_insn in[] = {MOVI(0, 1), I(BPF_ALU64 | BPF_MOV | BPF_X, 0, 0, 8, 0), EXIT};
	int fd = form_load(in, N_INSNS(in), NULL, 0);

	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

static inline int form_run(int fd, struct form_ctx *ctx)
{
	union bpf_attr attr = {0};

	attr.test.prog_fd = fd;
	attr.test.ctx_in = (uintptr_t)ctx;
	attr.test.ctx_size_in = sizeof(*ctx);
	return form_bpf(BPF_PROG_TEST_RUN, &attr) ? -errno : 0;
}

#endif
