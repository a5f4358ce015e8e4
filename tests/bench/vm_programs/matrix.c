// SPDX-License-Identifier: MIT
/* The product of two matrices of 64-bit integers. */
#include "program.h"

#define N 16

struct data {
	u64 a[N][N], b[N][N], product[N][N];
};

PROGRAM
{
	for (u32 i = 0; i < N; i++) {
		for (u32 j = 0; j < N; j++) {
			u64 sum = 0;

			for (u32 k = 0; k < N; k++)
				sum += data.a[i][k] * data.b[k][j];
			data.product[i][j] = sum;
		}
	}
	return data.product[1][2];
}

PREPARE
{
	u64 seed = BENCH_SEED;

	for (u32 i = 0; i < N; i++) {
		for (u32 j = 0; j < N; j++) {
			data.a[i][j] = bench_random(&seed);
			data.b[i][j] = bench_random(&seed);
		}
	}
}
