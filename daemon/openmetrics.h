/* SPDX-License-Identifier: MIT */
/*
 * openmetrics.h: writes the text format of OpenMetrics 1.0
 * (https://github.com/OpenObservability/OpenMetrics/blob/main/specification/OpenMetrics.md).
 */
#ifndef BPFTIME_OPENMETRICS_H
#define BPFTIME_OPENMETRICS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "daemon/histogram.h"

enum om_type { OM_GAUGE, OM_COUNTER, OM_HISTOGRAM, OM_INFO };

struct om_label {
	const char *name, *value; /* the value may be any text */
};

#define OM_CONTENT_TYPE "application/openmetrics-text; version=1.0.0; charset=utf-8"

/* Begins a family; its samples follow before the next begins. unit: NULL, or what the name ends with: "seconds". */
void om_family(FILE *out, const char *name, enum om_type type, const char *unit, const char *help);
/* One sample of a family; the suffix that its type wants (_total, _info) comes with it. */
void om_number(FILE *out, const char *name, enum om_type type, const struct om_label *labels, size_t n, double value);
void om_count(FILE *out, const char *name, enum om_type type, const struct om_label *labels, size_t n, uint64_t value);
void om_histogram(FILE *out, const char *name, const struct om_label *labels, size_t n, const struct histogram *h);
/* {a="b",c="d"} with its braces; nothing for none. */
void om_labels(FILE *out, const struct om_label *labels, size_t n);
void om_end(FILE *out);

#endif
