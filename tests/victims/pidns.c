// SPDX-License-Identifier: MIT
/*
 * pidns: the first process of a PID namespace of its own calls work(). Prints "pid N" (in the initial namespace) before
 * "ready".
 *
 * usage: pidns CALLS
 */
#include <sched.h>
#include <sys/wait.h>

#include "victim.h"

int main(int argc, char **argv)
{
	long n = argc > 1 ? atol(argv[1]) : 1000;
	int status;
	pid_t child;

	if (unshare(CLONE_NEWPID))
		return 2;
	child = fork();
	if (child) {
		printf("pid %d\n", child);
		fflush(stdout);
		return waitpid(child, &status, 0) == child ? WEXITSTATUS(status) : 2;
	}
	if (getpid() != 1)
		return 2;
	usleep(50000);
	ready_and_wait();
	for (long i = 0; i < n; i++)
		call_work();
	tell_calls();
	return 0;
}
