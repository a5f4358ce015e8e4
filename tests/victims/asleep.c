// SPDX-License-Identifier: MIT
/*
 * asleep: sleeps, with an address within work() on its stack.
 *
 * usage: asleep left|interrupted|altstack
 * Prints "ready"; on a line on stdin, "work ADDRESS" and sleeps until the next line. "left": the address is in a
 * variable, as an earlier call may leave it there. Else a signal handler sleeps which interrupted work().
 */
#include <signal.h>
#include <string.h>
#include <sys/time.h>

#define VICTIM_HAS_ITS_OWN_WORK
#include "victim.h"

static volatile sig_atomic_t woken;

/* Runs until a signal has come, and been served. */
long work(long a)
{
	while (!woken)
		;
	return 3 * a + 1;
}

static void sleep_until_told(void)
{
	char line[16];

	printf("work %ld\n", (long)work);
	if (!fgets(line, sizeof(line), stdin))
		clearerr(stdin);
}

static void on_alarm(int sig)
{
	(void)sig;
	sleep_until_told();
	woken = 1;
}

static void sleep_in_handler(int flags)
{
	const struct itimerval soon = {.it_value = {.tv_usec = 20000}};
	static char other[64 << 10];
	const stack_t stack = {.ss_sp = other, .ss_size = sizeof(other)};
	struct sigaction act = {.sa_handler = on_alarm, .sa_flags = flags};

	if (sigaltstack(&stack, NULL) || sigaction(SIGALRM, &act, NULL) || setitimer(ITIMER_REAL, &soon, NULL))
		exit(2);
	call_work();
}

int main(int argc, char **argv)
{
	void *volatile left[64];

	if (argc < 2)
		return 2;
	for (size_t i = 0; i < sizeof(left) / sizeof(left[0]); i++)
		left[i] = strcmp(argv[1], "left") ? NULL : (char *)work + 1;
	ready_and_wait();
	if (left[0])
		sleep_until_told();
	else
		sleep_in_handler(strcmp(argv[1], "altstack") ? 0 : SA_ONSTACK);
	tell_calls();
	return 0;
}
