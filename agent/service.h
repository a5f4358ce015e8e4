/* SPDX-License-Identifier: MIT */
/* service.h: the kernel-side programs that answer the agent (bpf/service.bpf.c), one set for the host. */
#ifndef BPFTIME_AGENT_SERVICE_H
#define BPFTIME_AGENT_SERVICE_H

#include "agent.h"

struct agent_service;

/*
 * Loads the programs and attaches them: to the nop in the image, in every process that maps it, and to the scheduler's
 * tracepoints.
 */
int agent_service__new(struct agent_service **out, const struct agent_image *img, struct agent_error *err);
/* Pins the links in a bpffs folder, so that they outlive the daemon: targets go on being answered. */
int agent_service__pin(struct agent_service *s, const char *dir, struct agent_error *err);
/*
 * Those that another daemon has pinned there, and that go on. Until agent_service__own() agent_service__free() leaves
 * them where they are.
 */
int agent_service__adopt(struct agent_service **out, const char *dir, struct agent_error *err);
void agent_service__own(struct agent_service *s);
/* Detaches, and removes the pins. Targets must be out of the agent. */
void agent_service__free(struct agent_service *s);

/* A new target arena: a BPF array map of one struct agent_target, mmapable. Returns its fd or -errno. */
int agent_service__new_arena(struct agent_service *s, struct agent_error *err);
/* From now on service calls of this process are answered. Call before target__inject(). */
int agent_service__add(struct agent_service *s, const struct target *t, int arena_fd, struct agent_error *err);
int agent_service__remove(struct agent_service *s, const struct target *t);
/* Are they, in this arena? 0 or -ENOENT. */
int agent_service__serves(const struct agent_service *s, const struct target *t, int arena_fd, struct agent_error *err);
/* Those of other processes than these are not any longer. */
void agent_service__retain(struct agent_service *s, struct target *const *t, size_t n);

#endif
