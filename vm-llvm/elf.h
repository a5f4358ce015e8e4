/* SPDX-License-Identifier: MIT */
/*
 * elf.h: programs and maps out of an eBPF object file, as clang and gcc make them. Stands alone: no libelf, no libbpf.
 * A file may be hostile: every number in it is checked before it is used, and what is wrong is said in a sentence.
 *
 * A program is a function in an executable section. Functions in .text are programs only when nothing else has code,
 * else they are subprograms, as in libbpf. Each program is complete: the subprograms that it calls stand behind it.
 * What it needs of the outside is in the instructions, by a number that counts the file's maps:
 *
 *     BPF_PSEUDO_MAP_FD, imm = i            the map number i
 *     BPF_PSEUDO_MAP_VALUE, imm = i, off    the address off bytes into data section number i
 *
 * so the form is what vm_compile() and vm_interpret() take. CO-RE relocations are not done: fields of kernel structures
 * have the offsets of the headers that the file was compiled with.
 */
#ifndef BPFTIME_VM_ELF_H
#define BPFTIME_VM_ELF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <linux/bpf.h>

/* A map, or a data section, which has the address of its bytes in programs. */
struct vm_elf_map {
	char *name;	  /* of the variable, or of the section: ".bss" */
	bool is_data;	  /* a data section; the numbers below are those of an array of one value */
	bool is_constant; /* of sections: programs may not write (.rodata) */
	uint32_t type;	  /* enum bpf_map_type */
	uint32_t key_size, value_size, max_entries, flags;
	void *data; /* of sections: value_size bytes, what it holds at the beginning */
};

struct vm_elf_sub {
	size_t start; /* its first instruction */
	char *name;
};

struct vm_elf_prog {
	char *name, *section;
	struct bpf_insn *insns;
	size_t n_insns;
	struct vm_elf_sub *subs; /* where the program and its subprograms begin; the first is the program */
	size_t n_subs;
};

/* All of it belongs to the object. Nobody writes it but who owns it. */
struct vm_elf {
	struct vm_elf_map *maps;
	size_t n_maps;
	struct vm_elf_prog *progs;
	size_t n_progs;
	char *license; /* "" when the file has none */
};

/*
 * Reads the file that stands in memory; it may be freed afterwards. 0 and *out, which vm_elf__free() frees; or -ENOEXEC
 * (no eBPF object, or malformed), -EINVAL (a relocation that cannot be done), -E2BIG, -ENOMEM, with a sentence in err
 * that names the section or the program and the instruction. The programs are not validated: see vm_validate(). Safe to
 * call from several threads.
 */
int vm_elf__read(const void *file, size_t size, struct vm_elf **out, char *err, size_t err_size);
/* The same, of a file by its path; -errno when it cannot be read. */
int vm_elf__open(const char *path, struct vm_elf **out, char *err, size_t err_size);
void vm_elf__free(struct vm_elf *elf);

/*
 * The program of this name, or the first one in this section, where both are not NULL the one that is both; with
 * neither the only one. NULL and a sentence when there is none, or several and no way to choose.
 */
const struct vm_elf_prog *vm_elf__find(const struct vm_elf *elf, const char *section, const char *name, char *err,
				       size_t err_size);

#endif
