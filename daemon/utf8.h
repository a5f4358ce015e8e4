/* SPDX-License-Identifier: MIT */
/* utf8.h: names come from processes that may call themselves anything; JSON, OpenMetrics and the journal want UTF-8. */
#ifndef BPFTIME_UTF8_H
#define BPFTIME_UTF8_H

#include <stddef.h>

/*
 * Copies s to out, at most size - 1 bytes and only whole characters, and ends it with a zero. A byte that belongs to no
 * character becomes U+FFFD. Returns how many bytes there are, without the zero. size is at least 1.
 */
size_t utf8_clean(const char *s, char *out, size_t size);

#endif
