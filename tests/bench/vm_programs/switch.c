// SPDX-License-Identifier: MIT
/* A machine with sixteen operations, which a switch chooses. */
#include "program.h"

#define N 256

struct data {
	u8 code[N];
};

PROGRAM
{
	u64 a = 1, b = 2;

	for (u32 i = 0; i < N; i++) {
		switch (data.code[i] & 15) {
		case 0:
			a += b;
			break;
		case 1:
			a -= b;
			break;
		case 2:
			b ^= a;
			break;
		case 3:
			a *= 3;
			break;
		case 4:
			b += 7;
			break;
		case 5:
			a >>= 1;
			break;
		case 6:
			b <<= 1;
			break;
		case 7:
			a |= 0x55;
			break;
		case 8:
			b &= 0xffff;
			break;
		case 9:
			a ^= b << 3;
			break;
		case 10:
			b -= a;
			break;
		case 11:
			a = a << 7 | a >> 57;
			break;
		case 12:
			b *= a | 1;
			break;
		case 13:
			a += i;
			break;
		case 14:
			b ^= i;
			break;
		default:
			a = ~a;
		}
	}
	return a ^ b;
}

PREPARE
{
	u64 seed = BENCH_SEED;

	for (u32 i = 0; i < N; i++)
		data.code[i] = (u8)bench_random(&seed);
}
