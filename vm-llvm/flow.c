// SPDX-License-Identifier: MIT
#include "flow.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MAX_LEADERS 20000 /* states are kept at leaders only; 2.4 KB each */

struct flow {
	const struct bpf_insn *insns;
	size_t n;
	struct vm_fact *facts;
	struct vm_state **at; /* at leaders: the join of all states that come here */
	bool *dirty;
	size_t *leaders; /* in order */
	size_t n_leaders;
	bool verified;
};

static const struct vm_abs unknown = {.kinds = VM_ABS_DATA};

static bool join(struct vm_abs *to, const struct vm_abs *from)
{
	struct vm_abs old = *to;

	if (!to->kinds) {
		*to = *from;
		return memcmp(&old, to, sizeof(old)) != 0;
	}
	to->tokens |= from->tokens;
	to->values |= from->values;
	to->kinds |= from->kinds;
	if (from->kinds != old.kinds || from->n != old.n) {
		if (to->kinds & VM_ABS_STACK)
			to->kinds = (to->kinds & ~VM_ABS_STACK) | VM_ABS_FRAME;
		if (to->kinds & VM_ABS_CONST)
			to->kinds = (to->kinds & ~VM_ABS_CONST) | VM_ABS_DATA;
		to->n = 0;
	}
	return memcmp(&old, to, sizeof(old)) != 0;
}

static bool join_state(struct vm_state *to, const struct vm_state *from)
{
	bool changed = false;

	for (size_t i = 0; i < 11; i++)
		changed |= join(&to->reg[i], &from->reg[i]);
	for (size_t i = 0; i < VM_SLOTS; i++)
		changed |= join(&to->slot[i], &from->slot[i]);
	return changed;
}

static struct vm_abs number(int64_t n)
{
	return (struct vm_abs){.kinds = VM_ABS_CONST, .n = n};
}

/* Something computed from a and b: keeps what may be hidden in it. */
static struct vm_abs computed(const struct vm_abs *a, const struct vm_abs *b)
{
	struct vm_abs v = {.kinds = VM_ABS_DATA, .tokens = a->tokens | b->tokens, .values = a->values | b->values};

	if (vm_abs__may_stack(a) || vm_abs__may_stack(b))
		v.kinds |= VM_ABS_FRAME;
	return v;
}

static struct vm_abs in_frame(int64_t off)
{
	if (off < -VM_STACK_SIZE || off > 0)
		return (struct vm_abs){.kinds = VM_ABS_FRAME};
	return (struct vm_abs){.kinds = VM_ABS_STACK, .n = off};
}

static struct vm_abs alu(const struct bpf_insn *in, const struct vm_abs *dst, const struct vm_abs *src)
{
	uint8_t op = BPF_OP(in->code);
	bool is64 = vm_insn__is64(in);

	if (op == BPF_MOV && is64 && in->off == 0)
		return *src;
	if (vm_abs__is(src, VM_ABS_CONST) && (vm_abs__is(dst, VM_ABS_CONST) || op == BPF_MOV))
		return number((int64_t)vm_alu(in, (uint64_t)dst->n, (uint64_t)src->n));
	if (is64 && (op == BPF_ADD || op == BPF_SUB) && vm_abs__is(dst, VM_ABS_STACK) &&
	    vm_abs__is(src, VM_ABS_CONST) && llabs(src->n) <= 2 * VM_STACK_SIZE)
		return in_frame(op == BPF_ADD ? dst->n + src->n : dst->n - src->n);
	if (is64 && op == BPF_ADD && vm_abs__is(src, VM_ABS_STACK) && vm_abs__is(dst, VM_ABS_CONST) &&
	    llabs(dst->n) <= 2 * VM_STACK_SIZE)
		return in_frame(dst->n + src->n);
	return op == BPF_MOV ? computed(src, src) : computed(dst, src);
}

/* Which slots an access of size bytes at addr + off may touch: [*lo, *hi). exact: all of one slot and nothing else. */
static bool slots_of(const struct vm_abs *addr, int off, unsigned int size, size_t *lo, size_t *hi)
{
	int64_t at;

	*lo = 0;
	*hi = vm_abs__may_stack(addr) ? VM_SLOTS : 0;
	if (addr->kinds != VM_ABS_STACK)
		return false;
	at = VM_STACK_SIZE + addr->n + off;
	if (at < 0 || at + size > VM_STACK_SIZE)
		return false;
	*lo = at / 8;
	*hi = (at + size + 7) / 8;
	return at % 8 == 0 && size == 8 && vm_abs__is(addr, VM_ABS_STACK);
}

