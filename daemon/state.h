/* SPDX-License-Identifier: MIT */
/*
 * state.h: RUNTIME_DIR/state.json: what a later bpftimed needs, besides the pins, to hand everything back exactly when
 * this one is killed, or to go on with it (adopt.h). Which side the truth of a group is on a hand-back does not ask it:
 * the group's kgate says that, at any instant.
 *
 * To go on the file must tell all, as it is. While something changes it does not, and that is said by a second file,
 * RUNTIME_DIR/settled, which is there only when state.json is all: it names the daemon and the number of what that has
 * written. Whoever is about to change what the file tells of calls state__unsettle(), which takes the second file away;
 * when everything is done that is under way, the engine calls state__settle().
 */
#ifndef BPFTIME_STATE_H
#define BPFTIME_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct decisions; /* daemon/decision.h */
struct group;
struct host;
struct hosts;
struct json_object;

#define STATE_NAME	   "state.json"
#define STATE_SETTLED_NAME "settled"
#define STATE_VERSION	   5

/* Where; call once. */
void state__open(const char *runtime_dir);
/*
 * Written as a whole or not at all. Call before threads are held, and when something has been taken apart. -errno: what
 * was to be done to a target must not be done, because nobody could undo it.
 */
int state__save(const struct group *groups, const struct hosts *hosts);
/* Before anything changes that the file tells of, a gate or a byte of a place included. Cheap when it was called
 * before. */
void state__unsettle(void);
bool state__is_settled(void);
/* Nothing is under way: the file tells all, if that is not too much. 0, or -errno: it does not, which is no harm; try
 * again later. */
int state__settle(const struct group *groups, const struct hosts *hosts);
/* Did what is read from the file tell all when its daemon was killed? */
bool state__was_settled(struct json_object *state);
/* Was what is read from the file written by another version than this? It may be understood all the same. */
bool state__is_of_other(struct json_object *state);
/* What the daemon that wrote it had still to close, uprobes of tools among it, is closed when it has ended. */
void state__await_end(struct json_object *state);
/* At the end: the file is removed, unless something is left. */
void state__remove(void);

/*
 * A process of which a place could not be given up, and what pins it needs, is left to a later daemon: from here on it
 * is in the file. json: as it was in the file; taken over.
 */
void state__leave(const struct host *h);
void state__leave_again(struct json_object *host);
/* The record of the process, which is no longer left, or NULL. The caller puts it. */
struct json_object *state__take_left(pid_t pid, uint64_t start_time);
bool state__has_left(void);
/* Does a process that is left need what is pinned under this name? */
bool state__needs_pin(const char *name);
const char *state__path(void); /* NULL: not open */

/*
 * recover_state.c: why is told as what kept this daemon from going on with it, if it is not empty, or NULL. Reads it,
 * hands back what the daemon that wrote it had taken, removes all pins and the file; but for what is left again. 0;
 * -EBUSY: something is left; -EPROTO: that daemon was of another version, and what it had was not handed back exactly.
 */
int recover_state(struct decisions *decisions, const char *why);
/* If this process is left, tries again. false: it is left still, and must not be touched. */
bool recover_left(pid_t pid, uint64_t start_time);

#endif
