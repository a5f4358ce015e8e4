// SPDX-License-Identifier: MIT
/*
 * leaderless: its main thread ends while others go on.
 *
 * usage: leaderless CALLS [THREADS [SLOW]]
 * Prints "ready"; on a line on stdin its main thread starts the others and ends; each makes its calls, the first SLOW
 * (1000) slowly, and the last one prints "calls N".
 */
#include <pthread.h>

#include "victim.h"

static long n_calls, n_slow;
static atomic_int left;

static void *run(void *arg)
{
	for (long i = 0; i < n_calls; i++) {
		call_work();
		if (i < n_slow)
			usleep(1000);
	}
	if (atomic_fetch_sub(&left, 1) == 1) {
		tell_calls();
		exit(0);
	}
	return arg;
}

int main(int argc, char **argv)
{
	int threads = argc > 2 ? atoi(argv[2]) : 2;
	pthread_t t;

	n_calls = argc > 1 ? atol(argv[1]) : 1000;
	n_slow = argc > 3 ? atol(argv[3]) : 1000;
	atomic_store(&left, threads);
	ready_and_wait();
	for (int i = 0; i < threads; i++)
		if (pthread_create(&t, NULL, run, NULL))
			return 2;
	pthread_exit(NULL);
}
