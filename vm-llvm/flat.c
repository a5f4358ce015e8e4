// SPDX-License-Identifier: MIT
/*
 * flat.c: an address of eBPF is a number. Made into a pointer by inttoptr it is a stranger to LLVM: of two such
 * pointers it knows nothing, so it neither vectorises a loop nor recognises a copy, even where their distance is a
 * constant. So addresses are offsets from one pointer, which comes out of a function that is declared and never
 * defined: LLVM compares offsets, and assumes nothing about what lies where.
 *
 * But for one thing: a pointer that was there before the address of a variable got out cannot point to that variable.
 * The frame's address gets out when it becomes a number, later than the pointer is made. So where it does, the frame is
 * given to the function that yields the pointer (vm_flat__settle()). A subprogram, once it is part of its caller, would
 * need to be given the frames of all that call it: there addresses stay numbers.
 *
 * When everything is optimised, the pointer turns out to be zero.
 */
#include "flat.h"

#include <stdbool.h>
#include <string.h>

#include <llvm-c/Target.h>

#define BASE_NAME "vm_flat_base"

static void add_attribute(LLVMValueRef fn, const char *name, uint64_t value)
{
	unsigned int kind = LLVMGetEnumAttributeKindForName(name, strlen(name));
	LLVMContextRef ctx = LLVMGetModuleContext(LLVMGetGlobalParent(fn));

	LLVMAddAttributeAtIndex(fn, LLVMAttributeFunctionIndex, LLVMCreateEnumAttribute(ctx, kind, value));
}

/* The function that yields the pointer; of_frame: the one that is given a frame. */
static LLVMValueRef declare(LLVMModuleRef mod, bool of_frame)
{
	const char *name = of_frame ? BASE_NAME "_of" : BASE_NAME;
	LLVMValueRef fn = LLVMGetNamedFunction(mod, name);
	LLVMTypeRef ptr = LLVMPointerTypeInContext(LLVMGetModuleContext(mod), 0);

	if (fn)
		return fn;
	fn = LLVMAddFunction(mod, name, LLVMFunctionType(ptr, &ptr, of_frame, false));
	add_attribute(fn, "memory", 0); /* none: each call yields the same */
	add_attribute(fn, "nounwind", 0);
	add_attribute(fn, "willreturn", 0);
	return fn;
}

LLVMValueRef vm_flat__base(LLVMModuleRef mod, LLVMBuilderRef b)
{
	LLVMValueRef fn = declare(mod, false);

	return LLVMBuildCall2(b, LLVMGlobalGetValueType(fn), fn, NULL, 0, "base");
}

/* ---- frames ---- */

static bool is_memset(LLVMValueRef user)
{
	LLVMValueRef fn = LLVMIsACallInst(user) ? LLVMGetCalledValue(user) : NULL;

	return fn && !strncmp(LLVMGetValueName2(fn, &(size_t){0}), "llvm.memset.", 12);
}

/* Whether the address is used for more than loads and stores there. */
static bool gets_out(LLVMValueRef address)
{
	for (LLVMUseRef use = LLVMGetFirstUse(address); use; use = LLVMGetNextUse(use)) {
		LLVMValueRef user = LLVMGetUser(use);

		if (LLVMIsALoadInst(user) || is_memset(user))
			continue;
		if (LLVMIsAStoreInst(user) && LLVMGetOperand(user, 0) != address)
			continue;
		if (!LLVMIsAGetElementPtrInst(user) || gets_out(user))
			return true;
	}
	return false;
}

/* The frame of the function that a call is in, when its address gets out. It stands before the call. */
static LLVMValueRef frame_that_gets_out(LLVMValueRef call)
{
	for (LLVMValueRef v = LLVMGetFirstInstruction(LLVMGetInstructionParent(call)); v != call;
	     v = LLVMGetNextInstruction(v))
		if (LLVMIsAAllocaInst(v) && gets_out(v))
			return v;
	return NULL;
}

void vm_flat__settle(LLVMModuleRef mod)
{
	LLVMValueRef fn = LLVMGetNamedFunction(mod, BASE_NAME), with;
	LLVMBuilderRef b = LLVMCreateBuilderInContext(LLVMGetModuleContext(mod));
	LLVMUseRef next;

	for (LLVMUseRef use = fn ? LLVMGetFirstUse(fn) : NULL; use; use = next) {
		LLVMValueRef call = LLVMGetUser(use), frame = frame_that_gets_out(call);

		next = LLVMGetNextUse(use);
		if (!frame)
			continue;
		with = declare(mod, true);
		LLVMPositionBuilderBefore(b, call);
		LLVMReplaceAllUsesWith(call, LLVMBuildCall2(b, LLVMGlobalGetValueType(with), with, &frame, 1, "base"));
		LLVMInstructionEraseFromParent(call);
	}
	LLVMDisposeBuilder(b);
}

