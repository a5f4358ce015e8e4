// SPDX-License-Identifier: MIT
/*
 * Additive use of maps: what real tools load is recognised, what is not additive is not, and a rewritten program does
 * what the original does (both run by the interpreter on a model of maps).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>

#include "vm-llvm/additive.h"
#include "vm-llvm/fold.h"
#include "vm-llvm/vm.h"
#include "vm_forms.h"

#define MAX_INSNS 512
#define MAX_MAPS  10
#define CTX_WORDS 21 /* struct pt_regs */

struct map {
	int fd;
	uint32_t key_size;
	bool per_cpu;
	enum vm_map_use use; /* expected */
};

#define ADD   VM_MAP_ADDITIVE
#define READ  VM_MAP_READ
#define OTHER VM_MAP_OTHER

static const struct capture {
	const char *name;
	int pairs;
	struct map maps[MAX_MAPS];
} captures[] = {
	{"count", 1, {{3, 4, true, ADD}}},
	{"count_tid", 1, {{3, 8, true, ADD}}},
	{"hist", 1, {{3, 8, true, ADD}}},
	{"hist_key", 1, {{3, 24, true, ADD}}},
	{"sum", 1, {{3, 4, true, ADD}}},
	{"sum_key", 1, {{3, 24, true, ADD}}},
	{"avg", 2, {{3, 16, true, ADD}}},
	{"stats", 2, {{3, 8, true, ADD}}},
	{"lhist", 1, {{3, 8, true, ADD}}},
	{"min", 0, {{3, 8, true, OTHER}}},
	{"max", 0, {{3, 8, true, OTHER}}},
	{"str_key", 1, {{3, 64, true, ADD}}},
	{"filter", 2, {{3, 8, true, ADD}, {4, 8, true, ADD}}},
	{"assign", 0, {{3, 8, false, OTHER}, {4, 8, false, OTHER}}},
	{"latency_entry", 0, {{4, 8, false, OTHER}}},
	{"latency_return", 1, {{3, 8, true, ADD}, {4, 8, false, OTHER}}},
	{"sum_latency", 1, {{4, 16, true, ADD}, {3, 8, false, OTHER}}},
	{"delete_count", 1, {{3, 8, true, ADD}}},
	{"script",
	 11,
	 {{3, 16, true, ADD},
	  {4, 8, true, ADD},
	  {5, 4, true, ADD},
	  {6, 8, true, ADD},
	  {7, 8, true, ADD},
	  {8, 64, true, ADD},
	  {9, 8, true, ADD},
	  {11, 24, true, ADD},
	  {12, 8, true, ADD},
	  {13, 4, false, OTHER}}},
	{"funclatency_return", 0, {{5, 4, false, READ}, {7, 4, false, ADD}, {6, 4, false, READ}, {4, 4, false, OTHER}}},
};
#define N_CAPTURES (sizeof(captures) / sizeof(captures[0]))

struct program {
	struct bpf_insn insns[MAX_INSNS];
	size_t n, n_maps;
	struct vm_map_info maps[MAX_MAPS];
	const struct map *expected;
};

static void set_maps(struct program *p, const struct map *maps)
{
	p->expected = maps;
	p->n_maps = 0;
	while (p->n_maps < MAX_MAPS && maps[p->n_maps].key_size) {
		p->maps[p->n_maps] = (struct vm_map_info){
			.value_size = 8,
			.key_size = maps[p->n_maps].key_size,
			.per_cpu = maps[p->n_maps].per_cpu,
		};
		p->n_maps++;
	}
}

