// SPDX-License-Identifier: MIT
/*
 * generate.c: a program is a main function and up to three subprograms. Registers 0 to 6 hold numbers, always
 * initialised; 7 counts loops; 8 points to the map's value, 9 to the context, in main; the stack has eight slots of
 * numbers. Jumps go forward, as if and else, or are the end of a loop that is counted, so programs end.
 */
#include "generate.h"

#include <stdbool.h>
#include <string.h>

#include "vm-llvm/insn.h"

#define N_NUMBERS 7
#define COUNTER	  7
#define MAP_VALUE 8
#define CONTEXT	  9
#define N_SLOTS	  8
#define MAX_SUBS  3
#define MAX_DEPTH 3 /* of blocks in blocks */
/* Slots and the map's value have the same size. */
_Static_assert(8 * N_SLOTS == GENERATED_MAP_SIZE, "an offset in one is one in the other");
#define END_OF_BODY (GENERATED_MAX_INSNS - 160)

struct gen {
	struct generated *g;
	uint64_t random;
	unsigned int sub; /* 0: main */
	unsigned int n_subs;
	unsigned int used; /* subprograms 1 to used are called by somebody */
	unsigned int depth;
	bool in_loop;
	size_t calls[MAX_SUBS * 16]; /* their imm is the number of a subprogram, until all are there */
	size_t n_calls;
};

/* splitmix64 */
static uint64_t next(struct gen *x)
{
	uint64_t v = x->random += 0x9e3779b97f4a7c15ull;

	v = (v ^ (v >> 30)) * 0xbf58476d1ce4e5b9ull;
	v = (v ^ (v >> 27)) * 0x94d049bb133111ebull;
	return v ^ (v >> 31);
}

static unsigned int below(struct gen *x, unsigned int n)
{
	return (unsigned int)(next(x) >> 33) % n;
}

/* Numbers at which something changes, more often than others. */
static uint64_t number(struct gen *x)
{
	static const uint64_t edges[] = {0,	     1,		 2,	     7,		  0x7f,
					 0x80,	     0xff,	 0x7fff,     0x8000,	  0xffff,
					 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, 0x7fffffffffffffff,
					 1ull << 63, ~0ull,	 ~1ull,	     ~0x7full,	  0xffffffff00000000};

	return below(x, 3) ? edges[below(x, sizeof(edges) / sizeof(edges[0]))] : next(x) >> below(x, 64);
}

static void put(struct gen *x, uint8_t code, unsigned int dst, unsigned int src, int off, int32_t imm)
{
	x->g->insns[x->g->n++] =
		(struct bpf_insn){.code = code, .dst_reg = dst, .src_reg = src, .off = (int16_t)off, .imm = imm};
}

static void put_pair(struct gen *x, unsigned int dst, unsigned int src, uint64_t v)
{
	put(x, BPF_LD | BPF_IMM | BPF_DW, dst, src, 0, (int32_t)(uint32_t)v);
	put(x, 0, 0, 0, 0, (int32_t)(uint32_t)(v >> 32));
}

static unsigned int reg(struct gen *x)
{
	return below(x, N_NUMBERS);
}

/* ---- single instructions ---- */

static void alu(struct gen *x)
{
	static const uint8_t ops[] = {BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_MOD,  BPF_OR,
				      BPF_AND, BPF_XOR, BPF_LSH, BPF_RSH, BPF_ARSH, BPF_MOV};
	uint8_t op = ops[below(x, sizeof(ops))], class = below(x, 2) ? BPF_ALU64 : BPF_ALU;
	bool division = op == BPF_DIV || op == BPF_MOD, shift = op == BPF_LSH || op == BPF_RSH || op == BPF_ARSH;
	int off = division && below(x, 2);
	int32_t imm = (int32_t)number(x);

	if (below(x, 2)) {
		if (op == BPF_MOV && below(x, 2))
			off = 8 << below(x, class == BPF_ALU64 ? 3 : 2);
		put(x, class | op | BPF_X, reg(x), reg(x), off, 0);
		return;
	}
	/* The kernel refuses these at once. */
	if (division && imm == 0)
		imm = 3;
	if (shift)
		imm &= class == BPF_ALU64 ? 63 : 31;
	put(x, class | op | BPF_K, reg(x), 0, off, imm);
}

static void unary(struct gen *x)
{
	static const uint8_t codes[] = {BPF_ALU | BPF_NEG, BPF_ALU64 | BPF_NEG, BPF_ALU | BPF_END | BPF_TO_LE,
					BPF_ALU | BPF_END | BPF_TO_BE, BPF_ALU64 | BPF_END};
	uint8_t code = codes[below(x, sizeof(codes))];

	put(x, code, reg(x), 0, 0, BPF_OP(code) == BPF_NEG ? 0 : 16 << below(x, 3));
}

