/* SPDX-License-Identifier: MIT */
/* object.h: the code out of an ELF object. Private to the JIT. */
#ifndef BPFTIME_VM_OBJECT_H
#define BPFTIME_VM_OBJECT_H

#include <stddef.h>
#include <stdint.h>

/*
 * Copies the code out of an x86-64 relocatable object, its constants behind it, with the relocations applied that stay
 * within the two: the image can be mapped anywhere, read-only. Refuses variables, constants that hold addresses, and
 * any symbol from outside: the image must stand alone. code: malloc'ed. *entry: offset of the function symbol `name`.
 */
int vm_object__image(const void *object, size_t object_size, const char *name, uint8_t **code, size_t *size,
		     size_t *entry, char *err, size_t err_size);

#endif