static void read_capture(const struct capture *c, struct program *p)
{
	char path[256];
	FILE *f;

	snprintf(path, sizeof(path), "tests/data/vm/%s.insns", c->name);
	f = fopen(path, "r");
	if (!f)
		fail_msg("%s: %s", path, strerror(errno));
	p->n = fread(p->insns, sizeof(p->insns[0]), MAX_INSNS, f);
	fclose(f);
	set_maps(p, c->maps);
	for (size_t i = 0; i < p->n; i++) {
		size_t m = 0;

		if (p->insns[i].code != (BPF_LD | BPF_IMM | BPF_DW))
			continue;
		while (p->insns[i].src_reg && m < p->n_maps && c->maps[m].fd != p->insns[i].imm)
			m++;
		if (p->insns[i].src_reg && m == p->n_maps)
			fail_msg("%s: map %d is not in the table", c->name, p->insns[i].imm);
		if (p->insns[i].src_reg)
			p->insns[i].imm = (int)m;
		i++;
	}
}

static void recognised(void **state)
{
	for (size_t i = 0; i < N_CAPTURES; i++) {
		enum vm_map_use use[MAX_MAPS];
		struct program p;
		char err[256];
		int pairs;

		read_capture(&captures[i], &p);
		pairs = vm_additive_rewrite(p.insns, p.n, p.maps, p.n_maps, NULL, use);
		if (pairs != captures[i].pairs)
			fail_msg("%s: %d pairs, wanted %d", captures[i].name, pairs, captures[i].pairs);
		for (size_t m = 0; m < p.n_maps; m++)
			if (use[m] != p.expected[m].use)
				fail_msg("%s: map %zu is used as %d, wanted %d", captures[i].name, m, use[m],
					 p.expected[m].use);
		if (vm_validate(p.insns, p.n, err, sizeof(err)))
			fail_msg("%s: %s", captures[i].name, err);
	}
}

/* Maps that are not per-CPU can be asked for; and nothing is rewritten when the key's size is not known. */
static void only_some(void **state)
{
	const bool yes[MAX_MAPS] = {true, true};
	enum vm_map_use use[MAX_MAPS];
	struct program p;

	read_capture(&captures[13], &p); /* assign */
	assert_int_equal(vm_additive_rewrite(p.insns, p.n, p.maps, p.n_maps, yes, use), 1);
	assert_int_equal(use[1], VM_MAP_ADDITIVE); /* @x */
	assert_int_equal(use[0], VM_MAP_OTHER);	   /* @last */
	read_capture(&captures[0], &p);
	p.maps[0].key_size = 0;
	assert_int_equal(vm_additive_rewrite(p.insns, p.n, p.maps, p.n_maps, yes, use), 0);
	assert_int_equal(use[0], VM_MAP_OTHER);
}

/* ---- a model of maps ---- */

#define MODEL_ENTRIES 64

struct model {
	const struct program *p;
	uint64_t seed, calls;
	struct entry {
		bool used;
		uint8_t key[64];
		uint64_t value;
	} entries[MAX_MAPS][MODEL_ENTRIES];
	uint64_t ctx[CTX_WORDS];
};

static uint64_t mix(uint64_t v)
{
	v = (v ^ (v >> 31)) * 0x7fb5d329728ea185ull;
	return v ^ (v >> 27);
}

static struct entry *find(struct model *m, uint64_t map, uint64_t key, bool make)
{
	struct entry *free_one = NULL;
	uint32_t size = m->p->maps[map].key_size;

	for (size_t i = 0; i < MODEL_ENTRIES; i++) {
		struct entry *e = &m->entries[map][i];

		if (e->used && !memcmp(e->key, (void *)key, size))
			return e;
		if (!e->used && !free_one)
			free_one = e;
	}
	if (!make)
		return NULL;
	assert_non_null(free_one);
	*free_one = (struct entry){.used = true};
	memcpy(free_one->key, (void *)key, size);
	return free_one;
}

