/* SPDX-License-Identifier: MIT */
/* object.h: the code out of an ELF object. Private to the JIT. */
#ifndef BPFTIME_VM_OBJECT_H
#define BPFTIME_VM_OBJECT_H

#include <stddef.h>
#include <stdint.h>

/*
 * Copies .text out of an x86-64 relocatable object, with the relocations that stay within it applied. Refuses any other
 * section with contents at run time and any symbol from outside: the code must stand alone. code: malloc'ed. *entry:
 * offset of the function symbol `name`.
 */
int vm_object__text(const void *object, size_t object_size, const char *name, uint8_t **code, size_t *size,
		    size_t *entry, char *err, size_t err_size);

#endif
