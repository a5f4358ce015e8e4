// SPDX-License-Identifier: MIT
/*
 * lift.c: eBPF to LLVM IR, instruction by instruction.
 *
 * Each subprogram becomes one function; its registers become local variables, which LLVM turns into values (SROA,
 * mem2reg), its 512 bytes of stack a local array. Where the data flow (flow.h) knows that a register holds r10 + n,
 * the address is made from the array itself, not from the register's number: so LLVM sees through the stack, keeps keys
 * and values in machine registers and drops the array where it can. All other memory is reached by address alone, with
 * alignment 1 and without aliasing rules.
 */
#include "lift_internal.h"
#include "flat.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

LLVMValueRef vm_lift_c64(struct lift *l, uint64_t v)
{
	return LLVMConstInt(l->i64, v, false);
}

static LLVMTypeRef int_type(struct lift *l, unsigned int bytes)
{
	return LLVMIntTypeInContext(l->ctx, bytes * 8);
}

/* The address r10 + off as LLVM knows it best. */
static LLVMValueRef frame_ptr(struct lift *l, int off)
{
	LLVMValueRef at = vm_lift_c64(l, (uint64_t)(l->frame + off));

	return LLVMBuildGEP2(l->b, l->i8, l->stack, &at, 1, "");
}

LLVMValueRef vm_lift_get(struct lift *l, size_t pc, unsigned int reg)
{
	if (l->facts[pc].stack[reg] != VM_FACT_NONE)
		return LLVMBuildPtrToInt(l->b, frame_ptr(l, l->facts[pc].stack[reg]), l->i64, "");
	return LLVMBuildLoad2(l->b, l->i64, l->reg[reg], "");
}

void vm_lift_set(struct lift *l, unsigned int reg, LLVMValueRef v)
{
	LLVMBuildStore(l->b, v, l->reg[reg]);
}

static LLVMValueRef zext(struct lift *l, LLVMValueRef v)
{
	return LLVMBuildZExt(l->b, v, l->i64, "");
}

static LLVMValueRef trunc_to(struct lift *l, LLVMValueRef v, unsigned int bytes)
{
	return bytes == 8 ? v : LLVMBuildTrunc(l->b, v, int_type(l, bytes), "");
}

static LLVMValueRef address(struct lift *l, size_t pc, unsigned int reg, int off, unsigned int bytes)
{
	int at = l->facts[pc].stack[reg];
	LLVMValueRef number;

	if (at != VM_FACT_NONE && at + off >= -l->frame && at + off + (int)bytes <= 0)
		return frame_ptr(l, at + off);
	number = LLVMBuildAdd(l->b, vm_lift_get(l, pc, reg), vm_lift_c64(l, (uint64_t)(int64_t)off), "");
	if (l->base)
		return LLVMBuildGEP2(l->b, l->i8, l->base, &number, 1, "");
	return LLVMBuildIntToPtr(l->b, number, l->ptr, "");
}

/* ---- arithmetic ---- */

static LLVMValueRef int_const(LLVMValueRef like, int64_t v)
{
	return LLVMConstInt(LLVMTypeOf(like), (uint64_t)v, true);
}

static LLVMValueRef equals(struct lift *l, LLVMValueRef a, int64_t v)
{
	return LLVMBuildICmp(l->b, LLVMIntEQ, a, int_const(a, v), "");
}

