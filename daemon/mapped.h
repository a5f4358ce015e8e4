/* SPDX-License-Identifier: MIT */
/* mapped.h: memory that is shared by mapping it: the only element of a BPF array with BPF_F_MMAPABLE. */
#ifndef BPFTIME_MAPPED_H
#define BPFTIME_MAPPED_H

#include <stddef.h>
#include <stdint.h>

/* What is mapped are whole pages. */
#define PAGE_ROUND(n) (((n) + 4095ull) & ~4095ull)

/*
 * Maps the array's element, which must have least bytes, for reading and writing. fd stays the caller's, and is not
 * needed any longer. size, id (of the array) may be NULL. NULL with errno: it cannot be.
 */
void *mapped__array(int fd, size_t least, size_t *size, uint32_t *id);
/* The id of a map; 0: fd is none. */
uint32_t mapped__id(int fd);
/* NULL is allowed. */
void mapped__end(void *memory, size_t size);

#endif
