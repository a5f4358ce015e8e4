/* SPDX-License-Identifier: MIT */
/*
 * escape.h: escape slots (agent/abi.h): which probed instruction has which, and what stands at them.
 *
 * A slot is another address of its instruction: for the kernel and for the tool, a hit there is a hit at the
 * instruction. At the instruction itself stand the tool's program and behind it, newer, the kernel half; at the slot
 * stands one program that is both: it counts the hit in kgate and does the kernel half's work when that is open, else
 * the tool's own on the tool's own maps. (gprog.escape_fd: build.c) Where a group has no kernel half it is the tool's
 * own alone. So a hit may go to the slot at any moment of a switch, and from a process that nobody knows of.
 *
 * A slot is the instruction's in all processes, so the number of uprobes does not grow with these, and fork children
 * and new ones have the int3s at once. It becomes another instruction's only when nobody can go by it any more: its
 * places have been given up, their threads have been seen elsewhere, and all fork children have been repaired.
 */
#ifndef BPFTIME_ESCAPE_H
#define BPFTIME_ESCAPE_H

#include "daemon/model.h"

struct repairer;

struct escapes;

/* NULL: out of memory. Both arguments must outlive it. */
struct escapes *escapes__new(const struct agent_image *img, struct repairer *r);
void escapes__free(struct escapes *e); /* NULL is allowed */

/* The instruction's slot, which has one user more. -ENOSPC: there is none left. */
int escapes__take(struct escapes *e, uint64_t dev, uint64_t ino, uint64_t offset);
/* One user less. used: a thread may go by it even now; it is the instruction's for ever. slot < 0: nothing is done. */
void escapes__put(struct escapes *e, int slot, bool used);

/* ---- for state.json ---- */

struct escape_record; /* daemon/record.h */

/* The first slot behind this one that is an instruction's, or -1: there is none. e NULL: there is none. */
int escapes__next(const struct escapes *e, int slot, struct escape_record *out);
/* It is the instruction's again, without a user; and one more. -EINVAL */
int escapes__restore(struct escapes *e, const struct escape_record *r);
int escapes__share(struct escapes *e, int slot);

/* The group's programs stand at the slots of all of its probes from now on (probe.escape), as far as they can. */
void escapes__attach(struct escapes *e, struct group *g);
/* And no longer. What the kernel does about it may go on for a while. */
void escapes__detach(struct escapes *e, struct group *g);

#endif
