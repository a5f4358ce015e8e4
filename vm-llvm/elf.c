// SPDX-License-Identifier: MIT
/*
 * elf.c: the steps of vm_elf__read(), one function each.
 *
 *     sections     headers checked, code copied, data sections and maps numbered
 *     symbols      functions found, sorted by place
 *     definitions  maps: from BTF (.maps), or the older struct bpf_map_def (maps)
 *     relocations  each becomes a map number in its instruction, or a note where a call goes
 *     programs     each function of a program section, with what it calls appended, calls made relative
 *
 * Layouts: the ELF specification by <elf.h>; relocations: Documentation/bpf/llvm_reloc.rst of the kernel. Everything is
 * copied out of the file before it is looked at, since nothing in a hostile file needs to be aligned.
 */
#include "elf.h"
#include "btf_maps.h"
#include "insn.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_FILE   (256u << 20)
#define MAX_DATA   (256u << 20) /* bytes of data sections, which a few bytes of .bss header can ask for */
#define MAX_TOTAL  (8u << 20)	/* instructions of all programs */
#define MAX_MAPS   1024
#define MAX_SUBS   256 /* of one program, as the kernel's BPF_MAX_SUBPROGS */
#define NO_SECTION UINT32_MAX

/* Newer or older than some <elf.h>. */
#define REL_64	   1  /* R_BPF_64_64: a 64-bit immediate */
#define REL_CALL   10 /* R_BPF_64_32: a call */
#define TYPE_ARRAY 2  /* BPF_MAP_TYPE_ARRAY */

enum role { ROLE_NONE, ROLE_CODE, ROLE_DATA, ROLE_MAPS, ROLE_OLD_MAPS };

/* Where a call, or the address of a function, goes. sec NO_SECTION: not relocated. */
struct place {
	uint32_t sec, insn;
};

struct section {
	Elf64_Shdr h;
	const char *name;
	enum role role;
	struct bpf_insn *insns; /* of code */
	struct place *to;	/* of code: per instruction */
	uint32_t n_insns;
	uint32_t map;	/* of data: its number */
	bool addresses; /* of data: holds addresses that the file wants relocated */
	bool functions; /* of code: a symbol in it is a function */
};

struct function {
	const char *name;
	uint32_t sec, start, n;
	size_t mark, at; /* part of the program with this mark, at this instruction */
};

struct reader {
	const uint8_t *file;
	size_t size;
	struct section *sec;
	uint32_t n_sec;
	uint32_t symtab, btf; /* sections; 0: none */
	Elf64_Sym *sym;
	uint32_t n_sym;
	struct function *fn;
	uint32_t n_fn;
	uint32_t *map_at; /* per map: the section and offset of its variable, at 2 * i and 2 * i + 1 */
	size_t total;	  /* instructions of all programs */
	size_t data;	  /* bytes of data sections */
	struct vm_elf *elf;
	char *err;
	size_t err_size;
};

#define FAIL(r, code, ...) vm_fail((r)->err, (r)->err_size, code, __VA_ARGS__)

static int no_memory(struct reader *r)
{
	return FAIL(r, -ENOMEM, "no memory for the object file");
}

/* ---- sections ---- */

static const uint8_t *bytes_of(const struct reader *r, const struct section *s)
{
	return r->file + s->h.sh_offset;
}

/* A string out of a string section; "" when it is not one. */
static const char *string_in(const struct reader *r, uint32_t sec, uint32_t off)
{
	const struct section *s = sec < r->n_sec ? &r->sec[sec] : NULL;

	if (!s || s->h.sh_type != SHT_STRTAB || off >= s->h.sh_size || bytes_of(r, s)[s->h.sh_size - 1])
		return "";
	return (const char *)bytes_of(r, s) + off;
}

