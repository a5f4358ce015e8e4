// SPDX-License-Identifier: MIT
/*
 * blocked: threads that sit in system calls, and tell when one was disturbed.
 *
 * usage: blocked
 * Prints "ready" when all are blocked; on a line on stdin lets them finish, prints "disturbed N" (calls that ended with
 * EINTR, short or early) and exits 0.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define BIG (4 << 20)

static atomic_int disturbed, stop;
static int wake, slow[2], quiet[2];

static void note(const char *what)
{
	fprintf(stderr, "%s was disturbed: %s\n", what, strerror(errno));
	atomic_fetch_add(&disturbed, 1);
}

static void *in_epoll(void *arg)
{
	struct epoll_event ev = {.events = EPOLLIN}, got;
	int ep = epoll_create1(EPOLL_CLOEXEC);

	epoll_ctl(ep, EPOLL_CTL_ADD, wake, &ev);
	errno = 0;
	if (epoll_wait(ep, &got, 1, -1) != 1)
		note("epoll_wait");
	return arg;
}

static void *in_nanosleep(void *arg)
{
	struct timespec nap = {0, 300000000};

	while (!atomic_load(&stop)) {
		struct timespec a, b;
		double s;

		clock_gettime(CLOCK_MONOTONIC, &a);
		if (nanosleep(&nap, NULL))
			note("nanosleep");
		clock_gettime(CLOCK_MONOTONIC, &b);
		s = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
		if (s < 0.3)
			note("nanosleep (early)");
	}
	return arg;
}

static void *in_read(void *arg)
{
	char c;

	errno = 0;
	if (read(quiet[0], &c, 1) != 1)
		note("read");
	return arg;
}

static void *in_poll(void *arg)
{
	struct pollfd p = {.fd = wake, .events = POLLIN};

	errno = 0;
	if (poll(&p, 1, -1) != 1)
		note("poll");
	return arg;
}

static void *in_write(void *arg)
{
	char *big = calloc(1, BIG);

	while (!atomic_load(&stop)) {
		errno = 0;
		if (write(slow[1], big, BIG) != BIG)
			note("write of 4 MiB");
	}
	free(big);
	close(slow[1]);
	return arg;
}

/* Takes a little at a time, so that the writer is nearly always in the middle. */
static void *drain(void *arg)
{
	static char buf[16384];

	while (read(slow[0], buf, sizeof(buf)) > 0)
		if (!atomic_load(&stop))
			usleep(500);
	return arg;
}

int main(void)
{
	void *(*const body[])(void *) = {in_epoll, in_nanosleep, in_read, in_poll, in_write, drain};
	pthread_t t[sizeof(body) / sizeof(body[0])];
	char line[16];

	wake = eventfd(0, EFD_CLOEXEC);
	if (pipe(slow) || pipe(quiet))
		return 2;
	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++)
		pthread_create(&t[i], NULL, body[i], NULL);
	usleep(100000);
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("ready");
	if (!fgets(line, sizeof(line), stdin))
		return 2;
	atomic_store(&stop, 1);
	if (eventfd_write(wake, 1) || write(quiet[1], "x", 1) != 1)
		return 2;
	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++)
		pthread_join(t[i], NULL);
	printf("disturbed %d\n", atomic_load(&disturbed));
	return 0;
}
