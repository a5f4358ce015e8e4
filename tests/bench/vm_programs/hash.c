// SPDX-License-Identifier: MIT
/* The hash of a string: FNV-1a, byte by byte. */
#include "program.h"

#define N 1024

struct data {
	u8 text[N];
};

PROGRAM
{
	u64 h = 0xcbf29ce484222325ull;

	for (u32 i = 0; i < N; i++) {
		h ^= data.text[i];
		h *= 0x100000001b3ull;
	}
	return h;
}

PREPARE
{
	u64 seed = BENCH_SEED;

	for (u32 i = 0; i < N; i++)
		data.text[i] = (u8)bench_random(&seed);
}
