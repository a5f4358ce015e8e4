/* SPDX-License-Identifier: MIT */
/* code_offset.h: where a function of this process lies in its file, for a uprobe on it. */
#ifndef BPFTIME_TESTS_CODE_OFFSET_H
#define BPFTIME_TESTS_CODE_OFFSET_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static inline uint64_t code_offset(const void *function)
{
	unsigned long start, end, off, at = (unsigned long)function;
	FILE *maps = fopen("/proc/self/maps", "re");
	uint64_t found = 0;
	char line[512];

	if (!maps)
		abort();
	while (!found && fgets(line, sizeof(line), maps))
		if (sscanf(line, "%lx-%lx %*s %lx", &start, &end, &off) == 3 && at >= start && at < end)
			found = at - start + off;
	fclose(maps);
	return found;
}

#endif
