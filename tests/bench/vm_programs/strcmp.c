// SPDX-License-Identifier: MIT
/* Compares two strings that differ at their end. */
#include "program.h"

#define N 1024

struct data {
	u8 a[N], b[N];
};

PROGRAM
{
	for (u32 i = 0; i < N; i++) {
		u8 a = data.a[i], b = data.b[i];

		if (a != b)
			return (u64)a - b;
		if (!a)
			break;
	}
	return 0;
}

PREPARE
{
	u64 seed = BENCH_SEED;

	for (u32 i = 0; i < N; i++)
		data.a[i] = data.b[i] = (u8)bench_random(&seed) | 1;
	data.b[N - 3] ^= 4;
}
