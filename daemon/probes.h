/* SPDX-License-Identifier: MIT */
/* probes.h: all probes known on the machine, by the instruction on which they are. */
#ifndef BPFTIME_PROBES_H
#define BPFTIME_PROBES_H

#include "daemon/model.h"

#define PROBE_BUCKETS 4096u

struct probe_table {
	struct probe *bucket[PROBE_BUCKETS];
};

void probes__add(struct probe_table *t, struct probe *p);
void probes__remove(struct probe_table *t, struct probe *p);
/* The newest probe on this instruction, then the next older one; NULL at the end. */
struct probe *probes__at(const struct probe_table *t, uint64_t ino, uint64_t offset);
struct probe *probes__older(const struct probe *p);

#define for_each_probe_at(p, t, ino, offset)                                                                           \
	for (struct probe * (p) = probes__at((t), (ino), (offset)); (p); (p) = probes__older(p))

#endif
