/* SPDX-License-Identifier: MIT */
/*
 * permit.h: what the policy in force says of tools, groups and processes. All answers are made anew when asked for.
 *
 * A group moves as a whole: what policy forbids to one of its probes is forbidden to all. Where a probe is not limited
 * to a process the policy may say yes of one process and no of another: the group is taken over when there can be one
 * of which it says yes, and the others are not given the agent.
 */
#ifndef BPFTIME_PERMIT_H
#define BPFTIME_PERMIT_H

#include "daemon/hosts.h"
#include "daemon/model.h"
#include "daemon/policy.h"

/* May anything be done for this tool? *rule gets who says so; POLICY_KERNEL: why gets the sentence. */
enum policy_action permit__tool(const struct policy *p, const struct tool *t, const char **rule, char *why,
				size_t why_size);
/* May this process carry the agent for any tool? *rule gets who says so; if not, why gets the sentence. */
bool permit__process(const struct hosts *hs, const struct host *h, const char **rule, char *why, size_t why_size);
/*
 * What may be done with the group: for a planned one what its programs call is looked at, too. Not POLICY_OFFLOAD: why
 * gets the sentence.
 */
enum policy_action permit__group(const struct hosts *hs, const struct group *g, char *why, size_t why_size);
/* May the process have the memory and the places of the planned group? Else -EPERM, and h->why. */
int permit__lodging(const struct hosts *hs, const struct group *g, struct host *h);

/* Is this granted to all probes of the group in this process; h == NULL: in any? *rule gets who says so. */
bool permit__grants(const struct hosts *hs, const struct group *g, const struct host *h, enum policy_grant grant,
		    const char **rule);
/* The lowest limit of its probes. */
uint64_t permit__limit(const struct hosts *hs, const struct group *g, const struct host *h, enum policy_limit limit,
		       const char **rule);
/* Another number when the policy says something else of the group. */
uint64_t permit__fingerprint(const struct hosts *hs, const struct group *g);

#endif
