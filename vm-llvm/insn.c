// SPDX-License-Identifier: MIT
#include "insn.h"
#include "vm.h"

#include <stdio.h>

int vm_fail(char *err, size_t err_size, int code, const char *fmt, ...)
{
	va_list ap;

	if (err && err_size) {
		va_start(ap, fmt);
		vsnprintf(err, err_size, fmt, ap);
		va_end(ap);
	}
	return code;
}

static enum vm_kind alu_kind(const struct bpf_insn *in, const char **why)
{
	bool is64 = BPF_CLASS(in->code) == BPF_ALU64, reg = BPF_SRC(in->code) == BPF_X;
	uint8_t op = BPF_OP(in->code);

	switch (op) {
	case BPF_END:
		if ((is64 && reg) || in->src_reg || in->off || (in->imm != 16 && in->imm != 32 && in->imm != 64)) {
			*why = "malformed byte swap";
			return VM_BAD;
		}
		return VM_END;
	case BPF_NEG:
		if (reg || in->src_reg || in->off || in->imm) {
			*why = "malformed negation";
			return VM_BAD;
		}
		return VM_ALU;
	case BPF_MOV:
		if (in->off && !(reg && (in->off == 8 || in->off == 16 || (is64 && in->off == 32)))) {
			*why = "malformed sign-extending move";
			return VM_BAD;
		}
		break;
	case BPF_DIV:
	case BPF_MOD:
		if (in->off != 0 && in->off != 1) {
			*why = "malformed division";
			return VM_BAD;
		}
		break;
	default:
		if (op > BPF_END || in->off) {
			*why = "unknown arithmetic instruction";
			return VM_BAD;
		}
	}
	if (reg ? in->imm != 0 : in->src_reg != 0) {
		*why = "arithmetic instruction with both an immediate and a source register";
		return VM_BAD;
	}
	return VM_ALU;
}

static enum vm_kind atomic_kind(const struct bpf_insn *in, const char **why)
{
	if (BPF_SIZE(in->code) != BPF_W && BPF_SIZE(in->code) != BPF_DW) {
		*why = "atomic instruction of less than 4 bytes";
		return VM_BAD;
	}
	switch (in->imm) {
	case BPF_ADD:
	case BPF_OR:
	case BPF_AND:
	case BPF_XOR:
	case BPF_ADD | BPF_FETCH:
	case BPF_OR | BPF_FETCH:
	case BPF_AND | BPF_FETCH:
	case BPF_XOR | BPF_FETCH:
	case BPF_XCHG:
	case BPF_CMPXCHG:
		return VM_ATOMIC;
	}
	*why = "unknown atomic operation";
	return VM_BAD;
}

static enum vm_kind mem_kind(const struct bpf_insn *in, const char **why)
{
	uint8_t class = BPF_CLASS(in->code), mode = BPF_MODE(in->code);

	if (class == BPF_LDX) {
		if (in->imm == 0 && (mode == BPF_MEM || (mode == VM_MODE_MEMSX && BPF_SIZE(in->code) != BPF_DW)))
			return VM_LDX;
	} else if (class == BPF_ST) {
		if (mode == BPF_MEM && in->src_reg == 0)
			return VM_ST;
	} else if (mode == BPF_MEM && in->imm == 0) {
		return VM_STX;
	} else if (mode == BPF_ATOMIC) {
		return atomic_kind(in, why);
	}
	*why = "malformed load or store";
	return VM_BAD;
}

static enum vm_kind lddw_kind(const struct bpf_insn *in, const char **why)
{
	uint8_t mode = BPF_MODE(in->code);

	if (mode == BPF_ABS || mode == BPF_IND) {
		if (BPF_SIZE(in->code) != BPF_DW && !in->dst_reg && !in->off && (mode == BPF_IND || !in->src_reg))
			return VM_PACKET;
		*why = "malformed legacy packet access";
		return VM_BAD;
	}
	if (in->code != (BPF_LD | BPF_IMM | BPF_DW)) {
		*why = "unknown kind of load";
		return VM_BAD;
	}
	if (in->off || in[1].code || in[1].dst_reg || in[1].src_reg || in[1].off) {
		*why = "malformed 64-bit immediate";
		return VM_BAD;
	}
	if (in->src_reg <= VM_PSEUDO_IDX_VAL)
		return VM_LDDW;
	*why = "64-bit immediate of unknown kind";
	return VM_BAD;
}

