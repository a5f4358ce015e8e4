/* SPDX-License-Identifier: MIT */
/* library.h: the helpers' bitcode (agent/helpers.c), built into the daemon and sent along with every compilation. */
#ifndef BPFTIME_LIBRARY_H
#define BPFTIME_LIBRARY_H

#include <stddef.h>

extern const unsigned char library_bitcode[];
extern const size_t library_bitcode_size;

#endif
