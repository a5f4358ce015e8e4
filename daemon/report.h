/* SPDX-License-Identifier: MIT */
/* report.h: what there is to tell of a tool, gathered from the model. */
#ifndef BPFTIME_REPORT_H
#define BPFTIME_REPORT_H

#include "daemon/engine_impl.h"

struct report;

/* NULL: out of memory. It points into the model: use it before that changes. */
struct report *report__new(struct engine *e, const struct tool *t);
void report__free(struct report *r);
const struct status_tool *report__tool(const struct report *r);
/* Does a place of the process serve? */
bool host__has_open_place(const struct host *h);

#endif