/* Division as RFC 9669 wants it: x / 0 = 0, x % 0 = x, and no trap for the smallest number by -1. */
static LLVMValueRef divide(struct lift *l, const struct bpf_insn *in, LLVMValueRef a, LLVMValueRef b)
{
	bool mod = BPF_OP(in->code) == BPF_MOD, is_signed = in->off == 1;
	LLVMValueRef zero = equals(l, b, 0), unsafe = zero, minus = NULL, safe, v;

	if (is_signed) {
		minus = equals(l, b, -1);
		unsafe = LLVMBuildOr(l->b, zero, minus, "");
	}
	safe = LLVMBuildSelect(l->b, unsafe, int_const(b, 1), b, "");
	if (is_signed)
		v = mod ? LLVMBuildSRem(l->b, a, safe, "") : LLVMBuildSDiv(l->b, a, safe, "");
	else
		v = mod ? LLVMBuildURem(l->b, a, safe, "") : LLVMBuildUDiv(l->b, a, safe, "");
	if (is_signed && !mod)
		v = LLVMBuildSelect(l->b, minus, LLVMBuildNeg(l->b, a, ""), v, "");
	return LLVMBuildSelect(l->b, zero, mod ? a : int_const(b, 0), v, "");
}

static LLVMValueRef move(struct lift *l, const struct bpf_insn *in, LLVMValueRef b)
{
	if (!in->off)
		return b;
	return LLVMBuildSExt(l->b, LLVMBuildTrunc(l->b, b, int_type(l, in->off / 8), ""), LLVMTypeOf(b), "");
}

static LLVMValueRef arithmetic(struct lift *l, const struct bpf_insn *in, LLVMValueRef a, LLVMValueRef b)
{
	LLVMValueRef shift = LLVMBuildAnd(l->b, b, int_const(b, vm_insn__is64(in) ? 63 : 31), "");

	switch (BPF_OP(in->code)) {
	case BPF_ADD:
		return LLVMBuildAdd(l->b, a, b, "");
	case BPF_SUB:
		return LLVMBuildSub(l->b, a, b, "");
	case BPF_MUL:
		return LLVMBuildMul(l->b, a, b, "");
	case BPF_DIV:
	case BPF_MOD:
		return divide(l, in, a, b);
	case BPF_OR:
		return LLVMBuildOr(l->b, a, b, "");
	case BPF_AND:
		return LLVMBuildAnd(l->b, a, b, "");
	case BPF_XOR:
		return LLVMBuildXor(l->b, a, b, "");
	case BPF_LSH:
		return LLVMBuildShl(l->b, a, shift, "");
	case BPF_RSH:
		return LLVMBuildLShr(l->b, a, shift, "");
	case BPF_ARSH:
		return LLVMBuildAShr(l->b, a, shift, "");
	case BPF_NEG:
		return LLVMBuildNeg(l->b, a, "");
	default:
		return move(l, in, b); /* BPF_MOV */
	}
}

static void lift_alu(struct lift *l, size_t pc)
{
	const struct bpf_insn *in = l->insns + pc;
	unsigned int bytes = vm_insn__is64(in) ? 8 : 4;
	LLVMValueRef a = trunc_to(l, vm_lift_get(l, pc, in->dst_reg), bytes), b, v;

	b = BPF_SRC(in->code) == BPF_X ? trunc_to(l, vm_lift_get(l, pc, in->src_reg), bytes) : int_const(a, in->imm);
	v = arithmetic(l, in, a, b);
	vm_lift_set(l, in->dst_reg, bytes == 8 ? v : zext(l, v));
}

static LLVMValueRef intrinsic(struct lift *l, const char *name, LLVMTypeRef type, LLVMValueRef arg)
{
	unsigned int id = LLVMLookupIntrinsicID(name, strlen(name));
	LLVMValueRef fn = LLVMGetIntrinsicDeclaration(l->mod, id, &type, 1);

	return LLVMBuildCall2(l->b, LLVMGlobalGetValueType(fn), fn, &arg, 1, "");
}

static void lift_end(struct lift *l, size_t pc)
{
	const struct bpf_insn *in = l->insns + pc;
	LLVMValueRef v = trunc_to(l, vm_lift_get(l, pc, in->dst_reg), in->imm / 8);

	if (BPF_CLASS(in->code) == BPF_ALU64 || BPF_SRC(in->code) == BPF_TO_BE)
		v = intrinsic(l, "llvm.bswap", LLVMTypeOf(v), v);
	vm_lift_set(l, in->dst_reg, in->imm == 64 ? v : zext(l, v));
}

