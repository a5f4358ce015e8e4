/* SPDX-License-Identifier: MIT */
/*
 * domain.h: whose processes may share the memory of a group that is not limited to a process.
 *
 * Who can write that memory can spoil whatever results lie in it. So only processes of one user get it: of the only
 * user whose processes the group's probes have reached, or as soon as there are several, of root, who may do anything
 * anyway. The others are served by the kernel half. Policy can widen it (share_across_users).
 */
#ifndef BPFTIME_DOMAIN_H
#define BPFTIME_DOMAIN_H

#include "daemon/hosts.h"
#include "daemon/model.h"

/*
 * May the process have the group's memory? Else -EPERM, and why not. A process that is not of the user who has it now
 * ends his domain: then g->domain_over is set, and the group has to be taken over anew.
 */
int domain__admit(const struct hosts *hs, struct group *g, const struct host *h, char *why, size_t why_size);

/* Is the process of another user now than when it got a group's memory which others use, too? */
bool domain__has_left(const struct hosts *hs, const struct host *h);

#endif
