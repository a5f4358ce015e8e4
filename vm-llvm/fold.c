// SPDX-License-Identifier: MIT
#include "fold.h"
#include "flow.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const struct bpf_insn nothing = {.code = BPF_ALU64 | BPF_MOV | BPF_K};

/* dst = v, if one instruction can say it. */
static bool to_constant(struct bpf_insn *in, uint64_t v)
{
	uint8_t class;

	if ((uint64_t)(int64_t)(int32_t)v == v)
		class = BPF_ALU64;
	else if (v <= UINT32_MAX)
		class = BPF_ALU;
	else
		return false;
	*in = (struct bpf_insn){.code = class | BPF_MOV | BPF_K, .dst_reg = in->dst_reg, .imm = (int32_t)v};
	return true;
}

/* The loads through the register that the immediate at pc sets, in the same block, while it holds the address. */
static int fold_loads(struct bpf_insn *insns, size_t n, const struct vm_fact *facts, size_t pc, vm_fold_read *read,
		      void *arg)
{
	const struct bpf_insn *imm = insns + pc;
	int changed = 0;

	for (size_t at = pc + 2; at < n && !facts[at].leader; at++) {
		struct bpf_insn *in = insns + at;
		enum vm_kind kind = vm_insn__kind(in, &(const char *){0});
		bool over = vm_insn__writes(in, kind) & (1u << imm->dst_reg);
		int64_t off = (int64_t)(uint32_t)imm[1].imm + in->off;
		uint64_t v = 0;

		if (kind == VM_LDX && BPF_MODE(in->code) == BPF_MEM && in->src_reg == imm->dst_reg && off >= 0 &&
		    read(arg, imm->imm, (uint32_t)off, &v, vm_insn__bytes(in)))
			changed += to_constant(in, v);
		if (over || kind == VM_JA || kind == VM_EXIT)
			break;
		at += vm_insn__slots(kind) - 1;
	}
	return changed;
}

static int drop_dead(struct bpf_insn *insns, size_t n, const struct vm_fact *facts)
{
	int changed = 0;

	for (size_t pc = 0; pc < n; pc++) {
		enum vm_kind kind = vm_insn__kind(insns + pc, &(const char *){0});

		if (!facts[pc].reached && kind == VM_CALL) {
			insns[pc] = nothing;
			changed++;
		} else if (!facts[pc].reached && kind == VM_LDDW && insns[pc].src_reg) {
			insns[pc] = insns[pc + 1] = nothing;
			changed++;
		}
		pc += vm_insn__slots(kind) - 1;
	}
	return changed;
}

int vm_fold_constants(struct bpf_insn *insns, size_t n_insns, vm_fold_read *read, void *arg)
{
	struct vm_fact *facts = NULL;
	struct vm_layout l;
	int changed = 0, r = vm_layout__init(&l, insns, n_insns, 0, NULL, 0);

	if (r)
		return r;
	r = -ENOMEM;
	facts = calloc(n_insns, sizeof(*facts));
	if (facts)
		r = vm_flow(insns, n_insns, &l, facts, NULL, NULL);
	for (size_t pc = 0; !r && pc < n_insns; pc++) {
		enum vm_kind kind = vm_insn__kind(insns + pc, &(const char *){0});

		if (kind == VM_LDDW && insns[pc].src_reg == BPF_PSEUDO_MAP_VALUE)
			changed += fold_loads(insns, n_insns, facts, pc, read, arg);
		pc += vm_insn__slots(kind) - 1;
	}
	if (!r)
		r = vm_flow(insns, n_insns, &l, facts, NULL, NULL);
	if (!r)
		changed += drop_dead(insns, n_insns, facts);
	free(facts);
	vm_layout__clear(&l);
	return r ? r : changed;
}