/* Where a load or store of that many bytes goes: the stack, the map's value (at any address), or the context. */
static void place(struct gen *x, unsigned int bytes, bool aligned, bool context, unsigned int *base, int *off)
{
	switch (below(x, x->sub || !context ? 2 : 3)) {
	case 0:
		*base = 10;
		*off = -8 * N_SLOTS + (int)(below(x, 8 * N_SLOTS / bytes) * bytes);
		return;
	case 1:
		*base = MAP_VALUE;
		*off = aligned ? (int)(below(x, GENERATED_MAP_SIZE / bytes) * bytes)
			       : (int)below(x, GENERATED_MAP_SIZE - bytes + 1);
		return;
	default:
		*base = CONTEXT;
		*off = (int)(offsetof(struct generated_ctx, scratch) + 8 * below(x, 8));
	}
}

static void memory(struct gen *x)
{
	static const uint8_t sizes[] = {BPF_B, BPF_H, BPF_W, BPF_DW};
	unsigned int which = below(x, 4), base;
	uint8_t size = sizes[which];
	int off;

	place(x, 1u << which, false, true, &base, &off);
	/* The kernel knows only plain loads and stores of the context. */
	switch (below(x, 5)) {
	case 0:
		put(x, BPF_STX | BPF_MEM | size, base, reg(x), off, 0);
		return;
	case 1:
		put(x, BPF_ST | BPF_MEM | size, base, 0, off, (int32_t)number(x));
		return;
	case 2:
		if (size != BPF_DW) {
			put(x, BPF_LDX | VM_MODE_MEMSX | size, reg(x), base, off, 0);
			return;
		}
		/* fall through */
	default:
		put(x, BPF_LDX | BPF_MEM | size, reg(x), base, off, 0);
	}
}

/*
 * Two things are left out of programs that the kernel shall run, because Linux 6.18 does them wrong. docs/vm-tests.md
 * has a program for each.
 *
 * A 32-bit compare and exchange that hits leaves the upper half of r0 as it was, where RFC 9669 has it zero, when r0 is
 * read only on a path that the verifier has pruned: it then leaves out the instruction that x86 needs for it.
 *
 * What a fetching instruction loads from the stack keeps the range that the verifier knows of the slot, but when that
 * range decides a branch, the slot is not marked as precise. So other values of the slot are taken to be as safe, and
 * the branch stays decided for them as well.
 */
static void atomic(struct gen *x)
{
	static const int32_t ops[] = {BPF_ADD,
				      BPF_OR,
				      BPF_AND,
				      BPF_XOR,
				      BPF_ADD | BPF_FETCH,
				      BPF_OR | BPF_FETCH,
				      BPF_AND | BPF_FETCH,
				      BPF_XOR | BPF_FETCH,
				      BPF_XCHG,
				      BPF_CMPXCHG};
	int32_t op = ops[below(x, sizeof(ops) / sizeof(ops[0]))];
	bool wide = below(x, 2);
	unsigned int base;
	int off;

	place(x, wide ? 8 : 4, true, false, &base, &off);
	if (x->g->kernel && base == 10 && op & BPF_FETCH) {
		base = MAP_VALUE;
		off += 8 * N_SLOTS;
	}
	put(x, BPF_STX | BPF_ATOMIC | (wide ? BPF_DW : BPF_W), base, reg(x), off, op);
	if (x->g->kernel && !wide && op == BPF_CMPXCHG)
		put(x, BPF_ALU | BPF_MOV | BPF_X, 0, 0, 0, 0);
}

/* ---- calls: afterwards registers 1 to 5 hold nothing, so they get numbers again ---- */

static void refill(struct gen *x)
{
	for (unsigned int i = 1; i <= 5; i++)
		if (below(x, 3))
			put(x, BPF_LDX | BPF_MEM | BPF_DW, i, 10, -8 - 8 * (int)below(x, N_SLOTS), 0);
		else
			put(x, BPF_ALU64 | BPF_MOV | BPF_K, i, 0, 0, (int32_t)number(x));
}

