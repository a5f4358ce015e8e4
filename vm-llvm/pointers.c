// SPDX-License-Identifier: MIT
#include "pointers.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MAX_DEPTH   200 /* of sums in sums */
#define SCORE_DEPTH 6

/* The pointer that was made of a number. */
struct entry {
	LLVMValueRef number, pointer;
};

struct pointers {
	LLVMContextRef ctx;
	LLVMBuilderRef b;
	LLVMTypeRef i8, i64, ptr;
	struct entry *table; /* open addressing; size is a power of two */
	size_t size, used;
	LLVMValueRef *phis; /* numbers that go round and have become pointers */
	size_t n_phis;
	bool failed; /* no memory */
};

/* ---- what was made already ---- */

static struct entry *slot(struct entry *table, size_t size, LLVMValueRef v)
{
	size_t at = ((uintptr_t)v >> 4) * 0x9e3779b97f4a7c15ull >> 20;

	while (table[at & (size - 1)].number && table[at & (size - 1)].number != v)
		at++;
	return &table[at & (size - 1)];
}

static void grow(struct pointers *p)
{
	size_t size = p->size ? 2 * p->size : 1024;
	struct entry *table = calloc(size, sizeof(*table));
	LLVMValueRef *phis = realloc(p->phis, size * sizeof(LLVMValueRef));

	if (phis)
		p->phis = phis;
	if (!table || !phis) {
		p->failed = true;
		free(table);
		return;
	}
	for (size_t i = 0; i < p->size; i++)
		if (p->table[i].number)
			*slot(table, size, p->table[i].number) = p->table[i];
	free(p->table);
	p->table = table;
	p->size = size;
}

static LLVMValueRef remember(struct pointers *p, LLVMValueRef number, LLVMValueRef pointer)
{
	struct entry *e;

	if (2 * p->used >= p->size)
		grow(p);
	if (p->failed)
		return pointer;
	e = slot(p->table, p->size, number);
	p->used += !e->number;
	*e = (struct entry){number, pointer};
	return pointer;
}

/* ---- numbers ---- */

static bool is(LLVMValueRef v, LLVMOpcode op)
{
	return LLVMIsAInstruction(v) && LLVMGetInstructionOpcode(v) == op;
}

/* How likely v is an address, rather than a distance: 0 to 3. */
static int score(LLVMValueRef v, int depth)
{
	int best = 0;

	if (depth > SCORE_DEPTH || LLVMIsAConstant(v))
		return 0;
	if (LLVMIsAArgument(v) || is(v, LLVMPtrToInt))
		return 3;
	if (is(v, LLVMLoad) || is(v, LLVMCall))
		return 2;
	if (is(v, LLVMAdd)) {
		int a = score(LLVMGetOperand(v, 0), depth + 1), b = score(LLVMGetOperand(v, 1), depth + 1);

		return a > b ? a : b;
	}
	if (is(v, LLVMPHI))
		for (unsigned int i = 0; i < LLVMCountIncoming(v) && i < 4; i++) {
			int s = score(LLVMGetIncomingValue(v, i), depth + 1);

			best = s > best ? s : best;
		}
	return best;
}

static void after(struct pointers *p, LLVMValueRef v)
{
	LLVMValueRef at;

	if (LLVMIsAArgument(v))
		at = LLVMGetFirstInstruction(LLVMGetEntryBasicBlock(LLVMGetParamParent(v)));
	else
		at = LLVMGetNextInstruction(v);
	while (LLVMIsAPHINode(at))
		at = LLVMGetNextInstruction(at);
	LLVMPositionBuilderBefore(p->b, at);
}

static LLVMValueRef convert(struct pointers *p, LLVMValueRef v)
{
	if (LLVMIsAConstant(v))
		return LLVMConstIntToPtr(v, p->ptr);
	after(p, v);
	return LLVMBuildIntToPtr(p->b, v, p->ptr, "");
}

static LLVMValueRef pointer(struct pointers *p, LLVMValueRef v, int depth);

/* The frame of the program: what is there at a distance that is not known may as well be something else. */
static bool is_frame(LLVMValueRef v)
{
	while (LLVMIsAGetElementPtrInst(v))
		v = LLVMGetOperand(v, 0);
	return LLVMIsAAllocaInst(v);
}

static LLVMValueRef pointer_of_sum(struct pointers *p, LLVMValueRef v, int depth)
{
	LLVMValueRef a = LLVMGetOperand(v, 0), b = LLVMGetOperand(v, 1), base;
	int sa = score(a, 0), sb = score(b, 0);

	if (sa == sb && !LLVMIsAConstant(b))
		return convert(p, v);
	if (sb > sa) {
		base = a;
		a = b;
		b = base;
	}
	base = pointer(p, a, depth + 1);
	if (is_frame(base) && !LLVMIsAConstant(b))
		return convert(p, v);
	after(p, v);
	return LLVMBuildGEP2(p->b, p->i8, base, &b, 1, "");
}

