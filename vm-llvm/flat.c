// SPDX-License-Identifier: MIT
/*
 * flat.c: an address of eBPF is a number. Made into a pointer by inttoptr it is a stranger to LLVM: of two such
 * pointers it knows nothing, so it neither vectorises a loop nor recognises a copy, even where their distance is a
 * constant. So addresses are offsets from one pointer, which comes out of a function that is declared and never
 * defined: LLVM compares offsets, and assumes nothing about what lies where. The memory may be anything whose address
 * has got into a number, a frame of the program's own included.
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

static LLVMValueRef declare(LLVMModuleRef mod)
{
	LLVMValueRef fn = LLVMGetNamedFunction(mod, BASE_NAME);
	LLVMTypeRef ptr = LLVMPointerTypeInContext(LLVMGetModuleContext(mod), 0);

	if (fn)
		return fn;
	fn = LLVMAddFunction(mod, BASE_NAME, LLVMFunctionType(ptr, NULL, 0, false));
	add_attribute(fn, "memory", 0); /* none: each call yields the same */
	add_attribute(fn, "nounwind", 0);
	add_attribute(fn, "willreturn", 0);
	add_attribute(fn, "speculatable", 0);
	return fn;
}

LLVMValueRef vm_flat__base(LLVMModuleRef mod, LLVMBuilderRef b)
{
	LLVMValueRef fn = declare(mod);

	return LLVMBuildCall2(b, LLVMGlobalGetValueType(fn), fn, NULL, 0, "base");
}

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
	LLVMValueRef fn = LLVMGetNamedFunction(mod, BASE_NAME);
	LLVMTargetDataRef layout = LLVMGetModuleDataLayout(mod);
	LLVMBuilderRef b;

	if (!fn)
		return;
	b = LLVMCreateBuilderInContext(LLVMGetModuleContext(mod));
	for (LLVMUseRef use = LLVMGetFirstUse(fn); use; use = LLVMGetFirstUse(fn))
		lower_call(b, layout, LLVMGetUser(use));
	LLVMDisposeBuilder(b);
	LLVMDeleteFunction(fn);
}
