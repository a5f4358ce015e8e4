/* SPDX-License-Identifier: MIT */
/* differ.h: one random program by all engines. */
#ifndef TESTS_FUZZ_DIFFER_H
#define TESTS_FUZZ_DIFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct differ;

struct differ_counts {
	uint64_t programs, kernel, instructions;
};

/* kernel: compare with the kernel as well; it is left out where we have no right to load programs. NULL: no memory. */
struct differ *differ__new(bool kernel);
void differ__free(struct differ *d);
/* Whether all engines agree about the program of that seed. If not, says on stderr how they differ. */
bool differ__run(struct differ *d, uint64_t seed);
const struct differ_counts *differ__counts(const struct differ *d);
bool differ__has_kernel(const struct differ *d);

#endif
