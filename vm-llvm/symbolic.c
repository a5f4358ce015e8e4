// SPDX-License-Identifier: MIT
/*
 * symbolic.c: the proof that a lookup leads to nothing but an addition.
 *
 * From the lookup on the program is run twice on symbols: once as if the key were absent (run N: the result is 0) and
 * once as if it were there (run P: the result is the symbol PTR, and the eight bytes there the symbol OLD). Everything
 * else that they can see has the same symbols in both: registers, stack, results of calls, memory. Where a branch
 * depends on such a symbol both directions are tried, the same one in both runs.
 *
 * The rewritten program always runs as N, and adds instead of updating. That is the same program if, for each choice of
 * branches, both runs
 *   - make the same calls with the same arguments, and write nothing but the stack,
 *   - end at the same update of the same map with the same key, flags BPF_ANY, where N stores E and P stores OLD + E,
 *     or both at an exit with the same result,
 *   - and leave the same in every register and stack byte that is still read afterwards.
 * With the key absent N is what ran anyway, and the addition inserts 0 + E; with the key there, P's update stores
 * OLD + E, and so does the addition. Nothing between writes memory that the map could be in, so OLD is still the value.
 *
 * What does not fit is not proved: loops, other calls, stores elsewhere, too many branches. Sums are kept in a normal
 * form (constant + multiples of terms, modulo 2^64); every other operation is a term of its own, equal only to itself.
 */
#include "symbolic.h"

#include <stdlib.h>
#include <string.h>

#define MAX_NODES     4096
#define HASH_SIZE     8192
#define MAX_TERMS     8
#define MAX_DECISIONS 16
#define MAX_PATHS     256
#define MAX_STEPS     4096
#define MAX_TRACE     32

enum op {
	OP_SUM = 1, /* k[0] + sum of coeff[i] * term[i]; a constant when n == 0 */
	OP_VAR,	    /* a symbol: k[0] is an enum var, k[1] and k[2] tell which */
	OP_ALU,	    /* k[0] = code and offset, k[1], k[2] operands */
	OP_BYTES,   /* n bytes: byte coeff[i] of term[i] */
	OP_EXT,	    /* k[0] = kind of extension or swap, k[1] operand */
};

enum var { VAR_REG, VAR_SLOT, VAR_FRAME, VAR_OLD, VAR_PTR, VAR_TOKEN, VAR_VALUE, VAR_RESULT, VAR_WRITTEN, VAR_MEMORY };

enum dep { DEP_OLD = 1, DEP_PTR = 2, DEP_FRAME = 4 };

struct node {
	uint32_t op, deps;
	uint64_t k[3];
	uint64_t coeff[MAX_TERMS];
	uint32_t term[MAX_TERMS];
	uint64_t n;
};

typedef uint32_t expr; /* index into nodes; 0 is none */

struct byte {
	expr e;
	uint32_t i; /* which byte of it */
};

struct call {
	size_t pc;
	expr arg[5];
	uint64_t key; /* hash-consed content of a key: see content() */
};

struct run {
	expr reg[11];
	struct byte stack[VM_STACK_SIZE];
	struct call trace[MAX_TRACE];
	size_t n_calls;
	size_t n_loads; /* from memory that others may change: no two loads give the same symbol */
	size_t pc;
};

struct decision {
	uint32_t code;
	expr a, b;
	bool taken;
};

enum outcome { RUN_FAIL, RUN_FORK, RUN_UPDATE, RUN_EXIT };

struct sym {
	struct vm_proof *p;
	struct node nodes[MAX_NODES];
	uint32_t hash[HASH_SIZE];
	size_t n_nodes;
	struct decision decision[MAX_DECISIONS + 1];
	size_t n_decisions;
	size_t n_paths;
	size_t lookup;
	uint32_t map, key_size;
	struct run start, n, p_run;
	int key_at; /* offset of the lookup's key in the frame */
	bool overflow;
};

/* ---- expressions ---- */

static expr intern(struct sym *s, const struct node *n)
{
	uint64_t h = 14695981039346656037ull; /* FNV-1a, 64 bits */
	size_t at;

	for (size_t i = 0; i < sizeof(*n); i++)
		h = (h ^ ((const uint8_t *)n)[i]) * 1099511628211ull;
	for (at = h % HASH_SIZE; s->hash[at]; at = (at + 1) % HASH_SIZE)
		if (!memcmp(&s->nodes[s->hash[at]], n, sizeof(*n)))
			return s->hash[at];
	if (s->n_nodes == MAX_NODES) {
		s->overflow = true;
		return 1;
	}
	s->nodes[s->n_nodes] = *n;
	s->hash[at] = s->n_nodes;
	return s->n_nodes++;
}