/* The same answers for the same calls in the same run: all but those on maps count. */
static uint64_t model_helper(void *env, uint32_t id, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	struct model *m = env;
	struct entry *e;
	uint64_t v;

	switch (id) {
	case BPF_FUNC_map_lookup_elem:
		e = find(m, r1, r2, false);
		return e ? (uint64_t)&e->value : 0;
	case BPF_FUNC_map_update_elem:
		find(m, r1, r2, true)->value = *(uint64_t *)r3;
		return 0;
	case BPF_FUNC_map_delete_elem:
		e = find(m, r1, r2, false);
		if (!e)
			return -ENOENT;
		e->used = false;
		return 0;
	case VM_HELPER_MAP_ADD:
		find(m, r1, r2, true)->value += *(uint64_t *)r3;
		return 0;
	}
	v = mix(m->seed * 1000003 + ++m->calls);
	switch (id) {
	case BPF_FUNC_get_current_comm:
		memset((void *)r1, 0, r2);
		*(char *)r1 = (char)('a' + v % 3);
		return 0;
	case BPF_FUNC_probe_read_user_str:
		*(char *)r1 = (char)('a' + v % 3);
		return 2;
	case BPF_FUNC_get_current_pid_tgid:
		return (m->seed % 3 + 7) | (m->seed % 2 + 2) << 32;
	case BPF_FUNC_get_stackid:
		return v % 4;
	}
	return v % 100000;
}

static void run_one(struct model *m, const struct program *p, uint64_t seed, uint64_t *r0)
{
	struct vm_interp_opts o = {.sz = sizeof(o), .helper = model_helper, .env = m, .max_steps = 10000};
	char err[256];

	m->p = p;
	m->seed = seed;
	m->calls = 0;
	for (size_t i = 0; i < CTX_WORDS; i++)
		m->ctx[i] = mix(seed * 31 + i) % 11;
	if (vm_interpret(p->insns, p->n, m->ctx, &o, r0, err, sizeof(err)))
		fail_msg("%s", err);
}

static bool same_maps(const struct model *a, const struct model *b, size_t n_maps)
{
	for (size_t m = 0; m < n_maps; m++)
		for (size_t i = 0; i < MODEL_ENTRIES; i++) {
			const struct entry *x = &a->entries[m][i], *y = &b->entries[m][i];

			if (x->used != y->used ||
			    (x->used && (x->value != y->value || memcmp(x->key, y->key, sizeof(x->key)))))
				return false;
		}
	return true;
}

static void same_program(const char *name, const struct program *old, const struct program *new)
{
	struct model *a = calloc(1, sizeof(*a)), *b = calloc(1, sizeof(*b));

	for (uint64_t seed = 1; seed <= 500; seed++) {
		uint64_t r0, r0_new;

		run_one(a, old, seed, &r0);
		run_one(b, new, seed, &r0_new);
		if (r0 != r0_new || !same_maps(a, b, old->n_maps))
			fail_msg("%s: differs in run %lu", name, seed);
	}
	free(a);
	free(b);
}

static void same_meaning(void **state)
{
	const bool all[MAX_MAPS] = {true, true, true, true, true, true, true, true, true, true};

	for (size_t i = 0; i < N_CAPTURES; i++) {
		struct program old, new;
		enum vm_map_use use[MAX_MAPS];

		if (!strncmp(captures[i].name, "funclatency", 11))
			continue; /* its .rodata and .bss are not in the model */
		read_capture(&captures[i], &old);
		new = old;
		assert_true(vm_additive_rewrite(new.insns, new.n, new.maps, new.n_maps, all, use) >= captures[i].pairs);
		same_program(captures[i].name, &old, &new);
	}
}

/* ---- what must not be taken for an addition ---- */

#define KEY0	      I(BPF_ST | BPF_MEM | BPF_DW, 10, 0, -8, 0)
#define MAP(r)	      LDDW(r, BPF_PSEUDO_MAP_FD, 0, 0)
#define FRAME(r, off) MOV(r, 10), ADDI(r, off)
#define LOOKUP	      MAP(1), FRAME(2, -8), CALL(BPF_FUNC_map_lookup_elem)
#define UPDATE(key, flags)                                                                                             \
	STX(BPF_DW, 10, -16, 6), MAP(1), FRAME(2, key), FRAME(3, -16), MOVI(4, flags), CALL(BPF_FUNC_map_update_elem)
