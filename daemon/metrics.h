/* SPDX-License-Identifier: MIT */
/* metrics.h: what `bpftime metrics` prints and --metrics-listen serves, as OpenMetrics. */
#ifndef BPFTIME_METRICS_H
#define BPFTIME_METRICS_H

#include <stddef.h>

#include "daemon/decision.h"
#include "daemon/engine.h"
#include "daemon/policy.h"

/* Where the numbers are. Everything is the caller's; *policy may become another one. */
struct metrics {
	struct engine *engine;
	const struct decisions *decisions;
	struct policy *const *policy;
};

/* All metrics, malloc'ed, *len bytes and a zero; NULL: out of memory. */
char *metrics__text(const struct metrics *m, size_t *len);

#endif
