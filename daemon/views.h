/* SPDX-License-Identifier: MIT */
/*
 * views.h: what processes see of a tool's memory-mapped arrays.
 *
 * A tool reads and writes its .bss through memory, without a call that could be met. While its group's truth is in the
 * arena and the kernel still runs the tool's own program beside the kernel half, the tool must see the arena's copy and
 * not what that program writes: under the same addresses the arena is mapped instead of the tool's map. That is done in
 * two steps. Mappings of what is to be seen are made at leisure, anywhere; then the process stands still, the group's
 * gate is turned, and the mappings move to their places.
 */
#ifndef BPFTIME_VIEWS_H
#define BPFTIME_VIEWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "shm-runtime/shm.h"

struct views;

/* One memory-mapped array, and its place in the arena: whole pages. */
struct view_memory {
	uint32_t map_id;
	int map_fd;
	uint64_t arena_off, size;
};

struct views_opts {
	const struct view_memory *memory;
	size_t n;
	int arena_fd;
	uint32_t arena_id;
	const struct shm_group_hdr *arena; /* in this process's memory; its kgate decides what is seen */
	bool in;			   /* from the map to the arena; else back */
	bool anywhere;			   /* when it comes to the worst: target__stop_anywhere() */
	/* May this process be stopped? With a sentence when not. NULL: any. */
	bool (*may_stop)(void *arg, pid_t pid, char *why, size_t why_size);
	void *arg;
};

/*
 * Finds every process that sees the memory and makes what it is to see instead. *opts and what it points to must live
 * as long as *out. 0, also when there is none; or -errno with a sentence: then nothing has changed.
 */
int views__prepare(struct views **out, const struct views_opts *opts, char *why, size_t why_size);
/*
 * They stand still, and nobody else sees the memory. Turn the gate now, or do not. -EAGAIN: not at this moment, nobody
 * stands still.
 */
int views__hold(struct views *v, char *why, size_t why_size);
/* Some of those that stand still have threads that do not: the processors are to be kept until views__let_go(). */
bool views__are_crowded(const struct views *v);
/* They go on, and see what the gate says. Does nothing when they are not held. */
int views__let_go(struct views *v, char *why, size_t why_size);
/* NULL does nothing. */
void views__free(struct views *v);

/* Does anybody see the tool's map where he should see the arena? Another mapping of it has been made since. */
bool views__has_stranger(uint32_t map_id, pid_t *pid);

#endif