/* ---- lowering ---- */

/* number * size, of a number or of a vector of them. */
static LLVMValueRef scale(LLVMBuilderRef b, LLVMValueRef number, uint64_t size)
{
	LLVMTypeRef type = LLVMTypeOf(number);
	LLVMValueRef factor, lane[64];
	unsigned int n;

	if (size == 1)
		return number;
	if (LLVMGetTypeKind(type) != LLVMVectorTypeKind)
		return LLVMBuildMul(b, number, LLVMConstInt(type, size, false), "");
	n = LLVMGetVectorSize(type);
	for (unsigned int i = 0; i < n && i < 64; i++)
		lane[i] = LLVMConstInt(LLVMGetElementType(type), size, false);
	factor = LLVMConstVector(lane, n);
	return LLVMBuildMul(b, number, factor, "");
}

/* Whether it is base plus one 64-bit number, or a vector of such. */
static bool is_offset(LLVMValueRef user, LLVMValueRef base)
{
	LLVMTypeRef type;

	if (!LLVMIsAGetElementPtrInst(user) || LLVMGetNumOperands(user) != 2 || LLVMGetOperand(user, 0) != base)
		return false;
	type = LLVMTypeOf(LLVMGetOperand(user, 1));
	if (LLVMGetTypeKind(type) == LLVMVectorTypeKind) {
		if (LLVMGetVectorSize(type) > 64)
			return false;
		type = LLVMGetElementType(type);
	}
	return LLVMGetTypeKind(type) == LLVMIntegerTypeKind && LLVMGetIntTypeWidth(type) == 64;
}

static void lower_offset(LLVMBuilderRef b, LLVMTargetDataRef layout, LLVMValueRef gep)
{
	uint64_t size = LLVMABISizeOfType(layout, LLVMGetGEPSourceElementType(gep));
	LLVMValueRef number;

	LLVMPositionBuilderBefore(b, gep);
	number = scale(b, LLVMGetOperand(gep, 1), size);
	LLVMReplaceAllUsesWith(gep, LLVMBuildIntToPtr(b, number, LLVMTypeOf(gep), ""));
	LLVMInstructionEraseFromParent(gep);
}

/*
 * What is left when the pointer is used in another way. It must not be the constant NULL, which LLVM takes to be apart
 * from every object: an instruction that LLVM does not look into.
 */
static LLVMValueRef opaque_zero(LLVMBuilderRef b, LLVMValueRef call)
{
	static const char text[] = "", constraints[] = "=r,0";
	LLVMTypeRef i64 = LLVMInt64TypeInContext(LLVMGetTypeContext(LLVMTypeOf(call)));
	LLVMTypeRef type = LLVMFunctionType(i64, &i64, 1, false);
	LLVMValueRef zero = LLVMConstInt(i64, 0, false), code;

	LLVMPositionBuilderBefore(b, call);
	code = LLVMGetInlineAsm(type, text, 0, constraints, sizeof(constraints) - 1, false, false,
				LLVMInlineAsmDialectATT, false);
	return LLVMBuildIntToPtr(b, LLVMBuildCall2(b, type, code, &zero, 1, ""), LLVMTypeOf(call), "");
}

static void lower_call(LLVMBuilderRef b, LLVMTargetDataRef layout, LLVMValueRef call)
{
	LLVMUseRef next;

	for (LLVMUseRef use = LLVMGetFirstUse(call); use; use = next) {
		LLVMValueRef user = LLVMGetUser(use);

		next = LLVMGetNextUse(use);
		if (is_offset(user, call))
			lower_offset(b, layout, user);
	}
	if (LLVMGetFirstUse(call))
		LLVMReplaceAllUsesWith(call, opaque_zero(b, call));
	LLVMInstructionEraseFromParent(call);
}

void vm_flat__lower(LLVMModuleRef mod)
{
	LLVMTargetDataRef layout = LLVMGetModuleDataLayout(mod);
	LLVMBuilderRef b = LLVMCreateBuilderInContext(LLVMGetModuleContext(mod));
	LLVMValueRef fn;

	for (unsigned int of_frame = 0; of_frame < 2; of_frame++) {
		fn = LLVMGetNamedFunction(mod, of_frame ? BASE_NAME "_of" : BASE_NAME);
		for (LLVMUseRef use = fn ? LLVMGetFirstUse(fn) : NULL; use; use = LLVMGetFirstUse(fn))
			lower_call(b, layout, LLVMGetUser(use));
		if (fn)
			LLVMDeleteFunction(fn);
	}
	LLVMDisposeBuilder(b);
}