/* ---- memory ---- */

static void lift_load(struct lift *l, size_t pc)
{
	const struct bpf_insn *in = l->insns + pc;
	unsigned int bytes = vm_insn__bytes(in);
	LLVMValueRef v = LLVMBuildLoad2(l->b, int_type(l, bytes), address(l, pc, in->src_reg, in->off, bytes), "");

	LLVMSetAlignment(v, 1);
	if (BPF_MODE(in->code) == VM_MODE_MEMSX)
		v = LLVMBuildSExt(l->b, v, l->i64, "");
	else if (bytes != 8)
		v = zext(l, v);
	vm_lift_set(l, in->dst_reg, v);
}

static void lift_store(struct lift *l, size_t pc, LLVMValueRef v)
{
	const struct bpf_insn *in = l->insns + pc;
	unsigned int bytes = vm_insn__bytes(in);
	LLVMValueRef st;

	st = LLVMBuildStore(l->b, trunc_to(l, v, bytes), address(l, pc, in->dst_reg, in->off, bytes));
	LLVMSetAlignment(st, 1);
}

static void lift_atomic(struct lift *l, size_t pc)
{
	const struct bpf_insn *in = l->insns + pc;
	unsigned int bytes = vm_insn__bytes(in);
	LLVMValueRef addr = address(l, pc, in->dst_reg, in->off, bytes),
		     v = trunc_to(l, vm_lift_get(l, pc, in->src_reg), bytes);
	LLVMAtomicOrdering order =
		in->imm & BPF_FETCH ? LLVMAtomicOrderingSequentiallyConsistent : LLVMAtomicOrderingMonotonic;
	LLVMAtomicRMWBinOp op;

	if (in->imm == BPF_CMPXCHG) {
		v = LLVMBuildAtomicCmpXchg(l->b, addr, trunc_to(l, vm_lift_get(l, pc, 0), bytes), v, order, order,
					   false);
		v = LLVMBuildExtractValue(l->b, v, 0, "");
		vm_lift_set(l, 0, bytes == 8 ? v : zext(l, v));
		return;
	}
	switch (in->imm & ~BPF_FETCH) {
	case BPF_ADD:
		op = LLVMAtomicRMWBinOpAdd;
		break;
	case BPF_OR:
		op = LLVMAtomicRMWBinOpOr;
		break;
	case BPF_AND:
		op = LLVMAtomicRMWBinOpAnd;
		break;
	case BPF_XOR:
		op = LLVMAtomicRMWBinOpXor;
		break;
	default:
		op = LLVMAtomicRMWBinOpXchg;
	}
	v = LLVMBuildAtomicRMW(l->b, op, addr, v, order, false);
	if (in->imm & BPF_FETCH)
		vm_lift_set(l, in->src_reg, bytes == 8 ? v : zext(l, v));
}

/* The whole of `rX = *p; rX += c; *p = rX`, at its store. */
static void lift_rmw(struct lift *l, const struct vm_rmw *rmw)
{
	const struct bpf_insn *load = l->insns + rmw->load, *add = l->insns + rmw->add, *store = l->insns + rmw->store;
	unsigned int bytes = vm_insn__bytes(load);
	LLVMAtomicRMWBinOp op = BPF_OP(add->code) == BPF_SUB ? LLVMAtomicRMWBinOpSub : LLVMAtomicRMWBinOpAdd;
	LLVMValueRef c, old, sum;

	if (BPF_SRC(add->code) == BPF_K)
		c = vm_lift_c64(l, (uint64_t)(int64_t)add->imm);
	else
		c = vm_lift_get(l, rmw->store, add->dst_reg == load->dst_reg ? add->src_reg : add->dst_reg);
	old = LLVMBuildAtomicRMW(l->b, op, address(l, rmw->store, store->dst_reg, store->off, bytes),
				 trunc_to(l, c, bytes), LLVMAtomicOrderingMonotonic, false);
	if (bytes != 8)
		old = zext(l, old);
	sum = op == LLVMAtomicRMWBinOpSub ? LLVMBuildSub(l->b, old, c, "") : LLVMBuildAdd(l->b, old, c, "");
	if (!vm_insn__is64(add))
		sum = zext(l, trunc_to(l, sum, 4));
	vm_lift_set(l, load->dst_reg, old);
	vm_lift_set(l, add->dst_reg, sum);
}

