/* SPDX-License-Identifier: MIT */
/*
 * khalf_flow.h: which kind of map a call instruction is given: one of the group's arena, or one that the kernel serves.
 */
#ifndef BPFTIME_KHALF_FLOW_H
#define BPFTIME_KHALF_FLOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <linux/bpf.h>

/* What a register holds at an instruction; a set, so that joining paths is an OR. */
enum khalf_holds {
	HOLDS_OTHER = 1,
	HOLDS_MIRRORED = 2, /* a map whose truth is in the arena */
	HOLDS_KERNEL = 4,   /* a map that the kernel serves */
};

/*
 * Fills first_arg[i] with the set for r1 before instruction i (0: never reached). kernel_map[m] tells how map m is
 * served; maps are named by index in imm. -errno, err a sentence.
 */
int khalf_flow(const struct bpf_insn *insns, size_t n_insns, const bool *kernel_map, size_t n_maps, uint8_t *first_arg,
	       char *err, size_t err_size);

#endif