static expr constant(struct sym *s, uint64_t v)
{
	struct node n = {.op = OP_SUM};

	n.k[0] = v;
	return intern(s, &n);
}

static bool is_const(struct sym *s, expr e, uint64_t *v)
{
	*v = s->nodes[e].k[0];
	return s->nodes[e].op == OP_SUM && s->nodes[e].n == 0;
}

static expr var(struct sym *s, enum var kind, uint64_t a, uint64_t b)
{
	static const uint32_t deps[] = {
		[VAR_FRAME] = DEP_FRAME, [VAR_OLD] = DEP_OLD, [VAR_PTR] = DEP_PTR, [VAR_MEMORY] = 0};
	struct node n = {.op = OP_VAR, .deps = deps[kind]};

	n.k[0] = kind;
	n.k[1] = a;
	n.k[2] = b;
	return intern(s, &n);
}

/* Adds coeff * term to a sum, terms in ascending order. */
static bool add_term(struct node *sum, expr term, uint64_t coeff)
{
	size_t i = 0;

	while (i < sum->n && sum->term[i] < term)
		i++;
	if (i < sum->n && sum->term[i] == term) {
		sum->coeff[i] += coeff;
		if (sum->coeff[i])
			return true;
		sum->n--;
		memmove(&sum->term[i], &sum->term[i + 1], (sum->n - i) * sizeof(sum->term[0]));
		memmove(&sum->coeff[i], &sum->coeff[i + 1], (sum->n - i) * sizeof(sum->coeff[0]));
		sum->term[sum->n] = 0;
		sum->coeff[sum->n] = 0;
		return true;
	}
	if (sum->n == MAX_TERMS)
		return false;
	memmove(&sum->term[i + 1], &sum->term[i], (sum->n - i) * sizeof(sum->term[0]));
	memmove(&sum->coeff[i + 1], &sum->coeff[i], (sum->n - i) * sizeof(sum->coeff[0]));
	sum->term[i] = term;
	sum->coeff[i] = coeff;
	sum->n++;
	return true;
}

static bool accumulate(struct sym *s, struct node *sum, expr e, uint64_t factor)
{
	const struct node n = s->nodes[e];

	if (n.op != OP_SUM)
		return add_term(sum, e, factor);
	sum->k[0] += n.k[0] * factor;
	for (size_t i = 0; i < n.n; i++)
		if (!add_term(sum, n.term[i], n.coeff[i] * factor))
			return false;
	return true;
}

/* a + factor * b; a sum of one bare term is the term itself. */
static expr sum_of(struct sym *s, expr a, expr b, uint64_t factor)
{
	struct node sum = {.op = OP_SUM};

	if (!accumulate(s, &sum, a, 1) || !accumulate(s, &sum, b, factor)) {
		s->overflow = true;
		return a;
	}
	for (size_t i = 0; i < sum.n; i++)
		sum.deps |= s->nodes[sum.term[i]].deps;
	if (sum.n == 1 && sum.coeff[0] == 1 && sum.k[0] == 0)
		return sum.term[0];
	return intern(s, &sum);
}

static expr operation(struct sym *s, enum op op, uint64_t what, expr a, expr b)
{
	struct node n = {.op = op, .deps = s->nodes[a].deps | s->nodes[b].deps};

	n.k[0] = what;
	n.k[1] = a;
	n.k[2] = b;
	return intern(s, &n);
}

static expr alu(struct sym *s, const struct bpf_insn *in, expr a, expr b)
{
	bool is64 = vm_insn__is64(in);
	uint8_t op = BPF_OP(in->code);
	uint64_t x, y;

	if (op == BPF_MOV || op == BPF_NEG) {
		if (op == BPF_MOV && is64 && !in->off)
			return b;
		a = op == BPF_MOV ? b : a;
		b = a;
	}
	if (is_const(s, a, &x) && is_const(s, b, &y))
		return constant(s, vm_alu(in, x, y));
	if (is64 && (op == BPF_ADD || op == BPF_SUB))
		return sum_of(s, a, b, op == BPF_ADD ? 1 : -1ull);
	return operation(s, OP_ALU, (in->code & ~BPF_X) | (uint64_t)(uint16_t)in->off << 8, a, b);
}