static enum vm_kind call_kind(const struct bpf_insn *in, const char **why)
{
	if (in->code == (BPF_JMP | BPF_CALL | BPF_X) && !in->src_reg && !in->off && (!in->dst_reg || !in->imm) &&
	    in->imm >= 0 && in->imm <= 10)
		return VM_CALLX;
	if (in->code != (BPF_JMP | BPF_CALL) || in->dst_reg) {
		*why = "malformed call";
		return VM_BAD;
	}
	switch (in->src_reg) {
	case 0:
		return in->imm == BPF_FUNC_tail_call ? VM_TAIL : VM_CALL;
	case BPF_PSEUDO_CALL:
		return VM_LOCAL;
	case VM_PSEUDO_KFUNC:
		return VM_KFUNC;
	}
	*why = "call of unknown kind";
	return VM_BAD;
}

unsigned int vm_insn__callx_reg(const struct bpf_insn *in)
{
	return in->dst_reg ? in->dst_reg : (unsigned int)in->imm;
}

static enum vm_kind jump_kind(const struct bpf_insn *in, const char **why)
{
	bool reg = BPF_SRC(in->code) == BPF_X;

	switch (BPF_OP(in->code)) {
	case BPF_JA:
		if (reg || in->dst_reg || in->src_reg || (BPF_CLASS(in->code) == BPF_JMP ? in->imm : in->off) != 0) {
			*why = "malformed jump";
			return VM_BAD;
		}
		return VM_JA;
	case BPF_CALL:
		return call_kind(in, why);
	case BPF_EXIT:
		if (in->code != (BPF_JMP | BPF_EXIT) || in->dst_reg || in->src_reg || in->imm || in->off) {
			*why = "malformed exit";
			return VM_BAD;
		}
		return VM_EXIT;
	case VM_OP_JCOND:
		*why = "may_goto, which only the kernel's verifier gives a meaning";
		return VM_BAD;
	}
	if (BPF_OP(in->code) > BPF_JSLE || (reg ? in->imm != 0 : in->src_reg != 0)) {
		*why = "unknown or malformed conditional jump";
		return VM_BAD;
	}
	return VM_JCC;
}

enum vm_kind vm_insn__kind(const struct bpf_insn *in, const char **why)
{
	switch (BPF_CLASS(in->code)) {
	case BPF_ALU:
	case BPF_ALU64:
		return alu_kind(in, why);
	case BPF_LDX:
	case BPF_ST:
	case BPF_STX:
		return mem_kind(in, why);
	case BPF_LD:
		return lddw_kind(in, why);
	default:
		return jump_kind(in, why);
	}
}

/* What is refused unless the caller has said that he carries it, and how the refusal reads. */
static const struct {
	enum vm_feature feature;
	const char *why;
} refusals[] = {
	{VM_FEATURE_TAIL_CALL, "tail call, which is not carried"},
	{VM_FEATURE_CALLX, "call of what a register holds, which is not carried"},
	{VM_FEATURE_KFUNC, "call of a kernel function, which only the kernel has"},
	{VM_FEATURE_PACKET, "legacy packet access"},
	{VM_FEATURE_FUNC_ADDR, "address of a subprogram (a callback), which is not carried"},
	{VM_FEATURE_BTF_ID, "address of a kernel variable, which only the kernel has"},
	{VM_FEATURE_MAP_IDX, "map given as an index into fd_array, which is to be resolved before compiling"},
};

