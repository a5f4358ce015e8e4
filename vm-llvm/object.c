// SPDX-License-Identifier: MIT
/* object.c: layouts from the ELF specification and the x86-64 psABI, by <elf.h>. The object is our own compiler's. */
#include "object.h"
#include "insn.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NO_PLACE ((size_t)-1)

struct object {
	const uint8_t *base;
	size_t size;
	const Elf64_Ehdr *eh;
	const Elf64_Shdr *sh;
	const char *names; /* of sections */
	unsigned int text; /* index of .text */
	size_t *place;	   /* per section: its offset in the image, or NO_PLACE */
	char *err;
	size_t err_size;
};

static bool within(const struct object *o, const Elf64_Shdr *s)
{
	return s->sh_type == SHT_NOBITS || (s->sh_offset <= o->size && s->sh_size <= o->size - s->sh_offset);
}

static int open_object(struct object *o)
{
	o->eh = (const Elf64_Ehdr *)o->base;
	if (o->size < sizeof(*o->eh) || memcmp(o->eh->e_ident, ELFMAG, SELFMAG) || o->eh->e_machine != EM_X86_64 ||
	    o->eh->e_shoff > o->size || o->eh->e_shnum * sizeof(Elf64_Shdr) > o->size - o->eh->e_shoff ||
	    o->eh->e_shstrndx >= o->eh->e_shnum)
		return vm_fail(o->err, o->err_size, -ENOEXEC, "the compiler's output is not an x86-64 object");
	o->sh = (const Elf64_Shdr *)(o->base + o->eh->e_shoff);
	for (unsigned int i = 0; i < o->eh->e_shnum; i++)
		if (!within(o, &o->sh[i]))
			return vm_fail(o->err, o->err_size, -ENOEXEC, "the compiler's output is cut off");
	o->names = (const char *)o->base + o->sh[o->eh->e_shstrndx].sh_offset;
	return 0;
}

/* Finds .text; what else is loaded at run time must be constants. Tables for unwinders are used by nobody here. */
static int check_sections(struct object *o)
{
	for (unsigned int i = 1; i < o->eh->e_shnum; i++) {
		const Elf64_Shdr *s = &o->sh[i];
		const char *name = o->names + s->sh_name;

		o->place[i] = NO_PLACE;
		if (!(s->sh_flags & SHF_ALLOC) || s->sh_size == 0 || !strcmp(name, ".eh_frame"))
			continue;
		if (s->sh_type != SHT_PROGBITS || s->sh_flags & SHF_WRITE)
			return vm_fail(o->err, o->err_size, -ENOEXEC, "the compiled code needs variables (%s)", name);
		o->place[i] = 0;
		if (!strcmp(name, ".text"))
			o->text = i;
	}
	return o->text ? 0 : vm_fail(o->err, o->err_size, -ENOEXEC, "the compiled program has no code");
}

/* The code first, its constants behind it. Returns the size of all. */
static size_t lay_out(struct object *o)
{
	size_t end = o->sh[o->text].sh_size;

	for (unsigned int i = 1; i < o->eh->e_shnum; i++) {
		const Elf64_Shdr *s = &o->sh[i];

		if (i == o->text || o->place[i] == NO_PLACE)
			continue;
		if (s->sh_addralign)
			end = (end + s->sh_addralign - 1) / s->sh_addralign * s->sh_addralign;
		o->place[i] = end;
		end += s->sh_size;
	}
	return end;
}

