// SPDX-License-Identifier: MIT
/*
 * places: at how many functions of a file can a jump be put, and which form does it take?
 *
 * usage: places FILE...
 * Reads the files' symbols only. Each is thought of as mapped alone: a program that is not PIE where it was linked, all
 * else at 0x555555554000.
 */
#include <fcntl.h>
#include <gelf.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/site.h"

#define PIE_BASE 0x555555554000ull
#define FAR	 (15ll << 27)

struct tally {
	unsigned int functions, short_ones, calls, other, nowhere, form[JUMP_FORMS];
};

static void look(struct tally *t, const uint8_t *code, size_t size, uint64_t site, const struct vmas *maps)
{
	uint8_t first[SITE_MAX_CODE] = {0};

	if (size > sizeof(first))
		size = sizeof(first);
	memcpy(first, code, size);
	t->functions++;
	for (int i = 0; i < JUMP_FORMS; i++) {
		const struct jump_form *f = &jump_forms[i];
		struct jump_from from = {.next = site + jump_form__size(f), .reach = FAR};
		struct decoded d;
		uint64_t entry;
		enum decode_result r = decode_site(first, size, jump_form__size(f), &d);

		if (r && !i) {
			*(r == DECODE_SHORT ? &t->short_ones : r == DECODE_CALL ? &t->calls : &t->other) += 1;
			return;
		}
		if (r || !jump_form__suits(f, first, &d))
			continue;
		from.int3s = jump_form__int3s(f, &d);
		if (!place_stub(maps, maps->v[0].end, &from, STUB_BEFORE, 256, &entry)) {
			t->form[i]++;
			return;
		}
	}
	t->nowhere++;
}

static int read_file(const char *path, struct tally *t)
{
	struct vma v = {.exec = true};
	struct vmas maps = {&v, 1};
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	Elf *e = fd < 0 ? NULL : elf_begin(fd, ELF_C_READ_MMAP, NULL);
	GElf_Ehdr eh;
	Elf_Scn *scn = NULL, *table = NULL;
	size_t raw_size, n_ph;
	const uint8_t *raw;
	uint64_t base;

	if (!e || !gelf_getehdr(e, &eh) || elf_getphdrnum(e, &n_ph)) {
		fprintf(stderr, "%s: no ELF file\n", path);
		return 1;
	}
	raw = (const uint8_t *)elf_rawfile(e, &raw_size);
	base = eh.e_type == ET_EXEC ? 0 : PIE_BASE;
	for (size_t i = 0; i < n_ph; i++) {
		GElf_Phdr ph;

		if (!gelf_getphdr(e, (int)i, &ph) || ph.p_type != PT_LOAD)
			continue;
		if (!v.start)
			v.start = base + (ph.p_vaddr & ~4095ull);
		v.end = base + ((ph.p_vaddr + ph.p_memsz + 4095) & ~4095ull);
	}
	while ((scn = elf_nextscn(e, scn))) {
		GElf_Shdr sh;

		if (gelf_getshdr(scn, &sh) && (sh.sh_type == SHT_SYMTAB || (sh.sh_type == SHT_DYNSYM && !table)))
			table = scn;
	}
	for (int i = 0; table; i++) {
		GElf_Sym sym;

		if (!gelf_getsym(elf_getdata(table, NULL), i, &sym))
			break;
		for (size_t k = 0; GELF_ST_TYPE(sym.st_info) == STT_FUNC && sym.st_size && sym.st_shndx && k < n_ph;
		     k++) {
			GElf_Phdr ph;
			uint64_t offset;

			if (!gelf_getphdr(e, (int)k, &ph) || ph.p_type != PT_LOAD || !(ph.p_flags & PF_X) ||
			    sym.st_value - ph.p_vaddr >= ph.p_filesz)
				continue;
			offset = sym.st_value - ph.p_vaddr + ph.p_offset;
			if (offset + sym.st_size <= raw_size)
				look(t, raw + offset, sym.st_size, base + sym.st_value, &maps);
		}
	}
	elf_end(e);
	close(fd);
	return 0;
}

int main(int argc, char **argv)
{
	int rc = argc < 2;

	elf_version(EV_CURRENT);
	printf("%9s %7s %7s %7s %7s | %7s %7s %7s %7s  %s\n", "functions", "e9", "cs e9", "push e9", "all %", "short",
	       "call", "other", "nowhere", "file");
	for (int i = 1; i < argc; i++) {
		struct tally t = {0};
		unsigned int cs, push;

		if (read_file(argv[i], &t)) {
			rc = 1;
			continue;
		}
		cs = t.form[1] + t.form[2] + t.form[3];
		push = 0;
		for (int k = 4; k < JUMP_FORMS; k++)
			push += t.form[k];
		printf("%9u %7u %7u %7u %7.1f | %7u %7u %7u %7u  %s\n", t.functions, t.form[0], cs, push,
		       t.functions ? 100. * (t.form[0] + cs + push) / t.functions : 0, t.short_ones, t.calls, t.other,
		       t.nowhere, argv[i]);
	}
	return rc;
}