#define OLD6 MOVI(6, 0), I(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1, 0), LDX(BPF_DW, 6, 0, 0)
#define DONE MOVI(0, 0), EXIT

static const struct {
	const char *name;
	int pairs;
	enum vm_map_use use;
	struct bpf_insn in[48];
} rows[] = {
	{"plain", 1, ADD, {KEY0, LOOKUP, OLD6, ADDI(6, 5), UPDATE(-8, 0), DONE}},
	{"BPF_EXIST", 0, OTHER, {KEY0, LOOKUP, OLD6, ADDI(6, 5), UPDATE(-8, 2), DONE}},
	{"another key",
	 0,
	 OTHER,
	 {KEY0, I(BPF_ST | BPF_MEM | BPF_DW, 10, 0, -24, 1), LOOKUP, OLD6, ADDI(6, 5), UPDATE(-24, 0), DONE}},
	{"the key changed",
	 0,
	 OTHER,
	 {KEY0, LOOKUP, OLD6, ADDI(6, 5), I(BPF_ST | BPF_MEM | BPF_W, 10, 0, -8, 1), UPDATE(-8, 0), DONE}},
	{"the same key copied",
	 1,
	 ADD,
	 {KEY0, LOOKUP, OLD6, ADDI(6, 5), LDX(BPF_DW, 7, 10, -8), STX(BPF_DW, 10, -24, 7), UPDATE(-24, 0), DONE}},
	{"twice the old value",
	 0,
	 OTHER,
	 {KEY0, LOOKUP, OLD6, I(BPF_ALU64 | BPF_ADD | BPF_X, 6, 6, 0, 0), UPDATE(-8, 0), DONE}},
	{"the old value halved",
	 0,
	 OTHER,
	 {KEY0, LOOKUP, OLD6, I(BPF_ALU64 | BPF_RSH | BPF_K, 6, 0, 0, 1), UPDATE(-8, 0), DONE}},
	{"32-bit addition",
	 0,
	 OTHER,
	 {KEY0, LOOKUP, OLD6, I(BPF_ALU | BPF_ADD | BPF_K, 6, 0, 0, 1), UPDATE(-8, 0), DONE}},
	{"another first value",
	 0,
	 OTHER,
	 {KEY0, LOOKUP, MOVI(6, 100), I(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 2, 0), LDX(BPF_DW, 6, 0, 0), ADDI(6, 5),
	  UPDATE(-8, 0), DONE}},
	{"the old value decides",
	 0,
	 OTHER,
	 {KEY0, LOOKUP, OLD6, I(BPF_JMP | BPF_JGT | BPF_K, 6, 0, 1, 100), ADDI(6, 5), UPDATE(-8, 0), DONE}},
	{"the old value returned",
	 0,
	 OTHER,
	 {KEY0, LOOKUP, OLD6, MOV(7, 6), ADDI(6, 5), UPDATE(-8, 0), MOV(0, 7), EXIT}},
	{"the new value returned",
	 0,
	 OTHER,
	 {KEY0, LOOKUP, OLD6, ADDI(6, 5), UPDATE(-8, 0), LDX(BPF_DW, 0, 10, -16), EXIT}},
	{"the update's result used", 0, OTHER, {KEY0, LOOKUP, OLD6, ADDI(6, 5), UPDATE(-8, 0), EXIT}},
	{"half of the value read",
	 0,
	 OTHER,
	 {KEY0, LOOKUP, MOVI(6, 0), I(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1, 0), LDX(BPF_W, 6, 0, 0), ADDI(6, 5),
	  UPDATE(-8, 0), DONE}},
	{"the update alone", 0, OTHER, {KEY0, MOVI(6, 1), UPDATE(-8, 0), DONE}},
	{"around the lookup",
	 0,
	 OTHER,
	 {KEY0, MOVI(6, 1), LDX(BPF_DW, 7, 1, 0), I(BPF_JMP | BPF_JEQ | BPF_K, 7, 0, 9, 1), LOOKUP, OLD6, ADDI(6, 5),
	  UPDATE(-8, 0), DONE}},
	{"in a loop",
	 1,
	 ADD,
	 {KEY0, MOVI(8, 0), LOOKUP, OLD6, ADDI(6, 5), UPDATE(-8, 0), ADDI(8, 1),
	  I(BPF_JMP | BPF_JLT | BPF_K, 8, 0, -20, 5), DONE}},
	{"a decision between",
	 1,
	 ADD,
	 {KEY0, MOV(9, 1), LOOKUP, OLD6, LDX(BPF_DW, 7, 9, 0), I(BPF_JMP | BPF_JEQ | BPF_K, 7, 0, 1, 3), ADDI(6, 5),
	  UPDATE(-8, 0), DONE}},
	{"no update on one way",
	 1,
	 ADD,
	 {KEY0, MOV(9, 1), LOOKUP, OLD6, LDX(BPF_DW, 7, 9, 0), I(BPF_JMP | BPF_JEQ | BPF_K, 7, 0, 10, 3), ADDI(6, 5),
	  UPDATE(-8, 0), DONE}},
	{"a store elsewhere",
	 0,
	 OTHER,
	 {KEY0, MOV(9, 1), LOOKUP, OLD6, ADDI(6, 5), STX(BPF_DW, 9, 0, 6), UPDATE(-8, 0), DONE}},
	{"only read", 0, READ, {KEY0, LOOKUP, OLD6, MOV(0, 6), EXIT}},
	{"only asked for", 0, READ, {KEY0, LOOKUP, I(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 0, 0), DONE}},
	{"in place",
	 0,
	 ADD,
	 {KEY0, LOOKUP, I(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 3, 0), LDX(BPF_DW, 1, 0, 0), ADDI(1, 1),
	  STX(BPF_DW, 0, 0, 1), DONE}},
	{"in place and read",
	 0,
	 OTHER,
	 {KEY0, LOOKUP, I(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 4, 0), LDX(BPF_DW, 6, 0, 0), ADDI(6, 1),
	  STX(BPF_DW, 0, 0, 6), MOV(0, 6), EXIT, DONE}},
	{"in place, atomic",
	 0,
	 ADD,
	 {KEY0, LOOKUP, I(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 2, 0), MOVI(1, 1),
	  I(BPF_STX | BPF_ATOMIC | BPF_DW, 0, 1, 0, BPF_ADD), DONE}},
	{"stored in place",
	 0,
	 OTHER,
	 {KEY0, LOOKUP, I(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1, 0), I(BPF_ST | BPF_MEM | BPF_DW, 0, 0, 0, 1), DONE}},
	{"given away",
	 0,
	 OTHER,
	 {KEY0, LOOKUP, MOV(3, 0), FRAME(1, -16), MOVI(2, 8), CALL(BPF_FUNC_probe_read_kernel), DONE}},
	{"spilled and added to",
	 0,
	 ADD,
	 {KEY0, LOOKUP, STX(BPF_DW, 10, -32, 0), LDX(BPF_DW, 3, 10, -32), I(BPF_JMP | BPF_JEQ | BPF_K, 3, 0, 3, 0),
	  LDX(BPF_DW, 1, 3, 0), ADDI(1, 1), STX(BPF_DW, 3, 0, 1), DONE}},
	{"inserted, then added to",
	 0,
	 ADD,
	 {KEY0, MOVI(6, 0), UPDATE(-8, BPF_NOEXIST), LOOKUP, I(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 3, 0),
	  LDX(BPF_DW, 1, 0, 0), ADDI(1, 1), STX(BPF_DW, 0, 0, 1), DONE}},
	{"given to a subprogram",
	 0,
	 OTHER,
	 {KEY0, LOOKUP, MOV(1, 0), I(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 2), DONE, DONE}},
};

