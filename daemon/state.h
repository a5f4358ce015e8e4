/* SPDX-License-Identifier: MIT */
/*
 * state.h: RUNTIME_DIR/state.json: what a later bpftimed needs, besides the pins, to hand everything back exactly when
 * this one is killed. Which side the truth of a group is on is not in it: the group's kgate says that, at any instant.
 */
#ifndef BPFTIME_STATE_H
#define BPFTIME_STATE_H

#include <stddef.h>
#include <stdint.h>

struct group;
struct hosts;

#define STATE_VERSION 2

/* Where; call once. */
void state__open(const char *runtime_dir);
/* Written as a whole or not at all. Call before threads are held, and when something has been taken apart. */
void state__save(const struct group *groups, const struct hosts *hosts);
void state__remove(void);
const char *state__path(void); /* NULL: not open */

/* recover_state.c: reads it, hands back what the daemon that wrote it had taken, removes all pins and the file. */
void recover_state(void);

#endif
