/* SPDX-License-Identifier: MIT */
/*
 * handlers.h: are handlers of uprobes under way on the whole host? Where the kernel preempts itself a processor that
 * has been visited does not tell: a task may have lost it in the middle of one.
 */
#ifndef BPFTIME_HANDLERS_H
#define BPFTIME_HANDLERS_H

/*
 * How many tasks are in one, or may be: those that run meanwhile, but for ours. What is said holds for as long as
 * nobody else runs: see occupy.h. -errno: that cannot be told here, as in a PID
 * namespace of our own (-EXDEV). Not to be called by two threads at once.
 *
 * From kernel/events/uprobes.c: every handler is called by uprobe_notify_resume(), or by the system calls in its stead.
 */
int handlers__under_way(void);

#endif
