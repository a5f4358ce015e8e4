// SPDX-License-Identifier: MIT
/*
 * signal: a handler calls work() while the main program is in the middle of calling it.
 *
 * usage: signal MILLISECONDS [altstack]
 */
#include <signal.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#include "victim.h"

static void handler(int sig)
{
	(void)sig;
	call_work();
}

int main(int argc, char **argv)
{
	struct itimerval every = {{0, 200}, {0, 200}}, never = {{0, 0}, {0, 0}};
	struct sigaction sa = {.sa_handler = handler, .sa_flags = SA_RESTART};
	int ms = argc > 1 ? atoi(argv[1]) : 200;
	struct timespec a, b;
	static char small_stack[16384];

	if (argc > 2 && !strcmp(argv[2], "altstack")) {
		stack_t st = {.ss_sp = small_stack, .ss_size = sizeof(small_stack)};

		if (sigaltstack(&st, NULL))
			return 2;
		sa.sa_flags |= SA_ONSTACK;
	}
	ready_and_wait();
	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
	clock_gettime(CLOCK_MONOTONIC, &a);
	do {
		for (int i = 0; i < 1000; i++)
			call_work();
		clock_gettime(CLOCK_MONOTONIC, &b);
	} while ((b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000 < ms);
	setitimer(ITIMER_REAL, &never, NULL);
	tell_calls();
	return 0;
}
