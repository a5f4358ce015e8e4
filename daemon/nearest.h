/* SPDX-License-Identifier: MIT */
/* nearest.h: the word that somebody meant who has mistyped it. */
#ifndef BPFTIME_NEAREST_H
#define BPFTIME_NEAREST_H

#include <stddef.h>

/*
 * Of n known words (NULL ones are passed over) that to which the fewest insertions, deletions, replacements and swaps
 * of neighbours lead; NULL when more than a third of the word would change. The first of several.
 */
const char *nearest_word(const char *word, const char *const *known, size_t n);

#endif
