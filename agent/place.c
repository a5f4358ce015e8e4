// SPDX-License-Identifier: MIT
/*
 * place.c: where a stub can be, so that the jump to it has int3 at given bytes.
 *
 * The jump ends in the distance d0 d1 d2 d3, counted from the byte behind it. Where an instruction of the function
 * begins, d must be 0xcc. The remaining bits are free: all distances that fit are walked through in ascending order, a
 * gap of the address space at a time.
 *
 * Where the distance's low 24 bits are about zero the stub's branches and those of the function share their places in
 * the tables of Intel's branch predictors, which know no more of an address: a hit costs 25 ns there instead of 5
 * (Xeon of 2023, `make bench`). So the distance has other bits there if it can.
 */
#include <errno.h>
#include <string.h>

#include "site.h"

#define PAGE	   4096ull
#define LOWEST	   0x10000ull	     /* vm.mmap_min_addr as Debian sets it */
#define HIGHEST	   0x7ffffffff000ull /* TASK_SIZE_MAX of four-level page tables */
#define HEAP_ROOM  (1ull << 30)	     /* the heap grows upwards by brk() */
#define STACK_ROOM (256ull << 20)    /* the stack grows downwards */
#define SPARE	   (64ull << 10)     /* distance kept from neighbours where there is room */

struct fixed {
	uint32_t mask, value;
};

static struct fixed fixed_bytes(const struct jump_from *from)
{
	struct fixed f = {0, 0};

	for (int k = 0; k < 4; k++) {
		bool int3 = from->int3s & (1u << k);

		if (int3 || from->keep) {
			f.mask |= 0xffu << (8 * k);
			f.value |= (uint32_t)(int3 ? INT3 : from->keep[k]) << (8 * k);
		}
	}
	return f;
}

/* The smallest x >= from with x & mask == value, in 33 bits: 1 << 32 when there is none. */
static uint64_t next_match(uint64_t from, struct fixed f)
{
	uint64_t x = from;

	/* Raise the highest wrong byte, clear what is below it, look again: at most a few rounds per byte. */
	while (x < 1ull << 32) {
		uint32_t wrong = ((uint32_t)x ^ f.value) & f.mask;
		int byte;

		if (!wrong)
			return x;
		byte = (31 - __builtin_clz(wrong)) / 8;
		uint32_t low = (1ull << (8 * byte)) - 1, field = 0xffu << (8 * byte);

		if (((uint32_t)x & field) > (f.value & field))
			x = (x | low | field) + 1; /* carries into the byte above */
		else
			x = ((uint32_t)x & ~(low | field)) | (f.value & field);
	}
	return 1ull << 32;
}

#define ALIAS 0xffffffu
#define APART 4096u		/* longer than a stub, and than most functions */
#define AWAY  ((ALIAS + 1) / 2) /* for stubs of others nearby that follow this one, too */

/* Distances as unsigned offsets from the lowest one, -2 GiB, so that they ascend with the address. */
#define BIAS 0x80000000u

static bool is_alias(uint64_t distance)
{
	return ((distance + APART) & ALIAS) < 2 * APART;
}

/* The first match from `from` on, or one as near as can be whose branches are told from the function's. */
static uint64_t match(uint64_t from, uint64_t last, struct fixed f)
{
	static const uint32_t more[] = {AWAY, 2 * APART};
	uint64_t first = next_match(from, f);

	for (size_t i = 0; i < sizeof(more) / sizeof(more[0]) && is_alias(first); i++) {
		uint64_t other = next_match(first + more[i], f);

		if (other <= last && !is_alias(other))
			return other;
	}
	return first;
}

static int search(uint64_t lo, uint64_t hi, const struct jump_from *from, size_t before, size_t after, uint64_t *entry)
{
	struct fixed f = fixed_bytes(from);
	int64_t first = (int64_t)(lo + before - from->next), last;
	uint64_t biased;

	if (hi < lo || hi - lo < before + after)
		return -ENOSPC;
	last = (int64_t)(hi - after - from->next);
	if (first < -from->reach)
		first = -from->reach;
	if (last > from->reach)
		last = from->reach;
	if (first > last)
		return -ENOSPC;
	/* With the bias the top byte of a fixed value changes by 0x80. */
	if (f.mask & 0xff000000u)
		f.value ^= BIAS;
	biased = match((uint64_t)(first + (int64_t)BIAS), (uint64_t)(last + (int64_t)BIAS), f);
	if (biased > (uint64_t)(last + (int64_t)BIAS))
		return -ENOSPC;
	*entry = from->next + biased - BIAS;
	return 0;
}

int place_stub_between(uint64_t lo, uint64_t hi, const struct jump_from *from, size_t before, size_t after,
		       uint64_t *entry)
{
	return search(lo, hi, from, before, after, entry);
}

static uint64_t gap_start(const struct vmas *m, size_t i, uint64_t start_brk)
{
	uint64_t lo = i ? m->v[i - 1].end : LOWEST;
	bool heap_below = i && (!strcmp(m->v[i - 1].path, "[heap]") ||
				(start_brk && lo <= start_brk && (i == m->n || m->v[i].start > start_brk)));

	if (heap_below)
		lo = (lo > start_brk ? lo : start_brk) + HEAP_ROOM;
	return lo;
}

static uint64_t gap_end(const struct vmas *m, size_t i)
{
	uint64_t hi = i < m->n ? m->v[i].start : HIGHEST;

	if (i < m->n && !strcmp(m->v[i].path, "[stack]"))
		hi = hi > STACK_ROOM ? hi - STACK_ROOM : 0;
	return hi < HIGHEST ? hi : HIGHEST;
}

int place_stub(const struct vmas *maps, uint64_t start_brk, const struct jump_from *from, size_t before, size_t after,
	       uint64_t *entry)
{
	for (uint64_t spare = SPARE;; spare = 0) {
		for (size_t i = 0; i <= maps->n; i++) {
			uint64_t lo = (gap_start(maps, i, start_brk) + spare + PAGE - 1) & ~(PAGE - 1);
			uint64_t hi = (gap_end(maps, i) - spare) & ~(PAGE - 1);

			if (gap_end(maps, i) > spare && lo < hi && !search(lo, hi, from, before, after, entry))
				return 0;
		}
		if (!spare)
			return -ENOSPC;
	}
}
