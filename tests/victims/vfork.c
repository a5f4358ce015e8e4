// SPDX-License-Identifier: MIT
/*
 * vfork: children that live in the parent's memory call work() before they exec; all calls are among "calls N".
 *
 * usage: vfork ROUNDS
 */
#include <sys/wait.h>

#include "victim.h"

int main(int argc, char **argv)
{
	volatile int rounds = argc > 1 ? atoi(argv[1]) : 100, bad = 0;
	int status;

	ready_and_wait();
	for (int i = 0; i < rounds; i++) {
		pid_t child;

		call_work();
		child = vfork();
		if (!child) {
			call_work();
			execl("/bin/true", "true", (char *)NULL);
			_exit(1);
		}
		call_work();
		if (waitpid(child, &status, 0) != child || status)
			bad++;
	}
	tell_calls();
	return bad != 0;
}
