/* SPDX-License-Identifier: MIT */
/*
 * claims.h: several bpftimeds on one host, each with a runtime folder of its own, keep out of each other's way: a tool
 * and a target belong to the one that claimed them first.
 *
 * A bpftimed writes what it claims into a BPF map of its own, which the others find by its name among the kernel's
 * maps: no name of a program, no folder and no namespace decides, and nobody without the rights to load programs can
 * forge one. The map is pinned with everything else that serves; so what a bpftimed that was killed has taken stays
 * claimed until the next one with its runtime folder has handed it back.
 */
#ifndef BPFTIME_CLAIMS_H
#define BPFTIME_CLAIMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct claims;

/* From here on this process is known to others as a bpftimed: before it attaches anything. 0, or -errno with a
 * sentence. */
int claims__new(struct claims **out, char *err, size_t err_size);
/* What this runtime folder's last bpftimed claimed is handed back by now; pins the map. 0, or -errno with a sentence.
 */
int claims__pin(struct claims *c, char *err, size_t err_size);
/*
 * What the last one claimed is kept from others until here, so that this one can take it up first. Called again it does
 * nothing.
 */
void claims__drop_last(struct claims *c);
/* Gives all up. NULL is allowed. */
void claims__free(struct claims *c);

/*
 * Is this process a bpftimed other than this one, or the child of any, which has its descriptors until it executes
 * another program? In doubt it is: looking at a bpftimed would wake it in turn.
 */
bool claims__is_daemon(struct claims *c, pid_t pid);

/*
 * Claims the tool, for which its programs stand; those that were claimed before stay claimed. 0, or -errno with a
 * sentence in why: -EALREADY when another bpftimed has it, -EAGAIN when both have just tried.
 */
int claims__take_tool(struct claims *c, pid_t tool, const uint32_t *prog_ids, size_t n, char *why, size_t why_size);
/* Claims the target. As claims__take_tool(). */
int claims__take_target(struct claims *c, pid_t target, char *why, size_t why_size);
/* Give up what was claimed for this process, which may have ended. */
void claims__drop_tool(struct claims *c, pid_t tool);
void claims__drop_target(struct claims *c, pid_t target);

#endif
