/* SPDX-License-Identifier: MIT */
/*
 * raw_call.h: system calls without the C library, on whose functions the probes may be for whose sake they are made:
 * then this process would hit them.
 */
#ifndef BPFTIME_RAW_CALL_H
#define BPFTIME_RAW_CALL_H

/* What the kernel returns: -errno when it fails. */
static inline long raw_call(long nr, long a, long b, long c)
{
	long ret;

	__asm__ volatile("syscall" : "=a"(ret) : "a"(nr), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return ret;
}

#endif
