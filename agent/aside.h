/* SPDX-License-Identifier: MIT */
/* aside.h: what the daemon has beside its one thread: processes of its own, and threads that wait in its place. */
#ifndef BPFTIME_AGENT_ASIDE_H
#define BPFTIME_AGENT_ASIDE_H

/* Closes every descriptor of the calling process but these two. */
void fds_close_but(int a, int b);

/* Runs fn(arg) in a thread that nobody waits for and no signal reaches. 0, or -errno: then fn was not and will not be
 * run. */
int thread_aside(void *(*fn)(void *arg), void *arg);

#endif