static int read_headers(struct reader *r)
{
	Elf64_Ehdr h;

	if (r->size < sizeof(h) || memcmp(r->file, ELFMAG, SELFMAG))
		return FAIL(r, -ENOEXEC, "not an ELF file");
	memcpy(&h, r->file, sizeof(h));
	if (h.e_ident[EI_CLASS] != ELFCLASS64 || h.e_ident[EI_DATA] != ELFDATA2LSB)
		return FAIL(r, -ENOEXEC, "not a 64-bit little-endian ELF file");
	if (h.e_machine != EM_BPF && h.e_machine != EM_NONE)
		return FAIL(r, -ENOEXEC, "an ELF file for machine %u, not for eBPF (%u)", h.e_machine, EM_BPF);
	if (h.e_type != ET_REL)
		return FAIL(r, -ENOEXEC, "not a relocatable ELF file (type %u)", h.e_type);
	if (!h.e_shnum || h.e_shentsize != sizeof(Elf64_Shdr) || h.e_shoff > r->size ||
	    h.e_shnum * sizeof(Elf64_Shdr) > r->size - h.e_shoff)
		return FAIL(r, -ENOEXEC, "its section headers lie outside the file");
	r->sec = calloc(h.e_shnum, sizeof(*r->sec));
	if (!r->sec)
		return no_memory(r);
	r->n_sec = h.e_shnum;
	for (uint32_t i = 0; i < r->n_sec; i++) {
		Elf64_Shdr *s = &r->sec[i].h;

		memcpy(s, r->file + h.e_shoff + i * sizeof(*s), sizeof(*s));
		if (i && s->sh_type != SHT_NOBITS && (s->sh_offset > r->size || s->sh_size > r->size - s->sh_offset))
			return FAIL(r, -ENOEXEC, "section %u lies outside the file, which has %zu bytes: cut off?", i,
				    r->size);
	}
	for (uint32_t i = 1; i < r->n_sec; i++)
		r->sec[i].name = string_in(r, h.e_shstrndx, r->sec[i].h.sh_name);
	return 0;
}

static bool has_prefix(const char *name, const char *prefix)
{
	size_t n = strlen(prefix);

	return !strncmp(name, prefix, n) && (!name[n] || name[n] == '.');
}

static enum role role_of(const struct section *s)
{
	bool bits = s->h.sh_type == SHT_PROGBITS, none = s->h.sh_type == SHT_NOBITS;

	if (bits && s->h.sh_flags & SHF_EXECINSTR)
		return s->h.sh_size ? ROLE_CODE : ROLE_NONE;
	if (bits && !strcmp(s->name, ".maps"))
		return ROLE_MAPS;
	if (bits && !strcmp(s->name, "maps"))
		return ROLE_OLD_MAPS;
	if (s->h.sh_size && ((bits && (has_prefix(s->name, ".data") || has_prefix(s->name, ".rodata"))) ||
			     (none && has_prefix(s->name, ".bss"))))
		return ROLE_DATA;
	return ROLE_NONE;
}

static int copy_code(struct reader *r, struct section *s)
{
	if (s->h.sh_size % sizeof(struct bpf_insn))
		return FAIL(r, -ENOEXEC, "section '%s': %llu bytes are no whole number of instructions", s->name,
			    (unsigned long long)s->h.sh_size);
	s->n_insns = (uint32_t)(s->h.sh_size / sizeof(struct bpf_insn));
	s->insns = malloc(s->h.sh_size);
	s->to = malloc(s->n_insns * sizeof(*s->to));
	if (!s->insns || !s->to)
		return no_memory(r);
	memcpy(s->insns, bytes_of(r, s), s->h.sh_size);
	for (uint32_t i = 0; i < s->n_insns; i++)
		s->to[i].sec = NO_SECTION;
	return 0;
}

static struct vm_elf_map *add_map(struct reader *r, const char *name)
{
	struct vm_elf *e = r->elf;
	struct vm_elf_map *maps = realloc(e->maps, (e->n_maps + 1) * sizeof(*maps));
	uint32_t *at;

	if (!maps)
		return NULL;
	e->maps = maps;
	at = realloc(r->map_at, (e->n_maps + 1) * 2 * sizeof(*at));
	if (!at)
		return NULL;
	r->map_at = at;
	at[2 * e->n_maps] = NO_SECTION;
	maps[e->n_maps] = (struct vm_elf_map){.name = strdup(name)};
	return maps[e->n_maps].name ? &maps[e->n_maps++] : NULL;
}

