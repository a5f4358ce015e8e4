// SPDX-License-Identifier: MIT
/* elf.c: which function is at a file offset, by the symbol tables of the file. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "site.h"

/* They return twice, or elsewhere: a return probe on them cannot keep its own frame. */
static const char *const context_savers[] = {
	"setjmp",	"_setjmp",    "sigsetjmp",   "__sigsetjmp",  "vfork",	      "__vfork",
	"__libc_vfork", "getcontext", "swapcontext", "__getcontext", "__swapcontext", "savectx",
};

struct view {
	const uint8_t *m;
	uint64_t size;
};

static bool inside(const struct view *v, uint64_t at, uint64_t size)
{
	return at <= v->size && size <= v->size - at;
}

static int offset_to_vaddr(const struct view *v, uint64_t offset, uint64_t *vaddr)
{
	const Elf64_Ehdr *eh = (const void *)v->m;

	if (!inside(v, eh->e_phoff, (uint64_t)eh->e_phnum * sizeof(Elf64_Phdr)))
		return -ENOEXEC;
	for (int i = 0; i < eh->e_phnum; i++) {
		const Elf64_Phdr *p = (const Elf64_Phdr *)(v->m + eh->e_phoff) + i;

		if (p->p_type == PT_LOAD && (p->p_flags & PF_X) && offset >= p->p_offset &&
		    offset - p->p_offset < p->p_filesz) {
			*vaddr = p->p_vaddr + (offset - p->p_offset);
			return 0;
		}
	}
	return -ENOENT;
}

static bool is_context_saver(const char *name)
{
	for (size_t i = 0; i < sizeof(context_savers) / sizeof(context_savers[0]); i++)
		if (!strcmp(name, context_savers[i]))
			return true;
	return false;
}

static void look_at_table(const struct view *v, const Elf64_Shdr *sh, const Elf64_Shdr *str, uint64_t vaddr,
			  uint64_t offset, struct function *f)
{
	if (!inside(v, sh->sh_offset, sh->sh_size) || !inside(v, str->sh_offset, str->sh_size) || !str->sh_size ||
	    v->m[str->sh_offset + str->sh_size - 1])
		return;
	for (uint64_t k = 0; k < sh->sh_size / sizeof(Elf64_Sym); k++) {
		const Elf64_Sym *s = (const Elf64_Sym *)(v->m + sh->sh_offset) + k;
		int type = ELF64_ST_TYPE(s->st_info);
		const char *name;

		if ((type != STT_FUNC && type != STT_GNU_IFUNC) || s->st_shndx == SHN_UNDEF || s->st_value > vaddr ||
		    s->st_name >= str->sh_size)
			continue;
		if (s->st_size ? vaddr - s->st_value >= s->st_size : vaddr != s->st_value)
			continue;
		name = (const char *)v->m + str->sh_offset + s->st_name;
		if (vaddr == s->st_value && is_context_saver(name))
			f->saves_context = true;
		if (f->size && s->st_size >= f->size)
			continue;
		snprintf(f->name, sizeof(f->name), "%s", name);
		f->offset = offset - (vaddr - s->st_value);
		f->size = s->st_size;
	}
}

int elf_function_at(const char *path, uint64_t offset, struct function *f)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), rc;
	struct view v = {0};
	struct stat st;
	uint64_t vaddr;

	memset(f, 0, sizeof(*f));
	if (fd < 0)
		return -errno;
	rc = fstat(fd, &st) ? -errno : 0;
	if (!rc && st.st_size < (off_t)sizeof(Elf64_Ehdr))
		rc = -ENOEXEC;
	if (!rc) {
		v.size = (uint64_t)st.st_size;
		/* A private mapping the kernel would fill with the int3s of all uprobes on the file. */
		v.m = mmap(NULL, v.size, PROT_READ, MAP_SHARED, fd, 0);
		if (v.m == MAP_FAILED)
			rc = -errno;
	}
	close(fd);
	if (rc)
		return rc;

	const Elf64_Ehdr *eh = (const void *)v.m;

	rc = memcmp(eh->e_ident, ELFMAG, SELFMAG) ? -ENOEXEC : offset_to_vaddr(&v, offset, &vaddr);
	if (!rc && inside(&v, eh->e_shoff, (uint64_t)eh->e_shnum * sizeof(Elf64_Shdr))) {
		const Elf64_Shdr *sh = (const void *)(v.m + eh->e_shoff);

		for (int i = 0; i < eh->e_shnum; i++)
			if ((sh[i].sh_type == SHT_SYMTAB || sh[i].sh_type == SHT_DYNSYM) && sh[i].sh_link < eh->e_shnum)
				look_at_table(&v, &sh[i], &sh[sh[i].sh_link], vaddr, offset, f);
	}
	if (!rc && !f->name[0])
		rc = -ENOENT;
	munmap((void *)v.m, v.size);
	return rc;
}
