// SPDX-License-Identifier: MIT
/*
 * lift_call.c: calls. A helper is a function of the library bitcode, which is inlined, or one of the caller's table; a
 * subprogram is a function of the same module. What a register holds is told apart by a switch over all that it may
 * be, so there is no jump to an address that the program has made.
 */
#include "lift_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static LLVMBasicBlockRef new_block(struct lift *l)
{
	return LLVMAppendBasicBlockInContext(l->ctx, l->fn, "");
}

static LLVMValueRef env_member(struct lift *l, size_t offset)
{
	LLVMValueRef at = vm_lift_c64(l, offset);

	return LLVMBuildGEP2(l->b, l->i8, l->env, &at, 1, "");
}

/* A load of what stays the same during the call. */
static LLVMValueRef load_constant(struct lift *l, LLVMTypeRef type, LLVMValueRef at)
{
	static const char name[] = "invariant.load";
	unsigned int kind = LLVMGetMDKindIDInContext(l->ctx, name, sizeof(name) - 1);
	LLVMValueRef v = LLVMBuildLoad2(l->b, type, at, "");

	LLVMSetMetadata(v, kind, LLVMMetadataAsValue(l->ctx, LLVMMDNodeInContext2(l->ctx, NULL, 0)));
	return v;
}

LLVMValueRef vm_lift_env(struct lift *l, size_t offset, LLVMTypeRef type)
{
	return load_constant(l, type, env_member(l, offset));
}

void vm_lift_declare(struct lift *l)
{
	LLVMTypeRef args[7] = {l->ptr, l->i64, l->i64, l->i64, l->i64, l->i64, l->i32};
	LLVMTypeRef plain[2] = {l->ptr, l->ptr}, with_env[3] = {l->i64, l->i64, l->ptr};
	char name[32];

	l->helper_type = LLVMFunctionType(l->i64, args, 6, false);
	l->sub_type = LLVMFunctionType(l->i64, args, l->may_fault ? 7 : 6, false);
	l->entry_type = l->opts->env_calls ? LLVMFunctionType(l->i64, with_env, 3, false)
					   : LLVMFunctionType(l->i64, plain, 2, false);
	l->subs[0] = LLVMAddFunction(l->mod, VM_ENTRY_NAME, l->entry_type);
	for (size_t i = 1; i < l->layout.n; i++) {
		snprintf(name, sizeof(name), "vm_sub_%zu", i);
		l->subs[i] = LLVMAddFunction(l->mod, name, l->sub_type);
		LLVMSetLinkage(l->subs[i], LLVMInternalLinkage);
	}
}

/* ---- the end of a program in the middle ---- */

static LLVMValueRef fault_member(struct lift *l)
{
	return env_member(l, offsetof(struct vm_env, fault));
}

static void build_fault(struct lift *l, size_t pc)
{
	LLVMBuildStore(l->b, LLVMConstInt(l->i32, pc + 1, false), fault_member(l));
	LLVMBuildRet(l->b, vm_lift_c64(l, 0));
}

/* Goes on in a new block if cond holds, else returns 0. */
static void return_unless(struct lift *l, LLVMValueRef cond)
{
	LLVMBasicBlockRef end = new_block(l), go_on = new_block(l);

	LLVMBuildCondBr(l->b, cond, go_on, end);
	LLVMPositionBuilderAtEnd(l->b, end);
	LLVMBuildRet(l->b, vm_lift_c64(l, 0));
	LLVMPositionBuilderAtEnd(l->b, go_on);
}

/* ---- helpers and subprograms ---- */

static void arguments(struct lift *l, size_t pc, LLVMValueRef *args)
{
	for (unsigned int i = 1; i <= 5; i++)
		args[i] = vm_lift_get(l, pc, i);
}

/* The function that helper id is, or NULL. */
static LLVMValueRef helper_function(struct lift *l, uint32_t id)
{
	const struct vm_compile_opts *o = l->opts;
	LLVMValueRef fn, at;
	char name[32];
	size_t i = 0;

	snprintf(name, sizeof(name), "bpf_helper_%u", id);
	fn = vm_lift_function(l, name, l->helper_type);
	if (fn || !o->env_calls)
		return fn;
	while (i < o->n_helper_ids && o->helper_ids[i] != id)
		i++;
	if (i == o->n_helper_ids)
		return NULL;
	at = vm_lift_c64(l, i * sizeof(void *));
	fn = vm_lift_env(l, offsetof(struct vm_env, helpers), l->ptr);
	return load_constant(l, l->ptr, LLVMBuildGEP2(l->b, l->i8, fn, &at, 1, ""));
}