static int copy_data(struct reader *r, struct section *s)
{
	struct vm_elf_map *m;

	if (s->h.sh_size > MAX_DATA - r->data)
		return FAIL(r, -E2BIG, "section '%s': more than %u bytes of data", s->name, MAX_DATA);
	r->data += s->h.sh_size;
	s->map = (uint32_t)r->elf->n_maps;
	m = add_map(r, s->name);
	if (!m)
		return no_memory(r);
	m->is_data = true;
	m->is_constant = has_prefix(s->name, ".rodata");
	m->type = TYPE_ARRAY;
	m->key_size = sizeof(uint32_t);
	m->value_size = (uint32_t)s->h.sh_size;
	m->max_entries = 1;
	m->data = calloc(1, s->h.sh_size);
	if (!m->data)
		return no_memory(r);
	if (s->h.sh_type != SHT_NOBITS)
		memcpy(m->data, bytes_of(r, s), s->h.sh_size);
	return 0;
}

static int read_sections(struct reader *r)
{
	int ret = 0;

	for (uint32_t i = 1; !ret && i < r->n_sec; i++) {
		struct section *s = &r->sec[i];

		s->role = role_of(s);
		if (s->role == ROLE_CODE)
			ret = copy_code(r, s);
		else if (s->role == ROLE_DATA)
			ret = copy_data(r, s);
		else if (s->h.sh_type == SHT_SYMTAB && !r->symtab)
			r->symtab = i;
		else if (!strcmp(s->name, ".BTF") && s->h.sh_type == SHT_PROGBITS)
			r->btf = i;
		else if (!strcmp(s->name, "license") && s->h.sh_type == SHT_PROGBITS && !r->elf->license)
			r->elf->license = strndup((const char *)bytes_of(r, s), s->h.sh_size);
	}
	if (!ret && !r->elf->license)
		r->elf->license = strdup("");
	return ret || r->elf->license ? ret : no_memory(r);
}

/* ---- symbols ---- */

static const char *symbol_name(const struct reader *r, const Elf64_Sym *sym)
{
	if (ELF64_ST_TYPE(sym->st_info) == STT_SECTION && sym->st_shndx < r->n_sec)
		return r->sec[sym->st_shndx].name ? r->sec[sym->st_shndx].name : "";
	return string_in(r, r->sec[r->symtab].h.sh_link, sym->st_name);
}

static int add_function(struct reader *r, const char *name, uint32_t sec, uint64_t value, uint64_t size)
{
	const struct section *s = &r->sec[sec];
	const uint64_t slot = sizeof(struct bpf_insn);

	if (value % slot || size % slot || value >= s->h.sh_size || size > s->h.sh_size - value)
		return FAIL(r, -ENOEXEC, "function '%s' lies outside its section '%s', or between instructions", name,
			    s->name);
	r->sec[sec].functions = true;
	r->fn[r->n_fn++] = (struct function){
		.name = name, .sec = sec, .start = (uint32_t)(value / slot), .n = (uint32_t)(size / slot)};
	return 0;
}

static int by_place(const void *a, const void *b)
{
	const struct function *f = a, *g = b;

	if (f->sec != g->sec)
		return f->sec < g->sec ? -1 : 1;
	return f->start < g->start ? -1 : f->start > g->start;
}

/* Hand-written code may lack sizes: a function then goes on to the next one. */
static void complete_sizes(struct reader *r)
{
	for (uint32_t i = 0; i < r->n_fn; i++) {
		struct function *f = &r->fn[i], *next = i + 1 < r->n_fn ? f + 1 : NULL;
		bool same = next && next->sec == f->sec && next->start > f->start;

		if (!f->n)
			f->n = (same ? next->start : r->sec[f->sec].n_insns) - f->start;
	}
}

/* A section of code in which no symbol is a function is one function. */
static int add_whole_sections(struct reader *r)
{
	int ret = 0;

	for (uint32_t i = 1; !ret && i < r->n_sec; i++)
		if (r->sec[i].role == ROLE_CODE && !r->sec[i].functions)
			ret = add_function(r, r->sec[i].name, i, 0, r->sec[i].h.sh_size);
	return ret;
}

