// SPDX-License-Identifier: MIT
/* How many primes there are up to a number, by trial division. */
#include "program.h"

#define UP_TO 400
#define ROOT  20

struct data {
	u32 up_to;
};

PROGRAM
{
	u32 up_to = data.up_to;
	u64 count = 0;

	for (u32 n = 2; n < UP_TO; n++) {
		u32 prime = 1;

		if (n >= up_to)
			break;
		for (u32 d = 2; d < ROOT; d++) {
			if (d * d > n)
				break;
			if (n % d == 0) {
				prime = 0;
				break;
			}
		}
		count += prime;
	}
	return count;
}

PREPARE
{
	data.up_to = UP_TO - 3;
}
