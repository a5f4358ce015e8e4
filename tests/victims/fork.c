// SPDX-License-Identifier: MIT
/*
 * fork: calls work() and forks children that call it too; the children's calls are not among "calls N".
 *
 * usage: fork ROUNDS
 */
#include <sys/wait.h>

#include "victim.h"

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 100, status, bad = 0;

	ready_and_wait();
	for (int i = 0; i < rounds; i++) {
		pid_t child;

		call_work();
		child = fork();
		if (!child) {
			for (int k = 0; k < 50; k++)
				call_work();
			_exit(0);
		}
		call_work();
		if (waitpid(child, &status, 0) != child || status)
			bad++;
	}
	tell_calls();
	return bad != 0;
}
