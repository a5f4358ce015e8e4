// SPDX-License-Identifier: MIT
/*
 * lift_switch.c: eBPF has no jump through a table, so compilers make a switch into a tree of comparisons, whose shape
 * LLVM does not undo. Here the tree becomes a switch again: for each small number it is walked, which tells the
 * instruction where it ends. Other numbers go through the tree as it stands.
 */
#include "lift_internal.h"

#include <string.h>

#define WINDOW	  256 /* numbers that are tried: 0 to WINDOW - 1 */
#define MIN_CASES 4   /* numbers that must end elsewhere than the others for a table to pay */
#define MAX_DEPTH 128
#define NOWHERE	  SIZE_MAX

/* Whether pc compares what the tree's root compares with a constant. */
static bool is_node(const struct lift *l, const struct bpf_insn *root, size_t pc)
{
	const struct bpf_insn *in = l->insns + pc;

	return BPF_CLASS(in->code) == BPF_CLASS(root->code) && BPF_SRC(in->code) == BPF_K &&
	       in->dst_reg == root->dst_reg && vm_insn__kind(in, &(const char *){0}) == VM_JCC;
}

/* Where the tree ends for a number; mark: notes the nodes on the way. */
static size_t walk(struct lift *l, size_t pc, uint64_t number, bool mark)
{
	const struct bpf_insn *root = l->insns + pc;

	for (unsigned int depth = 0; depth < MAX_DEPTH; depth++) {
		const struct bpf_insn *in = l->insns + pc;
		enum vm_kind kind = vm_insn__kind(in, &(const char *){0});

		if (is_node(l, root, pc)) {
			if (mark)
				l->in_tree[pc] = 1;
			pc = vm_compare(in, number, (uint64_t)(int64_t)in->imm) ? (size_t)vm_insn__target(in, kind, pc)
										: pc + 1;
		} else if (kind == VM_JA) {
			pc = (size_t)vm_insn__target(in, kind, pc);
		} else {
			return l->blocks[pc] ? pc : NOWHERE;
		}
	}
	return NOWHERE;
}

/* How many numbers, from 0, deserve a case: one more than the last that ends elsewhere than WINDOW - 1 does. 0: none.
 */
static unsigned int worth(const size_t *end)
{
	unsigned int last = 0, cases = 0;

	for (unsigned int i = 0; i < WINDOW; i++) {
		if (end[i] == NOWHERE)
			return 0;
		if (end[i] != end[WINDOW - 1]) {
			cases++;
			last = i;
		}
	}
	return cases < MIN_CASES ? 0 : last + 2 < WINDOW ? last + 2 : WINDOW;
}

void vm_lift_switch(struct lift *l, size_t pc)
{
	const struct bpf_insn *in = l->insns + pc;
	LLVMTypeRef type = vm_insn__is64(in) ? l->i64 : l->i32;
	LLVMBasicBlockRef tree;
	LLVMValueRef value, table;
	size_t end[WINDOW];
	unsigned int n;

	if (!l->opts->native || l->in_tree[pc] || !is_node(l, in, pc))
		return;
	if (!is_node(l, in, pc + 1) && !is_node(l, in, (size_t)vm_insn__target(in, VM_JCC, pc)))
		return;
	for (unsigned int i = 0; i < WINDOW; i++)
		end[i] = walk(l, pc, i, false);
	n = worth(end);
	if (!n)
		return;
	value = vm_lift_get(l, pc, in->dst_reg);
	if (type == l->i32)
		value = LLVMBuildTrunc(l->b, value, type, "");
	tree = LLVMAppendBasicBlockInContext(l->ctx, l->fn, "");
	table = LLVMBuildSwitch(l->b, value, tree, n);
	for (unsigned int i = 0; i < n; i++) {
		LLVMAddCase(table, LLVMConstInt(type, i, false), l->blocks[end[i]]);
		walk(l, pc, i, true);
	}
	LLVMPositionBuilderAtEnd(l->b, tree);
}
