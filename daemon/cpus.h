/* SPDX-License-Identifier: MIT */
#ifndef BPFTIME_CPUS_H
#define BPFTIME_CPUS_H

/*
 * Runs on every CPU once. What ran there without being preempted when this was called has ended when it returns: a uprobe's
 * handlers where the kernel does not preempt itself, programs on tracepoints anywhere. Other CPUs have been through a context
 * switch, and so fetch code anew.
 */
void cpus_visit(void);

#endif
