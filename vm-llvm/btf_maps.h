/* SPDX-License-Identifier: MIT */
/*
 * btf_maps.h: the definitions of maps out of a .BTF section (Documentation/bpf/btf.rst; the attributes are libbpf's
 * __uint() and __type()). Reads only that, and trusts no number in it. Private to elf.c.
 */
#ifndef BPFTIME_VM_BTF_MAPS_H
#define BPFTIME_VM_BTF_MAPS_H

#include <stddef.h>
#include <stdint.h>

struct btf_map {
	const char *name; /* within the section's data */
	uint32_t type, key_size, value_size, max_entries, flags;
};

/*
 * Finds the map `name` among the variables of the BTF section ".maps". data: the bytes of .BTF, aligned or not, which
 * the result points into. 0, -ENOENT (no such variable), or -EINVAL with a sentence that names what is wrong.
 */
int btf_maps__find(const void *data, size_t size, const char *name, struct btf_map *out, char *err, size_t err_size);

#endif
