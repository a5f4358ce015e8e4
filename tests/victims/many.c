// SPDX-License-Identifier: MIT
/*
 * many: calls each of 140 functions, many_NNN(), and one that is too short for a jump, many_short().
 *
 * usage: many ROUNDS
 */
#include "victim.h"

static volatile unsigned long sum;

#define ONE(n)                                                                                                         \
	__attribute__((noinline, noclone)) void many_##n(unsigned long x);                                             \
	void many_##n(unsigned long x)                                                                                 \
	{                                                                                                              \
		sum = sum * 3 + x * (1##n + 7);                                                                        \
	}
#define TEN(n)                                                                                                         \
	ONE(n##0)                                                                                                      \
	ONE(n##1)                                                                                                      \
	ONE(n##2)                                                                                                      \
	ONE(n##3)                                                                                                      \
	ONE(n##4)                                                                                                      \
	ONE(n##5)                                                                                                      \
	ONE(n##6)                                                                                                      \
	ONE(n##7)                                                                                                      \
	ONE(n##8)                                                                                                      \
	ONE(n##9)
#define ALL(ten)                                                                                                       \
	ten(00) ten(01) ten(02) ten(03) ten(04) ten(05) ten(06) ten(07) ten(08) ten(09) ten(10) ten(11) ten(12) ten(13)

ALL(TEN)

void many_short(void);
__asm__(".globl many_short\n.type many_short, @function\nmany_short: ret\n.size many_short, 1\n.skip 16, 0x90\n");

#define NAME(n) many_##n,
#define TEN_NAMES(n)                                                                                                   \
	NAME(n##0) NAME(n##1) NAME(n##2) NAME(n##3) NAME(n##4) NAME(n##5) NAME(n##6) NAME(n##7) NAME(n##8) NAME(n##9)

static void (*const function[])(unsigned long) = {ALL(TEN_NAMES)};

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 100;
	unsigned long n = sizeof(function) / sizeof(function[0]);

	ready_and_wait();
	for (int i = 0; i < rounds; i++) {
		for (unsigned long k = 0; k < n; k++)
			function[k](k);
		many_short();
	}
	printf("calls %lu\n", (unsigned long)rounds * (n + 1));
	return 0;
}
