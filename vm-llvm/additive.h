/* SPDX-License-Identifier: MIT */
/*
 * additive.h: recognises programs that use a map only additively.
 *
 * The kernel runs a program without preemption as far as per-CPU maps are concerned; userspace cannot. What nearly all
 * tools do with a per-CPU map is to add to it: lookup, value or zero, plus c, update (bpftrace's count, sum, avg,
 * hist), or in place. Such a use is turned into "get or insert zero, then atomic add", which is exact whoever
 * interrupts whom.
 */
#ifndef BPFTIME_VM_ADDITIVE_H
#define BPFTIME_VM_ADDITIVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <linux/bpf.h>

/* Pseudo helper: r1 = map token, r2 = key, r3 = pointer to a __u64 delta. Outside the kernel's numbers. */
#define VM_HELPER_MAP_ADD 0x10001

enum vm_map_use {
	VM_MAP_UNUSED = 0,
	VM_MAP_READ = 1,     /* looked up, values only read */
	VM_MAP_ADDITIVE = 2, /* every use is an addition (after the rewriting below); keys may also be deleted, or
				inserted with BPF_NOEXIST, which is atomic by itself */
	VM_MAP_OTHER = 3,    /* anything else */
};

struct vm_map_info {
	uint32_t value_size;
	bool per_cpu;
	uint32_t key_size; /* 0: not known; then nothing is rewritten */
};

/*
 * insns: map file descriptors already replaced by indices into maps[] (imm of BPF_PSEUDO_MAP_FD / _VALUE). Rewrites in
 * place, without changing any instruction's position: for each lookup/update pair proved additive on a map with 8-byte
 * values `call lookup` becomes `r0 = 0` and `call update` becomes `call VM_HELPER_MAP_ADD` with the sum on its stack
 * slot being the delta. Only pairs on maps for which only[i] is set are rewritten (NULL: all per-CPU maps). use[i]
 * tells, after rewriting, how map i is used; in-place `*(u64 *)(v + o) += c` counts as additive, because vm_compile()
 * with atomic_rmw makes it atomic. Returns the number of rewritten pairs or -errno.
 */
int vm_additive_rewrite(struct bpf_insn *insns, size_t n_insns, const struct vm_map_info *maps, size_t n_maps,
			const bool *only, enum vm_map_use *use);

#endif
