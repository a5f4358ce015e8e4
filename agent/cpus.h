/* SPDX-License-Identifier: MIT */
#ifndef BPFTIME_CPUS_H
#define BPFTIME_CPUS_H

/*
 * Runs on every CPU once. What ran there without being preempted when this was called has ended when it returns: a
 * uprobe's handlers where the kernel does not preempt itself, programs on tracepoints anywhere. Other CPUs have been
 * through a context switch, and so fetch code anew. Where we may not run on every CPU, waits for the kernel to have
 * scheduled on all of them, which takes some ten milliseconds.
 */
void cpus_visit(void);

/* Goes to one CPU, and stays there: the caller's affinity is now that CPU. 0 or -errno. */
int cpu_go(int cpu);

#endif