static int read_symbols(struct reader *r)
{
	const struct section *s = &r->sec[r->symtab];
	int ret = 0;

	if (r->symtab) {
		if (s->h.sh_entsize != sizeof(Elf64_Sym) || s->h.sh_size % sizeof(Elf64_Sym))
			return FAIL(r, -ENOEXEC, "the symbol table is malformed");
		r->n_sym = (uint32_t)(s->h.sh_size / sizeof(Elf64_Sym));
		r->sym = malloc(s->h.sh_size + 1);
		if (!r->sym)
			return no_memory(r);
		memcpy(r->sym, bytes_of(r, s), s->h.sh_size);
	}
	r->fn = calloc(r->n_sym + r->n_sec + 1, sizeof(*r->fn));
	if (!r->fn)
		return no_memory(r);
	for (uint32_t i = 0; !ret && i < r->n_sym; i++) {
		const Elf64_Sym *sym = &r->sym[i];

		if (ELF64_ST_TYPE(sym->st_info) == STT_FUNC && sym->st_shndx < r->n_sec &&
		    r->sec[sym->st_shndx].role == ROLE_CODE)
			ret = add_function(r, symbol_name(r, sym), sym->st_shndx, sym->st_value, sym->st_size);
	}
	if (!ret)
		ret = add_whole_sections(r);
	qsort(r->fn, r->n_fn, sizeof(*r->fn), by_place);
	complete_sizes(r);
	return ret;
}

/* The function that begins there, or NULL. */
static struct function *function_at(struct reader *r, uint32_t sec, uint32_t insn)
{
	struct function key = {.sec = sec, .start = insn};

	return r->n_fn ? bsearch(&key, r->fn, r->n_fn, sizeof(key), by_place) : NULL;
}

/* ---- definitions of maps ---- */

/* What `maps` holds: struct bpf_map_def of libbpf before 1.0, or a longer one that begins like it. */
static int read_old_map(struct reader *r, const Elf64_Sym *sym, struct vm_elf_map *m)
{
	const struct section *s = &r->sec[sym->st_shndx];
	uint32_t def[5];

	if (sym->st_value > s->h.sh_size || sizeof(def) > s->h.sh_size - sym->st_value)
		return FAIL(r, -ENOEXEC, "map '%s' lies outside its section", m->name);
	memcpy(def, bytes_of(r, s) + sym->st_value, sizeof(def));
	m->type = def[0];
	m->key_size = def[1];
	m->value_size = def[2];
	m->max_entries = def[3];
	m->flags = def[4];
	return 0;
}

static int read_btf_map(struct reader *r, struct vm_elf_map *m)
{
	const struct section *s = &r->sec[r->btf];
	struct btf_map def;
	int ret;

	if (!r->btf)
		return FAIL(r, -ENOEXEC, "map '%s' has no type information: compile with -g", m->name);
	ret = btf_maps__find(bytes_of(r, s), s->h.sh_size, m->name, &def, r->err, r->err_size);
	if (ret == -ENOENT)
		return FAIL(r, -ENOEXEC, "the type information has no map '%s'", m->name);
	if (ret)
		return ret;
	m->type = def.type;
	m->key_size = def.key_size;
	m->value_size = def.value_size;
	m->max_entries = def.max_entries;
	m->flags = def.flags;
	return 0;
}

static int read_maps(struct reader *r)
{
	int ret = 0;

	for (uint32_t i = 0; !ret && i < r->n_sym; i++) {
		const Elf64_Sym *sym = &r->sym[i];
		unsigned int type = ELF64_ST_TYPE(sym->st_info);
		enum role role = sym->st_shndx < r->n_sec ? r->sec[sym->st_shndx].role : ROLE_NONE;
		struct vm_elf_map *m;

		if ((role != ROLE_MAPS && role != ROLE_OLD_MAPS) || (type != STT_OBJECT && type != STT_NOTYPE))
			continue;
		if (r->elf->n_maps >= MAX_MAPS)
			return FAIL(r, -E2BIG, "more than %d maps", MAX_MAPS);
		m = add_map(r, symbol_name(r, sym));
		if (!m)
			return no_memory(r);
		r->map_at[2 * (r->elf->n_maps - 1)] = sym->st_shndx;
		r->map_at[2 * (r->elf->n_maps - 1) + 1] = (uint32_t)sym->st_value;
		ret = role == ROLE_MAPS ? read_btf_map(r, m) : read_old_map(r, sym, m);
	}
	return ret;
}

/* ---- relocations ---- */

