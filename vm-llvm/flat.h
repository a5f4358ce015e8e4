/* SPDX-License-Identifier: MIT */
/* flat.h: addresses of eBPF as LLVM understands them best. Private to the JIT. */
#ifndef BPFTIME_VM_FLAT_H
#define BPFTIME_VM_FLAT_H

#include <llvm-c/Core.h>

/* A call, at the builder's place in a function of mod, that yields the pointer from which all addresses are counted. */
LLVMValueRef vm_flat__base(LLVMModuleRef mod, LLVMBuilderRef b);
/* After optimisation: counts from zero everywhere, and removes the calls. */
void vm_flat__lower(LLVMModuleRef mod);

#endif
