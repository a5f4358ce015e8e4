// SPDX-License-Identifier: MIT
/*
 * libFuzzer: any bytes as memory and program, all features that the interpreter runs. Whatever the program does, only
 * its memory, its stack and its regions change. The address sanitizer sees what goes beyond.
 */
#include <stdlib.h>
#include <string.h>

#include "vm-llvm/vm.h"

#define MEMORY	  64
#define MAX_STEPS 5000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct fuzz {
	struct vm_program self;
	uint8_t *region;
};

static uint64_t helper(void *env, uint32_t id, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	const struct fuzz *f = env;

	return id % 2 ? (uintptr_t)f->region : id + r1 + r2 + r3 + r4 + r5;
}

static int has_helper(void *env, uint32_t id)
{
	return id < 100;
}

static uint64_t map_value(void *env, uint32_t imm, uint32_t off)
{
	const struct fuzz *f = env;

	return (uintptr_t)f->region + off;
}

static const struct vm_program *tail_call(void *env, uint64_t ctx, uint64_t map, uint32_t index)
{
	struct fuzz *f = env;

	return index % 2 ? &f->self : NULL;
}

static int64_t packet(void *env, uint64_t ctx, uint32_t offset, uint32_t size)
{
	return offset < MEMORY ? (int64_t)offset : -1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t n = size > MEMORY ? (size - MEMORY) / sizeof(struct bpf_insn) : 0;
	struct bpf_insn *insns = malloc(n * sizeof(*insns) + 1);
	uint8_t *mem = malloc(MEMORY), *region = calloc(1, MEMORY), *constants = calloc(1, MEMORY), zero[MEMORY] = {0};
	struct fuzz f = {.self = {insns, n}, .region = region};
	char err[512] = "";
	uint64_t r0 = 0;

	if (!insns || !mem || !region || !constants)
		abort();
	if (n) {
		const struct vm_region regions[] = {
			{(uintptr_t)mem, MEMORY, 1}, {(uintptr_t)region, MEMORY, 1}, {(uintptr_t)constants, MEMORY, 0}};
		const struct vm_interp_opts o = {
			.sz = sizeof(o),
			.helper = helper,
			.has_helper = has_helper,
			.map_value = map_value,
			.env = &f,
			.max_steps = MAX_STEPS,
			.r2 = (uintptr_t)constants,
			.features = VM_FEATURES_RUN,
			.check_memory = 1,
			.regions = regions,
			.n_regions = 3,
			.tail_call = tail_call,
			.packet = packet,
		};

		memcpy(mem, data, MEMORY);
		memcpy(insns, data + MEMORY, n * sizeof(*insns));
		if (vm_interpret(insns, n, mem, &o, &r0, err, sizeof(err)) && !err[0])
			abort();
		if (memcmp(constants, zero, MEMORY))
			abort();
	}
	free(constants);
	free(region);
	free(mem);
	free(insns);
	return 0;
}
