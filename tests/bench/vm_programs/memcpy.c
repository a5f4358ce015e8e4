// SPDX-License-Identifier: MIT
/* Copies bytes, one by one, as the compiler finds it. */
#include "program.h"

#define N 2048

struct data {
	u8 from[N], to[N];
};

PROGRAM
{
	for (u32 i = 0; i < N; i++)
		data.to[i] = data.from[i];
	return data.to[N - 1];
}

PREPARE
{
	u64 seed = BENCH_SEED;

	for (u32 i = 0; i < N; i++)
		data.from[i] = (u8)bench_random(&seed);
}