static uint32_t lddw_feature(const struct bpf_insn *in)
{
	switch (in->src_reg) {
	case VM_PSEUDO_BTF_ID:
		return VM_FEATURE_BTF_ID;
	case VM_PSEUDO_FUNC:
		return VM_FEATURE_FUNC_ADDR;
	case VM_PSEUDO_MAP_IDX:
	case VM_PSEUDO_IDX_VAL:
		return VM_FEATURE_MAP_IDX;
	default:
		return 0;
	}
}

uint32_t vm_insn__feature(const struct bpf_insn *in, enum vm_kind kind, const char **why)
{
	uint32_t feature = kind == VM_TAIL     ? VM_FEATURE_TAIL_CALL
			   : kind == VM_CALLX  ? VM_FEATURE_CALLX
			   : kind == VM_KFUNC  ? VM_FEATURE_KFUNC
			   : kind == VM_PACKET ? VM_FEATURE_PACKET
			   : kind == VM_LDDW   ? lddw_feature(in)
					       : 0;

	for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++)
		if (refusals[i].feature == feature)
			*why = refusals[i].why;
	return feature;
}

#define R(n)   (1u << (n))
#define R_ARGS (R(1) | R(2) | R(3) | R(4) | R(5))

/* Arguments of the helpers that tools use most; of all others we assume five. */
static uint32_t helper_args(int32_t id)
{
	static const struct {
		int32_t id;
		uint8_t args;
	} known[] = {
		{BPF_FUNC_map_lookup_elem, 2},	    {BPF_FUNC_map_update_elem, 4},
		{BPF_FUNC_map_delete_elem, 2},	    {BPF_FUNC_probe_read, 3},
		{BPF_FUNC_ktime_get_ns, 0},	    {BPF_FUNC_get_smp_processor_id, 0},
		{BPF_FUNC_get_current_pid_tgid, 0}, {BPF_FUNC_get_current_uid_gid, 0},
		{BPF_FUNC_get_current_comm, 2},	    {BPF_FUNC_probe_read_str, 3},
		{BPF_FUNC_probe_read_user, 3},	    {BPF_FUNC_probe_read_kernel, 3},
		{BPF_FUNC_probe_read_user_str, 3},  {BPF_FUNC_probe_read_kernel_str, 3},
		{BPF_FUNC_ktime_get_boot_ns, 0},    {BPF_FUNC_get_func_ip, 1},
		{BPF_FUNC_get_attach_cookie, 1},    {BPF_FUNC_get_current_task, 0},
	};
	size_t i = 0;

	while (i < sizeof(known) / sizeof(known[0]) && known[i].id != id)
		i++;
	return i < sizeof(known) / sizeof(known[0]) ? ((1u << known[i].args) - 1) << 1 : R_ARGS;
}

uint32_t vm_insn__reads(const struct bpf_insn *in, enum vm_kind kind)
{
	uint32_t dst = R(in->dst_reg), src = R(in->src_reg);

	switch (kind) {
	case VM_ALU:
		return (BPF_OP(in->code) == BPF_MOV ? 0 : dst) | (BPF_SRC(in->code) == BPF_X ? src : 0);
	case VM_JCC:
		return dst | (BPF_SRC(in->code) == BPF_X ? src : 0);
	case VM_END:
	case VM_ST:
		return dst;
	case VM_LDX:
		return src;
	case VM_STX:
		return dst | src;
	case VM_ATOMIC:
		return dst | src | (in->imm == BPF_CMPXCHG ? R(0) : 0);
	case VM_CALL:
		return helper_args(in->imm);
	case VM_LOCAL:
	case VM_KFUNC:
		return R_ARGS;
	case VM_CALLX:
		return R_ARGS | R(vm_insn__callx_reg(in));
	case VM_TAIL:
		return R(1) | R(2) | R(3);
	case VM_PACKET:
		return R(6) | (BPF_MODE(in->code) == BPF_IND ? src : 0);
	case VM_EXIT:
		return R(0);
	default:
		return 0;
	}
}

