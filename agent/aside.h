/* SPDX-License-Identifier: MIT */
/* aside.h: what the daemon has beside its one thread: processes of its own, and threads that wait in its place. */
#ifndef BPFTIME_AGENT_ASIDE_H
#define BPFTIME_AGENT_ASIDE_H

#include <stddef.h>

/* Closes every descriptor of the calling process but these two. */
void fds_close_but(int a, int b);

/* Runs fn(arg) in a thread that nobody waits for and no signal reaches. 0, or -errno: then fn was not and will not be
 * run. */
int thread_aside(void *(*fn)(void *arg), void *arg);

/*
 * Closes these descriptors, which are copied, one after another in a thread aside: a uprobe's take the kernel a tenth
 * of a second each. When there can be no thread it is done here. *running counts such threads, until close_aside_wait()
 * has returned it must stay where it is.
 */
void close_aside(unsigned int *running, const int *fds, size_t n);
void close_aside_wait(const unsigned int *running);

#endif
