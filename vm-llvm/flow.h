/* SPDX-License-Identifier: MIT */
/*
 * flow.h: which registers and stack slots may hold what, before each instruction: a forward data flow over each
 * subprogram. It knows four things apart: addresses in the subprogram's own stack frame (exact offset if possible),
 * constants, map tokens and pointers into map values. It relies on the kernel's verifier for one thing: a pointer that
 * was written to memory other than the stack is never used as a pointer again. A branch on constants is followed one
 * way only.
 */
#ifndef BPFTIME_VM_FLOW_H
#define BPFTIME_VM_FLOW_H

#include "insn.h"

#define VM_FLOW_MAX_MAPS 64
#define VM_SLOTS	 (VM_STACK_SIZE / 8)

enum vm_abs_kind {
	VM_ABS_DATA = 1,  /* anything that is not below */
	VM_ABS_CONST = 2, /* the number n */
	VM_ABS_STACK = 4, /* r10 + n */
	VM_ABS_FRAME = 8, /* somewhere in the frame */
};

/* What one register or stack slot may hold: a union of kinds, tokens and values. n only when kinds is one bit. */
struct vm_abs {
	int64_t n;
	uint64_t tokens; /* bit i: map token i, or something computed from it */
	uint64_t values; /* bit i: pointer into a value of map i, or something computed from it */
	uint64_t kinds;	 /* enum vm_abs_kind; no padding: states are compared as bytes */
};

struct vm_state {
	struct vm_abs reg[11];
	struct vm_abs slot[VM_SLOTS]; /* slot[i] is at r10 - 512 + 8 * i */
};

/* What remains of the states when the analysis is done: per instruction. */
struct vm_fact {
	int16_t stack[11];  /* r10 + stack[i] is what register i holds, or VM_FACT_NONE */
	uint16_t may_stack; /* bit i: register i may point into the frame */
	bool leader;	    /* a jump may come here */
	bool reached;
};
#define VM_FACT_NONE INT16_MAX

static inline bool vm_abs__is(const struct vm_abs *a, enum vm_abs_kind kind)
{
	return a->kinds == kind && !a->tokens && !a->values;
}

static inline bool vm_abs__may_stack(const struct vm_abs *a)
{
	return a->kinds & (VM_ABS_STACK | VM_ABS_FRAME);
}

/* Called once per reached instruction, in order, with the state before it. */
typedef void vm_flow_visit(void *arg, size_t pc, const struct vm_state *state);

/*
 * Analyses a valid program. facts: n_insns of them, filled; visit may be NULL. -E2BIG when the program is too large for
 * the analysis, -ENOMEM.
 */
int vm_flow(const struct bpf_insn *insns, size_t n_insns, const struct vm_layout *l, struct vm_fact *facts,
	    vm_flow_visit *visit, void *arg);

/*
 * The same for a program that no verifier has seen: nothing is believed about what the stack holds, because any pointer
 * may lead there. facts are then right whatever the program does with its pointers.
 */
int vm_flow_unverified(const struct bpf_insn *insns, size_t n_insns, const struct vm_layout *l, struct vm_fact *facts);

/*
 * `rX = *(rP + o); rX += c; *(rP + o) = rX` within one block, nothing in between that touches memory, rX, rP or c;
 * never on the stack. c may be an immediate or a register, and the sum may also be made in c's register.
 */
struct vm_rmw {
	size_t load, add, store; /* positions */
};
/* Whether such a sequence begins with the load at pc. */
bool vm_rmw__match(const struct bpf_insn *insns, size_t n_insns, const struct vm_fact *facts, size_t pc,
		   struct vm_rmw *out);

/* Registers and stack bytes that may still be read. */
struct vm_live {
	uint64_t regs;
	uint64_t stack[VM_STACK_SIZE / 64]; /* bit b of the whole: byte at r10 - 512 + b */
};
/* Bytes of stack at [off, off + size) that a call may read through argument register arg (1 to 5); false: none. */
typedef bool vm_live_arg(void *arg, const struct bpf_insn *insns, size_t pc, unsigned int reg, unsigned int *size);
/* Fills live[pc]: what is live before instruction pc. */
int vm_liveness(const struct bpf_insn *insns, size_t n_insns, const struct vm_fact *facts, vm_live_arg *reads,
		void *arg, struct vm_live *live);

#endif
