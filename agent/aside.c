/* SPDX-License-Identifier: MIT */
#include "aside.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void fds_close_but(int a, int b)
{
	int low = a < b ? a : b, high = a < b ? b : a;

	if (low > 0)
		close_range(0, (unsigned int)low - 1, 0);
	if (high > low + 1)
		close_range((unsigned int)low + 1, (unsigned int)high - 1, 0);
	close_range((unsigned int)high + 1, ~0u, 0);
}

int thread_aside(void *(*fn)(void *arg), void *arg)
{
	sigset_t all, old;
	pthread_t thread;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(&thread, NULL, fn, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!err)
		pthread_detach(thread);
	return -err;
}

struct closing {
	unsigned int *running;
	size_t n;
	int fd[];
};

static void close_all(const int *fds, size_t n)
{
	for (size_t i = 0; i < n; i++)
		close(fds[i]);
}

static void *closer(void *arg)
{
	struct closing *c = arg;

	close_all(c->fd, c->n);
	__atomic_sub_fetch(c->running, 1, __ATOMIC_SEQ_CST);
	free(c);
	return NULL;
}

void close_aside(unsigned int *running, const int *fds, size_t n)
{
	struct closing *c = n ? malloc(sizeof(*c) + n * sizeof(*fds)) : NULL;

	if (!c) {
		close_all(fds, n);
		return;
	}
	*c = (struct closing){.running = running, .n = n};
	memcpy(c->fd, fds, n * sizeof(*fds));
	__atomic_add_fetch(running, 1, __ATOMIC_SEQ_CST);
	if (thread_aside(closer, c))
		closer(c);
}

void close_aside_wait(const unsigned int *running)
{
	while (__atomic_load_n(running, __ATOMIC_SEQ_CST))
		usleep(1000);
}
