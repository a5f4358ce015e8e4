/* SPDX-License-Identifier: MIT */
/* pointers.h: from numbers to pointers in lifted code. Private to the JIT. */
#ifndef BPFTIME_VM_POINTERS_H
#define BPFTIME_VM_POINTERS_H

#include <llvm-c/Core.h>

/*
 * Registers are 64-bit numbers in lifted code, and LLVM's loop passes do not see through the conversion of a number to
 * a pointer. This makes pointers of the numbers from which addresses are computed, back to where they come from: sums
 * become getelementptr, and what goes round in a loop becomes a pointer that goes round. Local variables must be
 * values already (mem2reg). 0 or -ENOMEM, the module being valid in any case.
 */
int vm_pointers(LLVMModuleRef mod);

#endif
