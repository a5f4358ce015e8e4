/* SPDX-License-Identifier: MIT */
#include "utf8.h"

#include <string.h>

/* Bytes of the well-formed UTF-8 character at s (Unicode 15, table 3-7), or 0. */
static size_t utf8_char(const unsigned char *s)
{
	static const struct {
		unsigned char lo, hi;	/* first byte */
		unsigned char lo2, hi2; /* second byte */
		unsigned char len;
	} forms[] = {
		{0x01, 0x7f, 0, 0, 1},	     {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
		{0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
		{0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
	};

	for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
		if (s[0] < forms[i].lo || s[0] > forms[i].hi)
			continue;
		if (forms[i].len > 1 && (s[1] < forms[i].lo2 || s[1] > forms[i].hi2))
			return 0;
		for (size_t k = 2; k < forms[i].len; k++)
			if ((s[k] & 0xc0) != 0x80)
				return 0;
		return forms[i].len;
	}
	return 0;
}

size_t utf8_clean(const char *s, char *out, size_t size)
{
	static const char replacement[] = "\xef\xbf\xbd";
	size_t n = 0;

	while (*s) {
		size_t len = utf8_char((const unsigned char *)s), put = len ? len : sizeof(replacement) - 1;

		if (n + put >= size)
			break;
		memcpy(out + n, len ? s : replacement, put);
		n += put;
		s += len ? len : 1;
	}
	out[n] = 0;
	return n;
}
