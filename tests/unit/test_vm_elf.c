// SPDX-License-Identifier: MIT
/* Object files: what is in a good one; and that files which are cut off or changed give a sentence and no harm. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <elf.h>
#include <cmocka.h>

#include "vm-llvm/elf.h"
#include "vm-llvm/standalone.h"
#include "vm_forms.h"

static const uint8_t object[] = {
#include "tests/unit/vm_object.bpf.o.inc"
};

#define MUTATIONS 60000

static struct vm_elf *read_object(void)
{
	struct vm_elf *elf;
	char err[256] = "";

	if (vm_elf__read(object, sizeof(object), &elf, err, sizeof(err)))
		fail_msg("%s", err);
	return elf;
}

static const struct vm_elf_map *map(const struct vm_elf *elf, const char *name)
{
	for (size_t i = 0; i < elf->n_maps; i++)
		if (!strcmp(elf->maps[i].name, name))
			return &elf->maps[i];
	fail_msg("no map %s", name);
	return NULL;
}

static void contents(void **state)
{
	struct vm_elf *elf = read_object();
	const struct vm_elf_map *m = map(elf, "pairs");
	const struct vm_elf_prog *p;
	char err[256];

	assert_int_equal(elf->n_progs, 3);
	assert_string_equal(elf->license, "Dual MIT/GPL");
	assert_int_equal(m->type, BPF_MAP_TYPE_HASH);
	assert_int_equal(m->key_size, 8);
	assert_int_equal(m->value_size, 24);
	assert_int_equal(m->max_entries, 7);
	m = map(elf, "numbers");
	assert_int_equal(m->type, BPF_MAP_TYPE_ARRAY);
	assert_int_equal(m->value_size, 24);
	m = map(elf, ".data");
	assert_true(m->is_data && !m->is_constant && m->value_size == 8 && *(long *)m->data == 40);
	assert_true(map(elf, ".rodata")->is_constant);
	p = vm_elf__find(elf, "first", NULL, err, sizeof(err));
	assert_non_null(p);
	assert_string_equal(p->name, "one");
	assert_int_equal(p->n_subs, 3);
	assert_string_equal(p->subs[1].name, "helper_of_both");
	assert_string_equal(p->subs[2].name, "deeper");
	p = vm_elf__find(elf, "second", "three", err, sizeof(err));
	assert_non_null(p);
	assert_int_equal(p->n_subs, 1);
	assert_null(vm_elf__find(elf, NULL, NULL, err, sizeof(err)));
	assert_non_null(strstr(err, "3 programs"));
	assert_null(vm_elf__find(elf, "third", NULL, err, sizeof(err)));
	assert_non_null(strstr(err, "'third'"));
	for (size_t i = 0; i < elf->n_progs; i++)
		assert_int_equal(vm_validate(elf->progs[i].insns, elf->progs[i].n_insns, err, sizeof(err)), 0);
	vm_elf__free(elf);
}

/* By the interpreter, with memory checked. A negative result of binding or running is passed on. */
static int run(struct vm_standalone *s, const struct vm_elf_prog *p, uint64_t *r0, char *err, size_t err_size)
{
	struct vm_interp_opts o = {.sz = sizeof(o),
				   .helper = vm_standalone__call,
				   .env = s,
				   .max_steps = 10000,
				   .features = VM_STANDALONE_FEATURES,
				   .check_memory = 1,
				   .allowed = vm_standalone__allowed};
	struct bpf_insn *insns = vm_standalone__bind(s, p, err, err_size);
	int r = -EINVAL;

	if (insns)
		r = vm_interpret(insns, p->n_insns, NULL, &o, r0, err, err_size);
	free(insns);
	return r;
}

static void runs(void **state)
{
	/* In this order, on the same maps and data. */
	static const struct {
		const char *name;
		uint64_t r0;
	} rows[] = {{"one", 45}, {"two", 5 + 'g' * 3 + 42}, {"three", 9 + 2}, {"three", 18 + 2}};
	struct vm_elf *elf = read_object();
	struct vm_standalone *s = vm_standalone__new(elf);
	char err[256] = "";
	uint64_t r0;

	for (size_t i = 0; i < N_INSNS(rows); i++) {
		const struct vm_elf_prog *p = vm_elf__find(elf, NULL, rows[i].name, err, sizeof(err));

		if (run(s, p, &r0, err, sizeof(err)))
			fail_msg("%s: %s", rows[i].name, err);
		assert_int_equal((uint32_t)r0, rows[i].r0);
	}
	vm_standalone__free(s);
	vm_elf__free(elf);
}

