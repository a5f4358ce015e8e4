// SPDX-License-Identifier: MIT
/*
 * fork: calls work() and forks children that call it too; the children's calls are not among "calls N".
 *
 * usage: fork ROUNDS [MILLISECONDS]    (how long each child goes on calling; default 50 calls)
 */
#include <sys/wait.h>
#include <time.h>

#include "victim.h"

#ifdef __PIE__
/* More than a page of code, as programs have; low-fork has one. */
__asm__(".pushsection .text\n .skip 8192, 0x90\n .popsection");
#endif

static void child_calls(long ms)
{
	struct timespec a, b;

	clock_gettime(CLOCK_MONOTONIC, &a);
	do {
		for (int k = 0; k < 50; k++)
			call_work();
		clock_gettime(CLOCK_MONOTONIC, &b);
	} while ((b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000 < ms);
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 100, status, bad = 0;

	ready_and_wait();
	for (int i = 0; i < rounds; i++) {
		pid_t child;

		call_work();
		child = fork();
		if (!child) {
			child_calls(argc > 2 ? atol(argv[2]) : 0);
			_exit(0);
		}
		call_work();
		if (waitpid(child, &status, 0) != child || status)
			bad++;
	}
	tell_calls();
	return bad != 0;
}