/* ---- the stack ---- */

/* Whether e is r10 + *off. */
static bool is_frame(struct sym *s, expr e, int *off)
{
	expr frame = var(s, VAR_FRAME, 0, 0);
	const struct node *n = &s->nodes[e];

	*off = 0;
	if (e == frame)
		return true;
	if (n->op != OP_SUM || n->n != 1 || n->term[0] != frame || n->coeff[0] != 1)
		return false;
	if ((int64_t)n->k[0] < -VM_STACK_SIZE || (int64_t)n->k[0] > 0)
		return false;
	*off = (int)(int64_t)n->k[0];
	return true;
}

static bool in_stack(int off, unsigned int size)
{
	return off >= -VM_STACK_SIZE && off + (int)size <= 0;
}

static expr stack_load(struct sym *s, const struct run *r, int off, unsigned int size)
{
	const struct byte *b = &r->stack[VM_STACK_SIZE + off];
	struct node n = {.op = OP_BYTES};
	bool whole = size == 8;
	uint64_t v;

	for (unsigned int i = 0; i < size; i++) {
		whole &= b[i].e == b[0].e && b[i].i == i;
		n.term[i] = b[i].e;
		n.coeff[i] = b[i].i;
		n.deps |= s->nodes[b[i].e].deps;
	}
	if (whole)
		return b[0].e;
	n.n = size;
	for (unsigned int i = 0; i < size; i++) {
		if (!is_const(s, b[i].e, &v))
			return intern(s, &n);
		n.k[0] |= ((v >> (8 * b[i].i)) & 0xff) << (8 * i);
	}
	return constant(s, n.k[0]);
}

static void stack_store(struct run *r, int off, unsigned int size, expr e)
{
	for (unsigned int i = 0; i < size; i++)
		r->stack[VM_STACK_SIZE + off + i] = (struct byte){e, i};
}

/* A number that stands for size bytes of stack: equal content, equal number (for one proof). */
static uint64_t content(struct sym *s, const struct run *r, int off, unsigned int size)
{
	expr all = constant(s, size);

	for (unsigned int i = 0; i < size; i += 8) {
		unsigned int part = size - i < 8 ? size - i : 8;

		all = operation(s, OP_EXT, ~0ull, all, stack_load(s, r, off + (int)i, part));
	}
	return all;
}

/* ---- one run ---- */

static bool load(struct sym *s, struct run *r, const struct bpf_insn *in)
{
	expr addr = sum_of(s, r->reg[in->src_reg], constant(s, (uint64_t)(int64_t)in->off), 1), v;
	unsigned int size = vm_insn__bytes(in);
	uint64_t c;
	int off;

	if (is_const(s, addr, &c))
		return false; /* a load from the NULL that a lookup gave */
	if (is_frame(s, addr, &off)) {
		if (!in_stack(off, size))
			return false;
		v = stack_load(s, r, off, size);
	} else if (addr == var(s, VAR_PTR, 0, 0)) {
		if (size != 8 || BPF_MODE(in->code) != BPF_MEM)
			return false;
		v = var(s, VAR_OLD, 0, 0);
	} else {
		if (s->nodes[addr].deps || (s->p->facts[r->pc].may_stack & (1u << in->src_reg)))
			return false;
		v = var(s, VAR_MEMORY, addr, r->n_loads++ << 8 | size);
	}
	if (BPF_MODE(in->code) != BPF_MEM)
		v = operation(s, OP_EXT, size, v, v);
	r->reg[in->dst_reg] = v;
	return true;
}

static bool store(struct sym *s, struct run *r, const struct bpf_insn *in, expr v)
{
	int off;

	if (!is_frame(s, sum_of(s, r->reg[in->dst_reg], constant(s, (uint64_t)(int64_t)in->off), 1), &off) ||
	    !in_stack(off, vm_insn__bytes(in)))
		return false;
	stack_store(r, off, vm_insn__bytes(in), v);
	return true;
}