static void traps(void **state)
{
	static const struct map one[] = {{0, 8, true, OTHER}, {0}};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct program old = {0}, new;
		enum vm_map_use use[MAX_MAPS];
		char err[256];
		int pairs;

		memcpy(old.insns, rows[i].in, sizeof(rows[i].in));
		old.n = 48;
		while (old.insns[old.n - 1].code != (BPF_JMP | BPF_EXIT))
			old.n--;
		set_maps(&old, one);
		new = old;
		if (vm_validate(old.insns, old.n, err, sizeof(err)))
			fail_msg("%s: %s", rows[i].name, err);
		pairs = vm_additive_rewrite(new.insns, new.n, new.maps, 1, NULL, use);
		if (pairs != rows[i].pairs || use[0] != rows[i].use)
			fail_msg("%s: %d pairs, use %d; wanted %d, %d", rows[i].name, pairs, use[0], rows[i].pairs,
				 rows[i].use);
		same_program(rows[i].name, &old, &new);
	}
}

/* ---- what a frozen map holds ---- */

/* funclatency's .rodata (map 6): no cgroup, no thread group, units of 1000. */
static bool frozen(void *arg, int32_t imm, uint32_t off, void *out, uint32_t size)
{
	static const uint8_t rodata[9] = {0, 0, 0, 0, 1, 0, 0, 0, 0};

	if (imm != 6 || off + size > sizeof(rodata))
		return false;
	memcpy(out, rodata + off, size);
	return true;
}