/* Reads a copy of exactly that size, so that tools for memory see a byte too far; runs nothing. */
static int try_file(const uint8_t *bytes, size_t size, char *err, size_t err_size)
{
	uint8_t *copy = malloc(size ? size : 1);
	struct vm_elf *elf;
	int r;

	memcpy(copy, bytes, size);
	err[0] = 0;
	r = vm_elf__read(copy, size, &elf, err, err_size);
	free(copy);
	if (r == 0) {
		for (size_t i = 0; i < elf->n_progs; i++)
			vm_validate(elf->progs[i].insns, elf->progs[i].n_insns, err, err_size);
		vm_elf__free(elf);
	} else {
		assert_true(strlen(err) > 5);
	}
	return r;
}

static void cut_off(void **state)
{
	char err[256];

	for (size_t size = 0; size < sizeof(object); size++)
		assert_int_not_equal(try_file(object, size, err, sizeof(err)), 0);
}

static void changed(void **state)
{
	uint8_t *bytes = malloc(sizeof(object));
	uint64_t seed = 88172645463325252ull;
	size_t good = 0;
	char err[256];

	for (unsigned int i = 0; i < MUTATIONS; i++) {
		memcpy(bytes, object, sizeof(object));
		for (unsigned int k = 0; k <= i % 4; k++) {
			seed ^= seed << 13;
			seed ^= seed >> 7;
			seed ^= seed << 17;
			bytes[(seed >> 16) % sizeof(object)] = seed & 3 ? (uint8_t)(seed >> 8) : 0xff;
		}
		good += !try_file(bytes, sizeof(object), err, sizeof(err));
	}
	free(bytes);
	print_message("%zu of %u changed files were still good\n", good, MUTATIONS);
	assert_true(good > 0 && good < MUTATIONS);
}

/* Headers and relocations with the numbers that hurt most: each field of each, by hand. */
static void hostile(void **state)
{
	static const uint64_t values[] = {0, 1, 0x7fffffff, 0xffffffff, INT64_MAX, UINT64_MAX, sizeof(object) - 1};
	uint8_t *bytes = malloc(sizeof(object));
	Elf64_Ehdr head;
	char err[256];

	memcpy(&head, object, sizeof(head));
	for (size_t v = 0; v < N_INSNS(values); v++)
		for (size_t at = head.e_shoff; at + 8 <= sizeof(object); at += 4)
			for (unsigned int bytes_of = 2; bytes_of <= 8; bytes_of *= 2) {
				memcpy(bytes, object, sizeof(object));
				memcpy(bytes + at, &values[v], bytes_of);
				try_file(bytes, sizeof(object), err, sizeof(err));
			}
	for (size_t v = 0; v < N_INSNS(values); v++)
		for (size_t at = 0; at + 8 <= sizeof(head); at++) {
			memcpy(bytes, object, sizeof(object));
			memcpy(bytes + at, &values[v], 8);
			try_file(bytes, sizeof(object), err, sizeof(err));
		}
	free(bytes);
}

static void sentences(void **state)
{
	static const struct {
		size_t at; /* in the ELF header */
		uint8_t byte;
		const char *says;
	} rows[] = {
		{0, 0, "not an ELF file"},
		{EI_CLASS, ELFCLASS32, "64-bit"},
		{EI_DATA, ELFDATA2MSB, "little-endian"},
		{offsetof(Elf64_Ehdr, e_machine), 62, "for machine 62"},
		{offsetof(Elf64_Ehdr, e_type), ET_EXEC, "relocatable"},
		{offsetof(Elf64_Ehdr, e_shoff) + 3, 9, "outside the file"},
	};
	uint8_t *bytes = malloc(sizeof(object));
	char err[256];

	for (size_t i = 0; i < N_INSNS(rows); i++) {
		memcpy(bytes, object, sizeof(object));
		bytes[rows[i].at] = rows[i].byte;
		assert_int_equal(try_file(bytes, sizeof(object), err, sizeof(err)), -ENOEXEC);
		if (!strstr(err, rows[i].says))
			fail_msg("'%s' does not say '%s'", err, rows[i].says);
	}
	free(bytes);
	assert_int_equal(try_file(object, 1000, err, sizeof(err)), -ENOEXEC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(contents), cmocka_unit_test(runs),    cmocka_unit_test(cut_off),
		cmocka_unit_test(changed),  cmocka_unit_test(hostile), cmocka_unit_test(sentences),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
