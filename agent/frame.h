/* SPDX-License-Identifier: MIT */
/* frame.h: what a signal handler has interrupted, as it is found on a thread's stack. */
#ifndef BPFTIME_FRAME_H
#define BPFTIME_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define STACK_SEARCHED (32u << 10) /* bytes above the stack pointer */

#define FRAME_USER_CS	  0x33
#define FRAME_FLAG_ALWAYS 0x2ull	/* a bit of the flags that is always 1, */
#define FRAME_FLAGS_NEVER (~0ull << 22) /* and those that never are */

/*
 * Do these words of a stack begin with the instruction pointer that the kernel has saved for a handler? struct
 * sigcontext has ip, flags and cs one after another (arch/x86/include/uapi/asm/sigcontext.h).
 */
static inline bool frame_has_ip(const uint64_t *word, size_t n)
{
	return n > 2 && (word[1] & (FRAME_FLAGS_NEVER | FRAME_FLAG_ALWAYS)) == FRAME_FLAG_ALWAYS &&
	       (word[2] & 0xffff) == FRAME_USER_CS;
}

#endif
