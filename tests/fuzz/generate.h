/* SPDX-License-Identifier: MIT */
/*
 * generate.h: random programs that are valid for every engine: the kernel's verifier accepts nearly all of them, and
 * each has one meaning. What a program computes is in its context and in one map value when it ends.
 */
#ifndef TESTS_FUZZ_GENERATE_H
#define TESTS_FUZZ_GENERATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <linux/bpf.h>

#define GENERATED_MAX_INSNS 512
#define GENERATED_MAP	    7 /* imm of the 64-bit immediates that are the address of the map's only value */
#define GENERATED_MAP_SIZE  64
#define GENERATED_COPY	    113 /* helper: copies r2 bytes from r3 to r1 and returns 0 (bpf_probe_read_kernel) */

/* What r1 points to. The program reads in, reads and writes scratch, and leaves its registers and stack in out. */
struct generated_ctx {
	uint64_t in[8];
	uint64_t scratch[8];
	uint64_t out[16];
};

struct generated {
	struct bpf_insn insns[GENERATED_MAX_INSNS];
	size_t n;
	struct generated_ctx ctx;
	uint8_t map[GENERATED_MAP_SIZE];
	bool kernel; /* it has nothing that the kernel is known to do otherwise; true for seven of eight */
};

/* The same program and memory for the same seed, on every machine. */
void generate(struct generated *g, uint64_t seed);

#endif
