// SPDX-License-Identifier: MIT
/*
 * disasm.c: one function per class of instruction, one table per operator. The notation is the kernel's; the tests
 * compare with what its verifier logs.
 */
#include "disasm.h"
#include "insn.h"

#include <stdio.h>
#include <string.h>

#define MODE_NOSPEC    0xc0  /* BPF_ST: a barrier that the verifier inserts */
#define ATOMIC_LOAD    0x100 /* BPF_LOAD_ACQ */
#define ATOMIC_RELEASE 0x110 /* BPF_STORE_REL */
#define JMP_COND       0xe0  /* BPF_JCOND: may_goto */
#define OFF_CAST       1     /* a move's offset: addr_space_cast() */
#define OFF_PERCPU     (-1)  /* a move's offset: address of a per-CPU variable */

struct text {
	char *at;
	size_t left;
};

static void say(struct text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void say(struct text *t, const char *format, ...)
{
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(t->at, t->left, format, args);
	va_end(args);
	if (n < 0 || t->left == 0)
		return;
	if ((size_t)n >= t->left)
		n = (int)t->left - 1;
	t->at += n;
	t->left -= (size_t)n;
}

static const char *const alu_operators[16] = {
	[BPF_ADD >> 4] = "+=", [BPF_SUB >> 4] = "-=", [BPF_MUL >> 4] = "*=",  [BPF_DIV >> 4] = "/=",
	[BPF_OR >> 4] = "|=",  [BPF_AND >> 4] = "&=", [BPF_LSH >> 4] = "<<=", [BPF_RSH >> 4] = ">>=",
	[BPF_MOD >> 4] = "%=", [BPF_XOR >> 4] = "^=", [BPF_MOV >> 4] = "=",   [BPF_ARSH >> 4] = "s>>=",
};

static const char *const jump_operators[16] = {
	[BPF_JEQ >> 4] = "==", [BPF_JGT >> 4] = ">",   [BPF_JGE >> 4] = ">=",	[BPF_JSET >> 4] = "&",
	[BPF_JNE >> 4] = "!=", [BPF_JSGT >> 4] = "s>", [BPF_JSGE >> 4] = "s>=", [BPF_JLT >> 4] = "<",
	[BPF_JLE >> 4] = "<=", [BPF_JSLT >> 4] = "s<", [BPF_JSLE >> 4] = "s<=",
};

/* By BPF_SIZE() >> 3, as the sizes of vm_insn__bytes(). */
static const char *const unsigned_types[4] = {"u32", "u16", "u8", "u64"};
static const char *const signed_types[4] = {"s32", "s16", "s8", "s64"};

static const char *type_of(const struct bpf_insn *in)
{
	return unsigned_types[BPF_SIZE(in->code) >> 3];
}

static const char *const helper_names[] = {
#define HELPER_NAME(name) "bpf_" #name
	__BPF_FUNC_MAPPER(HELPER_NAME)
#undef HELPER_NAME
};

const char *vm_helper_name(uint32_t id)
{
	return id && id < sizeof(helper_names) / sizeof(helper_names[0]) ? helper_names[id] : NULL;
}

/* ---- arithmetic ---- */

static void byte_swap(struct text *t, const struct bpf_insn *in)
{
	bool is64 = BPF_CLASS(in->code) == BPF_ALU64, reg = BPF_SRC(in->code) == BPF_X;

	if (is64 && reg)
		say(t, "BUG_alu64_%02x", in->code);
	else
		say(t, "r%d = %s%d r%d", in->dst_reg, is64 ? "bswap" : reg ? "be" : "le", in->imm, in->dst_reg);
}

/* Moves that are told apart by their offset. False: an ordinary one. */
static bool odd_move(struct text *t, const struct bpf_insn *in, char c)
{
	if (BPF_OP(in->code) != BPF_MOV || BPF_SRC(in->code) != BPF_X)
		return false;
	if (in->off == 8 || in->off == 16 || in->off == 32)
		say(t, "%c%d = (s%d)%c%d", c, in->dst_reg, in->off, c, in->src_reg);
	else if (in->code == (BPF_ALU64 | BPF_MOV | BPF_X) && in->off == OFF_CAST)
		say(t, "r%d = addr_space_cast(r%d, %u, %u)", in->dst_reg, in->src_reg, (uint32_t)in->imm >> 16,
		    (uint16_t)in->imm);
	else if (in->code == (BPF_ALU64 | BPF_MOV | BPF_X) && in->off == OFF_PERCPU)
		say(t, "r%d = &(void __percpu *)(r%d)", in->dst_reg, in->src_reg);
	else
		return false;
	return true;
}

static void arithmetic(struct text *t, const struct bpf_insn *in)
{
	uint8_t op = BPF_OP(in->code);
	char c = BPF_CLASS(in->code) == BPF_ALU ? 'w' : 'r';
	const char *name = alu_operators[op >> 4], *sign;

	if (op == BPF_END) {
		byte_swap(t, in);
		return;
	}
	if (op == BPF_NEG) {
		say(t, "%c%d = -%c%d", c, in->dst_reg, c, in->dst_reg);
		return;
	}
	if (!name) {
		say(t, "BUG_alu%s_%02x", c == 'w' ? "" : "64", in->code);
		return;
	}
	if (odd_move(t, in, c))
		return;
	sign = (op == BPF_DIV || op == BPF_MOD) && in->off == 1 ? "s" : "";
	if (BPF_SRC(in->code) == BPF_X)
		say(t, "%c%d %s%s %c%d", c, in->dst_reg, sign, name, c, in->src_reg);
	else
		say(t, "%c%d %s%s %d", c, in->dst_reg, sign, name, in->imm);
}

/* ---- memory ---- */

/* The operations that give back what was there, without BPF_FETCH; others have an operator or are no RMW. */
static const char *fetch_name(int32_t imm)
{
	switch (imm) {
	case BPF_ADD | BPF_FETCH:
		return "add";
	case BPF_OR | BPF_FETCH:
		return "or";
	case BPF_AND | BPF_FETCH:
		return "and";
	case BPF_XOR | BPF_FETCH:
		return "xor";
	}
	return NULL;
}

static void atomic(struct text *t, const struct bpf_insn *in)
{
	const char *type = type_of(in), *wide = BPF_SIZE(in->code) == BPF_DW ? "64" : "", *fetch = fetch_name(in->imm);
	int32_t op = in->imm;

	if (op == BPF_ADD || op == BPF_OR || op == BPF_AND || op == BPF_XOR)
		say(t, "lock *(%s *)(r%d %+d) %s r%d", type, in->dst_reg, in->off, alu_operators[op >> 4], in->src_reg);
	else if (fetch)
		say(t, "r%d = atomic%s_fetch_%s((%s *)(r%d %+d), r%d)", in->src_reg, wide, fetch, type, in->dst_reg,
		    in->off, in->src_reg);
	else if (op == BPF_CMPXCHG)
		say(t, "r0 = atomic%s_cmpxchg((%s *)(r%d %+d), r0, r%d)", wide, type, in->dst_reg, in->off,
		    in->src_reg);
	else if (op == BPF_XCHG)
		say(t, "r%d = atomic%s_xchg((%s *)(r%d %+d), r%d)", in->src_reg, wide, type, in->dst_reg, in->off,
		    in->src_reg);
	else if (op == ATOMIC_LOAD)
		say(t, "r%d = load_acquire((%s *)(r%d %+d))", in->dst_reg, type, in->src_reg, in->off);
	else if (op == ATOMIC_RELEASE)
		say(t, "store_release((%s *)(r%d %+d), r%d)", type, in->dst_reg, in->off, in->src_reg);
	else
		say(t, "BUG_%02x", in->code);
}

static void store(struct text *t, const struct bpf_insn *in)
{
	if (BPF_MODE(in->code) == BPF_MEM && BPF_CLASS(in->code) == BPF_STX)
		say(t, "*(%s *)(r%d %+d) = r%d", type_of(in), in->dst_reg, in->off, in->src_reg);
	else if (BPF_MODE(in->code) == BPF_MEM)
		say(t, "*(%s *)(r%d %+d) = %d", type_of(in), in->dst_reg, in->off, in->imm);
	else if (BPF_MODE(in->code) == BPF_ATOMIC && BPF_CLASS(in->code) == BPF_STX)
		atomic(t, in);
	else if (BPF_MODE(in->code) == MODE_NOSPEC && BPF_CLASS(in->code) == BPF_ST)
		say(t, "nospec");
	else
		say(t, "BUG_st%s_%02x", BPF_CLASS(in->code) == BPF_STX ? "x" : "", in->code);
}

static void load(struct text *t, const struct bpf_insn *in)
{
	bool extend = BPF_MODE(in->code) == VM_MODE_MEMSX;
	const char *type = (extend ? signed_types : unsigned_types)[BPF_SIZE(in->code) >> 3];

	if (BPF_MODE(in->code) == BPF_MEM || extend)
		say(t, "r%d = *(%s *)(r%d %+d)", in->dst_reg, type, in->src_reg, in->off);
	else
		say(t, "BUG_ldx_%02x", in->code);
}

static void map_number(struct text *t, int32_t imm, const struct vm_names *names)
{
	const char *name = names && names->map ? names->map(names->arg, imm) : NULL;

	if (name)
		say(t, "map[%s]", name);
	else
		say(t, "map[fd:%d]", imm);
}

/* What a 64-bit immediate means. high: its second slot's immediate. */
static void immediate(struct text *t, const struct bpf_insn *in, int32_t high, const struct vm_names *names)
{
	say(t, "r%d = ", in->dst_reg);
	switch (in->src_reg) {
	case BPF_PSEUDO_MAP_FD:
		map_number(t, in->imm, names);
		break;
	case BPF_PSEUDO_MAP_VALUE:
		map_number(t, in->imm, names);
		say(t, "[0]+%u", (uint32_t)high);
		break;
	case VM_PSEUDO_MAP_IDX:
		say(t, "map[idx:%d]", in->imm);
		break;
	case VM_PSEUDO_IDX_VAL:
		say(t, "map[idx:%d]+%d", in->imm, high);
		break;
	case VM_PSEUDO_FUNC:
		say(t, "subprog[%+d]", in->imm);
		break;
	default:
		say(t, "0x%llx", (unsigned long long)(uint32_t)high << 32 | (uint32_t)in->imm);
	}
}

static void load_other(struct text *t, const struct bpf_insn *in, int32_t high, const struct vm_names *names)
{
	if (BPF_MODE(in->code) == BPF_ABS)
		say(t, "r0 = *(%s *)skb[%d]", type_of(in), in->imm);
	else if (BPF_MODE(in->code) == BPF_IND)
		say(t, "r0 = *(%s *)skb[r%d + %d]", type_of(in), in->src_reg, in->imm);
	else if (in->code == (BPF_LD | BPF_IMM | BPF_DW))
		immediate(t, in, high, names);
	else
		say(t, "BUG_ld_%02x", in->code);
}

/* ---- control ---- */

static void call(struct text *t, const struct bpf_insn *in, size_t pc, const struct vm_names *names)
{
	const char *name = NULL;

	if (in->src_reg == BPF_PSEUDO_CALL) {
		if (names && names->sub)
			name = names->sub(names->arg, pc + 1 + (size_t)(int64_t)in->imm);
		say(t, "call pc%+d", in->imm);
		if (name)
			say(t, "#%s", name);
	} else if (in->src_reg == VM_PSEUDO_KFUNC) {
		say(t, "call kernel-function#%d", in->imm);
	} else {
		name = vm_helper_name((uint32_t)in->imm);
		say(t, "call %s#%d", name ? name : "unknown", in->imm);
	}
}

static void jump(struct text *t, const struct bpf_insn *in, size_t pc, const struct vm_names *names)
{
	bool wide = BPF_CLASS(in->code) == BPF_JMP;
	uint8_t op = BPF_OP(in->code);
	const char *name = jump_operators[op >> 4];
	char c = wide ? 'r' : 'w';

	if (in->code == (BPF_JMP | BPF_CALL))
		call(t, in, pc, names);
	else if (in->code == (BPF_JMP | BPF_JA))
		say(t, "goto pc%+d", in->off);
	else if (in->code == (BPF_JMP | BPF_JA | BPF_X))
		say(t, "gotox r%d", in->dst_reg);
	else if (in->code == (BPF_JMP32 | BPF_JA))
		say(t, "gotol pc%+d", in->imm);
	else if (in->code == (BPF_JMP | JMP_COND) && in->src_reg == 0)
		say(t, "may_goto pc%+d", in->off);
	else if (in->code == (BPF_JMP | BPF_EXIT))
		say(t, "exit");
	else if (!name)
		say(t, "BUG_jmp%s_%02x", wide ? "" : "32", in->code);
	else if (BPF_SRC(in->code) == BPF_X)
		say(t, "if %c%d %s %c%d goto pc%+d", c, in->dst_reg, name, c, in->src_reg, in->off);
	else
		say(t, "if %c%d %s 0x%x goto pc%+d", c, in->dst_reg, name, (uint32_t)in->imm, in->off);
}

size_t vm_disasm(const struct bpf_insn *insns, size_t n_insns, size_t pc, const struct vm_names *names, char *out,
		 size_t size)
{
	struct text t = {.at = out, .left = size};
	const struct bpf_insn *in = insns + pc;
	bool two = in->code == (BPF_LD | BPF_IMM | BPF_DW) && pc + 1 < n_insns;

	if (size)
		*out = 0;
	say(&t, "(%02x) ", in->code);
	switch (BPF_CLASS(in->code)) {
	case BPF_ALU:
	case BPF_ALU64:
		arithmetic(&t, in);
		break;
	case BPF_ST:
	case BPF_STX:
		store(&t, in);
		break;
	case BPF_LDX:
		load(&t, in);
		break;
	case BPF_LD:
		load_other(&t, in, two ? in[1].imm : 0, names);
		break;
	default:
		jump(&t, in, pc, names);
	}
	return two ? 2 : 1;
}
