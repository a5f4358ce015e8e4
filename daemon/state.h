/* SPDX-License-Identifier: MIT */
/*
 * state.h: RUNTIME_DIR/state.json: what a later bpftimed needs, besides the pins, to hand everything back exactly when
 * this one is killed. Which side the truth of a group is on is not in it: the group's kgate says that, at any instant.
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

#define STATE_NAME    "state.json"
#define STATE_VERSION 4

/* Where; call once. */
void state__open(const char *runtime_dir);
/*
 * Written as a whole or not at all. Call before threads are held, and when something has been taken apart. -errno: what
 * was to be done to a target must not be done, because nobody could undo it.
 */
int state__save(const struct group *groups, const struct hosts *hosts);
/* Was what is read from the file written by another version than this? It may be understood all the same. */
bool state__is_of_other(struct json_object *state);
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
 * recover_state.c: reads it, hands back what the daemon that wrote it had taken, removes all pins and the file; but for
 * what is left again. 0; -EBUSY: something is left; -EPROTO: that daemon was of another version, and what it had was
 * not handed back exactly.
 */
int recover_state(struct decisions *decisions);
/* If this process is left, tries again. false: it is left still, and must not be touched. */
bool recover_left(pid_t pid, uint64_t start_time);

#endif
