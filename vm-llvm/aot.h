/* SPDX-License-Identifier: MIT */
/* aot.h: native objects from eBPF object files, for C programs: see bpftime-aot.h for what is in them. */
#ifndef BPFTIME_VM_AOT_H
#define BPFTIME_VM_AOT_H

#include "elf.h"

struct vm_aot_opts {
	size_t sz;	    /* sizeof(struct vm_aot_opts) of the caller */
	const char *triple; /* "x86_64-..." or "aarch64-..."; NULL: x86_64-unknown-linux-gnu */
	const char *cpu;    /* LLVM's name, or "native"; NULL: every CPU of that kind */
	const char *table;  /* symbol of the struct bpftime_aot */
	int verified;	    /* no program reads what it has not written: the stack need not be zeroed */
};

/*
 * Compiles all programs of the file into one relocatable ELF object. *object: malloc'ed, the caller's. 0, or -EINVAL (a
 * program is malformed), -EOPNOTSUPP, -EIO (LLVM), -ENOMEM, with a sentence in err that names the program and the
 * instruction. Safe to call from several threads.
 */
int vm_aot_compile(const struct vm_elf *elf, const struct vm_aot_opts *opts, void **object, size_t *size, char *err,
		   size_t err_size);

#endif