/* rel: of a section of size bytes that lies at base of the image. */
static int relocate_one(struct object *o, const Elf64_Rela *rel, const Elf64_Shdr *symtab, uint8_t *image, size_t base,
			size_t size)
{
	const Elf64_Sym *sym = (const Elf64_Sym *)(o->base + symtab->sh_offset) + ELF64_R_SYM(rel->r_info);
	const char *strings = (const char *)o->base + o->sh[symtab->sh_link].sh_offset;
	uint32_t type = ELF64_R_TYPE(rel->r_info);
	int32_t v;

	if ((type != R_X86_64_PC32 && type != R_X86_64_PLT32) || !sym->st_shndx || sym->st_shndx >= o->eh->e_shnum ||
	    o->place[sym->st_shndx] == NO_PLACE || rel->r_offset > size || size - rel->r_offset < sizeof(v))
		return vm_fail(o->err, o->err_size, -ENOEXEC,
			       "the compiled code refers to %s outside itself (relocation %u)",
			       strings[sym->st_name] ? strings + sym->st_name : "a section", type);
	v = (int32_t)(o->place[sym->st_shndx] + sym->st_value + rel->r_addend - base - rel->r_offset);
	memcpy(image + base + rel->r_offset, &v, sizeof(v));
	return 0;
}

/* Tables of jumps are constants with distances in them, which are relocated as code is. */
static int relocate(struct object *o, uint8_t *image)
{
	int r = 0;

	for (unsigned int i = 1; i < o->eh->e_shnum; i++) {
		const Elf64_Shdr *s = &o->sh[i];
		const Elf64_Rela *rel = (const Elf64_Rela *)(o->base + s->sh_offset);

		if (s->sh_type != SHT_RELA || s->sh_info >= o->eh->e_shnum || o->place[s->sh_info] == NO_PLACE)
			continue;
		for (size_t k = 0; !r && k < s->sh_size / sizeof(*rel); k++)
			r = relocate_one(o, &rel[k], &o->sh[s->sh_link], image, o->place[s->sh_info],
					 o->sh[s->sh_info].sh_size);
	}
	return r;
}

static int find_entry(struct object *o, const char *name, size_t *entry)
{
	for (unsigned int i = 1; i < o->eh->e_shnum; i++) {
		const Elf64_Shdr *s = &o->sh[i];
		const Elf64_Sym *sym = (const Elf64_Sym *)(o->base + s->sh_offset);

		if (s->sh_type != SHT_SYMTAB)
			continue;
		for (size_t k = 0; k < s->sh_size / sizeof(*sym); k++) {
			const char *strings = (const char *)o->base + o->sh[s->sh_link].sh_offset;

			if (sym[k].st_shndx == o->text && !strcmp(strings + sym[k].st_name, name)) {
				*entry = sym[k].st_value;
				return 0;
			}
		}
	}
	return vm_fail(o->err, o->err_size, -ENOEXEC, "the compiled code has no %s", name);
}

static int copy_sections(struct object *o, uint8_t **code, size_t *size)
{
	*size = lay_out(o);
	*code = calloc(1, *size);
	if (!*code)
		return vm_fail(o->err, o->err_size, -ENOMEM, "no memory for %zu bytes of code", *size);
	for (unsigned int i = 1; i < o->eh->e_shnum; i++)
		if (o->place[i] != NO_PLACE)
			memcpy(*code + o->place[i], o->base + o->sh[i].sh_offset, o->sh[i].sh_size);
	return 0;
}

int vm_object__image(const void *object, size_t object_size, const char *name, uint8_t **code, size_t *size,
		     size_t *entry, char *err, size_t err_size)
{
	struct object o = {.base = object, .size = object_size, .err = err, .err_size = err_size};
	int r = open_object(&o);

	*code = NULL;
	if (r)
		return r;
	o.place = calloc(o.eh->e_shnum + 1, sizeof(*o.place));
	if (!o.place)
		return vm_fail(err, err_size, -ENOMEM, "no memory for %u sections", o.eh->e_shnum);
	o.place[0] = NO_PLACE;
	r = check_sections(&o);
	if (!r)
		r = find_entry(&o, name, entry);
	if (!r)
		r = copy_sections(&o, code, size);
	if (!r)
		r = relocate(&o, *code);
	if (r) {
		free(*code);
		*code = NULL;
	}
	free(o.place);
	return r;
}
