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
/* Detaches, and removes the pins. Targets must be out of the agent. */
void agent_service__free(struct agent_service *s);

/* A new target arena: a BPF array map of one struct agent_target, mmapable. Returns its fd or -errno. */
int agent_service__new_arena(struct agent_service *s, struct agent_error *err);
/* From now on service calls of this process are answered. Call before target__inject(). */
int agent_service__add(struct agent_service *s, const struct target *t, int arena_fd, struct agent_error *err);
int agent_service__remove(struct agent_service *s, const struct target *t);

#endif
