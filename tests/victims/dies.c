// SPDX-License-Identifier: MIT
/*
 * dies: calls work() from several threads until one of them kills the process in the middle.
 *
 * usage: dies MILLISECONDS
 */
#include <pthread.h>
#include <signal.h>

#include "victim.h"

static void *run(void *arg)
{
	for (;;)
		call_work();
	return arg;
}

int main(int argc, char **argv)
{
	int ms = argc > 1 ? atoi(argv[1]) : 100;
	pthread_t t;

	ready_and_wait();
	for (int i = 0; i < 4; i++)
		pthread_create(&t, NULL, run, NULL);
	usleep(ms * 1000);
	kill(getpid(), SIGKILL);
	return 1;
}
