// SPDX-License-Identifier: MIT
/*
 * vm-differ: random programs by interpreter, native code and kernel, for as long as one likes.
 *
 *	vm-differ [--seed FIRST] [--count N] [--no-kernel]
 *
 * Runs the programs of seeds FIRST to FIRST + N - 1 (0 and 1000; N 0: until it is interrupted), and ends with status 1
 * at the first one that engines disagree about.
 */
#include "differ.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define REPORT_SECONDS 10

static volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
	interrupted = 1;
}

static void report(const struct differ *d, uint64_t first)
{
	const struct differ_counts *c = differ__counts(d);

	printf("seeds %llu to %llu: %llu programs of %.0f instructions without a difference, %llu of them also by the "
	       "kernel\n",
	       (unsigned long long)first, (unsigned long long)(first + c->programs - 1),
	       (unsigned long long)c->programs, c->programs ? (double)c->instructions / (double)c->programs : 0,
	       (unsigned long long)c->kernel);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	uint64_t first = 0, count = 1000;
	time_t reported = time(NULL);
	bool kernel = true, ok = true;
	struct differ *d;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--no-kernel")) {
			kernel = false;
		} else if (!strcmp(argv[i], "--seed") && i + 1 < argc) {
			first = strtoull(argv[++i], NULL, 0);
		} else if (!strcmp(argv[i], "--count") && i + 1 < argc) {
			count = strtoull(argv[++i], NULL, 0);
		} else {
			fprintf(stderr, "usage: vm-differ [--seed FIRST] [--count N] [--no-kernel]\n");
			return 2;
		}
	}
	d = differ__new(kernel);
	if (!d)
		return 2;
	if (!differ__has_kernel(d))
		printf("not compared with the kernel\n");
	signal(SIGINT, on_signal);
	signal(SIGTERM, on_signal);
	for (uint64_t i = 0; ok && !interrupted && (!count || i < count); i++) {
		ok = differ__run(d, first + i);
		if (time(NULL) - reported >= REPORT_SECONDS) {
			reported = time(NULL);
			report(d, first);
		}
	}
	if (ok)
		report(d, first);
	differ__free(d);
	return ok ? 0 : 1;
}