/* Helpers that write nothing but the buffer that r1 may point to, and know nothing of maps. */
static const struct {
	int32_t id;
	uint8_t args;
	bool writes; /* r1: buffer on the stack, r2: its size */
} harmless[] = {
	{BPF_FUNC_ktime_get_ns, 0, false},	   {BPF_FUNC_ktime_get_boot_ns, 0, false},
	{BPF_FUNC_get_current_pid_tgid, 0, false}, {BPF_FUNC_get_current_uid_gid, 0, false},
	{BPF_FUNC_get_smp_processor_id, 0, false}, {BPF_FUNC_get_current_task, 0, false},
	{BPF_FUNC_get_func_ip, 1, false},	   {BPF_FUNC_get_attach_cookie, 1, false},
	{BPF_FUNC_get_current_comm, 2, true},	   {BPF_FUNC_probe_read, 3, true},
	{BPF_FUNC_probe_read_str, 3, true},	   {BPF_FUNC_probe_read_user, 3, true},
	{BPF_FUNC_probe_read_user_str, 3, true},   {BPF_FUNC_probe_read_kernel, 3, true},
	{BPF_FUNC_probe_read_kernel_str, 3, true},
};

static bool call_harmless(struct sym *s, struct run *r, struct call *c, int32_t id)
{
	size_t i = 0;
	uint64_t size;
	int off;

	while (i < sizeof(harmless) / sizeof(harmless[0]) && harmless[i].id != id)
		i++;
	if (i == sizeof(harmless) / sizeof(harmless[0]))
		return false;
	for (unsigned int a = 0; a < harmless[i].args; a++) {
		c->arg[a] = r->reg[a + 1];
		if ((a > 0 || !harmless[i].writes) && s->nodes[c->arg[a]].deps)
			return false;
	}
	if (!harmless[i].writes)
		return true;
	if (!is_frame(s, c->arg[0], &off))
		return false;
	if (!is_const(s, c->arg[1], &size) || size > (uint64_t)-off)
		size = -off;
	for (unsigned int b = 0; b < size; b++)
		r->stack[VM_STACK_SIZE + off + b] = (struct byte){var(s, VAR_WRITTEN, r->n_calls, b), 0};
	return true;
}

/* A lookup in another map: changes nothing. */
static bool call_lookup(struct sym *s, struct run *r, struct call *c)
{
	const struct node *token = &s->nodes[r->reg[1]];
	uint32_t map = token->k[1];
	int off;

	if (token->op != OP_VAR || token->k[0] != VAR_TOKEN || map == s->map || map >= s->p->n_maps)
		return false;
	if (!is_frame(s, r->reg[2], &off) || !s->p->maps[map].key_size || !in_stack(off, s->p->maps[map].key_size))
		return false;
	c->arg[0] = r->reg[1];
	c->key = content(s, r, off, s->p->maps[map].key_size);
	return true;
}

static bool call(struct sym *s, struct run *r, const struct bpf_insn *in)
{
	struct call *c = &r->trace[r->n_calls];

	if (r->n_calls == MAX_TRACE)
		return false;
	*c = (struct call){.pc = r->pc};
	if (in->imm == BPF_FUNC_map_lookup_elem ? !call_lookup(s, r, c) : !call_harmless(s, r, c, in->imm))
		return false;
	for (unsigned int i = 0; i <= 5; i++)
		r->reg[i] = var(s, VAR_RESULT, r->n_calls, i);
	r->n_calls++;
	return true;
}

/* 1: taken, 0: not, -1: not decided yet (then it is the next decision), -2: depends on what it may not. */
static int branch(struct sym *s, const struct bpf_insn *in, expr a, expr b)
{
	uint32_t code = in->code & ~BPF_X;
	uint64_t x, y;

	if (is_const(s, a, &x) && is_const(s, b, &y))
		return vm_compare(in, x, y);
	if (vm_insn__is64(in) && (BPF_OP(code) == BPF_JEQ || BPF_OP(code) == BPF_JNE) && a == var(s, VAR_PTR, 0, 0) &&
	    is_const(s, b, &y) && y == 0)
		return BPF_OP(code) == BPF_JNE;
	if (s->nodes[a].deps || s->nodes[b].deps)
		return -2;
	for (size_t i = 0; i < s->n_decisions; i++)
		if (s->decision[i].code == code && s->decision[i].a == a && s->decision[i].b == b)
			return s->decision[i].taken;
	s->decision[s->n_decisions] = (struct decision){code, a, b, false};
	return -1;
}

