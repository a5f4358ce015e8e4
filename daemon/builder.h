/* SPDX-License-Identifier: MIT */
/*
 * builder.h: a thread that makes groups' code. Compiling takes milliseconds and the kernel's verifier up to seconds:
 * meanwhile the daemon answers and serves the other groups. Called from one thread, the daemon's main one.
 */
#ifndef BPFTIME_BUILDER_H
#define BPFTIME_BUILDER_H

#include <stddef.h>

#include "daemon/histogram.h"
#include "daemon/model.h"
#include "vm-llvm/worker.h"

struct builder;

/* The worker is the builder's from now on, until it is freed. 0, or -errno with a sentence in err. */
int builder__new(struct builder **out, struct vm_worker *worker, const struct observer *o, char *err, size_t err_size);
/* What is being made is given up. NULL is allowed. */
void builder__free(struct builder *b);
/* Readable when builder__done() has something to say. */
int builder__fd(const struct builder *b);
/*
 * Makes the code of a group that is planned and has its arena. Until it is done, or cancelled, the group is `building`:
 * its programs are the builder's. -ENOMEM.
 */
int builder__start(struct builder *b, struct group *g);
/* A group that is done, with how it ended: 0, or -errno with g->reason. NULL: there is none. */
struct group *builder__done(struct builder *b, int *err);
/* Gives the group up, if it is building. It may be freed when this returns; what was made of it is for
 * group__unbuild(). */
void builder__cancel(struct builder *b, struct group *g);
/* How long it took to make groups' code, what failed included. */
void builder__durations(struct builder *b, struct histogram *out);
/* Waits until builder__done() has something to say, if anything is building. */
void builder__wait(struct builder *b);

#endif