struct relocation {
	struct section *s; /* whose code it changes */
	uint32_t sec, pc;
	const Elf64_Sym *sym;
	const char *name; /* of the symbol */
};

/* A sentence about an instruction, which is counted from its function's beginning. */
static int refuse(struct reader *r, const struct relocation *rel, const char *why)
{
	const struct function *f = NULL;

	for (uint32_t i = 0;
	     i < r->n_fn && by_place(&r->fn[i], &(struct function){.sec = rel->sec, .start = rel->pc}) <= 0; i++)
		f = &r->fn[i];
	if (!f || f->sec != rel->sec)
		return FAIL(r, -EINVAL, "section '%s', instruction %u: '%s' %s", rel->s->name, rel->pc, rel->name, why);
	return FAIL(r, -EINVAL, "%s: instruction %u: '%s' %s", f->name, rel->pc - f->start, rel->name, why);
}

static int relocate_map(struct reader *r, const struct relocation *rel, int64_t off)
{
	struct bpf_insn *in = rel->s->insns + rel->pc;

	for (size_t i = 0; i < r->elf->n_maps; i++) {
		if (r->map_at[2 * i] != rel->sym->st_shndx || r->map_at[2 * i + 1] != off)
			continue;
		in[0].src_reg = BPF_PSEUDO_MAP_FD;
		in[0].imm = (int32_t)i;
		in[1].imm = 0;
		return 0;
	}
	return refuse(r, rel, "is no map");
}

static int relocate_data(struct reader *r, const struct relocation *rel, int64_t off)
{
	struct bpf_insn *in = rel->s->insns + rel->pc;
	const struct section *s = &r->sec[rel->sym->st_shndx];

	if (s->addresses)
		return refuse(r, rel, "is in a section that holds addresses, which are not relocated");
	if (off < 0 || off > (int64_t)s->h.sh_size)
		return refuse(r, rel, "lies outside its section");
	in[0].src_reg = BPF_PSEUDO_MAP_VALUE;
	in[0].imm = (int32_t)s->map;
	in[1].imm = (int32_t)off;
	return 0;
}

/* The instruction of a section of code that an offset in bytes names; false: none. */
static bool code_place(const struct section *s, int64_t off, uint32_t *insn)
{
	if (off < 0 || off >= (int64_t)s->h.sh_size || off % (int64_t)sizeof(struct bpf_insn))
		return false;
	*insn = (uint32_t)(off / (int64_t)sizeof(struct bpf_insn));
	return true;
}

static int relocate_immediate(struct reader *r, const struct relocation *rel)
{
	struct bpf_insn *in = rel->s->insns + rel->pc;
	int64_t off = (int64_t)rel->sym->st_value + in->imm;
	uint32_t sec = rel->sym->st_shndx;

	if (in->code != (BPF_LD | BPF_IMM | BPF_DW) || rel->pc + 1 >= rel->s->n_insns)
		return refuse(r, rel, "is to be put into what is no 64-bit immediate");
	if (sec == SHN_UNDEF && ELF64_ST_BIND(rel->sym->st_info) == STB_WEAK) {
		in[0].imm = in[1].imm = 0; /* of the kernel's, which is not there */
		return 0;
	}
	if (sec == SHN_UNDEF)
		return refuse(r, rel, "is not defined in this file");
	switch (sec < r->n_sec ? r->sec[sec].role : ROLE_NONE) {
	case ROLE_MAPS:
	case ROLE_OLD_MAPS:
		return relocate_map(r, rel, off);
	case ROLE_DATA:
		return relocate_data(r, rel, off);
	case ROLE_CODE:
		in[0].src_reg = VM_PSEUDO_FUNC;
		in[0].imm = in[1].imm = 0;
		rel->s->to[rel->pc].sec = sec;
		return code_place(&r->sec[sec], off, &rel->s->to[rel->pc].insn)
			       ? 0
			       : refuse(r, rel, "lies outside its section");
	case ROLE_NONE:
		break;
	}
	return refuse(r, rel, "is in a section that is neither code, data nor maps");
}

