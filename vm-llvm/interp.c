// SPDX-License-Identifier: MIT
/*
 * interp.c: the reference: each instruction does what RFC 9669 says and nothing else. Slow and plain on purpose; the
 * tests hold the JIT against it, and it against the kernel.
 */
#include "insn.h"
#include "vm.h"

#include <errno.h>
#include <string.h>

struct frame {
	uint64_t r[11];
	size_t ret; /* where the caller goes on */
	uint8_t stack[VM_STACK_SIZE] __attribute__((aligned(16)));
};

struct interp {
	const struct bpf_insn *insns;
	const struct vm_interp_opts *opts;
	struct frame frame[VM_MAX_FRAMES];
	unsigned int depth;
	char *err;
	size_t err_size;
};

static uint64_t load(uint64_t addr, unsigned int bytes)
{
	uint64_t v = 0;

	memcpy(&v, (const void *)(uintptr_t)addr, bytes);
	return v;
}

static void store(uint64_t addr, unsigned int bytes, uint64_t v)
{
	memcpy((void *)(uintptr_t)addr, &v, bytes);
}

static uint64_t sign_extend(uint64_t v, unsigned int bytes)
{
	unsigned int shift = 64 - 8 * bytes;

	return (uint64_t)((int64_t)(v << shift) >> shift);
}

static uint64_t swap(const struct bpf_insn *in, uint64_t v)
{
	bool keep = BPF_CLASS(in->code) == BPF_ALU && BPF_SRC(in->code) == BPF_TO_LE;

	if (in->imm == 16)
		return keep ? (uint16_t)v : __builtin_bswap16(v);
	if (in->imm == 32)
		return keep ? (uint32_t)v : __builtin_bswap32(v);
	return keep ? v : __builtin_bswap64(v);
}

static void atomic(const struct bpf_insn *in, uint64_t *r)
{
	uint64_t addr = r[in->dst_reg] + in->off, src = r[in->src_reg], old, val;
	unsigned int bytes = vm_insn__bytes(in);

	old = load(addr, bytes);
	switch (in->imm & ~BPF_FETCH) {
	case BPF_ADD:
		val = old + src;
		break;
	case BPF_OR:
		val = old | src;
		break;
	case BPF_AND:
		val = old & src;
		break;
	case BPF_XOR:
		val = old ^ src;
		break;
	case BPF_XCHG & ~BPF_FETCH:
		val = src;
		break;
	default: /* BPF_CMPXCHG */
		val = old == (bytes == 8 ? r[0] : (uint32_t)r[0]) ? src : old;
		r[0] = old;
		store(addr, bytes, val);
		return;
	}
	store(addr, bytes, val);
	if (in->imm & BPF_FETCH)
		r[in->src_reg] = old;
}

static int enter(struct interp *vm, size_t ret)
{
	struct frame *caller = &vm->frame[vm->depth], *f;

	if (++vm->depth == VM_MAX_FRAMES)
		return vm_fail(vm->err, vm->err_size, -E2BIG, "instruction %zu: calls nested deeper than %d", ret - 1,
			       VM_MAX_FRAMES);
	f = &vm->frame[vm->depth];
	memcpy(f->r, caller->r, sizeof(f->r));
	f->r[10] = (uint64_t)(uintptr_t)(f->stack + VM_STACK_SIZE);
	f->ret = ret;
	return 0;
}

static int call_helper(struct interp *vm, size_t pc, uint64_t *r)
{
	const struct vm_interp_opts *o = vm->opts;

	if (!o->helper)
		return vm_fail(vm->err, vm->err_size, -EOPNOTSUPP, "instruction %zu: helper %d is not carried", pc,
			       vm->insns[pc].imm);
	r[0] = o->helper(o->env, vm->insns[pc].imm, r[1], r[2], r[3], r[4], r[5]);
	return 0;
}

