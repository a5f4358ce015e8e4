/* SPDX-License-Identifier: MIT */
#include "daemon/symbol.h"

#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

static bool address_of(Elf *elf, uint64_t offset, uint64_t *addr)
{
	size_t n;
	GElf_Phdr ph;

	if (elf_getphdrnum(elf, &n))
		return false;
	for (size_t i = 0; i < n; i++) {
		if (!gelf_getphdr(elf, (int)i, &ph) || ph.p_type != PT_LOAD)
			continue;
		if (offset >= ph.p_offset && offset - ph.p_offset < ph.p_filesz) {
			*addr = offset - ph.p_offset + ph.p_vaddr;
			return true;
		}
	}
	return false;
}

static bool search(Elf *elf, Elf_Scn *scn, const GElf_Shdr *sh, uint64_t addr, char *name, size_t size)
{
	Elf_Data *data = elf_getdata(scn, NULL);
	size_t n = sh->sh_entsize ? sh->sh_size / sh->sh_entsize : 0;

	for (size_t i = 0; data && i < n; i++) {
		GElf_Sym sym;
		const char *s;

		if (!gelf_getsym(data, (int)i, &sym) || GELF_ST_TYPE(sym.st_info) != STT_FUNC ||
		    sym.st_shndx == SHN_UNDEF)
			continue;
		if (addr < sym.st_value || addr - sym.st_value >= (sym.st_size ? sym.st_size : 1))
			continue;
		s = elf_strptr(elf, sh->sh_link, sym.st_name);
		if (!s)
			continue;
		if (addr == sym.st_value)
			snprintf(name, size, "%s", s);
		else
			snprintf(name, size, "%s+0x%llx", s, (unsigned long long)(addr - sym.st_value));
		return true;
	}
	return false;
}

int symbol_at(const char *path, uint64_t offset, char *name, size_t size)
{
	static const uint32_t tables[] = {SHT_SYMTAB, SHT_DYNSYM};
	bool found = false;
	uint64_t addr;
	Elf *elf;
	int fd;

	name[0] = 0;
	elf_version(EV_CURRENT);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	/* Not mapped: the kernel would put the int3s of all uprobes on the file there. */
	elf = elf_begin(fd, ELF_C_READ, NULL);
	if (elf && address_of(elf, offset, &addr)) {
		for (size_t t = 0; t < sizeof(tables) / sizeof(tables[0]) && !found; t++) {
			for (Elf_Scn *scn = NULL; !found && (scn = elf_nextscn(elf, scn));) {
				GElf_Shdr sh;

				if (gelf_getshdr(scn, &sh) && sh.sh_type == tables[t])
					found = search(elf, scn, &sh, addr, name, size);
			}
		}
	}
	elf_end(elf);
	close(fd);
	return found ? 0 : -ENOENT;
}
