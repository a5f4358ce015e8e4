/* SPDX-License-Identifier: MIT */
/* lift.h: eBPF to LLVM IR. Private to the JIT. */
#ifndef BPFTIME_VM_LIFT_H
#define BPFTIME_VM_LIFT_H

#include <llvm-c/Core.h>

#include "insn.h"
#include "vm.h"

#define VM_ENTRY_NAME "vm_entry"

/*
 * Adds to mod the functions of a valid program: `vm_entry` (as opts->env_calls says) and one internal function per
 * subprogram. Helpers and bpf_map_value() are taken from mod. 0 or -errno with a sentence.
 */
int vm_lift(LLVMModuleRef mod, const struct bpf_insn *insns, size_t n_insns, const struct vm_compile_opts *opts,
	    char *err, size_t err_size);

#endif
