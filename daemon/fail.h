/* SPDX-License-Identifier: MIT */
/* fail.h: an error as a code for the program and a sentence for people. */
#ifndef BPFTIME_DAEMON_FAIL_H
#define BPFTIME_DAEMON_FAIL_H

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

/* Writes the sentence, cut off where there is no room for it, and returns the code. */
__attribute__((format(printf, 4, 5))) static inline int fail(char *why, size_t why_size, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, why_size, fmt, ap);
	va_end(ap);
	return code;
}

#endif