uint32_t vm_insn__writes(const struct bpf_insn *in, enum vm_kind kind)
{
	switch (kind) {
	case VM_ALU:
	case VM_END:
	case VM_LDX:
	case VM_LDDW:
		return R(in->dst_reg);
	case VM_ATOMIC:
		return in->imm == BPF_CMPXCHG ? R(0) : (in->imm & BPF_FETCH) ? R(in->src_reg) : 0;
	case VM_CALL:
	case VM_LOCAL:
	case VM_CALLX:
	case VM_KFUNC:
	case VM_TAIL:
	case VM_PACKET:
		return R(0) | R_ARGS;
	default:
		return 0;
	}
}

int64_t vm_insn__target(const struct bpf_insn *in, enum vm_kind kind, size_t pc)
{
	bool wide = kind == VM_LOCAL || kind == VM_LDDW || (kind == VM_JA && BPF_CLASS(in->code) == BPF_JMP32);

	return (int64_t)pc + 1 + (wide ? in->imm : in->off);
}

static uint64_t divide(const struct bpf_insn *in, bool is64, uint64_t a, uint64_t b)
{
	bool mod = BPF_OP(in->code) == BPF_MOD;

	if (b == 0)
		return mod ? a : 0;
	if (in->off == 0)
		return mod ? a % b : a / b;
	if (is64)
		return (int64_t)b == -1 ? (mod ? 0 : -a)
					: (uint64_t)(mod ? (int64_t)a % (int64_t)b : (int64_t)a / (int64_t)b);
	return (int32_t)b == -1 ? (mod ? 0 : -a) : (uint64_t)(mod ? (int32_t)a % (int32_t)b : (int32_t)a / (int32_t)b);
}

uint64_t vm_alu(const struct bpf_insn *in, uint64_t dst, uint64_t src)
{
	bool is64 = vm_insn__is64(in);
	uint64_t a = is64 ? dst : (uint32_t)dst, b = is64 ? src : (uint32_t)src, v = 0;
	unsigned int shift = b & (is64 ? 63 : 31);

	switch (BPF_OP(in->code)) {
	case BPF_ADD:
		v = a + b;
		break;
	case BPF_SUB:
		v = a - b;
		break;
	case BPF_MUL:
		v = a * b;
		break;
	case BPF_DIV:
	case BPF_MOD:
		v = divide(in, is64, a, b);
		break;
	case BPF_OR:
		v = a | b;
		break;
	case BPF_AND:
		v = a & b;
		break;
	case BPF_XOR:
		v = a ^ b;
		break;
	case BPF_LSH:
		v = a << shift;
		break;
	case BPF_RSH:
		v = a >> shift;
		break;
	case BPF_ARSH:
		v = is64 ? (uint64_t)((int64_t)a >> shift) : (uint64_t)((int32_t)a >> shift);
		break;
	case BPF_NEG:
		v = -a;
		break;
	case BPF_MOV:
		v = in->off == 8    ? (uint64_t)(int8_t)b
		    : in->off == 16 ? (uint64_t)(int16_t)b
		    : in->off == 32 ? (uint64_t)(int32_t)b
				    : b;
		break;
	}
	return is64 ? v : (uint32_t)v;
}

bool vm_compare(const struct bpf_insn *in, uint64_t a, uint64_t b)
{
	int64_t sa, sb;

	if (vm_insn__is64(in)) {
		sa = (int64_t)a;
		sb = (int64_t)b;
	} else {
		a = (uint32_t)a;
		b = (uint32_t)b;
		sa = (int32_t)a;
		sb = (int32_t)b;
	}
	switch (BPF_OP(in->code)) {
	case BPF_JEQ:
		return a == b;
	case BPF_JNE:
		return a != b;
	case BPF_JGT:
		return a > b;
	case BPF_JGE:
		return a >= b;
	case BPF_JLT:
		return a < b;
	case BPF_JLE:
		return a <= b;
	case BPF_JSGT:
		return sa > sb;
	case BPF_JSGE:
		return sa >= sb;
	case BPF_JSLT:
		return sa < sb;
	case BPF_JSLE:
		return sa <= sb;
	default:
		return (a & b) != 0; /* BPF_JSET */
	}
}
