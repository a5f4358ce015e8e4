/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/* look.h: what bpf/look.bpf.c says of a map, for daemon/map_look.c. */
#ifndef BPFTIME_BPF_LOOK_H
#define BPFTIME_BPF_LOOK_H

#define LOOK_MOST    256u /* entries that differ, in one look */
#define LOOK_LOOKERS 16u  /* processors that look at once, at most; a power of two */
#define LOOK_CHANGES (LOOK_LOOKERS * LOOK_MOST)

/* What one looker is to look at, and what it has seen; adds up until it is set to zero. */
struct look_part {
	unsigned long long from, to; /* nodes of the arena: from this one on, before that one */
	unsigned long long seen;     /* entries of the tool's map */
	unsigned long long changed;  /* of these, not as in the arena; the first LOOK_MOST are in look_changes */
} __attribute__((aligned(128)));

#endif