static void call_helper(struct lift *l, size_t pc, LLVMValueRef fn)
{
	LLVMValueRef args[6] = {l->user};

	arguments(l, pc, args);
	vm_lift_set(l, 0, LLVMBuildCall2(l->b, l->helper_type, fn, args, 6, ""));
}

int vm_lift_helper(struct lift *l, size_t pc)
{
	uint32_t id = (uint32_t)l->insns[pc].imm;
	LLVMValueRef fn = helper_function(l, id);

	if (!fn)
		return vm_fail(l->err, l->err_size, -EOPNOTSUPP, "instruction %zu: helper %u is not carried", pc, id);
	call_helper(l, pc, fn);
	return 0;
}

static void call_sub(struct lift *l, size_t pc, size_t sub)
{
	LLVMValueRef args[7] = {l->env}, zero = LLVMConstInt(l->i32, 0, false), depth, fault;
	LLVMBasicBlockRef deep, fits;

	arguments(l, pc, args);
	if (!l->may_fault) {
		vm_lift_set(l, 0, LLVMBuildCall2(l->b, l->sub_type, l->subs[sub], args, 6, ""));
		return;
	}
	depth = LLVMBuildAdd(l->b, l->depth, LLVMConstInt(l->i32, 1, false), "");
	deep = new_block(l);
	fits = new_block(l);
	LLVMBuildCondBr(l->b, LLVMBuildICmp(l->b, LLVMIntULT, depth, LLVMConstInt(l->i32, VM_MAX_FRAMES, false), ""),
			fits, deep);
	LLVMPositionBuilderAtEnd(l->b, deep);
	build_fault(l, pc);
	LLVMPositionBuilderAtEnd(l->b, fits);
	args[6] = depth;
	vm_lift_set(l, 0, LLVMBuildCall2(l->b, l->sub_type, l->subs[sub], args, 7, ""));
	fault = LLVMBuildLoad2(l->b, l->i32, fault_member(l), "");
	return_unless(l, LLVMBuildICmp(l->b, LLVMIntEQ, fault, zero, ""));
}

int vm_lift_local(struct lift *l, size_t pc)
{
	int sub = vm_layout__sub(&l->layout, (size_t)vm_insn__target(l->insns + pc, VM_LOCAL, pc));

	if (sub <= 0)
		return vm_fail(l->err, l->err_size, -EINVAL, "instruction %zu: calls the main program", pc);
	call_sub(l, pc, (size_t)sub);
	return 0;
}

int vm_lift_callx(struct lift *l, size_t pc)
{
	LLVMValueRef to = vm_lift_get(l, pc, vm_insn__callx_reg(l->insns + pc)), choice;
	LLVMBasicBlockRef bad = new_block(l), after = new_block(l), here = LLVMGetInsertBlock(l->b), at;
	const struct vm_compile_opts *o = l->opts;

	LLVMPositionBuilderAtEnd(l->b, bad);
	build_fault(l, pc);
	LLVMPositionBuilderAtEnd(l->b, here);
	choice = LLVMBuildSwitch(l->b, to, bad, (unsigned int)(o->n_helper_ids + l->layout.n));
	for (size_t i = 0; i < o->n_helper_ids; i++) {
		at = new_block(l);
		LLVMAddCase(choice, vm_lift_c64(l, o->helper_ids[i]), at);
		LLVMPositionBuilderAtEnd(l->b, at);
		call_helper(l, pc, helper_function(l, o->helper_ids[i]));
		LLVMBuildBr(l->b, after);
	}
	for (size_t i = 1; i < l->layout.n; i++) {
		if (!l->taken[i])
			continue;
		at = new_block(l);
		LLVMAddCase(choice, vm_lift_c64(l, vm_func_value(l->layout.start[i])), at);
		LLVMPositionBuilderAtEnd(l->b, at);
		call_sub(l, pc, i);
		LLVMBuildBr(l->b, after);
	}
	LLVMPositionBuilderAtEnd(l->b, after);
	return 0;
}

/* Recursion would have no bound on its stack. *depth: frames that the subprogram needs; 0: not known yet. */
static int check_sub(struct lift *l, size_t sub, size_t *depth, size_t above)
{
	size_t deepest = 0;
	int r = 0;

	if (above >= VM_MAX_FRAMES)
		return vm_fail(l->err, l->err_size, -E2BIG,
			       "instruction %zu: the subprogram calls itself, or calls nest deeper than %d",
			       l->layout.start[sub], VM_MAX_FRAMES);
	if (depth[sub])
		return 0;
	for (size_t pc = l->layout.start[sub]; !r && pc < l->layout.start[sub + 1]; pc++) {
		enum vm_kind kind = vm_insn__kind(l->insns + pc, &(const char *){0});
		int to = kind == VM_LOCAL ? vm_layout__sub(&l->layout, (size_t)vm_insn__target(l->insns + pc, kind, pc))
					  : -1;

		if (to >= 0) {
			r = check_sub(l, (size_t)to, depth, above + 1);
			if (depth[to] > deepest)
				deepest = depth[to];
		}
		pc += vm_insn__slots(kind) - 1;
	}
	depth[sub] = deepest + 1;
	if (!r && above + depth[sub] > VM_MAX_FRAMES)
		return check_sub(l, sub, depth, VM_MAX_FRAMES);
	return r;
}

