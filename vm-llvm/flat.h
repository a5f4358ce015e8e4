/* SPDX-License-Identifier: MIT */
/* flat.h: addresses of eBPF as LLVM understands them best. Private to the JIT. */
#ifndef BPFTIME_VM_FLAT_H
#define BPFTIME_VM_FLAT_H

#include <llvm-c/Core.h>

/*
 * A call, at the builder's place in a function of mod, that yields the pointer from which addresses are counted. In the
 * program's main function only: see flat.c.
 */
LLVMValueRef vm_flat__base(LLVMModuleRef mod, LLVMBuilderRef b);
/* The passes to run before vm_flat__settle(), no others: they leave of a frame's addresses what is really used. */
#define VM_FLAT_PASSES "globaldce,function(mem2reg,adce)"
/* Before anything that asks what may be at the same address: tells it of frames whose addresses are numbers. */
void vm_flat__settle(LLVMModuleRef mod);
/* After optimisation: counts from zero everywhere, and removes the calls. */
void vm_flat__lower(LLVMModuleRef mod);

#endif
