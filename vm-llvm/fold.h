/* SPDX-License-Identifier: MIT */
/*
 * fold.h: a program with what the kernel's verifier also takes for granted: what a frozen map holds.
 *
 * libbpf tools have their options in .rodata, and code for options that are off calls helpers and names maps that would
 * keep the whole tool out of userspace.
 */
#ifndef BPFTIME_VM_FOLD_H
#define BPFTIME_VM_FOLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <linux/bpf.h>

/*
 * Reads size bytes at off of the value of the map that `imm` of a BPF_PSEUDO_MAP_VALUE immediate names. True only when
 * nobody can change them any more: created with BPF_F_RDONLY_PROG, frozen, and not mapped writable.
 */
typedef bool vm_fold_read(void *arg, int32_t imm, uint32_t off, void *out, uint32_t size);

/*
 * In place, without changing any instruction's position: loads from such values become constants, and helper calls and
 * map immediates that can then never run become `r0 = 0`. Branches stay. Map numbers may be anything. Returns how many
 * instructions changed, or -errno.
 */
int vm_fold_constants(struct bpf_insn *insns, size_t n_insns, vm_fold_read *read, void *arg);

#endif
