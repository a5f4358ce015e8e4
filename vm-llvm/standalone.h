/* SPDX-License-Identifier: MIT */
/*
 * standalone.h: what a program from an object file needs when it runs by itself, without a kernel: its maps, its data,
 * and the helpers that mean something in a process. Maps are arrays and hashes; the per-CPU ones have one CPU.
 *
 * One object serves one program at a time: nothing here is locked.
 */
#ifndef BPFTIME_VM_STANDALONE_H
#define BPFTIME_VM_STANDALONE_H

#include "elf.h"
#include "vm.h"

struct vm_standalone;

/* Helpers take the object as `user`. */
typedef uint64_t vm_standalone_helper(void *user, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5);

/* Maps, empty, and data as in the file. elf is kept by the caller, for longer than the object. NULL: no memory. */
struct vm_standalone *vm_standalone__new(const struct vm_elf *elf);
void vm_standalone__free(struct vm_standalone *s);

/*
 * A copy of the program with addresses for its maps and data; validated; malloc'ed, the caller's. NULL and a sentence
 * that names the instruction: the program is malformed, or uses a map or a helper that is not there.
 */
struct bpf_insn *vm_standalone__bind(struct vm_standalone *s, const struct vm_elf_prog *prog, char *err,
				     size_t err_size);

/* Features of programs (enum vm_feature) that it can serve. */
#define VM_STANDALONE_FEATURES (VM_FEATURE_CALLX | VM_FEATURE_FUNC_ADDR)

/* All helpers, in one order: ids for vm_compile_opts, functions for vm_env. */
size_t vm_standalone__helpers(const uint32_t **ids, vm_standalone_helper *const **functions);

/* For vm_interp_opts; env is the object. */
uint64_t vm_standalone__call(void *env, uint32_t id, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5);
/* Whether a program may reach these bytes: maps' values, data. */
int vm_standalone__allowed(void *env, uint64_t addr, uint32_t size, int write);

#endif
