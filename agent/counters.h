/* SPDX-License-Identifier: MIT */
/* counters.h: the hits that threads of a target count for themselves; see agent_thread.hits. Not thread safe. */
#ifndef BPFTIME_AGENT_COUNTERS_H
#define BPFTIME_AGENT_COUNTERS_H

#include <stdint.h>

#include "abi.h"

/* Hits of the site at this index in its plain modes since they were last settled; 0 for sites that are not counted so.
 */
uint64_t agent_counted_hits(const struct agent_target *t, uint32_t index);
/* Moves them to *home, which others may count in, too. Nobody may be inside the site. */
void agent_settle_hits(struct agent_target *t, uint32_t index, uint64_t *home);

#endif
