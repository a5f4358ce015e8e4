/* SPDX-License-Identifier: MIT */
/*
 * park.h: while a kernel half serves, the tool's own attachment is taken from the probed instruction.
 *
 * The opening gate (switch.h) leaves the tool's program attached beside the kernel half, and every hit that reaches the
 * kernel runs both. Once a group is shared, what the tool's program does does not matter any more, and it can go at
 * leisure: each perf event of the tool, and its link, is exchanged under the same descriptor number for one that is
 * *parked*: like it in everything, with the same program, but on a file of bpftimed's that nobody executes, so that
 * it never fires. Before the truth moves back the same is done in reverse. An attachment is parked only while kgate is
 * open; when bpftimed is killed the pinned kernel half goes on, and the next one restores what state.json says.
 *
 * The tool's program is gone from the instruction only if nobody else has the event. That is proved by counting: all
 * references that the kernel knows of are descriptors of the one process whose thread is stopped for the exchange.
 *
 * A parked event is told by its file and its offset there, which is another one for each.
 */
#ifndef BPFTIME_PARK_H
#define BPFTIME_PARK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <json-c/json.h>

#include "daemon/model.h"

#define PARK_FILE "bpftimed-parked"

/* Makes the file. Without it nothing is parked. Call once. */
void park__open(const char *runtime_dir);
/* At the end. keep: some process may still have a parked event. */
void park__close(bool keep);

/* When to park after a switch, in milliseconds, -1: never. BPFTIME_PARK_MS in the environment, or a second. */
int park__delay_ms(void);
/* Is it worth it, and can it be: a kernel half, few probes, of every process? */
bool park__suits(const struct group *g);
/*
 * The group is SHARED. save() writes state.json, which must say what is parked before it is. 0, or -errno with a
 * sentence: then the tool's attachment is as it was.
 */
int park__group(struct group *g, int (*save)(void *arg), void *arg, char *why, size_t why_size);
/*
 * The tool's program is attached where it was, in whatever process has its descriptors now. 0, also when nothing was
 * parked or nobody has it any more. -errno with a sentence: some of it is parked still, and only the kernel half serves
 * all hits. force: also where a stop is noticed.
 */
int park__restore(struct group *g, bool force, char *why, size_t why_size);

/*
 * After park__restore() has failed: the tool's program is attached by a pinned link, as long as the tool lives,
 * whatever it does with its descriptors. The group is SHARED.
 */
void park__leave(struct group *g);
/* Is what is pinned under this name such a link, of a tool that lives? */
bool park__needs_pin(const char *name);
/* The tool has ended. */
void park__drop_left(pid_t tool, uint64_t start_time);

/* Is the attachment a parked one of this bpftimed's? */
bool park__is_parked(const struct obs_probe *o);
/* Of this probe? */
bool park__is_of(const struct obs_probe *o, const struct probe *p);

/* ---- one attachment, for state.json ---- */

struct parked;

json_object *parked__json(const struct parked *p);
struct parked *parked__from_json(json_object *o); /* NULL: it is not one */
/* As park__restore(). */
int parked__restore(struct parked **p, size_t n, bool force, char *why, size_t why_size);
/* As park__leave(). */
void parked__leave(struct parked **p, size_t n, pid_t tool, uint64_t start_time);
void parked__free(struct parked *p); /* NULL is allowed */

#endif
