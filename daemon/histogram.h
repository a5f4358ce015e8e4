/* SPDX-License-Identifier: MIT */
/* histogram.h: how long things took, for metrics. */
#ifndef BPFTIME_HISTOGRAM_H
#define BPFTIME_HISTOGRAM_H

#include <stddef.h>
#include <stdint.h>

/* Seconds, each three times the one before, about; what is longer is in one more bucket. */
static const double histogram_bounds[] = {0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30};

enum { HISTOGRAM_BOUNDS = sizeof(histogram_bounds) / sizeof(histogram_bounds[0]) };

/* Zero-initialise. One thread. */
struct histogram {
	uint64_t bucket[HISTOGRAM_BOUNDS + 1]; /* not cumulative */
	uint64_t count;
	double sum; /* seconds */
};

static inline void histogram__add(struct histogram *h, double seconds)
{
	size_t i = 0;

	while (i < HISTOGRAM_BOUNDS && seconds > histogram_bounds[i])
		i++;
	h->bucket[i]++;
	h->count++;
	h->sum += seconds;
}

#endif
