// SPDX-License-Identifier: MIT
/*
 * additive.c: finds the lookup/update pairs that only add (the proof is symbolic.c's), rewrites them, and says how each
 * map is used in the end. A map of which anything is not understood is VM_MAP_OTHER.
 */
#include "additive.h"
#include "symbolic.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* What was seen of one map. */
enum seen {
	SEEN_NAMED = 1, /* looked up, or its address taken */
	SEEN_READ = 2,	/* a value read, or used as a key */
	SEEN_ADD = 4,	/* added to */
	SEEN_OTHER = 8, /* anything else */
	SEEN_DELETE = 16,
};

struct additive {
	struct bpf_insn *insns;
	size_t n;
	const struct vm_map_info *maps;
	size_t n_maps;
	struct vm_layout layout;
	struct vm_fact *facts;
	struct vm_live *live;
	struct vm_state **before; /* at lookups: the data flow's state */
	uint8_t *token;		  /* at calls: the one map that r1 names, or NO_TOKEN */
	uint8_t *rmw;		  /* enum rmw_role */
	uint8_t *visited;	  /* for reaches() */
	size_t *todo;
	uint32_t *seen; /* per map */
};

#define NO_TOKEN 0xff

enum rmw_role { RMW_NONE, RMW_LOAD, RMW_ADD, RMW_STORE };

static enum vm_kind kind_at(const struct additive *a, size_t pc)
{
	return vm_insn__kind(a->insns + pc, &(const char *){0});
}

/* ---- what the proof needs ---- */

static void note_token(void *arg, size_t pc, const struct vm_state *s)
{
	struct additive *a = arg;
	uint64_t t = s->reg[1].tokens;

	if (s->reg[1].kinds == VM_ABS_DATA && !s->reg[1].values && t && !(t & (t - 1)))
		a->token[pc] = __builtin_ctzll(t);
	if (kind_at(a, pc) == VM_CALL && a->insns[pc].imm == BPF_FUNC_map_lookup_elem && !a->before[pc]) {
		a->before[pc] = malloc(sizeof(*s));
		if (a->before[pc])
			*a->before[pc] = *s;
	}
}

/* How many bytes of stack a helper reads through an argument. */
static bool reads_stack(void *arg, const struct bpf_insn *insns, size_t pc, unsigned int reg, unsigned int *size)
{
	const struct additive *a = arg;
	uint8_t map = a->token[pc];

	switch (insns[pc].imm) {
	case BPF_FUNC_map_lookup_elem:
	case BPF_FUNC_map_update_elem:
	case BPF_FUNC_map_delete_elem:
	case VM_HELPER_MAP_ADD:
		if (map >= a->n_maps || reg == 1 || reg > 3)
			return true;
		if (reg == 2 && a->maps[map].key_size)
			*size = a->maps[map].key_size;
		if (reg == 3)
			*size = (a->maps[map].value_size + 7) & ~7u;
		return true;
	case BPF_FUNC_probe_read:
	case BPF_FUNC_probe_read_str:
	case BPF_FUNC_probe_read_user:
	case BPF_FUNC_probe_read_user_str:
	case BPF_FUNC_probe_read_kernel:
	case BPF_FUNC_probe_read_kernel_str:
	case BPF_FUNC_get_current_comm:
		return reg != 1; /* which is written */
	default:
		return true;
	}
}

/* Whether `to` can be reached from `from` without passing `around`. */
static bool reaches(struct additive *a, size_t from, size_t to, size_t around)
{
	size_t n = 0;

	memset(a->visited, 0, a->n);
	a->visited[from] = 1;
	a->todo[n++] = from;
	while (n) {
		size_t pc = a->todo[--n], next[2];
		enum vm_kind kind = kind_at(a, pc);
		unsigned int count = 0;

		if (pc == to)
			return true;
		if (pc == around)
			continue;
		if (kind != VM_JA && kind != VM_EXIT)
			next[count++] = pc + vm_insn__slots(kind);
		if (kind == VM_JA || kind == VM_JCC)
			next[count++] = vm_insn__target(a->insns + pc, kind, pc);
		while (count--)
			if (!a->visited[next[count]]) {
				a->visited[next[count]] = 1;
				a->todo[n++] = next[count];
			}
	}
	return false;
}

/* Every way to the update leads over this lookup. */
static bool owns(struct additive *a, size_t lookup, size_t update)
{
	size_t sub = 0;

	while (sub + 1 < a->layout.n && a->layout.start[sub + 1] <= lookup)
		sub++;
	return !reaches(a, a->layout.start[sub], update, lookup) && !reaches(a, update + 1, update, lookup);
}

