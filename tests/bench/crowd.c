/* SPDX-License-Identifier: MIT */
/*
 * crowd.c: a process that looks how long its threads stand still: each calls crowd_work() with one key after another
 * and sleeps five milliseconds in between, and keeps how much longer than that a round took at most. Prints its pid;
 * each line on stdin is answered with the longest of every thread since the last one, in microseconds. CALLERS: only so
 * many of the threads call; EVERY: only in every so many rounds.
 *
 *   crowd THREADS KEYS [CALLERS [EVERY]]
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define ROUND_NS 5000000

static unsigned long n_keys, every = 1;

struct looker {
	pthread_t thread;
	uint64_t longest; /* ns */
	unsigned long key;
	bool calls;
};

__attribute__((noinline, noclone)) void crowd_work(unsigned long key);
void crowd_work(unsigned long key)
{
	static volatile unsigned long last;

	last = last * 3 + key;
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void *look(void *arg)
{
	const struct timespec pause = {.tv_nsec = ROUND_NS};
	struct looker *l = arg;
	uint64_t last = now_ns(), now, took;

	for (unsigned long round = 0;; round++) {
		if (l->calls && round % every == 0)
			crowd_work(l->key++ % n_keys);
		nanosleep(&pause, NULL);
		now = now_ns();
		took = now - last > ROUND_NS ? now - last - ROUND_NS : 0;
		last = now;
		if (took > __atomic_load_n(&l->longest, __ATOMIC_RELAXED))
			__atomic_store_n(&l->longest, took, __ATOMIC_RELAXED);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	size_t n = argc > 2 ? strtoul(argv[1], NULL, 0) : 0, n_callers = argc > 3 ? strtoul(argv[3], NULL, 0) : n;
	struct looker *l = calloc(n + 1, sizeof(*l));
	char line[16];

	n_keys = argc > 2 ? strtoul(argv[2], NULL, 0) : 0;
	every = argc > 4 ? strtoul(argv[4], NULL, 0) : 1;
	if (!n || !n_keys || !every || !l) {
		fprintf(stderr, "usage: crowd THREADS KEYS [CALLERS [EVERY]]\n");
		return 2;
	}
	printf("%d\n", getpid());
	fflush(stdout);
	/* The first line, when the tool is there: all keys are used once. */
	if (!fgets(line, sizeof(line), stdin))
		return 0;
	for (unsigned long k = 0; k < n_keys; k++)
		crowd_work(k);
	for (size_t i = 0; i < n; i++) {
		l[i].key = i * n_keys / n;
		l[i].calls = i < n_callers;
		if (pthread_create(&l[i].thread, NULL, look, &l[i]))
			return 1;
	}
	while (fgets(line, sizeof(line), stdin)) {
		for (size_t i = 0; i < n; i++)
			printf("%llu ",
			       (unsigned long long)__atomic_exchange_n(&l[i].longest, 0, __ATOMIC_RELAXED) / 1000);
		printf("\n");
		fflush(stdout);
	}
	return 0;
}
