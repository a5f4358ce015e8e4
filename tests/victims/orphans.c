// SPDX-License-Identifier: MIT
/*
 * orphans: calls work() and forks children that fork once more and end at once; what they leave behind calls work(), too,
 * which is not among "calls N". Fails when one of these does not come to its end.
 *
 * usage: orphans ROUNDS MILLISECONDS    (how long each goes on calling)
 */
#include <sys/wait.h>
#include <time.h>

#include "victim.h"

#ifdef __PIE__
/* More than a page of code, as programs have. */
__asm__(".pushsection .text\n .skip 8192, 0x90\n .popsection");
#endif

static void orphan(int end, long ms)
{
	const struct timespec pause = {.tv_nsec = 200000};
	struct timespec a, b;

	clock_gettime(CLOCK_MONOTONIC, &a);
	do {
		call_work();
		nanosleep(&pause, NULL);
		clock_gettime(CLOCK_MONOTONIC, &b);
	} while ((b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000 < ms);
	if (write(end, "", 1) != 1)
		_exit(1);
	_exit(0);
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 100, ended = 0, ends[2];
	char byte;

	if (pipe(ends))
		return 1;
	ready_and_wait();
	for (int i = 0; i < rounds; i++) {
		pid_t child;

		call_work();
		child = fork();
		if (!child) {
			if (!fork())
				orphan(ends[1], argc > 2 ? atol(argv[2]) : 50);
			_exit(0);
		}
		call_work();
		waitpid(child, NULL, 0);
	}
	close(ends[1]);
	while (read(ends[0], &byte, 1) == 1)
		ended++;
	tell_calls();
	return ended != rounds;
}
