/* SPDX-License-Identifier: MIT */
#ifndef BPFTIME_SYMBOL_H
#define BPFTIME_SYMBOL_H

#include <stddef.h>
#include <stdint.h>

/*
 * The name of the function at a file offset, from .symtab or .dynsym; "name+0x12" inside a function. Returns 0, or
 * -ENOENT with an empty name (stripped).
 */
int symbol_at(const char *path, uint64_t offset, char *name, size_t size);

#endif
