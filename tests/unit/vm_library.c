// SPDX-License-Identifier: MIT
/* A small library for test_vm_jit: what helpers and maps look like to the JIT. Compiled to bitcode. */
#include <stdint.h>

struct lib_env {
	uint64_t base;
	uint64_t (*call)(uint64_t);
	uint64_t values[64];
};

struct lib_geo {
	uint32_t first;
	uint32_t stride;
};

extern const struct lib_geo lib_maps[];

uint64_t bpf_helper_1(void *env, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5);
uint64_t bpf_helper_5(void *env, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5);
uint64_t bpf_helper_7(void *env, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5);
uint64_t bpf_helper_100(void *env, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5);
uint64_t bpf_helper_101(void *env, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5);
uint64_t bpf_helper_102(void *env, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5);
uint64_t bpf_helper_103(void *env, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5);
uint64_t bpf_map_value(void *env, uint32_t imm, uint32_t off);

/* Lookup: map token, pointer to a 4-byte key. */
uint64_t bpf_helper_1(void *env, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	struct lib_env *e = env;
	const struct lib_geo *g = &lib_maps[r1];
	uint32_t key = *(const uint32_t *)r2;

	return key < 4 ? (uint64_t)&e->values[g->first + key * g->stride] : 0;
}

/* A call out, as to the clock. */
uint64_t bpf_helper_5(void *env, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	struct lib_env *e = env;

	return e->call(e->base);
}

uint64_t bpf_helper_7(void *env, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	return ((struct lib_env *)env)->base + 7 + r1 + 10 * r2 + 100 * r3 + 1000 * r4 + 10000 * r5;
}

/* Block operations too large to be expanded in place, of a size only known at run time, and a large frame. */
uint64_t bpf_helper_100(void *env, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	char block[1000] = {0};
	uint64_t sum = 0;

	__builtin_memcpy(block + 8, (void *)r1, r2);
	__builtin_memset(block + 500, (int)r3, r4);
	for (int i = 0; i < 1000; i++)
		sum = sum * 31 + (unsigned char)((volatile char *)block)[i];
	return sum;
}

/* What a compiler likes to make a table of. */
uint64_t bpf_helper_101(void *env, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	switch (r1 & 15) {
	case 0:
		return 3;
	case 1:
		return 77;
	case 2:
		return 1009;
	case 3:
		return 13;
	case 4:
		return r2 * r3;
	case 5:
		return 123456;
	case 6:
		return r2 + 9;
	case 7:
		return 91;
	}
	return 1;
}

extern uint64_t nowhere(uint64_t);

uint64_t bpf_helper_102(void *env, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	return nowhere(r1);
}

static uint64_t counter;

uint64_t bpf_helper_103(void *env, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	return counter += r1;
}

uint64_t bpf_map_value(void *env, uint32_t imm, uint32_t off)
{
	return (uint64_t)((struct lib_env *)env)->values + lib_maps[imm].first * 8 + off;
}
