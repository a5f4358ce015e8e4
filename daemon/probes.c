/* SPDX-License-Identifier: MIT */
#include "daemon/probes.h"

static size_t bucket_of(uint64_t ino, uint64_t offset)
{
	uint64_t h = (ino ^ offset * 0x9e3779b97f4a7c15ull) * 0x9e3779b97f4a7c15ull;

	return h >> 52 & (PROBE_BUCKETS - 1);
}

void probes__add(struct probe_table *t, struct probe *p)
{
	struct probe **b = &t->bucket[bucket_of(p->o.ino, p->o.offset)];

	p->older_here = *b;
	*b = p;
}

void probes__remove(struct probe_table *t, struct probe *p)
{
	for (struct probe **link = &t->bucket[bucket_of(p->o.ino, p->o.offset)]; *link; link = &(*link)->older_here) {
		if (*link == p) {
			*link = p->older_here;
			return;
		}
	}
}

static struct probe *first_at(struct probe *p, uint64_t ino, uint64_t offset)
{
	while (p && (p->o.ino != ino || p->o.offset != offset))
		p = p->older_here;
	return p;
}

struct probe *probes__at(const struct probe_table *t, uint64_t ino, uint64_t offset)
{
	return first_at(t->bucket[bucket_of(ino, offset)], ino, offset);
}

struct probe *probes__older(const struct probe *p)
{
	return first_at(p->older_here, p->o.ino, p->o.offset);
}