/* ---- control ---- */

static LLVMIntPredicate predicate(uint8_t op)
{
	switch (op) {
	case BPF_JEQ:
		return LLVMIntEQ;
	case BPF_JGT:
		return LLVMIntUGT;
	case BPF_JGE:
		return LLVMIntUGE;
	case BPF_JLT:
		return LLVMIntULT;
	case BPF_JLE:
		return LLVMIntULE;
	case BPF_JSGT:
		return LLVMIntSGT;
	case BPF_JSGE:
		return LLVMIntSGE;
	case BPF_JSLT:
		return LLVMIntSLT;
	case BPF_JSLE:
		return LLVMIntSLE;
	default:
		return LLVMIntNE; /* BPF_JNE, and BPF_JSET against zero */
	}
}

/* Returns whether the block has its end. */
static bool lift_jcc(struct lift *l, size_t pc)
{
	const struct bpf_insn *in = l->insns + pc;
	size_t to = vm_insn__target(in, VM_JCC, pc);
	unsigned int bytes = vm_insn__is64(in) ? 8 : 4;
	LLVMBasicBlockRef fall;
	LLVMValueRef a, b;

	/* The data flow has found that only one way is ever taken. */
	if (!l->facts[to].reached)
		return false;
	if (!l->facts[pc + 1].reached) {
		LLVMBuildBr(l->b, l->blocks[to]);
		return true;
	}
	vm_lift_switch(l, pc);
	fall = LLVMAppendBasicBlockInContext(l->ctx, l->fn, "");
	a = trunc_to(l, vm_lift_get(l, pc, in->dst_reg), bytes);
	b = BPF_SRC(in->code) == BPF_X ? trunc_to(l, vm_lift_get(l, pc, in->src_reg), bytes) : int_const(a, in->imm);
	if (BPF_OP(in->code) == BPF_JSET) {
		a = LLVMBuildAnd(l->b, a, b, "");
		b = int_const(a, 0);
	}
	LLVMBuildCondBr(l->b, LLVMBuildICmp(l->b, predicate(BPF_OP(in->code)), a, b, ""), l->blocks[to], fall);
	LLVMPositionBuilderAtEnd(l->b, fall);
	return false;
}

LLVMValueRef vm_lift_function(struct lift *l, const char *name, LLVMTypeRef type)
{
	LLVMValueRef fn = LLVMGetNamedFunction(l->mod, name);

	return fn && !LLVMIsDeclaration(fn) && LLVMGlobalGetValueType(fn) == type ? fn : NULL;
}

static int lift_immediate(struct lift *l, size_t pc)
{
	const struct bpf_insn *in = l->insns + pc;
	LLVMTypeRef types[3] = {l->ptr, l->i32, l->i32};
	LLVMValueRef fn, args[3];

	if (in->src_reg == BPF_PSEUDO_MAP_FD) {
		vm_lift_set(l, in->dst_reg, vm_lift_c64(l, (uint32_t)in->imm));
		return 0;
	}
	if (in->src_reg == VM_PSEUDO_FUNC) {
		vm_lift_set(l, in->dst_reg, vm_lift_c64(l, vm_func_value((size_t)vm_insn__target(in, VM_LDDW, pc))));
		return 0;
	}
	if (in->src_reg == 0) {
		vm_lift_set(l, in->dst_reg, vm_lift_c64(l, (uint32_t)in->imm | (uint64_t)(uint32_t)in[1].imm << 32));
		return 0;
	}
	fn = vm_lift_function(l, "bpf_map_value", LLVMFunctionType(l->i64, types, 3, false));
	if (!fn)
		return vm_fail(l->err, l->err_size, -EOPNOTSUPP, "instruction %zu: direct map values are not carried",
			       pc);
	args[0] = l->user;
	args[1] = LLVMConstInt(l->i32, (uint32_t)in->imm, false);
	args[2] = LLVMConstInt(l->i32, (uint32_t)in[1].imm, false);
	vm_lift_set(l, in->dst_reg, LLVMBuildCall2(l->b, LLVMGlobalGetValueType(fn), fn, args, 3, ""));
	return 0;
}