static bool step(struct sym *s, struct run *r, const struct bpf_insn *in, enum vm_kind kind)
{
	expr src = BPF_SRC(in->code) == BPF_X ? r->reg[in->src_reg] : constant(s, (uint64_t)(int64_t)in->imm);

	switch (kind) {
	case VM_ALU:
		r->reg[in->dst_reg] = alu(s, in, r->reg[in->dst_reg], src);
		return true;
	case VM_END:
		r->reg[in->dst_reg] = operation(s, OP_EXT, in->code | (uint64_t)in->imm << 8, r->reg[in->dst_reg],
						r->reg[in->dst_reg]);
		return true;
	case VM_LDX:
		return load(s, r, in);
	case VM_ST:
		return store(s, r, in, constant(s, (uint64_t)(int64_t)in->imm));
	case VM_STX:
		return store(s, r, in, r->reg[in->src_reg]);
	case VM_LDDW:
		if (in->src_reg == 0)
			r->reg[in->dst_reg] = constant(s, (uint32_t)in->imm | (uint64_t)(uint32_t)in[1].imm << 32);
		else
			r->reg[in->dst_reg] =
				var(s, in->src_reg == BPF_PSEUDO_MAP_FD ? VAR_TOKEN : VAR_VALUE, (uint32_t)in->imm,
				    in->src_reg == BPF_PSEUDO_MAP_FD ? 0 : (uint32_t)in[1].imm);
		return true;
	case VM_CALL:
		return call(s, r, in);
	default:
		return false; /* VM_ATOMIC, VM_LOCAL */
	}
}

static bool at_update(struct sym *s, const struct run *r, const struct bpf_insn *in)
{
	return in->imm == BPF_FUNC_map_update_elem && r->reg[1] == var(s, VAR_TOKEN, s->map, 0);
}

static enum outcome run_from(struct sym *s, struct run *r, expr result)
{
	const struct bpf_insn *insns = s->p->insns;

	*r = s->start;
	r->pc = s->lookup + 1;
	r->reg[0] = result;
	for (size_t steps = 0; steps < MAX_STEPS && !s->overflow; steps++) {
		const struct bpf_insn *in = insns + r->pc;
		enum vm_kind kind = vm_insn__kind(in, &(const char *){0});
		size_t next = r->pc + vm_insn__slots(kind);

		if (kind == VM_EXIT)
			return RUN_EXIT;
		if (kind == VM_CALL && at_update(s, r, in))
			return RUN_UPDATE;
		if (kind == VM_JA) {
			next = vm_insn__target(in, kind, r->pc);
		} else if (kind == VM_JCC) {
			expr b = BPF_SRC(in->code) == BPF_X ? r->reg[in->src_reg]
							    : constant(s, (uint64_t)(int64_t)in->imm);
			int taken = branch(s, in, r->reg[in->dst_reg], b);

			if (taken < 0)
				return taken == -1 ? RUN_FORK : RUN_FAIL;
			if (taken)
				next = vm_insn__target(in, kind, r->pc);
		} else if (!step(s, r, in, kind)) {
			return RUN_FAIL;
		}
		if (next <= r->pc)
			return RUN_FAIL; /* a loop */
		r->pc = next;
	}
	return RUN_FAIL;
}

/* ---- both runs ---- */

static bool same_calls(const struct run *a, const struct run *b)
{
	return a->n_calls == b->n_calls && !memcmp(a->trace, b->trace, a->n_calls * sizeof(a->trace[0]));
}

/* What is still read after the update is the same; the update's own result is not read. */
static bool same_rest(struct sym *s, size_t update)
{
	const struct vm_live *live = &s->p->live[update + 1];

	if (live->regs & 1)
		return false;
	for (unsigned int i = 6; i < 10; i++)
		if ((live->regs & (1u << i)) && s->n.reg[i] != s->p_run.reg[i])
			return false;
	for (unsigned int i = 0; i < VM_STACK_SIZE; i++)
		if ((live->stack[i / 64] >> (i % 64) & 1) &&
		    (s->n.stack[i].e != s->p_run.stack[i].e || s->n.stack[i].i != s->p_run.stack[i].i))
			return false;
	return true;
}