static int immediate(struct interp *vm, size_t pc, uint64_t *dst)
{
	const struct bpf_insn *in = vm->insns + pc;
	const struct vm_interp_opts *o = vm->opts;

	switch (in->src_reg) {
	case BPF_PSEUDO_MAP_FD:
		*dst = (uint32_t)in->imm;
		return 0;
	case BPF_PSEUDO_MAP_VALUE:
		if (!o->map_value)
			return vm_fail(vm->err, vm->err_size, -EOPNOTSUPP, "instruction %zu: no direct map values", pc);
		*dst = o->map_value(o->env, in->imm, in[1].imm);
		return 0;
	default:
		*dst = (uint32_t)in->imm | (uint64_t)(uint32_t)in[1].imm << 32;
		return 0;
	}
}

static int run(struct interp *vm, uint64_t *r0)
{
	uint64_t steps = 0, *r = vm->frame[0].r;
	const char *why;
	size_t pc = 0;
	int err = 0;

	for (;;) {
		const struct bpf_insn *in = vm->insns + pc;
		enum vm_kind kind = vm_insn__kind(in, &why);
		uint64_t src = BPF_SRC(in->code) == BPF_X ? r[in->src_reg] : (uint64_t)(int64_t)in->imm;
		size_t next = pc + vm_insn__slots(kind);

		if (vm->opts->max_steps && steps++ == vm->opts->max_steps)
			return vm_fail(vm->err, vm->err_size, -ELOOP, "instruction %zu: still running after %llu steps",
				       pc, (unsigned long long)vm->opts->max_steps);
		switch (kind) {
		case VM_ALU:
			r[in->dst_reg] = vm_alu(in, r[in->dst_reg], src);
			break;
		case VM_END:
			r[in->dst_reg] = swap(in, r[in->dst_reg]);
			break;
		case VM_LDX:
			src = load(r[in->src_reg] + in->off, vm_insn__bytes(in));
			r[in->dst_reg] = BPF_MODE(in->code) == BPF_MEM ? src : sign_extend(src, vm_insn__bytes(in));
			break;
		case VM_ST:
			store(r[in->dst_reg] + in->off, vm_insn__bytes(in), (uint64_t)(int64_t)in->imm);
			break;
		case VM_STX:
			store(r[in->dst_reg] + in->off, vm_insn__bytes(in), r[in->src_reg]);
			break;
		case VM_ATOMIC:
			atomic(in, r);
			break;
		case VM_LDDW:
			err = immediate(vm, pc, &r[in->dst_reg]);
			break;
		case VM_JCC:
			if (vm_compare(in, r[in->dst_reg], src))
				next = vm_insn__target(in, kind, pc);
			break;
		case VM_JA:
			next = vm_insn__target(in, kind, pc);
			break;
		case VM_CALL:
			err = call_helper(vm, pc, r);
			break;
		case VM_LOCAL:
			err = enter(vm, next);
			r = vm->frame[vm->depth % VM_MAX_FRAMES].r;
			next = vm_insn__target(in, kind, pc);
			break;
		case VM_EXIT:
			*r0 = r[0];
			if (vm->depth == 0)
				return 0;
			next = vm->frame[vm->depth--].ret;
			r = vm->frame[vm->depth].r;
			r[0] = *r0;
			break;
		case VM_BAD:
			return vm_fail(vm->err, vm->err_size, -EINVAL, "instruction %zu: %s", pc, why);
		}
		if (err)
			return err;
		pc = next;
	}
}

int vm_interpret(const struct bpf_insn *insns, size_t n_insns, void *ctx, const struct vm_interp_opts *opts,
		 uint64_t *r0, char *err, size_t err_size)
{
	static const struct vm_interp_opts none = {.sz = sizeof(none)};
	struct interp vm = {.insns = insns, .opts = opts ? opts : &none, .err = err, .err_size = err_size};
	int r = vm_validate(insns, n_insns, err, err_size);

	if (r)
		return r;
	vm.frame[0].r[1] = (uint64_t)(uintptr_t)ctx;
	vm.frame[0].r[10] = (uint64_t)(uintptr_t)(vm.frame[0].stack + VM_STACK_SIZE);
	return run(&vm, r0);
}
