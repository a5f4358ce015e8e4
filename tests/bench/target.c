/* SPDX-License-Identifier: MIT */
/*
 * target.c: the process that is measured. Prints its pid, then obeys lines on stdin:
 *
 *   FUNCTION CALLS	median ns per call of seven runs of CALLS calls
 *   gap MS		largest gap in ns that a busy thread saw in MS milliseconds
 *
 * and answers each with one number.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define RUNS 7

long bench_push(long a, long b);
long bench_endbr(long a, long b);
long bench_sub(long a, long b);
long bench_hand(long a, long b);
long bench_bare(long a, long b);

static const struct {
	const char *name;
	long (*fn)(long a, long b);
} functions[] = {
	{"bench_push", bench_push},
	{"bench_endbr", bench_endbr},
	{"bench_sub", bench_sub},
	{"bench_hand", bench_hand},
	{"bench_bare", bench_bare},
};

static double now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double measure(long (*fn)(long, long), long calls)
{
	double run[RUNS];
	volatile long sink = 0;

	for (int r = 0; r < RUNS; r++) {
		double start = now_ns();
		long sum = 0;

		for (long i = 0; i < calls; i++)
			sum += fn(i, i & 1023);
		run[r] = (now_ns() - start) / (double)calls;
		sink += sum;
	}
	qsort(run, RUNS, sizeof(run[0]), compare);
	return run[RUNS / 2];
}

static double largest_gap(long ms)
{
	double start = now_ns(), last = start, gap = 0;

	while (last - start < (double)ms * 1e6) {
		double t = now_ns();

		if (t - last > gap)
			gap = t - last;
		last = t;
		bench_push(1, 2);
	}
	return gap;
}

int main(void)
{
	char name[64];
	long n;

	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("%d\n", getpid());
	while (scanf("%63s %ld", name, &n) == 2) {
		double value = -1;

		if (!strcmp(name, "gap"))
			value = largest_gap(n);
		for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++)
			if (!strcmp(name, functions[i].name))
				value = measure(functions[i].fn, n);
		printf("%.2f\n", value);
	}
	return 0;
}