static struct vm_abs load(const struct vm_state *s, const struct vm_abs *addr, const struct bpf_insn *in)
{
	struct vm_abs v = unknown;
	size_t lo, hi;

	if (slots_of(addr, in->off, vm_insn__bytes(in), &lo, &hi))
		return s->slot[lo];
	for (size_t i = lo; i < hi; i++)
		v = computed(&v, &s->slot[i]);
	return v;
}

static void store(struct vm_state *s, const struct vm_abs *addr, const struct bpf_insn *in, const struct vm_abs *val)
{
	struct vm_abs part = computed(val, val);
	size_t lo, hi;

	if (slots_of(addr, in->off, vm_insn__bytes(in), &lo, &hi)) {
		s->slot[lo] = *val;
		return;
	}
	for (size_t i = lo; i < hi; i++)
		join(&s->slot[i], &part);
}

static void atomic(struct vm_state *s, const struct bpf_insn *in)
{
	struct vm_abs old = load(s, &s->reg[in->dst_reg], in), part = computed(&old, &s->reg[in->src_reg]);
	size_t lo, hi;

	slots_of(&s->reg[in->dst_reg], in->off, vm_insn__bytes(in), &lo, &hi);
	for (size_t i = lo; i < hi; i++)
		join(&s->slot[i], &part);
	if (in->imm == BPF_CMPXCHG)
		s->reg[0] = computed(&old, &old);
	else if (in->imm & BPF_FETCH)
		s->reg[in->src_reg] = computed(&old, &old);
}

static void call(struct vm_state *s, const struct bpf_insn *in, enum vm_kind kind)
{
	bool local = kind == VM_LOCAL || kind == VM_CALLX;
	struct vm_abs written = {.kinds = VM_ABS_DATA | (local ? VM_ABS_FRAME : 0)};
	uint64_t token = s->reg[1].tokens;
	size_t lo, hi;

	for (unsigned int arg = 1; arg <= 5; arg++) {
		const struct vm_abs *a = &s->reg[arg];

		if (!vm_abs__may_stack(a))
			continue;
		/* A helper works upwards from the address that it is given; a subprogram may go anywhere. */
		slots_of(a, 0, 1, &lo, &hi);
		for (size_t i = local ? 0 : lo; i < VM_SLOTS; i++)
			join(&s->slot[i], &written);
	}
	for (unsigned int i = 0; i <= 5; i++)
		s->reg[i] = unknown;
	if (kind == VM_CALL && in->imm == BPF_FUNC_map_lookup_elem)
		s->reg[0].values = token;
}

static struct vm_abs immediate(const struct bpf_insn *in)
{
	struct vm_abs v = unknown;

	if (in->src_reg == 0)
		return number((int64_t)((uint32_t)in->imm | (uint64_t)(uint32_t)in[1].imm << 32));
	if ((uint32_t)in->imm < VM_FLOW_MAX_MAPS) {
		if (in->src_reg == BPF_PSEUDO_MAP_FD)
			v.tokens = 1ull << in->imm;
		else if (in->src_reg == BPF_PSEUDO_MAP_VALUE)
			v.values = 1ull << in->imm;
	}
	return v;
}

static void step(struct vm_state *s, const struct bpf_insn *in, enum vm_kind kind, bool verified)
{
	static const struct vm_abs anything = {.kinds = VM_ABS_DATA | VM_ABS_FRAME};
	struct vm_abs imm = number(in->imm);

	switch (kind) {
	case VM_ALU:
		s->reg[in->dst_reg] =
			alu(in, &s->reg[in->dst_reg], BPF_SRC(in->code) == BPF_X ? &s->reg[in->src_reg] : &imm);
		break;
	case VM_END:
		s->reg[in->dst_reg] = computed(&s->reg[in->dst_reg], &s->reg[in->dst_reg]);
		break;
	case VM_LDX:
		s->reg[in->dst_reg] = verified ? load(s, &s->reg[in->src_reg], in) : anything;
		break;
	case VM_ST:
		store(s, &s->reg[in->dst_reg], in, &imm);
		break;
	case VM_STX:
		store(s, &s->reg[in->dst_reg], in, &s->reg[in->src_reg]);
		break;
	case VM_ATOMIC:
		atomic(s, in);
		if (!verified && in->imm & BPF_FETCH)
			s->reg[in->imm == BPF_CMPXCHG ? 0 : in->src_reg] = anything;
		break;
	case VM_LDDW:
		s->reg[in->dst_reg] = immediate(in);
		break;
	case VM_CALL:
	case VM_LOCAL:
	case VM_CALLX:
	case VM_KFUNC:
	case VM_TAIL:
	case VM_PACKET:
		call(s, in, kind);
		if (!verified)
			s->reg[0] = anything;
		break;
	default:
		break;
	}
}