/* The update of one run: the lookup's key, flags 0; *value: what it stores. */
static bool update_fits(struct sym *s, const struct run *r, expr *value)
{
	uint64_t flags;
	int key, val;

	if (!is_frame(s, r->reg[2], &key) || !in_stack(key, s->key_size) || !is_frame(s, r->reg[3], &val) ||
	    !in_stack(val, 8) || !is_const(s, r->reg[4], &flags) || flags != BPF_ANY)
		return false;
	if (content(s, r, key, s->key_size) != content(s, &s->start, s->key_at, s->key_size))
		return false;
	*value = stack_load(s, r, val, 8);
	return true;
}

static bool adds(struct sym *s)
{
	expr absent, present;

	if (!update_fits(s, &s->n, &absent) || !update_fits(s, &s->p_run, &present))
		return false;
	return !s->nodes[absent].deps && sum_of(s, present, absent, -1ull) == var(s, VAR_OLD, 0, 0);
}

static bool note_update(struct vm_proof *p, size_t pc)
{
	for (size_t i = 0; i < p->n_updates; i++)
		if (p->update[i] == pc)
			return true;
	if (p->n_updates == VM_PROOF_MAX_UPDATES)
		return false;
	p->update[p->n_updates++] = pc;
	return true;
}

static bool explore(struct sym *s);

/* The decision that a run asked for, both ways. */
static bool fork_both(struct sym *s)
{
	size_t depth = s->n_decisions;
	struct decision d = s->decision[depth];
	bool ok = depth < MAX_DECISIONS;

	for (int taken = 0; ok && taken < 2; taken++) {
		s->decision[depth] = d;
		s->decision[depth].taken = taken;
		s->n_decisions = depth + 1;
		ok = explore(s);
	}
	s->n_decisions = depth;
	return ok;
}

static bool explore(struct sym *s)
{
	enum outcome n, p;

	if (++s->n_paths > MAX_PATHS)
		return false;
	n = run_from(s, &s->n, constant(s, 0));
	if (n == RUN_FORK)
		return fork_both(s);
	if (n == RUN_FAIL)
		return false;
	p = run_from(s, &s->p_run, var(s, VAR_PTR, 0, 0));
	if (p == RUN_FORK)
		return fork_both(s);
	if (p != n || s->overflow || !same_calls(&s->n, &s->p_run))
		return false;
	if (n == RUN_EXIT)
		return s->n.reg[0] == s->p_run.reg[0] && !s->nodes[s->n.reg[0]].deps;
	return s->n.pc == s->p_run.pc && adds(s) && same_rest(s, s->n.pc) && !s->overflow && note_update(s->p, s->n.pc);
}

/* What the data flow knows to be a number or an address in the frame; else a symbol of its own. */
static expr known(struct sym *s, const struct vm_abs *v, enum var kind, uint64_t which)
{
	if (vm_abs__is(v, VM_ABS_CONST))
		return constant(s, (uint64_t)v->n);
	if (vm_abs__is(v, VM_ABS_STACK))
		return sum_of(s, var(s, VAR_FRAME, 0, 0), constant(s, (uint64_t)v->n), 1);
	return var(s, kind, which, 0);
}

static void begin(struct sym *s, const struct vm_state *before)
{
	for (unsigned int i = 0; i < 11; i++)
		s->start.reg[i] = known(s, &before->reg[i], VAR_REG, i);
	/* The call leaves nothing in its argument registers. */
	for (unsigned int i = 1; i <= 5; i++)
		s->start.reg[i] = var(s, VAR_REG, 16 + i, 0);
	for (unsigned int i = 0; i < VM_STACK_SIZE; i++)
		s->start.stack[i] = (struct byte){known(s, &before->slot[i / 8], VAR_SLOT, i / 8), i % 8};
}

bool vm_prove_additive(struct vm_proof *p, size_t pc, const struct vm_state *before, uint32_t map)
{
	struct sym *s;
	bool ok;

	p->n_updates = 0;
	if (p->maps[map].value_size != 8 || !p->maps[map].key_size || p->facts[pc].stack[2] == VM_FACT_NONE ||
	    !in_stack(p->facts[pc].stack[2], p->maps[map].key_size))
		return false;
	s = calloc(1, sizeof(*s));
	if (!s)
		return false;
	s->p = p;
	s->n_nodes = 1;
	s->lookup = pc;
	s->map = map;
	s->key_size = p->maps[map].key_size;
	s->key_at = p->facts[pc].stack[2];
	begin(s, before);
	ok = explore(s);
	free(s);
	return ok;
}