int vm_lift_check_calls(struct lift *l)
{
	size_t *depth = calloc(l->layout.n, sizeof(*depth));
	int r;

	if (!depth)
		return vm_fail(l->err, l->err_size, -ENOMEM, "no memory for %zu subprograms", l->layout.n);
	r = check_sub(l, 0, depth, 0);
	for (size_t i = 1; !r && i < l->layout.n; i++)
		if (!depth[i]) /* reached by its address only */
			r = check_sub(l, i, depth, 1);
	if (!r && depth[0] > VM_MAX_FRAMES)
		r = check_sub(l, 0, depth, VM_MAX_FRAMES);
	free(depth);
	return r;
}

/* ---- other programs, and packets ---- */

/* The program that is called gets r1 and the same env; when it returns, so do we. */
static void go_to(struct lift *l, size_t pc, LLVMValueRef fn)
{
	LLVMValueRef args[3] = {vm_lift_get(l, pc, 1), vm_lift_c64(l, 0), l->env}, v;

	v = LLVMBuildCall2(l->b, l->entry_type, fn, args, 3, "");
	LLVMSetTailCall(v, true);
	LLVMBuildRet(l->b, v);
}

void vm_lift_tail(struct lift *l, size_t pc)
{
	LLVMTypeRef types[4] = {l->ptr, l->i64, l->i64, l->i32};
	LLVMTypeRef type = LLVMFunctionType(l->ptr, types, 4, false);
	LLVMBasicBlockRef ask = new_block(l), go = new_block(l), after = new_block(l);
	LLVMValueRef args[4] = {l->env, vm_lift_get(l, pc, 1), vm_lift_get(l, pc, 2)}, count, fn, at;

	args[3] = LLVMBuildTrunc(l->b, vm_lift_get(l, pc, 3), l->i32, "");
	at = env_member(l, offsetof(struct vm_env, tail_calls));
	count = LLVMBuildLoad2(l->b, l->i32, at, "");
	LLVMBuildCondBr(l->b,
			LLVMBuildICmp(l->b, LLVMIntULT, count, LLVMConstInt(l->i32, VM_TAIL_CALLS_MAX, false), ""), ask,
			after);
	LLVMPositionBuilderAtEnd(l->b, ask);
	fn = vm_lift_env(l, offsetof(struct vm_env, tail_call), l->ptr);
	fn = LLVMBuildCall2(l->b, type, fn, args, 4, "");
	LLVMBuildCondBr(l->b, LLVMBuildIsNull(l->b, fn, ""), after, go);
	LLVMPositionBuilderAtEnd(l->b, go);
	LLVMBuildStore(l->b, LLVMBuildAdd(l->b, count, LLVMConstInt(l->i32, 1, false), ""), at);
	go_to(l, pc, fn);
	LLVMPositionBuilderAtEnd(l->b, after);
}

void vm_lift_packet(struct lift *l, size_t pc)
{
	const struct bpf_insn *in = l->insns + pc;
	LLVMTypeRef types[4] = {l->ptr, l->i64, l->i32, l->i32};
	LLVMTypeRef type = LLVMFunctionType(l->i64, types, 4, false);
	LLVMValueRef args[4] = {l->user, vm_lift_get(l, pc, 6), LLVMConstInt(l->i32, (uint32_t)in->imm, false),
				LLVMConstInt(l->i32, vm_insn__bytes(in), false)},
		     fn = vm_lift_env(l, offsetof(struct vm_env, packet), l->ptr), v;

	if (BPF_MODE(in->code) == BPF_IND)
		args[2] = LLVMBuildAdd(l->b, args[2], LLVMBuildTrunc(l->b, vm_lift_get(l, pc, in->src_reg), l->i32, ""),
				       "");
	v = LLVMBuildCall2(l->b, type, fn, args, 4, "");
	return_unless(l, LLVMBuildICmp(l->b, LLVMIntSGE, v, vm_lift_c64(l, 0), ""));
	vm_lift_set(l, 0, v);
}
