/* SPDX-License-Identifier: MIT */
/* symbolic.h: the proof that a lookup and what follows it do nothing but add. Private to additive.c. */
#ifndef BPFTIME_VM_SYMBOLIC_H
#define BPFTIME_VM_SYMBOLIC_H

#include "additive.h"
#include "flow.h"

#define VM_PROOF_MAX_UPDATES 8

struct vm_proof {
	const struct bpf_insn *insns;
	size_t n_insns;
	const struct vm_fact *facts;
	const struct vm_live *live;
	const struct vm_map_info *maps;
	size_t n_maps;
	/* result: the updates that a lookup leads to */
	size_t update[VM_PROOF_MAX_UPDATES];
	size_t n_updates;
};

/*
 * before: the data flow's state before the lookup. Whether the program does the same when `call lookup` at pc, of map
 * `map` with a key on the stack, gives NULL and each update that it leads to adds. True: update[] lists them (there may
 * be none).
 */
bool vm_prove_additive(struct vm_proof *p, size_t pc, const struct vm_state *before, uint32_t map);

#endif