static LLVMValueRef pointer_of_phi(struct pointers *p, LLVMValueRef v, int depth)
{
	LLVMValueRef phi;

	if (score(v, 0) == 0)
		return convert(p, v);
	LLVMPositionBuilderBefore(p->b, v);
	phi = LLVMBuildPhi(p->b, p->ptr, "");
	remember(p, v, phi);
	if (!p->failed)
		p->phis[p->n_phis++] = v;
	for (unsigned int i = 0; i < LLVMCountIncoming(v); i++) {
		LLVMBasicBlockRef from = LLVMGetIncomingBlock(v, i);
		LLVMValueRef in = pointer(p, LLVMGetIncomingValue(v, i), depth + 1);

		LLVMAddIncoming(phi, &in, &from, 1);
	}
	return phi;
}

/* A conversion there and back goes away, as the one back does where it stands. */
static LLVMValueRef pointer_of_pointer(struct pointers *p, LLVMValueRef v, int depth)
{
	LLVMValueRef from = LLVMGetOperand(v, 0);

	if (is(from, LLVMIntToPtr) && LLVMTypeOf(LLVMGetOperand(from, 0)) == p->i64)
		return pointer(p, LLVMGetOperand(from, 0), depth + 1);
	return from;
}

static LLVMValueRef pointer(struct pointers *p, LLVMValueRef v, int depth)
{
	struct entry *known = p->size ? slot(p->table, p->size, v) : NULL;
	LLVMValueRef made;

	if (known && known->number)
		return known->pointer;
	if (depth > MAX_DEPTH || p->failed || !LLVMIsAInstruction(v))
		return remember(p, v, convert(p, v));
	switch (LLVMGetInstructionOpcode(v)) {
	case LLVMPtrToInt:
		made = pointer_of_pointer(p, v, depth);
		break;
	case LLVMAdd:
		made = pointer_of_sum(p, v, depth);
		break;
	case LLVMPHI:
		return pointer_of_phi(p, v, depth);
	default:
		made = convert(p, v);
	}
	return remember(p, v, made);
}

/* ---- functions ---- */

static void convert_function(struct pointers *p, LLVMValueRef fn)
{
	LLVMValueRef next;

	for (LLVMBasicBlockRef bb = LLVMGetFirstBasicBlock(fn); bb; bb = LLVMGetNextBasicBlock(bb))
		for (LLVMValueRef in = LLVMGetFirstInstruction(bb); in && !p->failed; in = next) {
			LLVMValueRef made;

			next = LLVMGetNextInstruction(in);
			if (!is(in, LLVMIntToPtr) || LLVMTypeOf(LLVMGetOperand(in, 0)) != p->i64)
				continue;
			if (!is(LLVMGetOperand(in, 0), LLVMAdd) && !is(LLVMGetOperand(in, 0), LLVMPHI))
				continue;
			made = pointer(p, LLVMGetOperand(in, 0), 0);
			if (made == in)
				continue;
			LLVMReplaceAllUsesWith(in, made);
			next = LLVMGetNextInstruction(in);
			LLVMInstructionEraseFromParent(in);
		}
	/* What else uses a number that goes round uses the pointer's. */
	for (size_t i = 0; i < p->n_phis; i++) {
		LLVMValueRef v = p->phis[i], phi = slot(p->table, p->size, v)->pointer;

		after(p, v);
		LLVMReplaceAllUsesWith(v, LLVMBuildPtrToInt(p->b, phi, p->i64, ""));
	}
	for (size_t i = 0; i < p->n_phis; i++)
		LLVMInstructionEraseFromParent(p->phis[i]);
	p->n_phis = 0;
	p->used = 0;
	if (p->size)
		memset(p->table, 0, p->size * sizeof(*p->table));
}

int vm_pointers(LLVMModuleRef mod)
{
	struct pointers p = {.ctx = LLVMGetModuleContext(mod)};

	p.b = LLVMCreateBuilderInContext(p.ctx);
	p.i8 = LLVMInt8TypeInContext(p.ctx);
	p.i64 = LLVMInt64TypeInContext(p.ctx);
	p.ptr = LLVMPointerTypeInContext(p.ctx, 0);
	for (LLVMValueRef fn = LLVMGetFirstFunction(mod); fn && !p.failed; fn = LLVMGetNextFunction(fn))
		if (!LLVMIsDeclaration(fn))
			convert_function(&p, fn);
	LLVMDisposeBuilder(p.b);
	free(p.phis);
	free(p.table);
	return p.failed ? -ENOMEM : 0;
}