static int relocate_call(struct reader *r, const struct relocation *rel)
{
	struct bpf_insn *in = rel->s->insns + rel->pc;
	uint32_t sec = rel->sym->st_shndx;
	int64_t off = (int64_t)rel->sym->st_value + ((int64_t)in->imm + 1) * (int64_t)sizeof(*in);

	if (in->code != (BPF_JMP | BPF_CALL))
		return refuse(r, rel, "is to be called by what is no call");
	if (sec == SHN_UNDEF)
		return refuse(r, rel, "is called and not defined in this file");
	if (sec >= r->n_sec || r->sec[sec].role != ROLE_CODE)
		return refuse(r, rel, "is called and is no code");
	in->src_reg = BPF_PSEUDO_CALL;
	rel->s->to[rel->pc].sec = sec;
	return code_place(&r->sec[sec], off, &rel->s->to[rel->pc].insn) ? 0
									: refuse(r, rel, "lies outside its section");
}

static int relocate_code(struct reader *r, uint32_t sec, const Elf64_Shdr *h)
{
	struct relocation rel = {.s = &r->sec[sec], .sec = sec};
	Elf64_Rel raw;
	int ret = 0;

	if (h->sh_entsize != sizeof(raw) || h->sh_size % sizeof(raw))
		return FAIL(r, -ENOEXEC, "the relocations of section '%s' are malformed", rel.s->name);
	for (uint64_t i = 0; !ret && i < h->sh_size / sizeof(raw); i++) {
		memcpy(&raw, r->file + h->sh_offset + i * sizeof(raw), sizeof(raw));
		if (!code_place(rel.s, raw.r_offset > INT64_MAX ? -1 : (int64_t)raw.r_offset, &rel.pc) ||
		    ELF64_R_SYM(raw.r_info) >= r->n_sym)
			return FAIL(r, -ENOEXEC, "relocation %llu of section '%s' is of no instruction or no symbol",
				    (unsigned long long)i, rel.s->name);
		rel.sym = &r->sym[ELF64_R_SYM(raw.r_info)];
		rel.name = symbol_name(r, rel.sym);
		if (ELF64_R_TYPE(raw.r_info) == REL_64)
			ret = relocate_immediate(r, &rel);
		else if (ELF64_R_TYPE(raw.r_info) == REL_CALL)
			ret = relocate_call(r, &rel);
		else
			ret = refuse(r, &rel, "is wanted by a relocation of a kind that code does not have");
	}
	return ret;
}

static int relocate(struct reader *r)
{
	int ret = 0;

	for (uint32_t i = 1; i < r->n_sec; i++) {
		const Elf64_Shdr *h = &r->sec[i].h;

		if ((h->sh_type == SHT_REL || h->sh_type == SHT_RELA) && h->sh_size && h->sh_info < r->n_sec)
			r->sec[h->sh_info].addresses = true;
	}
	for (uint32_t i = 1; !ret && i < r->n_sec; i++) {
		const Elf64_Shdr *h = &r->sec[i].h;

		if (h->sh_info >= r->n_sec || r->sec[h->sh_info].role != ROLE_CODE)
			continue;
		if (h->sh_type == SHT_REL)
			ret = relocate_code(r, h->sh_info, h);
		else if (h->sh_type == SHT_RELA)
			ret = FAIL(r, -ENOEXEC, "section '%s' has relocations with addends, which eBPF does not have",
				   r->sec[h->sh_info].name);
	}
	return ret;
}

/* ---- programs ---- */

struct builder {
	struct reader *r;
	struct vm_elf_prog *p;
	struct place *to; /* per instruction, as in sections */
	uint32_t *sec;	  /* per instruction: the section it is from, and its place there */
	uint32_t *pc;
	size_t mark;
};

static void *grow(void *old, size_t n, size_t size, bool *failed)
{
	void *new = realloc(old, n * size);

	*failed |= !new;
	return new ? new : old;
}

