/* SPDX-License-Identifier: MIT */
#include "daemon/nearest.h"

#include <string.h>

#define WORD_MAX 63

static unsigned int least(unsigned int a, unsigned int b)
{
	return a < b ? a : b;
}

/* Optimal string alignment: Wagner and Fischer's table, with swaps. */
static unsigned int distance(const char *a, size_t n_a, const char *b, size_t n_b)
{
	unsigned int row[WORD_MAX + 1][WORD_MAX + 1];

	for (size_t i = 0; i <= n_a; i++) {
		for (size_t k = 0; k <= n_b; k++) {
			if (!i || !k) {
				row[i][k] = (unsigned int)(i + k);
				continue;
			}
			row[i][k] = least(least(row[i - 1][k], row[i][k - 1]) + 1,
					  row[i - 1][k - 1] + (a[i - 1] != b[k - 1]));
			if (i > 1 && k > 1 && a[i - 1] == b[k - 2] && a[i - 2] == b[k - 1])
				row[i][k] = least(row[i][k], row[i - 2][k - 2] + 1);
		}
	}
	return row[n_a][n_b];
}

const char *nearest_word(const char *word, const char *const *known, size_t n)
{
	size_t len = strlen(word);
	unsigned int most = len / 3 > 1 ? (unsigned int)len / 3 : 1;
	const char *best = NULL;

	for (size_t i = 0; i < n && len && len <= WORD_MAX; i++) {
		size_t other = known[i] ? strlen(known[i]) : 0;
		unsigned int d = other && other <= WORD_MAX ? distance(word, len, known[i], other) : most + 1;

		if (d > most)
			continue;
		best = known[i];
		most = d - (d > 0);
		if (!d)
			break;
	}
	return best;
}
