/* SPDX-License-Identifier: MIT */
/*
 * pins.h: a bpffs of our own in the runtime folder. What is pinned in it goes on working when the daemon is killed: the
 * uprobes that hold patched places, the kernel halves, the carriers, the agent's service. There is one for the process.
 */
#ifndef BPFTIME_PINS_H
#define BPFTIME_PINS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * Mounts it at RUNTIME_DIR/bpf, unless it is still there from a daemon that was killed; then waits until that one's
 * guard has done its work (see guard.h). 0, or -errno with a sentence in err.
 */
int pins__open(const char *runtime_dir, char *err, size_t err_size);
/* Removes whatever is still pinned but for what stays(), which may be NULL; and the mount when nothing does. */
void pins__close(bool (*stays)(const char *name));

/* The folder, or NULL when it is not open: then nothing is pinned. */
const char *pins__dir(void);

__attribute__((format(printf, 2, 3))) int pins__add(int fd, const char *name, ...);
__attribute__((format(printf, 1, 2))) void pins__drop(const char *name, ...);
/* on: pins__drop() drops nothing, until it is off again. */
void pins__keep(bool on);
/* A descriptor of what is pinned under this name, or -errno. */
__attribute__((format(printf, 1, 2))) int pins__get(const char *name, ...);
/* Calls cb for every name. */
void pins__each(void (*cb)(const char *name, void *arg), void *arg);
/* Removes all pins but those that stay(), which may be NULL. How many stay. */
size_t pins__clear(bool (*stays)(const char *name));

/* ---- names ---- */

#define PIN_CLAIMS  "claims"
#define PIN_GROUP   "group-%u-arena"	  /* group id */
#define PIN_KHALF   "group-%u-khalf-%u"	  /* group id, probe */
#define PIN_KHALFS  "group-%u-khalfs-%u"  /* group id, link */
#define PIN_CODE    "group-%u-code-%u"	  /* group id, program: an array of one element, the code */
#define PIN_ESCAPE  "group-%u-escape-%u"  /* group id, probe */
#define PIN_ESCAPES "group-%u-escapes-%u" /* group id, link */
#define PIN_LEFT    "left-%d-%llu-%llu"	  /* pid, start time, slot: park.h */
#define PIN_HOST    "host-%d-%llu-arena"  /* pid, start time */

#endif