static void record(struct vm_fact *f, const struct vm_state *s)
{
	f->reached = true;
	f->may_stack = 0;
	for (unsigned int i = 0; i < 11; i++) {
		f->stack[i] = vm_abs__is(&s->reg[i], VM_ABS_STACK) ? (int16_t)s->reg[i].n : VM_FACT_NONE;
		if (vm_abs__may_stack(&s->reg[i]))
			f->may_stack |= 1u << i;
	}
}

static void arrive(struct flow *f, size_t pc, const struct vm_state *s)
{
	if (join_state(f->at[pc], s))
		f->dirty[pc] = true;
}

/* 1: always taken, 0: never, -1: either. */
static int decided(const struct vm_state *s, const struct bpf_insn *in)
{
	const struct vm_abs *a = &s->reg[in->dst_reg], *b = &s->reg[in->src_reg];
	bool reg = BPF_SRC(in->code) == BPF_X;

	if (!vm_abs__is(a, VM_ABS_CONST) || (reg && !vm_abs__is(b, VM_ABS_CONST)))
		return -1;
	return vm_compare(in, (uint64_t)a->n, (uint64_t)(reg ? b->n : in->imm));
}

/* Runs the block that begins at pc; last: facts are final, so record them. */
static void run_block(struct flow *f, size_t pc, bool last, vm_flow_visit *visit, void *arg)
{
	struct vm_state s = *f->at[pc];

	for (size_t first = pc; pc < f->n;) {
		const struct bpf_insn *in = f->insns + pc;
		enum vm_kind kind = vm_insn__kind(in, &(const char *){0});
		int taken = kind == VM_JA ? 1 : kind == VM_JCC ? decided(&s, in) : 0;

		if (pc != first && f->facts[pc].leader) {
			if (!last)
				arrive(f, pc, &s);
			return;
		}
		if (last) {
			record(&f->facts[pc], &s);
			if (visit)
				visit(arg, pc, &s);
		}
		if (!last && taken)
			arrive(f, vm_insn__target(in, kind, pc), &s);
		if (taken == 1 || kind == VM_EXIT)
			return;
		step(&s, in, kind, f->verified);
		pc += vm_insn__slots(kind);
	}
}

static int find_leaders(struct flow *f, const struct vm_layout *l)
{
	size_t count = 0;

	for (size_t i = 0; i < l->n; i++)
		f->facts[l->start[i]].leader = true;
	for (size_t pc = 0; pc < f->n; pc++) {
		enum vm_kind kind = vm_insn__kind(f->insns + pc, &(const char *){0});

		if (kind == VM_JCC || kind == VM_JA)
			f->facts[vm_insn__target(f->insns + pc, kind, pc)].leader = true;
		pc += vm_insn__slots(kind) - 1;
	}
	for (size_t pc = 0; pc < f->n; pc++) {
		if (!f->facts[pc].leader)
			continue;
		if (++count > MAX_LEADERS)
			return -E2BIG;
		f->at[pc] = calloc(1, sizeof(*f->at[pc]));
		if (!f->at[pc])
			return -ENOMEM;
	}
	f->leaders = calloc(count + 1, sizeof(*f->leaders));
	if (!f->leaders)
		return -ENOMEM;
	for (size_t pc = 0; pc < f->n; pc++)
		if (f->at[pc])
			f->leaders[f->n_leaders++] = pc;
	return 0;
}

