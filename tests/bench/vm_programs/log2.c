// SPDX-License-Identifier: MIT
/* The logarithm of integers to base 2, by halving the range that the highest bit may be in. */
#include "program.h"

#define N 128

struct data {
	u64 in[N];
};

PROGRAM
{
	u64 sum = 0;

	for (u32 i = 0; i < N; i++) {
		u64 v = data.in[i];
		u32 r, shift;

		r = (v > 0xFFFFFFFF) << 5;
		v >>= r;
		shift = (v > 0xFFFF) << 4;
		v >>= shift;
		r |= shift;
		shift = (v > 0xFF) << 3;
		v >>= shift;
		r |= shift;
		shift = (v > 0xF) << 2;
		v >>= shift;
		r |= shift;
		shift = (v > 0x3) << 1;
		v >>= shift;
		r |= shift;
		r |= v >> 1;
		sum += r;
	}
	return sum;
}

PREPARE
{
	u64 seed = BENCH_SEED;

	for (u32 i = 0; i < N; i++) {
		u64 v = bench_random(&seed);

		data.in[i] = v >> (bench_random(&seed) & 63) | 1;
	}
}
