// SPDX-License-Identifier: MIT
#include "passes.h"
#include "insn.h"

#include <errno.h>

#include <llvm-c/Error.h>
#include <llvm-c/Transforms/PassBuilder.h>

int vm_passes__run(LLVMModuleRef mod, const char *passes, LLVMTargetMachineRef tm, bool vectorise, char *err,
		   size_t err_size)
{
	LLVMPassBuilderOptionsRef o = LLVMCreatePassBuilderOptions();
	LLVMErrorRef e;
	char *why;
	int r = 0;

	LLVMPassBuilderOptionsSetLoopVectorization(o, vectorise);
	LLVMPassBuilderOptionsSetSLPVectorization(o, vectorise);
	LLVMPassBuilderOptionsSetLoopInterleaving(o, vectorise);
	e = LLVMRunPasses(mod, passes, tm, o);
	LLVMDisposePassBuilderOptions(o);
	if (e) {
		why = LLVMGetErrorMessage(e);
		r = vm_fail(err, err_size, -EIO, "LLVM: %s", why);
		LLVMDisposeErrorMessage(why);
	}
	return r;
}