static void enter_subprograms(struct flow *f, const struct vm_layout *l)
{
	struct vm_state s;

	for (size_t i = 0; i < 11; i++)
		s.reg[i] = unknown;
	for (size_t i = 0; i < VM_SLOTS; i++)
		s.slot[i] = unknown;
	s.reg[10] = in_frame(0);
	for (size_t i = 0; i < l->n; i++)
		arrive(f, l->start[i], &s);
}

static void settle(struct flow *f)
{
	bool again = true;

	while (again) {
		again = false;
		for (size_t i = 0; i < f->n_leaders; i++) {
			size_t pc = f->leaders[i];

			if (!f->dirty[pc])
				continue;
			f->dirty[pc] = false;
			again = true;
			run_block(f, pc, false, NULL, NULL);
		}
	}
}

static int flow(struct flow *f, const struct vm_layout *l, vm_flow_visit *visit, void *arg)
{
	int r = -ENOMEM;

	memset(f->facts, 0, f->n * sizeof(*f->facts));
	f->at = calloc(f->n, sizeof(*f->at));
	f->dirty = calloc(f->n, sizeof(*f->dirty));
	if (!f->at || !f->dirty)
		goto out;
	r = find_leaders(f, l);
	if (r)
		goto out;
	enter_subprograms(f, l);
	settle(f);
	for (size_t i = 0; i < f->n_leaders; i++)
		if (f->at[f->leaders[i]]->reg[10].kinds)
			run_block(f, f->leaders[i], true, visit, arg);
out:
	for (size_t pc = 0; f->at && pc < f->n; pc++)
		free(f->at[pc]);
	free(f->at);
	free(f->dirty);
	free(f->leaders);
	return r;
}

int vm_flow(const struct bpf_insn *insns, size_t n_insns, const struct vm_layout *l, struct vm_fact *facts,
	    vm_flow_visit *visit, void *arg)
{
	struct flow f = {.insns = insns, .n = n_insns, .facts = facts, .verified = true};

	return flow(&f, l, visit, arg);
}

int vm_flow_unverified(const struct bpf_insn *insns, size_t n_insns, const struct vm_layout *l, struct vm_fact *facts)
{
	struct flow f = {.insns = insns, .n = n_insns, .facts = facts};

	return flow(&f, l, NULL, NULL);
}

/* ---- read, add, write back ---- */

static bool is_add(const struct bpf_insn *in, unsigned int reg, unsigned int bytes)
{
	if (BPF_CLASS(in->code) != BPF_ALU64 && !(BPF_CLASS(in->code) == BPF_ALU && bytes == 4))
		return false;
	if (BPF_OP(in->code) == BPF_SUB)
		return in->dst_reg == reg && !(BPF_SRC(in->code) == BPF_X && in->src_reg == reg);
	if (BPF_OP(in->code) != BPF_ADD)
		return false;
	if (BPF_SRC(in->code) == BPF_K)
		return in->dst_reg == reg;
	return (in->dst_reg == reg) != (in->src_reg == reg);
}

bool vm_rmw__match(const struct bpf_insn *insns, size_t n_insns, const struct vm_fact *facts, size_t pc,
		   struct vm_rmw *out)
{
	const struct bpf_insn *load = insns + pc, *add = NULL;
	unsigned int bytes = vm_insn__bytes(load);
	uint32_t busy; /* registers that nobody else may touch until the store */

	if (load->code != (BPF_LDX | BPF_MEM | BPF_DW) && load->code != (BPF_LDX | BPF_MEM | BPF_W))
		return false;
	if (load->dst_reg == load->src_reg || (facts[pc].may_stack & (1u << load->src_reg)))
		return false;
	busy = 1u << load->dst_reg;
	for (size_t at = pc + 1; at < n_insns && !facts[at].leader; at++) {
		const struct bpf_insn *in = insns + at;
		enum vm_kind kind = vm_insn__kind(in, &(const char *){0});

		if (!add && kind == VM_ALU && is_add(in, load->dst_reg, bytes)) {
			if (in->dst_reg == load->src_reg ||
			    (BPF_SRC(in->code) == BPF_X && in->src_reg == load->src_reg))
				return false;
			add = in;
			busy |= 1u << in->dst_reg | (BPF_SRC(in->code) == BPF_X ? 1u << in->src_reg : 0);
			out->load = pc;
			out->add = at;
			continue;
		}
		if (kind == VM_STX && add) {
			out->store = at;
			return in->dst_reg == load->src_reg && in->off == load->off && in->src_reg == add->dst_reg &&
			       BPF_SIZE(in->code) == BPF_SIZE(load->code);
		}
		if (kind != VM_ALU && kind != VM_LDDW && kind != VM_END)
			return false;
		if ((vm_insn__reads(in, kind) | vm_insn__writes(in, kind)) & busy)
			return false;
		if (vm_insn__writes(in, kind) & (1u << load->src_reg))
			return false;
		at += vm_insn__slots(kind) - 1;
	}
	return false;
}