static int append(struct builder *b, struct function *f)
{
	const struct section *s = &b->r->sec[f->sec];
	size_t old = b->p->n_insns, n = old + f->n;
	bool failed = false;

	if (b->p->n_subs == MAX_SUBS)
		return FAIL(b->r, -E2BIG, "program '%s': more than %d subprograms", b->p->name, MAX_SUBS);
	if (f->n > MAX_TOTAL - b->r->total)
		return FAIL(b->r, -E2BIG, "program '%s': more than %u instructions in the file's programs", b->p->name,
			    MAX_TOTAL);
	b->r->total += f->n;
	b->p->insns = grow(b->p->insns, n, sizeof(*b->p->insns), &failed);
	b->to = grow(b->to, n, sizeof(*b->to), &failed);
	b->sec = grow(b->sec, n, sizeof(*b->sec), &failed);
	b->pc = grow(b->pc, n, sizeof(*b->pc), &failed);
	b->p->subs = grow(b->p->subs, b->p->n_subs + 1, sizeof(*b->p->subs), &failed);
	if (failed)
		return no_memory(b->r);
	b->p->subs[b->p->n_subs] = (struct vm_elf_sub){.start = old, .name = strdup(f->name)};
	if (!b->p->subs[b->p->n_subs].name)
		return no_memory(b->r);
	b->p->n_subs++;
	memcpy(b->p->insns + old, s->insns + f->start, f->n * sizeof(*s->insns));
	memcpy(b->to + old, s->to + f->start, f->n * sizeof(*s->to));
	for (uint32_t i = 0; i < f->n; i++) {
		b->sec[old + i] = f->sec;
		b->pc[old + i] = f->start + i;
	}
	b->p->n_insns = n;
	f->mark = b->mark;
	f->at = old;
	return 0;
}

/* Makes the call, or the address of a function, at pc relative to pc; appends what it goes to when it is not there. */
static int resolve(struct builder *b, size_t pc)
{
	struct place to = b->to[pc];
	struct function *f;
	int ret = 0;

	if (to.sec == NO_SECTION) {
		int64_t at = (int64_t)b->pc[pc] + 1 + b->p->insns[pc].imm;

		to.sec = b->sec[pc];
		to.insn = at < 0 || at > UINT32_MAX ? UINT32_MAX : (uint32_t)at;
	}
	f = function_at(b->r, to.sec, to.insn);
	if (!f)
		return FAIL(b->r, -EINVAL,
			    "program '%s': instruction %zu: goes to instruction %u of section '%s', where no function "
			    "begins",
			    b->p->name, pc, to.insn, b->r->sec[to.sec].name);
	if (f->mark != b->mark)
		ret = append(b, f);
	if (!ret)
		b->p->insns[pc].imm = (int32_t)((int64_t)f->at - (int64_t)pc - 1);
	return ret;
}

static int build(struct reader *r, struct function *f)
{
	struct vm_elf *e = r->elf;
	struct vm_elf_prog *progs = realloc(e->progs, (e->n_progs + 1) * sizeof(*progs));
	struct builder b = {.r = r, .mark = e->n_progs + 1};
	int ret;

	if (!progs)
		return no_memory(r);
	e->progs = progs;
	b.p = &progs[e->n_progs++];
	*b.p = (struct vm_elf_prog){.name = strdup(f->name), .section = strdup(r->sec[f->sec].name)};
	ret = b.p->name && b.p->section ? append(&b, f) : no_memory(r);
	for (size_t pc = 0; !ret && pc < b.p->n_insns; pc++) {
		const struct bpf_insn *in = b.p->insns + pc;
		bool wide = in->code == (BPF_LD | BPF_IMM | BPF_DW);

		if ((in->code == (BPF_JMP | BPF_CALL) && in->src_reg == BPF_PSEUDO_CALL) ||
		    (wide && in->src_reg == VM_PSEUDO_FUNC))
			ret = resolve(&b, pc);
		pc += wide;
	}
	free(b.to);
	free(b.sec);
	free(b.pc);
	return ret;
}

static int build_all(struct reader *r)
{
	bool only_text = true;
	int ret = 0;

	for (uint32_t i = 0; i < r->n_fn; i++)
		only_text &= !strcmp(r->sec[r->fn[i].sec].name, ".text");
	for (uint32_t i = 0; !ret && i < r->n_fn; i++)
		if ((only_text || strcmp(r->sec[r->fn[i].sec].name, ".text")) &&
		    function_at(r, r->fn[i].sec, r->fn[i].start) == &r->fn[i])
			ret = build(r, &r->fn[i]);
	if (!ret && !r->elf->n_progs)
		ret = FAIL(r, -ENOEXEC, "the file has no programs");
	return ret;
}

/* ---- all of it ---- */

