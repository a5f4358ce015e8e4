/* SPDX-License-Identifier: MIT */
#include "counters.h"

#include <stddef.h>

uint64_t agent_counted_hits(const struct agent_target *t, uint32_t index)
{
	uint64_t sum;

	if (index >= AGENT_COUNTED_SITES)
		return 0;
	sum = __atomic_load_n(&t->alone_hits[index], __ATOMIC_RELAXED);
	for (size_t i = 0; i < AGENT_MAX_THREADS; i++)
		sum += __atomic_load_n(&t->thread[i].hits[index], __ATOMIC_RELAXED);
	return sum;
}

void agent_settle_hits(struct agent_target *t, uint32_t index, uint64_t *home)
{
	uint64_t sum;

	if (index >= AGENT_COUNTED_SITES)
		return;
	sum = __atomic_exchange_n(&t->alone_hits[index], 0, __ATOMIC_RELAXED);
	for (size_t i = 0; i < AGENT_MAX_THREADS; i++)
		sum += __atomic_exchange_n(&t->thread[i].hits[index], 0, __ATOMIC_RELAXED);
	__atomic_fetch_add(home, sum, __ATOMIC_RELAXED);
}
