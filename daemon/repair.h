/* SPDX-License-Identifier: MIT */
/*
 * repair.h: a thread that gives fork children of targets the file's bytes back (agent/children.c). A child waits for
 * that at its first hit, some 200 ms at most, and the daemon's main thread can be busy for longer.
 */
#ifndef BPFTIME_REPAIR_H
#define BPFTIME_REPAIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct repairer;
struct site;
struct target;

/* What observer__forks() gives; both stay the observer's. */
int repairer__new(struct repairer **out, int forks_fd, int kin_fd, char *err, size_t err_size);
void repairer__free(struct repairer *r);
/*
 * From now on these are the sites of the process, which is watched: their places may be opened when this returns. n ==
 * 0: it has none. -ENOMEM.
 */
int repairer__set(struct repairer *r, const struct target *t, struct site *const *s, size_t n);
/* Returns when all children have been seen to that the kernel has told of, or at the deadline (clock_us()). */
void repairer__catch_up(struct repairer *r, int64_t deadline);
/* Is no child left that has a place which has been given up? */
bool repairer__is_idle(struct repairer *r);

#endif
