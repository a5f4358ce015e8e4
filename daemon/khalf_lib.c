/* SPDX-License-Identifier: MIT */
#include "daemon/khalf_lib.h"

#include <elf.h>
#include <errno.h>
#include <stdalign.h>
#include <string.h>

/* Relocation of a 64-bit immediate (Documentation/bpf/llvm_reloc.rst). */
#define R_BPF_64_64 1

static alignas(8) const unsigned char object[] = {
#include "bpf/khalf.bpf.o.inc"
};

static const char *const sub_names[KHALF_N_SUBS] = {
	[KHALF_LOOKUP] = "khalf_lookup", [KHALF_UPDATE] = "khalf_update", [KHALF_DELETE] = "khalf_delete",
	[KHALF_ADD] = "khalf_add",	 [KHALF_ARRIVE] = "khalf_arrive",
};

/* The parts of the object that matter. It is our own: only its shape is checked, not its numbers. */
struct view {
	const Elf64_Shdr *text, *symtab, *rel;
	const Elf64_Sym *syms;
	const char *names;
	size_t n_syms;
};

static const void *at(const Elf64_Shdr *s)
{
	return object + s->sh_offset;
}

static int view_open(struct view *v)
{
	const Elf64_Ehdr *eh = (const void *)object;
	const Elf64_Shdr *sh = (const void *)(object + eh->e_shoff);
	const char *names = at(&sh[eh->e_shstrndx]);

	memset(v, 0, sizeof(*v));
	for (int i = 1; i < eh->e_shnum; i++) {
		const char *name = names + sh[i].sh_name;

		if (!strcmp(name, ".text"))
			v->text = &sh[i];
		else if (!strcmp(name, ".rel.text"))
			v->rel = &sh[i];
		else if (sh[i].sh_type == SHT_SYMTAB)
			v->symtab = &sh[i];
	}
	if (!v->text || !v->rel || !v->symtab)
		return -ENOENT;
	v->syms = at(v->symtab);
	v->n_syms = v->symtab->sh_size / sizeof(Elf64_Sym);
	v->names = at(&sh[v->symtab->sh_link]);
	return 0;
}

static const Elf64_Sym *find_sub(const struct view *v, enum khalf_sub sub)
{
	for (size_t i = 0; i < v->n_syms; i++)
		if (ELF64_ST_TYPE(v->syms[i].st_info) == STT_FUNC &&
		    !strcmp(v->names + v->syms[i].st_name, sub_names[sub]))
			return &v->syms[i];
	return NULL;
}

int khalf_lib__find(enum khalf_sub sub, struct khalf_code *out)
{
	const Elf64_Sym *sym;
	struct view v;

	if (view_open(&v) || !(sym = find_sub(&v, sub)))
		return -ENOENT;
	out->insns = (const struct bpf_insn *)((const char *)at(v.text) + sym->st_value);
	out->n = sym->st_size / sizeof(struct bpf_insn);
	return 0;
}

int khalf_lib__link(enum khalf_sub sub, struct bpf_insn *copy, const struct khalf_fds *fds)
{
	const struct {
		const char *name;
		int fd;
		unsigned char kind;
	} addresses[] = {
		{"khalf_arena", fds->arena, BPF_PSEUDO_MAP_VALUE},
		{"khalf_consts", fds->consts, BPF_PSEUDO_MAP_VALUE},
		{"khalf_arrived", fds->arrived, BPF_PSEUDO_MAP_VALUE},
		{"khalf_arrivals", fds->arrivals, BPF_PSEUDO_MAP_FD},
	};
	const Elf64_Sym *sym;
	const Elf64_Rel *rel;
	struct view v;

	if (view_open(&v) || !(sym = find_sub(&v, sub)))
		return -ENOENT;
	rel = at(v.rel);
	for (size_t i = 0; i < v.rel->sh_size / sizeof(*rel); i++) {
		const char *to = v.names + v.syms[ELF64_R_SYM(rel[i].r_info)].st_name;
		struct bpf_insn *insn = copy + (rel[i].r_offset - sym->st_value) / sizeof(*insn);
		size_t k = 0;

		if (rel[i].r_offset < sym->st_value || rel[i].r_offset >= sym->st_value + sym->st_size)
			continue;
		if (ELF64_R_TYPE(rel[i].r_info) != R_BPF_64_64)
			return -ENOENT;
		while (k < sizeof(addresses) / sizeof(addresses[0]) && strcmp(to, addresses[k].name))
			k++;
		if (k == sizeof(addresses) / sizeof(addresses[0]))
			return -ENOENT;
		insn[0].src_reg = addresses[k].kind;
		insn[1].imm = addresses[k].kind == BPF_PSEUDO_MAP_VALUE ? insn[0].imm : 0;
		insn[0].imm = addresses[k].fd;
	}
	return 0;
}
