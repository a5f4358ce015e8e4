/* SPDX-License-Identifier: MIT */
/* map_fixture.h: shapes of maps and their keys, for the tests of maps in shared memory. */
#ifndef TESTS_UNIT_MAP_FIXTURE_H
#define TESTS_UNIT_MAP_FIXTURE_H

#include <stdint.h>
#include <string.h>

#include <linux/types.h>

/* A map as a tool creates it. */
struct shape {
	const char *name;
	__u32 type, key_size, value_size, max_entries, flags;
	__u32 n_keys; /* keys are drawn from so many */
};

/* The same numbers in every run. */
static inline uint32_t map_rnd(uint64_t *state)
{
	*state = *state * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(*state >> 33);
}

/* Key number i: differs in one early and, when there is room, in the last byte. */
static inline void make_key(char *key, const struct shape *s, uint32_t i)
{
	memset(key, 0x5a, s->key_size);
	memcpy(key, &i, s->key_size < 4 ? s->key_size : 4);
	if (s->key_size > 5)
		key[s->key_size - 1] = (char)(i * 7);
}

#endif
