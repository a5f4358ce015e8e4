/* SPDX-License-Identifier: MIT */
/*
 * plan.h: can this group be carried, and if not, why. Decides only; makes nothing but the group's own copies of
 * instructions and open map descriptors.
 */
#ifndef BPFTIME_PLAN_H
#define BPFTIME_PLAN_H

#include "daemon/model.h"

/*
 * g->tool and g->probe[] are set by the caller. Fills programs, maps and geometry, rewrites additive uses. Returns 0
 * when the group can be carried; else -EOPNOTSUPP (or -errno) and g->reason.
 */
int group__plan(struct group *g, struct observer *o);
/*
 * Does a program of the kernel that is not in the planned group use its maps, by now? Maps that have a carrier are not
 * looked at: that is such a program, too. 0, or -EOPNOTSUPP and g->reason.
 */
int group__check_strangers(struct group *g);

/* "bpf_perf_event_output" for 25. */
const char *bpf_helper_name(uint32_t id);
const char *bpf_map_type_name(uint32_t type);

#endif