/* *ended: the block has its terminator. */
static int lift_one(struct lift *l, size_t pc, enum vm_kind kind, bool *ended)
{
	const struct bpf_insn *in = l->insns + pc;

	if (l->skip[pc]) {
		if (kind == VM_STX)
			lift_rmw(l, &l->rmw[pc]);
		return 0;
	}
	switch (kind) {
	case VM_ALU:
		lift_alu(l, pc);
		return 0;
	case VM_END:
		lift_end(l, pc);
		return 0;
	case VM_LDX:
		lift_load(l, pc);
		return 0;
	case VM_ST:
		lift_store(l, pc, vm_lift_c64(l, (uint64_t)(int64_t)in->imm));
		return 0;
	case VM_STX:
		lift_store(l, pc, vm_lift_get(l, pc, in->src_reg));
		return 0;
	case VM_ATOMIC:
		lift_atomic(l, pc);
		return 0;
	case VM_LDDW:
		return lift_immediate(l, pc);
	case VM_JCC:
		*ended = lift_jcc(l, pc);
		return 0;
	case VM_JA:
		LLVMBuildBr(l->b, l->blocks[vm_insn__target(in, kind, pc)]);
		*ended = true;
		return 0;
	case VM_CALL:
		return vm_lift_helper(l, pc);
	case VM_LOCAL:
		return vm_lift_local(l, pc);
	case VM_CALLX:
		return vm_lift_callx(l, pc);
	case VM_TAIL:
		vm_lift_tail(l, pc);
		return 0;
	case VM_PACKET:
		vm_lift_packet(l, pc);
		return 0;
	default:
		LLVMBuildRet(l->b, vm_lift_get(l, pc, 0)); /* VM_EXIT */
		*ended = true;
		return 0;
	}
}

/*
 * How far down the subprogram's frame is used: as far as any register ever points or any access goes. All of it when an
 * address is not exact, or given to a subprogram, which may go down from there.
 */
static int frame_size(struct lift *l, size_t lo, size_t hi)
{
	int low = 0;

	if (l->opts->env_calls)
		return VM_STACK_SIZE; /* pointers may come back from anywhere */
	for (size_t pc = lo; pc < hi; pc++) {
		const struct vm_fact *f = &l->facts[pc];
		const struct bpf_insn *in = l->insns + pc;
		enum vm_kind kind = vm_insn__kind(in, &(const char *){0});

		for (unsigned int i = 0; f->reached && i < 11; i++) {
			bool base = i == (kind == VM_LDX ? in->src_reg : in->dst_reg);
			int off = base && (kind == VM_LDX || kind == VM_ST || kind == VM_STX || kind == VM_ATOMIC)
					  ? in->off
					  : 0;

			if (!(f->may_stack & (1u << i)))
				continue;
			if (f->stack[i] == VM_FACT_NONE || (kind == VM_LOCAL && i >= 1 && i <= 5))
				return VM_STACK_SIZE;
			if (f->stack[i] + off < low)
				low = f->stack[i] + off;
		}
		pc += vm_insn__slots(kind) - 1;
	}
	return low < -VM_STACK_SIZE ? VM_STACK_SIZE : (-low + 7) & ~7;
}

