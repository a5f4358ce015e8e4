// SPDX-License-Identifier: MIT
/*
 * exec: calls work(), then becomes itself again, several times. Each generation says "calls N" of its own.
 *
 * usage: exec GENERATIONS
 */
#include "victim.h"

int main(int argc, char **argv)
{
	int left = argc > 1 ? atoi(argv[1]) : 3;
	char number[16];

	if (!getenv("EXECED"))
		ready_and_wait();
	for (int i = 0; i < 1000; i++)
		call_work();
	tell_calls();
	fflush(stdout);
	if (left <= 0)
		return 0;
	setenv("EXECED", "1", 1);
	snprintf(number, sizeof(number), "%d", left - 1);
	execl("/proc/self/exe", "exec", number, (char *)NULL);
	return 1;
}
