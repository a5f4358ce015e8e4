/* SPDX-License-Identifier: MIT */
/*
 * build.h: makes what a planned group needs before it can be switched: the arena, native code, the kernel half and its
 * attachments. Nothing of it changes what any process or tool sees.
 */
#ifndef BPFTIME_BUILD_H
#define BPFTIME_BUILD_H

#include "daemon/model.h"
#include "vm-llvm/worker.h"

/* 0, or -errno with g->reason. What was made stays until group__unbuild(). */
int group__build(struct group *g, struct vm_worker *worker, const struct observer *o);
/*
 * Attaches the kernel half, closed (it only counts), to all of the group's probes; where there is none, what tells of
 * new processes to those that are not limited to one.
 */
int group__attach_khalf(struct group *g);
void group__detach_khalf(struct group *g);
/* Frees everything that plan, build and attach made; the arena's memory goes with its last mapping. */
void group__unbuild(struct group *g);

#endif