/* ---- what may still be read ---- */

static void live_bytes(struct vm_live *l, int off, unsigned int size, bool live)
{
	for (unsigned int i = 0; i < size; i++) {
		int b = VM_STACK_SIZE + off + (int)i;

		if (b < 0 || b >= VM_STACK_SIZE)
			continue;
		if (live)
			l->stack[b / 64] |= 1ull << (b % 64);
		else
			l->stack[b / 64] &= ~(1ull << (b % 64));
	}
}

static void live_access(struct vm_live *l, const struct vm_fact *f, unsigned int reg, int off, unsigned int size,
			bool read)
{
	if (f->stack[reg] != VM_FACT_NONE)
		live_bytes(l, f->stack[reg] + off, size, read);
	else if (read && (f->may_stack & (1u << reg)))
		memset(l->stack, 0xff, sizeof(l->stack));
}

static void live_call(struct vm_live *l, const struct bpf_insn *insns, size_t pc, const struct vm_fact *f,
		      enum vm_kind kind, vm_live_arg *reads, void *arg)
{
	for (unsigned int reg = 1; reg <= 5; reg++) {
		unsigned int size = VM_STACK_SIZE;

		if (!(f->may_stack & (1u << reg)))
			continue;
		if (kind == VM_LOCAL || f->stack[reg] == VM_FACT_NONE)
			memset(l->stack, 0xff, sizeof(l->stack));
		else if (reads(arg, insns, pc, reg, &size))
			live_bytes(l, f->stack[reg], size, true);
	}
}

static void live_before(struct vm_live *l, const struct bpf_insn *insns, size_t pc, const struct vm_fact *f,
			enum vm_kind kind, vm_live_arg *reads, void *arg)
{
	const struct bpf_insn *in = insns + pc;
	unsigned int bytes = vm_insn__bytes(in);

	l->regs = (l->regs & ~vm_insn__writes(in, kind)) | vm_insn__reads(in, kind);
	switch (kind) {
	case VM_LDX:
		live_access(l, f, in->src_reg, in->off, bytes, true);
		break;
	case VM_ST:
	case VM_STX:
		live_access(l, f, in->dst_reg, in->off, bytes, false);
		break;
	case VM_ATOMIC:
		live_access(l, f, in->dst_reg, in->off, bytes, true);
		break;
	case VM_CALL:
	case VM_LOCAL:
		live_call(l, insns, pc, f, kind, reads, arg);
		break;
	default:
		break;
	}
}

static void live_join(struct vm_live *to, const struct vm_live *from)
{
	to->regs |= from->regs;
	for (size_t i = 0; i < VM_STACK_SIZE / 64; i++)
		to->stack[i] |= from->stack[i];
}

int vm_liveness(const struct bpf_insn *insns, size_t n_insns, const struct vm_fact *facts, vm_live_arg *reads,
		void *arg, struct vm_live *live)
{
	bool again = true;

	memset(live, 0, n_insns * sizeof(*live));
	while (again) {
		again = false;
		for (size_t pc = n_insns; pc-- > 0;) {
			struct vm_live l = {0};
			enum vm_kind kind;

			if (!facts[pc].reached)
				continue;
			kind = vm_insn__kind(insns + pc, &(const char *){0});
			if (kind != VM_JA && kind != VM_EXIT)
				l = live[pc + vm_insn__slots(kind)];
			if (kind == VM_JCC || kind == VM_JA)
				live_join(&l, &live[vm_insn__target(insns + pc, kind, pc)]);
			live_before(&l, insns, pc, &facts[pc], kind, reads, arg);
			if (memcmp(&l, &live[pc], sizeof(l))) {
				live[pc] = l;
				again = true;
			}
		}
	}
	return 0;
}