static bool eligible(const struct additive *a, const bool *only, size_t pc)
{
	const struct bpf_insn *in = a->insns + pc;
	uint8_t map = a->token[pc];

	return a->before[pc] && kind_at(a, pc) == VM_CALL && in->imm == BPF_FUNC_map_lookup_elem && map < a->n_maps &&
	       (only ? only[map] : a->maps[map].per_cpu);
}

static int rewrite(struct additive *a, const bool *only)
{
	struct vm_proof p = {
		.insns = a->insns,
		.n_insns = a->n,
		.facts = a->facts,
		.live = a->live,
		.maps = a->maps,
		.n_maps = a->n_maps,
	};
	int pairs = 0;

	for (size_t pc = 0; pc < a->n; pc++) {
		bool ok =
			eligible(a, only, pc) && vm_prove_additive(&p, pc, a->before[pc], a->token[pc]) && p.n_updates;

		for (size_t i = 0; ok && i < p.n_updates; i++)
			ok = owns(a, pc, p.update[i]);
		if (!ok)
			continue;
		/* r0 = 0: from now on only the way that the absent key took. */
		a->insns[pc] = (struct bpf_insn){.code = BPF_ALU64 | BPF_MOV | BPF_K};
		for (size_t i = 0; i < p.n_updates; i++)
			a->insns[p.update[i]].imm = VM_HELPER_MAP_ADD;
		pairs++;
	}
	return pairs;
}

/* ---- how the maps are used ---- */

static void mark(struct additive *a, uint64_t maps, uint32_t seen)
{
	for (size_t i = 0; i < a->n_maps; i++)
		if (maps >> i & 1)
			a->seen[i] |= seen;
}

static void escape(struct additive *a, const struct vm_abs *v)
{
	mark(a, v->tokens | v->values, SEEN_OTHER);
}

static void use_memory(struct additive *a, size_t pc, enum vm_kind kind, const struct vm_state *s)
{
	const struct bpf_insn *in = a->insns + pc;
	const struct vm_abs *base = &s->reg[kind == VM_LDX ? in->src_reg : in->dst_reg];
	bool plain_add = kind == VM_ATOMIC && in->imm == BPF_ADD;

	mark(a, base->tokens, SEEN_OTHER);
	if (a->rmw[pc] == RMW_LOAD || a->rmw[pc] == RMW_STORE || plain_add)
		mark(a, base->values, SEEN_ADD);
	else
		mark(a, base->values, kind == VM_LDX ? SEEN_READ : SEEN_OTHER);
	if ((kind == VM_STX || kind == VM_ATOMIC) && (base->kinds & ~(VM_ABS_STACK | VM_ABS_FRAME)))
		escape(a, &s->reg[in->src_reg]);
}

static void use_call(struct additive *a, size_t pc, const struct vm_state *s)
{
	const struct bpf_insn *in = a->insns + pc;
	uint32_t args = vm_insn__reads(in, VM_CALL);
	uint64_t map = s->reg[1].tokens;
	uint32_t seen = SEEN_NAMED;

	switch (in->imm) {
	case BPF_FUNC_map_lookup_elem:
		break;
	case BPF_FUNC_map_update_elem:
		/* Inserting what is not there is one step, whoever else does it. */
		if (!vm_abs__is(&s->reg[4], VM_ABS_CONST) || s->reg[4].n != BPF_NOEXIST)
			seen = SEEN_OTHER;
		break;
	case BPF_FUNC_map_delete_elem:
		seen = SEEN_DELETE;
		break;
	case VM_HELPER_MAP_ADD:
		seen = SEEN_ADD;
		args = 0xe;
		break;
	default:
		for (unsigned int i = 1; i <= 5; i++)
			if (args & (1u << i))
				escape(a, &s->reg[i]);
		return;
	}
	/* A map that we cannot name may be any. */
	mark(a, map ? map : ~0ull, map ? seen : SEEN_OTHER);
	mark(a, s->reg[1].values, SEEN_OTHER);
	for (unsigned int i = 2; i <= 4; i++) {
		if (!(args & (1u << i)))
			continue;
		mark(a, s->reg[i].values, SEEN_READ);
		mark(a, s->reg[i].tokens, SEEN_OTHER);
	}
}

static void use_local(struct additive *a, const struct vm_state *s)
{
	bool stack = false;

	for (unsigned int i = 1; i <= 5; i++) {
		escape(a, &s->reg[i]);
		stack |= vm_abs__may_stack(&s->reg[i]);
	}
	for (size_t i = 0; stack && i < VM_SLOTS; i++)
		escape(a, &s->slot[i]);
}

