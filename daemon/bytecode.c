/* SPDX-License-Identifier: MIT */
/* bytecode.c: see bytecode.h. */
#include "bytecode.h"
#include "digest.h"

#include <asm/ptrace.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

bool insn__names_map(const struct bpf_insn *insn)
{
	return insn->code == (BPF_LD | BPF_IMM | BPF_DW) &&
	       (insn->src_reg == BPF_PSEUDO_MAP_FD || insn->src_reg == BPF_PSEUDO_MAP_VALUE);
}

bool bytecode__has_tag(const struct bpf_insn *insns, size_t n, const uint8_t tag[BPF_TAG_LEN])
{
	struct bpf_insn *copy = calloc(n ? n : 1, sizeof(*copy));
	uint8_t digest[32];
	bool same;

	if (!copy)
		return false;
	memcpy(copy, insns, n * sizeof(*copy));
	for (size_t i = 0; i + 1 < n; i++) {
		if (insn__names_map(&copy[i])) {
			copy[i].imm = 0;
			copy[i + 1].imm = 0;
		}
	}
	sha256(copy, n * sizeof(*copy), digest);
	same = !memcmp(digest, tag, BPF_TAG_LEN);
	if (!same) {
		sha1(copy, n * sizeof(*copy), digest);
		same = !memcmp(digest, tag, BPF_TAG_LEN);
	}
	free(copy);
	return same;
}

static bool is_few(int off)
{
	return (off >= (int)offsetof(struct pt_regs, r11) && off <= (int)offsetof(struct pt_regs, rdi) + 7) ||
	       (off >= (int)offsetof(struct pt_regs, rip) && off <= (int)offsetof(struct pt_regs, rip) + 7) ||
	       (off >= (int)offsetof(struct pt_regs, rsp) && off <= (int)offsetof(struct pt_regs, rsp) + 7);
}

/* Registers that hold the context anywhere in the program, as a set of bits; r1 does at its start. */
static unsigned int context_registers(const struct bpf_insn *insns, size_t n)
{
	unsigned int set = 1u << BPF_REG_1, before;

	do {
		before = set;
		for (size_t i = 0; i < n; i++)
			if (insns[i].code == (BPF_ALU64 | BPF_MOV | BPF_X) && (set >> insns[i].src_reg & 1))
				set |= 1u << insns[i].dst_reg;
	} while (set != before);
	return set;
}

/* The verifier lets a program read its context at constant offsets from an unchanged pointer only. */
bool bytecode__reads_few_registers(const struct bpf_insn *insns, size_t n)
{
	unsigned int context = context_registers(insns, n);

	for (size_t i = 0; i < n; i++) {
		const struct bpf_insn *p = &insns[i];
		int class = BPF_CLASS(p->code);

		if (p->code == (BPF_LD | BPF_IMM | BPF_DW)) {
			if (p->src_reg == BPF_PSEUDO_FUNC)
				return false;
			i++;
		} else if (p->code == (BPF_JMP | BPF_CALL) && p->src_reg != 0) {
			return false;
		} else if (class == BPF_LDX && (context >> p->src_reg & 1) && !is_few(p->off)) {
			return false;
		} else if (class == BPF_STX && (context >> p->src_reg & 1) && p->dst_reg == BPF_REG_10) {
			return false; /* it may come back in any register */
		} else if ((class == BPF_ALU64 || class == BPF_ALU) && BPF_OP(p->code) != BPF_MOV &&
			   (context & ~(1u << BPF_REG_1) & 1u << p->dst_reg)) {
			return false; /* a changed pointer */
		}
	}
	return true;
}

static bool reads_ip(const struct bpf_insn *p)
{
	static const int sizes[] = {[BPF_W >> 3] = 4, [BPF_H >> 3] = 2, [BPF_B >> 3] = 1, [BPF_DW >> 3] = 8};
	int ip = offsetof(struct pt_regs, rip), size = sizes[BPF_SIZE(p->code) >> 3];

	return p->off < ip + 8 && p->off + size > ip;
}

/* Those that read memory, which may be the context's. */
static bool reads_memory(int helper)
{
	return helper == BPF_FUNC_probe_read || helper == BPF_FUNC_probe_read_str ||
	       helper == BPF_FUNC_probe_read_kernel || helper == BPF_FUNC_probe_read_kernel_str;
}

bool bytecode__sees_ip(const struct bpf_insn *insns, size_t n)
{
	/* The first argument's register holds other things, too. */
	unsigned int context = context_registers(insns, n), only = context & ~(1u << BPF_REG_1);

	for (size_t i = 0; i < n; i++) {
		const struct bpf_insn *p = &insns[i];
		int class = BPF_CLASS(p->code);

		/* A changed pointer, or one that is kept in a map. */
		if ((class == BPF_ALU64 || class == BPF_ALU) && BPF_OP(p->code) != BPF_MOV && (only >> p->dst_reg & 1))
			return true;
		if (class == BPF_STX && (only >> p->src_reg & 1) && p->dst_reg != BPF_REG_10)
			return true;
		/* It may have been on the stack, and come back in any register. */
		if (class == BPF_STX && (context >> p->src_reg & 1) && p->dst_reg == BPF_REG_10)
			context = (1u << BPF_REG_10) - 1;
	}
	for (size_t i = 0; i < n; i++) {
		const struct bpf_insn *p = &insns[i];
		int class = BPF_CLASS(p->code);

		if (p->code == (BPF_LD | BPF_IMM | BPF_DW)) {
			if (p->src_reg == BPF_PSEUDO_FUNC)
				return true;
			i++;
		} else if (p->code == (BPF_JMP | BPF_CALL)) {
			if (p->src_reg || p->imm == BPF_FUNC_get_func_ip ||
			    (reads_memory(p->imm) && (context >> BPF_REG_3 & 1)))
				return true;
		} else if (class == BPF_LDX && (context >> p->src_reg & 1) && reads_ip(p)) {
			return true;
		}
	}
	return false;
}