static void reader_clear(struct reader *r)
{
	for (uint32_t i = 0; i < r->n_sec; i++) {
		free(r->sec[i].insns);
		free(r->sec[i].to);
	}
	free(r->sec);
	free(r->sym);
	free(r->fn);
	free(r->map_at);
}

int vm_elf__read(const void *file, size_t size, struct vm_elf **out, char *err, size_t err_size)
{
	struct reader r = {.file = file, .size = size, .err = err, .err_size = err_size};
	int ret;

	*out = NULL;
	if (size > MAX_FILE)
		return FAIL(&r, -E2BIG, "the file is larger than %u bytes", MAX_FILE);
	r.elf = calloc(1, sizeof(*r.elf));
	if (!r.elf)
		return no_memory(&r);
	ret = read_headers(&r);
	if (!ret)
		ret = read_sections(&r);
	if (!ret)
		ret = read_symbols(&r);
	if (!ret)
		ret = read_maps(&r);
	if (!ret)
		ret = relocate(&r);
	if (!ret)
		ret = build_all(&r);
	reader_clear(&r);
	if (ret)
		vm_elf__free(r.elf);
	else
		*out = r.elf;
	return ret;
}

void vm_elf__free(struct vm_elf *elf)
{
	if (!elf)
		return;
	for (size_t i = 0; i < elf->n_maps; i++) {
		free(elf->maps[i].name);
		free(elf->maps[i].data);
	}
	for (size_t i = 0; i < elf->n_progs; i++) {
		struct vm_elf_prog *p = &elf->progs[i];

		for (size_t k = 0; k < p->n_subs; k++)
			free(p->subs[k].name);
		free(p->subs);
		free(p->insns);
		free(p->name);
		free(p->section);
	}
	free(elf->maps);
	free(elf->progs);
	free(elf->license);
	free(elf);
}

static ssize_t read_all(int fd, uint8_t *to, size_t size)
{
	size_t done = 0;
	ssize_t n;

	while (done < size) {
		n = read(fd, to + done, size - done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

int vm_elf__open(const char *path, struct vm_elf **out, char *err, size_t err_size)
{
	char why[256] = "";
	struct stat st;
	uint8_t *file = NULL;
	ssize_t n;
	int fd = open(path, O_RDONLY | O_CLOEXEC), ret;

	*out = NULL;
	if (fd < 0 || fstat(fd, &st)) {
		ret = vm_fail(err, err_size, -errno, "'%s' cannot be read: %s", path, strerror(errno));
		goto out;
	}
	ret = -EINVAL;
	if (!S_ISREG(st.st_mode) || st.st_size > MAX_FILE) {
		vm_fail(err, err_size, ret, "'%s' is no file, or larger than %u bytes", path, MAX_FILE);
		goto out;
	}
	file = malloc((size_t)st.st_size + 1);
	n = file ? read_all(fd, file, (size_t)st.st_size) : -ENOMEM;
	if (n < 0) {
		ret = vm_fail(err, err_size, (int)n, "'%s' cannot be read: %s", path, strerror((int)-n));
		goto out;
	}
	ret = vm_elf__read(file, (size_t)n, out, why, sizeof(why));
	if (ret)
		vm_fail(err, err_size, ret, "%s: %s", path, why);
out:
	free(file);
	if (fd >= 0)
		close(fd);
	return ret;
}

const struct vm_elf_prog *vm_elf__find(const struct vm_elf *elf, const char *section, const char *name, char *err,
				       size_t err_size)
{
	const struct vm_elf_prog *found = NULL;

	for (size_t i = 0; i < elf->n_progs; i++) {
		const struct vm_elf_prog *p = &elf->progs[i];

		if ((section && strcmp(p->section, section)) || (name && strcmp(p->name, name)))
			continue;
		if (found && !section && !name) {
			vm_fail(err, err_size, 0, "the file has %zu programs: say which, '%s' or another", elf->n_progs,
				found->name);
			return NULL;
		}
		if (!found)
			found = p;
	}
	if (!found)
		vm_fail(err, err_size, 0, "the file has no program%s%s%s%s%s%s", name ? " '" : "", name ? name : "",
			name ? "'" : "", section ? " in section '" : "", section ? section : "", section ? "'" : "");
	return found;
}
