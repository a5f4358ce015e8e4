/* SPDX-License-Identifier: MIT */
/* passes.h: LLVM's passes over a module. Private to the JIT and to code ahead of time. */
#ifndef BPFTIME_VM_PASSES_H
#define BPFTIME_VM_PASSES_H

#include <stdbool.h>
#include <stddef.h>
#include <llvm-c/TargetMachine.h>

/*
 * Runs passes, named as opt(1) takes them, over mod for the machine. vectorise: loops and straight code may become
 * vectors, and loops be interleaved. 0, or -EIO with LLVM's sentence in err.
 */
int vm_passes__run(LLVMModuleRef mod, const char *passes, LLVMTargetMachineRef tm, bool vectorise, char *err,
		   size_t err_size);

#endif