static void options_that_are_off(void **state)
{
	static const char *const names[] = {"funclatency_entry", "funclatency_return"};
	static const struct map maps[] = {
		{5, 4, false, READ}, {7, 4, false, ADD}, {6, 4, false, READ}, {4, 4, false, OTHER}};
	static const struct vm_interp_opts o = {.sz = sizeof(o)};
	struct bpf_insn small[] = {LDDW(1, BPF_PSEUDO_MAP_VALUE, 6, 4), LDX(BPF_W, 0, 1, 0),
				   I(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1, 1), CALL(37), EXIT};
	uint64_t r0;
	char err[256];

	for (size_t i = 0; i < 2; i++) {
		struct capture c = {.name = names[i]};
		struct program p;

		memcpy(c.maps, maps, sizeof(maps));
		read_capture(&c, &p);
		for (size_t pc = 0; pc < p.n; pc++)
			if (p.insns[pc].src_reg == BPF_PSEUDO_MAP_VALUE &&
			    p.insns[pc].code == (BPF_LD | BPF_IMM | BPF_DW))
				p.insns[pc].imm = maps[p.insns[pc].imm].fd;
		assert_true(vm_fold_constants(p.insns, p.n, frozen, NULL) > 3);
		assert_int_equal(vm_validate(p.insns, p.n, err, sizeof(err)), 0);
		for (size_t pc = 0; pc < p.n; pc++)
			if (p.insns[pc].code == (BPF_JMP | BPF_CALL))
				assert_int_not_equal(p.insns[pc].imm, BPF_FUNC_current_task_under_cgroup);
	}
	assert_int_equal(vm_fold_constants(small, N_INSNS(small), frozen, NULL), 2);
	small[0].src_reg = 0; /* the map itself is not there */
	assert_int_equal(vm_interpret(small, N_INSNS(small), NULL, &o, &r0, err, sizeof(err)), 0);
	assert_int_equal(r0, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(recognised),		cmocka_unit_test(only_some),
		cmocka_unit_test(same_meaning),		cmocka_unit_test(traps),
		cmocka_unit_test(options_that_are_off),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
