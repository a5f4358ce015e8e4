/* SPDX-License-Identifier: MIT */
/*
 * target.c: the process that is measured. Prints its pid, then obeys lines on stdin:
 *
 *   FUNCTION CALLS	ns per call of FUNCTION, bench_bare and bench_hand: medians of short runs that take turns, CALLS
 *			calls of each in all, so that the machine's pace is the same for the three
 *   child FUNCTION CALLS	the same in a fork child, with bench_kept in the place of bench_hand
 *   gap MS		largest gap in ns that a busy thread saw in MS milliseconds, and the largest without the time in
 *			which it waited for a CPU
 *   threads N		N more threads that do nothing
 *
 * and answers each with one line of numbers.
 */
#include <pthread.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RUNS	     201
#define SHORT_GAP_NS 20000

long bench_push(long a, long b);
long bench_endbr(long a, long b);
long bench_sub(long a, long b);
long bench_nop(long a, long b);
long bench_kept(long a, long b);
long bench_hand(long a, long b);
long bench_bare(long a, long b);

static const struct {
	const char *name;
	long (*fn)(long a, long b);
} functions[] = {
	{"bench_push", bench_push}, {"bench_endbr", bench_endbr}, {"bench_sub", bench_sub},
	{"bench_nop", bench_nop},   {"bench_hand", bench_hand},	  {"bench_bare", bench_bare},
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

static double run(long (*fn)(long, long), long calls)
{
	volatile long sink;
	double start = now_ns();
	long sum = 0;

	for (long i = 0; i < calls; i++)
		sum += fn(i, i & 1023);
	sink = sum;
	(void)sink;
	return (now_ns() - start) / (double)calls;
}

static double median(double *v, size_t n)
{
	qsort(v, n, sizeof(*v), compare);
	return v[n / 2];
}

static void measure(long (*fn)(long, long), long (*other)(long, long), long calls)
{
	static double probed[RUNS], bare[RUNS], hand[RUNS];

	calls = calls / RUNS + 1;
	for (int r = 0; r < RUNS; r++) {
		probed[r] = run(fn, calls);
		bare[r] = run(bench_bare, calls);
		hand[r] = run(other, calls);
	}
	printf("%.3f %.3f %.3f\n", median(probed, RUNS), median(bare, RUNS), median(hand, RUNS));
}

static void *idle(void *arg)
{
	pause();
	return arg;
}

static int start_threads(long n)
{
	pthread_t t;

	while (n-- > 0)
		if (pthread_create(&t, NULL, idle, NULL))
			return -1;
	return 0;
}

/* ns for which this thread has waited for a CPU, see Documentation/scheduler/sched-stats.rst; 0 when the kernel does
 * not tell. */
static double waited_ns(int schedstat)
{
	char text[128] = "";
	double waited = 0;

	if (pread(schedstat, text, sizeof(text) - 1, 0) <= 0 || sscanf(text, "%*f %lf", &waited) != 1)
		return 0;
	return waited;
}

static void look_for_gaps(long ms)
{
	int schedstat = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
	double start = now_ns(), last = start, largest = 0, stood = 0, waited = waited_ns(schedstat);

	while (last - start < (double)ms * 1e6) {
		double t = now_ns(), gap = t - last;

		if (gap > SHORT_GAP_NS) {
			double w = waited_ns(schedstat);

			largest = gap > largest ? gap : largest;
			gap -= w - waited;
			stood = gap > stood ? gap : stood;
			waited = w;
			t = now_ns();
		}
		last = t;
		bench_push(1, 2);
	}
	close(schedstat);
	printf("%.0f %.0f\n", largest, stood);
}

static void measure_named(const char *name, long (*other)(long, long), long calls)
{
	for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++)
		if (!strcmp(name, functions[i].name))
			measure(functions[i].fn, other, calls);
}

static void measure_in_child(void)
{
	char name[64];
	long calls;
	pid_t child;

	if (scanf("%63s %ld", name, &calls) != 2)
		exit(1);
	fflush(stdout);
	child = fork();
	if (!child) {
		measure_named(name, bench_kept, calls);
		fflush(stdout);
		_exit(0);
	}
	waitpid(child, NULL, 0);
}

int main(void)
{
	char name[64];
	long n;

	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("%d\n", getpid());
	while (scanf("%63s", name) == 1) {
		if (!strcmp(name, "child")) {
			measure_in_child();
			continue;
		}
		if (scanf("%ld", &n) != 1)
			break;
		if (!strcmp(name, "gap"))
			look_for_gaps(n);
		if (!strcmp(name, "threads"))
			printf("%d\n", start_threads(n));
		measure_named(name, bench_hand, n);
	}
	return 0;
}
