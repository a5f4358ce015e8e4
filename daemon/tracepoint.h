/* SPDX-License-Identifier: MIT */
/*
 * tracepoint.h: attaching the kernel half to a tracepoint at which a program of the tool's stands already, and when
 * that is exact. The tool's program runs first, then the kernel half; daemon/switch.c needs that for one hit nothing
 * comes between them: no other task, and nothing that lets one run and skips the other.
 */
#ifndef BPFTIME_TRACEPOINT_H
#define BPFTIME_TRACEPOINT_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/observe.h"

/* "tracepoint", "rawtracepoint", "tp_btf", "uprobe", "uretprobe". */
const char *probe_kind__name(enum probe_kind kind);
/* Why this kernel cannot be trusted with that at this tracepoint, the rest of a sentence; or NULL. */
const char *tracepoint__why_not(const struct obs_probe *o);
/* Is it hit by nothing but system calls, and says nothing about anybody but the caller? */
bool tracepoint__is_of_system_calls(const struct obs_probe *o);
/* Is this the BTF of the kernel itself, not of a module? */
bool tracepoint__is_of_kernel(uint32_t btf_id);
/* As uprobe__attach(): a perf event and its link, or only a link. 0 or -errno. */
int tracepoint__attach(const struct obs_probe *o, int prog_fd, int *event_fd, int *link_fd);
/* How many hits of this program the kernel has skipped, because it or others were at work on the same CPU. */
uint64_t tracepoint__missed(int prog_fd);

#endif