static void prologue(struct lift *l, size_t sub)
{
	LLVMTypeRef frame = LLVMArrayType2(l->i8, (uint64_t)l->frame);

	LLVMPositionBuilderAtEnd(l->b, LLVMAppendBasicBlockInContext(l->ctx, l->fn, "entry"));
	for (unsigned int i = 0; i < 11; i++)
		l->reg[i] = LLVMBuildAlloca(l->b, l->i64, "");
	l->stack = LLVMBuildAlloca(l->b, frame, "stack");
	LLVMSetAlignment(l->stack, 8);
	l->base = l->opts->native && sub == 0 ? vm_flat__base(l->mod, l->b) : NULL;
	if (l->opts->env_calls && !l->opts->verified)
		LLVMBuildMemSet(l->b, l->stack, LLVMConstInt(l->i8, 0, false), vm_lift_c64(l, VM_STACK_SIZE), 8);
	/* What the program has not written is never read: the verifier saw to it. Zero keeps LLVM from seeing undef. */
	for (unsigned int i = 0; i < 10; i++)
		vm_lift_set(l, i, vm_lift_c64(l, 0));
	vm_lift_set(l, 10, LLVMBuildPtrToInt(l->b, frame_ptr(l, 0), l->i64, ""));
	if (sub == 0 && l->opts->env_calls) {
		vm_lift_set(l, 1, LLVMGetParam(l->fn, 0));
		vm_lift_set(l, 2, LLVMGetParam(l->fn, 1));
		l->env = LLVMGetParam(l->fn, 2);
	} else if (sub == 0) {
		vm_lift_set(l, 1, LLVMBuildPtrToInt(l->b, LLVMGetParam(l->fn, 0), l->i64, ""));
		l->env = LLVMGetParam(l->fn, 1);
	} else {
		l->env = LLVMGetParam(l->fn, 0);
		for (unsigned int i = 1; i <= 5; i++)
			vm_lift_set(l, i, LLVMGetParam(l->fn, i));
	}
	l->user = l->opts->env_calls ? vm_lift_env(l, offsetof(struct vm_env, user), l->ptr) : l->env;
	if (l->may_fault)
		l->depth = sub == 0 ? LLVMConstInt(l->i32, 0, false) : LLVMGetParam(l->fn, 6);
}

/* What is no leader, but where a switch that was found in comparisons may go. */
static bool follows_jcc(const struct lift *l, size_t pc)
{
	return l->opts->native && l->facts[pc - 1].reached &&
	       vm_insn__kind(l->insns + pc - 1, &(const char *){0}) == VM_JCC;
}

static int lift_sub(struct lift *l, size_t sub)
{
	size_t lo = l->layout.start[sub], hi = l->layout.start[sub + 1];
	bool ended = false;
	int r;

	l->fn = l->subs[sub];
	l->frame = frame_size(l, lo, hi);
	prologue(l, sub);
	for (size_t pc = lo; pc < hi; pc++)
		if (l->facts[pc].reached && (l->facts[pc].leader || (pc > lo && follows_jcc(l, pc))))
			l->blocks[pc] = LLVMAppendBasicBlockInContext(l->ctx, l->fn, "");
	LLVMBuildBr(l->b, l->blocks[lo]);
	ended = true;
	for (size_t pc = lo; pc < hi;) {
		enum vm_kind kind = vm_insn__kind(l->insns + pc, &(const char *){0});

		if (l->blocks[pc]) {
			if (!ended)
				LLVMBuildBr(l->b, l->blocks[pc]);
			LLVMPositionBuilderAtEnd(l->b, l->blocks[pc]);
			ended = false;
		}
		if (l->facts[pc].reached && !ended) {
			r = lift_one(l, pc, kind, &ended);
			if (r)
				return r;
		}
		pc += vm_insn__slots(kind);
	}
	return 0;
}