static void classify(void *arg, size_t pc, const struct vm_state *s)
{
	struct additive *a = arg;
	const struct bpf_insn *in = a->insns + pc;
	enum vm_kind kind = kind_at(a, pc);

	switch (kind) {
	case VM_LDX:
	case VM_ST:
	case VM_STX:
	case VM_ATOMIC:
		use_memory(a, pc, kind, s);
		break;
	case VM_LDDW:
		if (in->src_reg == BPF_PSEUDO_MAP_VALUE && (uint32_t)in->imm < a->n_maps)
			a->seen[in->imm] |= SEEN_NAMED;
		break;
	case VM_CALL:
		use_call(a, pc, s);
		break;
	case VM_LOCAL:
		use_local(a, s);
		break;
	case VM_EXIT:
		escape(a, &s->reg[0]);
		break;
	default:
		break;
	}
}

/* Additions in place: only where the old value and the sum are used for nothing else. */
static void find_in_place(struct additive *a)
{
	struct vm_rmw m;

	for (size_t pc = 0; pc < a->n; pc++) {
		enum vm_kind kind = kind_at(a, pc);

		if (kind == VM_LDX && a->facts[pc].reached && vm_rmw__match(a->insns, a->n, a->facts, pc, &m) &&
		    m.store + 1 < a->n) {
			uint32_t both = 1u << a->insns[m.load].dst_reg | 1u << a->insns[m.add].dst_reg;

			if (!(a->live[m.store + 1].regs & both)) {
				a->rmw[m.load] = RMW_LOAD;
				a->rmw[m.store] = RMW_STORE;
			}
		}
		pc += vm_insn__slots(kind) - 1;
	}
}

static enum vm_map_use verdict(uint32_t seen)
{
	bool adds = seen & (SEEN_ADD | SEEN_DELETE);

	if ((seen & SEEN_OTHER) || (adds && (seen & SEEN_READ)))
		return VM_MAP_OTHER;
	if (adds)
		return VM_MAP_ADDITIVE;
	return seen ? VM_MAP_READ : VM_MAP_UNUSED;
}

/* ---- all of it ---- */

static int analyse(struct additive *a, vm_flow_visit *visit)
{
	int r = vm_flow(a->insns, a->n, &a->layout, a->facts, visit, a);

	return r ? r : vm_liveness(a->insns, a->n, a->facts, reads_stack, a, a->live);
}

static int run(struct additive *a, const bool *only, enum vm_map_use *use)
{
	int r, pairs;

	memset(a->token, NO_TOKEN, a->n);
	r = analyse(a, note_token);
	if (r)
		return r;
	pairs = rewrite(a, only);
	/* Again, on what the program is now: the old value's reads are gone. */
	r = analyse(a, NULL);
	if (r)
		return r;
	find_in_place(a);
	r = vm_flow(a->insns, a->n, &a->layout, a->facts, classify, a);
	if (r)
		return r;
	for (size_t i = 0; i < a->n_maps; i++)
		use[i] = verdict(a->seen[i]);
	return pairs;
}

int vm_additive_rewrite(struct bpf_insn *insns, size_t n_insns, const struct vm_map_info *maps, size_t n_maps,
			const bool *only, enum vm_map_use *use)
{
	struct additive a = {.insns = insns, .n = n_insns, .maps = maps, .n_maps = n_maps};
	int r;

	if (n_maps > VM_FLOW_MAX_MAPS)
		return -E2BIG;
	r = vm_layout__init(&a.layout, insns, n_insns, 0, NULL, 0);
	if (r)
		return r;
	a.facts = calloc(n_insns, sizeof(*a.facts));
	a.live = calloc(n_insns + 1, sizeof(*a.live));
	a.before = calloc(n_insns, sizeof(*a.before));
	a.token = calloc(n_insns, 1);
	a.rmw = calloc(n_insns, 1);
	a.visited = calloc(n_insns, 1);
	a.todo = calloc(n_insns, sizeof(*a.todo));
	a.seen = calloc(n_maps + 1, sizeof(*a.seen));
	r = -ENOMEM;
	if (a.facts && a.live && a.before && a.token && a.rmw && a.visited && a.todo && a.seen)
		r = run(&a, only, use);
	for (size_t pc = 0; a.before && pc < n_insns; pc++)
		free(a.before[pc]);
	free(a.before);
	free(a.facts);
	free(a.live);
	free(a.token);
	free(a.rmw);
	free(a.visited);
	free(a.todo);
	free(a.seen);
	vm_layout__clear(&a.layout);
	return r;
}