/* From the map to the stack: the two may not overlap, because helpers differ there. */
static void call_copy(struct gen *x)
{
	unsigned int size = 1 + below(x, 16);

	put(x, BPF_ALU64 | BPF_MOV | BPF_X, 1, 10, 0, 0);
	put(x, BPF_ALU64 | BPF_ADD | BPF_K, 1, 0, 0, -8 * N_SLOTS + (int)below(x, 8 * N_SLOTS - size + 1));
	put(x, BPF_ALU64 | BPF_MOV | BPF_K, 2, 0, 0, (int32_t)size);
	put(x, BPF_ALU64 | BPF_MOV | BPF_X, 3, MAP_VALUE, 0, 0);
	put(x, BPF_ALU64 | BPF_ADD | BPF_K, 3, 0, 0, (int32_t)below(x, GENERATED_MAP_SIZE - size + 1));
	put(x, BPF_JMP | BPF_CALL, 0, 0, 0, GENERATED_COPY);
	refill(x);
}

/* A subprogram calls later ones only: one that is called already, or the first that is not. */
static void call_sub(struct gen *x)
{
	unsigned int last = x->used < x->n_subs ? x->used + 1 : x->n_subs, to;

	if (x->sub >= last || x->n_calls == sizeof(x->calls) / sizeof(x->calls[0]))
		return;
	x->calls[x->n_calls++] = x->g->n;
	to = x->sub + 1 + below(x, last - x->sub);
	x->used = to > x->used ? to : x->used;
	put(x, BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, (int32_t)to);
	refill(x);
}

/* ---- blocks ---- */

static void block(struct gen *x, unsigned int length);

static size_t condition(struct gen *x)
{
	static const uint8_t ops[] = {BPF_JEQ,	BPF_JNE,  BPF_JGT,  BPF_JGE,  BPF_JLT, BPF_JLE,
				      BPF_JSGT, BPF_JSGE, BPF_JSLT, BPF_JSLE, BPF_JSET};
	uint8_t op = ops[below(x, sizeof(ops))], class = below(x, 2) ? BPF_JMP : BPF_JMP32;

	if (below(x, 2))
		put(x, class | op | BPF_X, reg(x), reg(x), 0, 0);
	else
		put(x, class | op | BPF_K, reg(x), 0, 0, (int32_t)number(x));
	return x->g->n - 1;
}

static void land(struct gen *x, size_t jump)
{
	struct bpf_insn *in = x->g->insns + jump;
	size_t distance = x->g->n - jump - 1;

	if (in->code == (BPF_JMP32 | BPF_JA))
		in->imm = (int32_t)distance;
	else
		in->off = (int16_t)distance;
}

static void branch(struct gen *x)
{
	size_t to_else = condition(x), to_end;

	block(x, 1 + below(x, 4));
	if (below(x, 2)) {
		land(x, to_else);
		return;
	}
	to_end = x->g->n;
	put(x, below(x, 2) ? BPF_JMP | BPF_JA : BPF_JMP32 | BPF_JA, 0, 0, 0, 0);
	land(x, to_else);
	block(x, 1 + below(x, 4));
	land(x, to_end);
}

static void loop(struct gen *x)
{
	size_t top;

	if (x->in_loop)
		return;
	x->in_loop = true;
	put(x, BPF_ALU64 | BPF_MOV | BPF_K, COUNTER, 0, 0, 1 + (int32_t)below(x, 4));
	top = x->g->n;
	block(x, 1 + below(x, 4));
	put(x, BPF_ALU64 | BPF_ADD | BPF_K, COUNTER, 0, 0, -1);
	put(x, BPF_JMP | BPF_JNE | BPF_K, COUNTER, 0, (int)top - (int)x->g->n - 1, 0);
	x->in_loop = false;
}