static void find_rmw(struct lift *l)
{
	struct vm_rmw m;

	for (size_t pc = 0; pc < l->n; pc++) {
		enum vm_kind kind = vm_insn__kind(l->insns + pc, &(const char *){0});

		if (kind == VM_LDX && l->facts[pc].reached && vm_rmw__match(l->insns, l->n, l->facts, pc, &m)) {
			l->skip[m.load] = l->skip[m.add] = l->skip[m.store] = 1;
			l->rmw[m.store] = m;
		}
		pc += vm_insn__slots(kind) - 1;
	}
}

static void init_types(struct lift *l)
{
	l->i8 = LLVMInt8TypeInContext(l->ctx);
	l->i32 = LLVMInt32TypeInContext(l->ctx);
	l->i64 = LLVMInt64TypeInContext(l->ctx);
	l->ptr = LLVMPointerTypeInContext(l->ctx, 0);
}

/* Which subprograms' addresses are taken, and whether there are calls that may fail. */
static void find_addresses(struct lift *l)
{
	for (size_t pc = 0; pc < l->n; pc++) {
		enum vm_kind kind = vm_insn__kind(l->insns + pc, &(const char *){0});

		if (vm_insn__is_func(l->insns + pc, kind))
			l->taken[vm_layout__sub(&l->layout, (size_t)vm_insn__target(l->insns + pc, kind, pc))] = 1;
		l->may_fault |= kind == VM_CALLX;
		pc += vm_insn__slots(kind) - 1;
	}
}

static int lift(struct lift *l)
{
	int r = l->opts->env_calls ? vm_flow_unverified(l->insns, l->n, &l->layout, l->facts)
				   : vm_flow(l->insns, l->n, &l->layout, l->facts, NULL, NULL);

	if (r)
		return vm_fail(l->err, l->err_size, r, "a program of %zu instructions has too many branches", l->n);
	r = vm_lift_check_calls(l);
	if (r)
		return r;
	init_types(l);
	find_addresses(l);
	if (l->opts->atomic_rmw)
		find_rmw(l);
	vm_lift_declare(l);
	for (size_t i = 0; !r && i < l->layout.n; i++)
		r = lift_sub(l, i);
	return r;
}

int vm_lift(LLVMModuleRef mod, const struct bpf_insn *insns, size_t n_insns, const struct vm_compile_opts *opts,
	    char *err, size_t err_size)
{
	struct lift l = {.mod = mod, .opts = opts, .insns = insns, .n = n_insns, .err = err, .err_size = err_size};
	uint32_t features = opts->env_calls ? opts->features & VM_FEATURES_RUN : 0;
	int r = vm_layout__init(&l.layout, insns, n_insns, features, err, err_size);

	if (r)
		return r;
	l.ctx = LLVMGetModuleContext(mod);
	l.b = LLVMCreateBuilderInContext(l.ctx);
	l.facts = calloc(n_insns, sizeof(*l.facts));
	l.blocks = calloc(n_insns, sizeof(*l.blocks));
	l.skip = calloc(n_insns, sizeof(*l.skip));
	l.rmw = calloc(n_insns, sizeof(*l.rmw));
	l.subs = calloc(l.layout.n, sizeof(*l.subs));
	l.in_tree = calloc(n_insns, sizeof(*l.in_tree));
	l.taken = calloc(l.layout.n, sizeof(*l.taken));
	if (l.facts && l.blocks && l.skip && l.rmw && l.subs && l.in_tree && l.taken)
		r = lift(&l);
	else
		r = vm_fail(err, err_size, -ENOMEM, "no memory for a program of %zu instructions", n_insns);
	LLVMDisposeBuilder(l.b);
	free(l.in_tree);
	free(l.taken);
	free(l.subs);
	free(l.rmw);
	free(l.skip);
	free(l.blocks);
	free(l.facts);
	vm_layout__clear(&l.layout);
	return r;
}
