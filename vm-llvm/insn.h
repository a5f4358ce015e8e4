/* SPDX-License-Identifier: MIT */
/*
 * insn.h: what an eBPF instruction is (RFC 9669): its kind, the registers it reads and writes, where it jumps. One
 * place that the validator, the interpreter, the analyses and the lifter share.
 */
#ifndef BPFTIME_VM_INSN_H
#define BPFTIME_VM_INSN_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <linux/bpf.h>

/* Newer than the oldest uapi header that we build with. */
#define VM_MODE_MEMSX	  0x80 /* sign-extending load */
#define VM_OP_JCOND	  0xe0 /* may_goto */
#define VM_PSEUDO_KFUNC	  2    /* src_reg of a call of a kernel function */
#define VM_PSEUDO_FUNC	  4    /* src_reg of a 64-bit immediate: address of a subprogram */
#define VM_PSEUDO_MAP_IDX 5    /* src_reg of a 64-bit immediate: index into fd_array */
#define VM_PSEUDO_BTF_ID  3    /* src_reg of a 64-bit immediate: kernel variable */
#define VM_PSEUDO_IDX_VAL 6    /* as VM_PSEUDO_MAP_IDX, address of the value */

#define VM_STACK_SIZE 512 /* bytes per frame: MAX_BPF_STACK */
#define VM_MAX_FRAMES 8	  /* MAX_CALL_FRAMES */

enum vm_kind {
	VM_BAD = 0,
	VM_ALU,	   /* 32 or 64 bits, including moves and negation */
	VM_END,	   /* byte swaps */
	VM_LDX,	   /* load */
	VM_ST,	   /* store an immediate */
	VM_STX,	   /* store a register */
	VM_ATOMIC, /* read-modify-write */
	VM_LDDW,   /* 64-bit immediate, two slots */
	VM_JCC,	   /* conditional jump */
	VM_JA,	   /* jump, with off or imm */
	VM_CALL,   /* helper */
	VM_LOCAL,  /* call of a subprogram of the same program */
	VM_EXIT,
	/* Only with the feature of the same name (vm.h). */
	VM_TAIL,   /* tail call */
	VM_CALLX,  /* call of what a register holds */
	VM_KFUNC,  /* call of a kernel function */
	VM_PACKET, /* load from a packet, BPF_ABS or BPF_IND */
};

/* The kind of in[0]; VM_BAD with *why set (a sentence fragment) when it is no instruction that we know. */
enum vm_kind vm_insn__kind(const struct bpf_insn *in, const char **why);
/* The enum vm_feature without which in[0] is refused, *why being the reason; 0: none. */
uint32_t vm_insn__feature(const struct bpf_insn *in, enum vm_kind kind, const char **why);
/*
 * The register that a VM_CALLX calls. RFC 9669 and its drafts, GCC and Clang disagree where its number stands: in
 * dst_reg, or in imm. The other one is zero.
 */
unsigned int vm_insn__callx_reg(const struct bpf_insn *in);
/* Bit masks of registers. A call reads its arguments and writes r0 to r5. */
uint32_t vm_insn__reads(const struct bpf_insn *in, enum vm_kind kind);
uint32_t vm_insn__writes(const struct bpf_insn *in, enum vm_kind kind);
/* Index of the instruction that a VM_JCC, VM_JA, VM_LOCAL, or a VM_LDDW of a subprogram's address at pc refers to. */
int64_t vm_insn__target(const struct bpf_insn *in, enum vm_kind kind, size_t pc);

static inline unsigned int vm_insn__slots(enum vm_kind kind)
{
	return kind == VM_LDDW ? 2 : 1;
}

/* Bytes that a load, store or atomic moves. */
static inline unsigned int vm_insn__bytes(const struct bpf_insn *in)
{
	static const uint8_t bytes[] = {4, 2, 1, 8};

	return bytes[BPF_SIZE(in->code) >> 3];
}

/* Whether a VM_LDDW is the address of a subprogram. */
static inline bool vm_insn__is_func(const struct bpf_insn *in, enum vm_kind kind)
{
	return kind == VM_LDDW && in->src_reg == VM_PSEUDO_FUNC;
}

static inline bool vm_insn__is64(const struct bpf_insn *in)
{
	return BPF_CLASS(in->code) == BPF_ALU64 || BPF_CLASS(in->code) == BPF_JMP;
}

/* ---- the shape of a program ---- */

/* Subprograms: [start[i], start[i + 1]) for i < n. start[0] == 0. */
struct vm_layout {
	size_t n;
	size_t *start;
};

/* Validates and finds the subprograms. features: enum vm_feature. Free with vm_layout__clear(). */
int vm_layout__init(struct vm_layout *l, const struct bpf_insn *insns, size_t n_insns, uint32_t features, char *err,
		    size_t err_size);
void vm_layout__clear(struct vm_layout *l);
/* The number of the subprogram that begins at pc, or -1. */
int vm_layout__sub(const struct vm_layout *l, size_t pc);

/* Writes the sentence and returns code. */
int vm_fail(char *err, size_t err_size, int code, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/* The arithmetic of VM_ALU without moves, on 64-bit registers; shared by the interpreter and constant folding. */
uint64_t vm_alu(const struct bpf_insn *in, uint64_t dst, uint64_t src);
/* Whether a VM_JCC is taken. */
bool vm_compare(const struct bpf_insn *in, uint64_t dst, uint64_t src);

#endif