/* A pointer that goes through the map's value or the stack: what compilers turn into vectors. */
static void scan(struct gen *x)
{
	static const uint8_t sizes[] = {BPF_B, BPF_H, BPF_W, BPF_DW};
	static const uint8_t ops[] = {BPF_ADD, BPF_SUB, BPF_MUL, BPF_OR, BPF_AND, BPF_XOR, BPF_MOV};
	unsigned int which = below(x, 4), bytes = 1u << which, moving = N_NUMBERS - 1, n = 2 + below(x, 64 / bytes - 1);
	bool stack = below(x, 4) == 0;
	size_t top;

	if (x->in_loop)
		return;
	put(x, BPF_ALU64 | BPF_MOV | BPF_X, moving, stack ? 10 : MAP_VALUE, 0, 0);
	put(x, BPF_ALU64 | BPF_ADD | BPF_K, moving, 0, 0, stack ? -8 * N_SLOTS : 0);
	put(x, BPF_ALU64 | BPF_MOV | BPF_K, COUNTER, 0, 0, (int32_t)n);
	top = x->g->n;
	for (unsigned int i = 1 + below(x, 4); i; i--)
		switch (below(x, 3)) {
		case 0:
			put(x, BPF_LDX | BPF_MEM | sizes[which], below(x, moving), moving, 0, 0);
			break;
		case 1:
			put(x, BPF_STX | BPF_MEM | sizes[which], moving, below(x, moving), 0, 0);
			break;
		default:
			put(x, (below(x, 2) ? BPF_ALU64 : BPF_ALU) | ops[below(x, sizeof(ops))] | BPF_X,
			    below(x, moving), below(x, moving), 0, 0);
		}
	put(x, BPF_ALU64 | BPF_ADD | BPF_K, moving, 0, 0, (int32_t)bytes);
	put(x, BPF_ALU64 | BPF_ADD | BPF_K, COUNTER, 0, 0, -1);
	put(x, BPF_JMP | BPF_JNE | BPF_K, COUNTER, 0, (int)top - (int)x->g->n - 1, 0);
	put(x, BPF_ALU64 | BPF_MOV | BPF_X, moving, below(x, moving), 0, 0);
}

static void block(struct gen *x, unsigned int length)
{
	x->depth++;
	while (length-- && x->g->n < END_OF_BODY) {
		unsigned int kind = below(x, 32);

		if (kind < 12)
			alu(x);
		else if (kind < 15)
			unary(x);
		else if (kind < 21)
			memory(x);
		else if (kind < 24)
			atomic(x);
		else if (kind < 25)
			put_pair(x, reg(x), 0, number(x));
		else if (kind < 26)
			call_copy(x);
		else if (kind < 27)
			call_sub(x);
		else if (kind < 28 && !below(x, 3))
			scan(x);
		else if (kind < 28 && x->depth < MAX_DEPTH)
			loop(x);
		else if (x->depth < MAX_DEPTH)
			branch(x);
	}
	x->depth--;
}

/* ---- functions ---- */

static void begin(struct gen *x)
{
	if (x->sub == 0)
		put(x, BPF_ALU64 | BPF_MOV | BPF_X, CONTEXT, 1, 0, 0);
	put_pair(x, MAP_VALUE, BPF_PSEUDO_MAP_VALUE, GENERATED_MAP);
	for (unsigned int i = 0; i < N_NUMBERS; i++)
		if (x->sub == 0)
			put(x, BPF_LDX | BPF_MEM | BPF_DW, i, CONTEXT, 8 * (int)i, 0);
		else if (i == 0 || i == 6)
			put(x, BPF_ALU64 | BPF_MOV | BPF_X, i, 1 + below(x, 5), 0, 0);
	for (unsigned int i = 0; i < N_SLOTS; i++)
		put(x, BPF_STX | BPF_MEM | BPF_DW, 10, reg(x), -8 - 8 * (int)i, 0);
}

static void end_main(struct gen *x)
{
	int out = offsetof(struct generated_ctx, out);

	for (unsigned int i = 0; i < N_NUMBERS; i++, out += 8)
		put(x, BPF_STX | BPF_MEM | BPF_DW, CONTEXT, i, out, 0);
	for (unsigned int i = 0; i < N_SLOTS; i++, out += 8) {
		put(x, BPF_LDX | BPF_MEM | BPF_DW, 0, 10, -8 - 8 * (int)i, 0);
		put(x, BPF_STX | BPF_MEM | BPF_DW, CONTEXT, 0, out, 0);
	}
	put(x, BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0);
}

void generate(struct generated *g, uint64_t seed)
{
	struct gen x = {.g = g, .random = seed};
	size_t start[MAX_SUBS + 1];

	memset(g, 0, sizeof(*g));
	g->kernel = seed % 8 != 0;
	for (size_t i = 0; i < 8; i++)
		g->ctx.in[i] = number(&x);
	for (size_t i = 0; i < GENERATED_MAP_SIZE; i += 8)
		memcpy(g->map + i, &(uint64_t){number(&x)}, 8);
	x.n_subs = below(&x, MAX_SUBS + 1);
	for (x.sub = 0; x.sub <= x.used; x.sub++) {
		start[x.sub] = g->n;
		begin(&x);
		block(&x, x.sub ? 1 + below(&x, 6) : 4 + below(&x, 24));
		if (x.sub == 0)
			end_main(&x);
		put(&x, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
	}
	for (size_t i = 0; i < x.n_calls; i++)
		g->insns[x.calls[i]].imm = (int32_t)(start[g->insns[x.calls[i]].imm] - x.calls[i] - 1);
}
