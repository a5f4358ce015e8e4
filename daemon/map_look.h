/* SPDX-License-Identifier: MIT */
/*
 * map_look.h: in what does a tool's map differ from the arena? The kernel compares (bpf/look.bpf.c): a tenth of what it
 * takes to read a map of which nearly all is the same.
 */
#ifndef BPFTIME_MAP_LOOK_H
#define BPFTIME_MAP_LOOK_H

#include <stddef.h>
#include <stdint.h>

#include "shm-runtime/shm.h"

struct map_look;

/*
 * Prepares looks at this map: loads a program, which takes milliseconds. Both descriptors stay the caller's. 0 or
 * -errno, when the kernel or the map does not admit it: then it is to be read as a whole.
 */
int map_look__new(struct map_look **out, int tool_map_fd, int arena_fd, const struct shm_geo *g);
void map_look__free(struct map_look *l); /* NULL: nothing */

struct map_differences {
	uint64_t seen; /* entries of the tool's map */
	size_t n;      /* of these, not in the arena, or with other values there */
	uint8_t *same; /* by node of the arena: the tool's map has this entry as it is there */
};

/*
 * One look, for as long as nobody changes either. While the processors are occupied (occupy.h) all of them look; else
 * the caller alone, some entries at a time, so that others who want the processor need not wait for the whole. Makes no
 * call into the C library. 0; -E2BIG: more differ than are told of; -EAGAIN: the processors are not occupied any more;
 * or -errno.
 */
int map_look__now(struct map_look *l, void *arena, struct map_differences *d);
/* The key, and the values of all CPUs, of one of the d->n entries, as the tool's map has them; until the next look. */
const char *map_look__key(const struct map_look *l, size_t i);
const char *map_look__values(const struct map_look *l, size_t i);

#endif
