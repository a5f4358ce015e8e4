/* SPDX-License-Identifier: MIT */
/*
 * predecessor.h: a bpftimed that was killed, of another version. What it has left only its own version understands. So
 * each keeps a copy of its executable in the runtime folder while it runs, and the next one, if it is of another
 * version, lets that copy hand back what is left (bpftimed --recover), before it begins.
 */
#ifndef BPFTIME_PREDECESSOR_H
#define BPFTIME_PREDECESSOR_H

/*
 * Copies the executable of the calling process. 0 or -errno: then a later bpftimed of another version cannot hand back
 * exactly.
 */
int predecessor__keep(const char *runtime_dir);
/* At the end, when nothing is left. */
void predecessor__drop(const char *runtime_dir);
/*
 * Call before the runtime folder is entered. When a bpftimed of another version was killed and its copy is there, that
 * one hands back and ends. When it cannot, it is said in the log, and the caller has to do what it can.
 */
void predecessor__recover(const char *runtime_dir);

#endif
