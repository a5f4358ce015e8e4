/* SPDX-License-Identifier: MIT */
/*
 * occupy.h: for some milliseconds nobody else runs in user mode on any processor, and whoever was in the kernel has
 * left what it was doing there (where the kernel does not preempt itself). A thread of ours spins on every processor,
 * before all ordinary tasks; the caller runs before them, wherever it is.
 *
 * Tasks with a priority of their own in real time may still run, and the threads let go at a deadline whatever happens:
 * it makes an undisturbed moment likely, not certain.
 */
#ifndef BPFTIME_OCCUPY_H
#define BPFTIME_OCCUPY_H

#include <stdbool.h>

#define CPUS_LONG_MS 70 /* a processor may be in a long system call, or a map in many pieces */

/*
 * For `ms` milliseconds at most, whatever happens to the caller, which stays on the processor that it is on. 0, or
 * -errno when the processors cannot be had in half of that time: then nothing has changed. Not to be nested.
 */
int cpus_occupy(int ms);
void cpus_release(void);
/* Are the processors still kept, for some of that time to come? */
bool cpus_are_occupied(void);
/*
 * What ran on any processor without being preempted when this was called, in an interrupt or at a tracepoint, has ended
 * when it returns. As cpus_visit(); while the processors are occupied without a task switch, which may be what somebody
 * counts. false: they are not any more.
 */
bool cpus_pass(void);

/* How many processors are, 0: none. */
int cpus_kept(void);
/*
 * part(arg, 0) to part(arg, n - 1): by the threads on the processors that are kept, the caller among them, several at
 * once; by the caller alone when none is. What part() does must not wait. false: the processors are not kept any more,
 * some of it has not been done, and until they are released some of it may still be under way.
 */
bool cpus_share(int n, void (*part)(void *arg, int i), void *arg);

#endif
