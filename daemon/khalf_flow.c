/* SPDX-License-Identifier: MIT */
/*
 * khalf_flow.c: a forward data-flow analysis over registers and spilled registers, until nothing changes. The program
 * has passed the kernel's verifier already; what is unusual (a map pointer through memory other than the stack) it does
 * not admit, so it is not followed here.
 */
#include "daemon/khalf_flow.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N_REGS	11
#define STACK	512
#define N_SLOTS (STACK / 8)

struct facts {
	uint8_t reg[N_REGS];
	uint8_t slot[N_SLOTS];
};

struct flow {
	const struct bpf_insn *insns;
	size_t n;
	const bool *kernel_map;
	size_t n_maps;
	struct facts *facts; /* before each instruction */
	uint32_t *work;
	uint8_t *queued;
	size_t n_work;
};

static void reach(struct flow *f, size_t to, const struct facts *with)
{
	uint8_t *have, changed = 0;
	const uint8_t *more = (const uint8_t *)with;

	if (to >= f->n)
		return;
	have = (uint8_t *)&f->facts[to];
	for (size_t i = 0; i < sizeof(struct facts); i++) {
		changed |= more[i] & ~have[i];
		have[i] |= more[i];
	}
	if (changed && !f->queued[to]) {
		f->queued[to] = 1;
		f->work[f->n_work++] = (uint32_t)to;
	}
}

/* The stack slot that an access by r10 touches, or -1. */
static int slot_of(int reg, int off)
{
	if (reg != BPF_REG_10 || off >= 0 || off < -STACK)
		return -1;
	return (off + STACK) / 8;
}

static void clobber(struct facts *s, int from, int to)
{
	for (int r = from; r <= to; r++)
		s->reg[r] = HOLDS_OTHER;
}

static int step_call(struct flow *f, size_t at, struct facts *s)
{
	const struct bpf_insn *in = &f->insns[at];

	if (in->src_reg == BPF_PSEUDO_CALL) {
		struct facts callee;

		memset(&callee, HOLDS_OTHER, sizeof(callee));
		memcpy(&callee.reg[1], &s->reg[1], 5);
		reach(f, at + 1 + (size_t)(long)in->imm, &callee);
	}
	clobber(s, 0, 5);
	return 0;
}

static int step_load64(struct flow *f, const struct bpf_insn *in, struct facts *s)
{
	s->reg[in->dst_reg] = HOLDS_OTHER;
	switch (in->src_reg) {
	case 0:
	case BPF_PSEUDO_MAP_VALUE:
	case BPF_PSEUDO_BTF_ID:
		return 0;
	case BPF_PSEUDO_MAP_FD:
		if ((size_t)(unsigned int)in->imm >= f->n_maps)
			return -EINVAL;
		s->reg[in->dst_reg] = f->kernel_map[in->imm] ? HOLDS_KERNEL : HOLDS_MIRRORED;
		return 0;
	default:
		return -EOPNOTSUPP;
	}
}

static void step_memory(const struct bpf_insn *in, struct facts *s)
{
	int slot, whole = BPF_SIZE(in->code) == BPF_DW;

	switch (BPF_CLASS(in->code)) {
	case BPF_LDX:
		slot = slot_of(in->src_reg, in->off);
		s->reg[in->dst_reg] = slot >= 0 && whole ? s->slot[slot] : HOLDS_OTHER;
		return;
	case BPF_STX:
		slot = slot_of(in->dst_reg, in->off);
		if (BPF_MODE(in->code) == BPF_ATOMIC) {
			if (in->imm == BPF_CMPXCHG)
				s->reg[0] = HOLDS_OTHER;
			else if (in->imm & BPF_FETCH)
				s->reg[in->src_reg] = HOLDS_OTHER;
		}
		if (slot >= 0)
			s->slot[slot] = whole && BPF_MODE(in->code) == BPF_MEM ? s->reg[in->src_reg] : HOLDS_OTHER;
		return;
	default: /* BPF_ST */
		slot = slot_of(in->dst_reg, in->off);
		if (slot >= 0)
			s->slot[slot] = HOLDS_OTHER;
	}
}

/* Facts after the instruction go to its successors. */
static int step(struct flow *f, size_t at)
{
	const struct bpf_insn *in = &f->insns[at];
	struct facts s = f->facts[at];
	int op = BPF_OP(in->code), err;

	switch (BPF_CLASS(in->code)) {
	case BPF_ALU64:
		s.reg[in->dst_reg] = op == BPF_MOV && BPF_SRC(in->code) == BPF_X ? s.reg[in->src_reg] : HOLDS_OTHER;
		break;
	case BPF_ALU:
		s.reg[in->dst_reg] = HOLDS_OTHER;
		break;
	case BPF_LD:
		if (in->code != (BPF_LD | BPF_IMM | BPF_DW)) {
			clobber(&s, 0, 5);
			break;
		}
		err = step_load64(f, in, &s);
		if (err)
			return err;
		reach(f, at + 2, &s);
		return 0;
	case BPF_JMP:
	case BPF_JMP32:
		if (op == BPF_EXIT)
			return 0;
		if (op == BPF_CALL) {
			err = step_call(f, at, &s);
			if (err)
				return err;
			break;
		}
		reach(f, at + 1 + (size_t)(long)(op == BPF_JA && BPF_CLASS(in->code) == BPF_JMP32 ? in->imm : in->off),
		      &s);
		if (op == BPF_JA)
			return 0;
		break;
	default:
		step_memory(in, &s);
	}
	reach(f, at + 1, &s);
	return 0;
}

int khalf_flow(const struct bpf_insn *insns, size_t n_insns, const bool *kernel_map, size_t n_maps, uint8_t *first_arg,
	       char *err, size_t err_size)
{
	struct flow f = {.insns = insns, .n = n_insns, .kernel_map = kernel_map, .n_maps = n_maps};
	struct facts entry;
	int ret = -ENOMEM;

	f.facts = calloc(n_insns, sizeof(*f.facts));
	f.work = calloc(n_insns, sizeof(*f.work));
	f.queued = calloc(n_insns, 1);
	if (!f.facts || !f.work || !f.queued) {
		snprintf(err, err_size, "no memory to follow %zu instructions", n_insns);
		goto out;
	}
	memset(&entry, HOLDS_OTHER, sizeof(entry));
	reach(&f, 0, &entry);
	ret = 0;
	while (f.n_work && !ret) {
		size_t at = f.work[--f.n_work];

		f.queued[at] = 0;
		ret = step(&f, at);
		if (ret)
			snprintf(err, err_size, "instruction %zu loads an address of a kind that is not carried (%u)",
				 at, insns[at].src_reg);
	}
	for (size_t i = 0; i < n_insns; i++)
		first_arg[i] = f.facts[i].reg[1];
out:
	free(f.facts);
	free(f.work);
	free(f.queued);
	return ret;
}
