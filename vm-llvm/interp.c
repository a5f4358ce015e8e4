// SPDX-License-Identifier: MIT
/*
 * interp.c: the reference: each instruction does what RFC 9669 says and nothing else. Slow and plain on purpose; the
 * tests hold the JIT against it, and it against the kernel.
 */
#include "insn.h"
#include "vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct frame {
	uint64_t r[11];
	/* Where the caller goes on. Its program may be another one: a tail call changes only the frame it is made in.
	 */
	size_t ret;
	struct vm_program caller;
	uint8_t stack[VM_STACK_SIZE] __attribute__((aligned(16)));
};

struct interp {
	struct vm_program prog; /* what runs */
	size_t pc;
	const struct vm_interp_opts *opts;
	struct frame frame[VM_MAX_FRAMES];
	unsigned int depth;
	unsigned int tail_calls;
	char *err;
	size_t err_size;
};

/* ---- memory ---- */

static bool within(uint64_t start, uint64_t size, uint64_t addr, unsigned int bytes)
{
	return addr >= start && size >= bytes && addr - start <= size - bytes;
}

static bool may_reach(const struct interp *vm, uint64_t addr, unsigned int bytes, bool write)
{
	const struct vm_interp_opts *o = vm->opts;

	if (within(o->memory.start, o->memory.size, addr, bytes) && (!write || o->memory.writable))
		return true;
	for (unsigned int i = 0; i <= vm->depth; i++)
		if (within((uintptr_t)vm->frame[vm->depth - i].stack, VM_STACK_SIZE, addr, bytes))
			return true;
	for (size_t i = 0; i < o->n_regions; i++)
		if (within(o->regions[i].start, o->regions[i].size, addr, bytes) && (!write || o->regions[i].writable))
			return true;
	return o->allowed && o->allowed(o->env, addr, bytes, write);
}

static int check(const struct interp *vm, uint64_t addr, unsigned int bytes, bool write)
{
	if (!vm->opts->check_memory || may_reach(vm, addr, bytes, write))
		return 0;
	return vm_fail(vm->err, vm->err_size, -EFAULT,
		       "instruction %zu: %s %u bytes at 0x%llx, which is no memory of the program", vm->pc,
		       write ? "writes" : "reads", bytes, (unsigned long long)addr);
}

static uint64_t sign_extend(uint64_t v, unsigned int bytes)
{
	unsigned int shift = 64 - 8 * bytes;

	return (uint64_t)((int64_t)(v << shift) >> shift);
}

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define TO_HOST BPF_TO_LE
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
#else
#define TO_HOST BPF_TO_BE
static uint64_t load(uint64_t addr, unsigned int bytes)
{
	uint64_t v = 0;

	memcpy((uint8_t *)&v + 8 - bytes, (const void *)(uintptr_t)addr, bytes);
	return v;
}

static void store(uint64_t addr, unsigned int bytes, uint64_t v)
{
	memcpy((void *)(uintptr_t)addr, (uint8_t *)&v + 8 - bytes, bytes);
}
#endif

static int load_register(struct interp *vm, const struct bpf_insn *in, uint64_t *r)
{
	uint64_t addr = r[in->src_reg] + (uint64_t)(int64_t)in->off, v;
	unsigned int bytes = vm_insn__bytes(in);
	int err = check(vm, addr, bytes, false);

	if (err)
		return err;
	v = load(addr, bytes);
	r[in->dst_reg] = BPF_MODE(in->code) == BPF_MEM ? v : sign_extend(v, bytes);
	return 0;
}

static int store_value(struct interp *vm, const struct bpf_insn *in, const uint64_t *r, uint64_t v)
{
	uint64_t addr = r[in->dst_reg] + (uint64_t)(int64_t)in->off;
	int err = check(vm, addr, vm_insn__bytes(in), true);

	if (!err)
		store(addr, vm_insn__bytes(in), v);
	return err;
}

/* What an atomic instruction writes where old was. */
static uint64_t replacement(const struct bpf_insn *in, uint64_t old, uint64_t src, uint64_t expected)
{
	switch (in->imm & ~BPF_FETCH) {
	case BPF_ADD:
		return old + src;
	case BPF_OR:
		return old | src;
	case BPF_AND:
		return old & src;
	case BPF_XOR:
		return old ^ src;
	case BPF_XCHG & ~BPF_FETCH:
		return src;
	default: /* BPF_CMPXCHG */
		return old == expected ? src : old;
	}
}

/* Other threads may be at the same memory: atomic where the address is aligned, else as good as C has it. */
static uint64_t replace(const struct bpf_insn *in, uint64_t addr, uint64_t src, uint64_t r0)
{
	void *p = (void *)(uintptr_t)addr;
	unsigned int bytes = vm_insn__bytes(in);
	uint32_t old32;
	uint64_t old;

	if (addr % bytes) {
		old = load(addr, bytes);
		store(addr, bytes, replacement(in, old, src, bytes == 8 ? r0 : (uint32_t)r0));
	} else if (bytes == 8) {
		old = __atomic_load_n((uint64_t *)p, __ATOMIC_RELAXED);
		while (!__atomic_compare_exchange_n((uint64_t *)p, &old, replacement(in, old, src, r0), false,
						    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
			;
	} else {
		old32 = __atomic_load_n((uint32_t *)p, __ATOMIC_RELAXED);
		while (!__atomic_compare_exchange_n((uint32_t *)p, &old32,
						    (uint32_t)replacement(in, old32, src, (uint32_t)r0), false,
						    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
			;
		old = old32;
	}
	return old;
}

static int atomic(struct interp *vm, const struct bpf_insn *in, uint64_t *r)
{
	uint64_t addr = r[in->dst_reg] + (uint64_t)(int64_t)in->off, old;
	int err = check(vm, addr, vm_insn__bytes(in), true);

	if (err)
		return err;
	old = replace(in, addr, r[in->src_reg], r[0]);
	if (in->imm == BPF_CMPXCHG)
		r[0] = old;
	else if (in->imm & BPF_FETCH)
		r[in->src_reg] = old;
	return 0;
}

static uint64_t swap(const struct bpf_insn *in, uint64_t v)
{
	bool keep = BPF_CLASS(in->code) == BPF_ALU && BPF_SRC(in->code) == TO_HOST;

	if (in->imm == 16)
		return keep ? (uint16_t)v : __builtin_bswap16(v);
	if (in->imm == 32)
		return keep ? (uint32_t)v : __builtin_bswap32(v);
	return keep ? v : __builtin_bswap64(v);
}

/* ---- calls ---- */

static void new_frame(struct frame *f)
{
	memset(f->r, 0, sizeof(f->r));
	memset(f->stack, 0, sizeof(f->stack));
	f->r[10] = (uintptr_t)(f->stack + VM_STACK_SIZE);
}

static int enter(struct interp *vm, size_t to)
{
	struct frame *f;

	if (vm->depth + 1 == VM_MAX_FRAMES)
		return vm_fail(vm->err, vm->err_size, -E2BIG, "instruction %zu: calls nested deeper than %d", vm->pc,
			       VM_MAX_FRAMES);
	f = &vm->frame[++vm->depth];
	new_frame(f);
	memcpy(f->r + 1, f[-1].r + 1, 5 * sizeof(f->r[0]));
	f->ret = vm->pc + 1;
	f->caller = vm->prog;
	vm->pc = to;
	return 0;
}

/* Whether that was the last frame. */
static bool leave(struct interp *vm, uint64_t r0)
{
	struct frame *f = &vm->frame[vm->depth];

	if (vm->depth == 0)
		return true;
	vm->prog = f->caller;
	vm->pc = f->ret;
	vm->frame[--vm->depth].r[0] = r0;
	return false;
}

static int call_helper(struct interp *vm, uint32_t id, uint64_t *r)
{
	const struct vm_interp_opts *o = vm->opts;

	if (!o->helper || (o->has_helper && !o->has_helper(o->env, id)))
		return vm_fail(vm->err, vm->err_size, -EOPNOTSUPP, "instruction %zu: helper %u is not carried", vm->pc,
			       id);
	r[0] = o->helper(o->env, id, r[1], r[2], r[3], r[4], r[5]);
	vm->pc++;
	return 0;
}

/* Whether the program takes the address of a subprogram at pc. */
static bool address_taken(const struct vm_program *p, uint64_t value)
{
	for (size_t pc = 0; pc < p->n_insns; pc++) {
		enum vm_kind kind = vm_insn__kind(p->insns + pc, &(const char *){0});

		if (vm_insn__is_func(p->insns + pc, kind) &&
		    vm_func_value((size_t)vm_insn__target(p->insns + pc, kind, pc)) == value)
			return true;
		pc += vm_insn__slots(kind) - 1;
	}
	return false;
}

static int call_register(struct interp *vm, const struct bpf_insn *in, uint64_t *r)
{
	const struct vm_interp_opts *o = vm->opts;
	uint64_t to = r[vm_insn__callx_reg(in)];

	if (address_taken(&vm->prog, to))
		return enter(vm, to - VM_FUNC_TAG);
	if (to <= UINT32_MAX && o->helper && (!o->has_helper || o->has_helper(o->env, (uint32_t)to)))
		return call_helper(vm, (uint32_t)to, r);
	return vm_fail(vm->err, vm->err_size, -EFAULT,
		       "instruction %zu: calls 0x%llx, which is no helper and no subprogram", vm->pc,
		       (unsigned long long)to);
}

/* The kernel's interpreter: ___bpf_prog_run(), JMP_TAIL_CALL. When there is no such program, nothing happens. */
static void tail_call(struct interp *vm, const uint64_t *r)
{
	const struct vm_interp_opts *o = vm->opts;
	const struct vm_program *next = NULL;
	uint64_t ctx = r[1];

	vm->pc++;
	if (o->tail_call && vm->tail_calls < VM_TAIL_CALLS_MAX)
		next = o->tail_call(o->env, ctx, r[2], (uint32_t)r[3]);
	if (!next)
		return;
	vm->tail_calls++;
	vm->prog = *next;
	vm->pc = 0;
	new_frame(&vm->frame[vm->depth]);
	vm->frame[vm->depth].r[1] = ctx;
}

/* The kernel: bpf_gen_ld_abs(). A load from behind the packet ends the program, or the subprogram, with 0. */
static bool load_packet(struct interp *vm, const struct bpf_insn *in, uint64_t *r)
{
	uint32_t offset = (uint32_t)in->imm + (BPF_MODE(in->code) == BPF_IND ? (uint32_t)r[in->src_reg] : 0);
	int64_t v = vm->opts->packet ? vm->opts->packet(vm->opts->env, r[6], offset, vm_insn__bytes(in)) : -1;

	r[0] = v < 0 ? 0 : (uint64_t)v;
	vm->pc++;
	return v < 0 && leave(vm, 0);
}

static int immediate(struct interp *vm, const struct bpf_insn *in, uint64_t *dst)
{
	const struct vm_interp_opts *o = vm->opts;

	switch (in->src_reg) {
	case BPF_PSEUDO_MAP_FD:
		*dst = (uint32_t)in->imm;
		return 0;
	case BPF_PSEUDO_MAP_VALUE:
		if (!o->map_value)
			return vm_fail(vm->err, vm->err_size, -EOPNOTSUPP, "instruction %zu: no direct map values",
				       vm->pc);
		*dst = o->map_value(o->env, in->imm, in[1].imm);
		return 0;
	case VM_PSEUDO_FUNC:
		*dst = vm_func_value((size_t)vm_insn__target(in, VM_LDDW, vm->pc));
		return 0;
	default:
		*dst = (uint32_t)in->imm | (uint64_t)(uint32_t)in[1].imm << 32;
		return 0;
	}
}

/* ---- the loop ---- */

/* One instruction at vm->pc, which moves on. > 0: the program has ended. */
static int step(struct interp *vm)
{
	const struct bpf_insn *in = vm->prog.insns + vm->pc;
	uint64_t *r = vm->frame[vm->depth].r;
	const char *why = "";
	enum vm_kind kind = vm->prog.kinds ? (enum vm_kind)vm->prog.kinds[vm->pc] : vm_insn__kind(in, &why);
	uint64_t src = BPF_SRC(in->code) == BPF_X ? r[in->src_reg] : (uint64_t)(int64_t)in->imm;
	size_t next = vm->pc + vm_insn__slots(kind);
	int err = 0;

	switch (kind) {
	case VM_ALU:
		r[in->dst_reg] = vm_alu(in, r[in->dst_reg], src);
		break;
	case VM_END:
		r[in->dst_reg] = swap(in, r[in->dst_reg]);
		break;
	case VM_LDX:
		err = load_register(vm, in, r);
		break;
	case VM_ST:
		err = store_value(vm, in, r, (uint64_t)(int64_t)in->imm);
		break;
	case VM_STX:
		err = store_value(vm, in, r, r[in->src_reg]);
		break;
	case VM_ATOMIC:
		err = atomic(vm, in, r);
		break;
	case VM_LDDW:
		err = immediate(vm, in, &r[in->dst_reg]);
		break;
	case VM_JCC:
		if (vm_compare(in, r[in->dst_reg], src))
			next = (size_t)vm_insn__target(in, kind, vm->pc);
		break;
	case VM_JA:
		next = (size_t)vm_insn__target(in, kind, vm->pc);
		break;
	/* These set the next instruction themselves. */
	case VM_CALL:
		return call_helper(vm, (uint32_t)in->imm, r);
	case VM_LOCAL:
		return enter(vm, (size_t)vm_insn__target(in, kind, vm->pc));
	case VM_CALLX:
		return call_register(vm, in, r);
	case VM_TAIL:
		tail_call(vm, r);
		return 0;
	case VM_PACKET:
		return load_packet(vm, in, r);
	case VM_EXIT:
		return leave(vm, r[0]);
	case VM_KFUNC:
	case VM_BAD:
		return vm_fail(vm->err, vm->err_size, -EINVAL, "instruction %zu: %s", vm->pc, why);
	}
	vm->pc = next;
	return err;
}

static int run(struct interp *vm)
{
	uint64_t steps = 0, limit = vm->opts->max_steps;
	int r = 0;

	while (!r) {
		if (limit && steps++ == limit)
			return vm_fail(vm->err, vm->err_size, -ELOOP, "instruction %zu: still running after %llu steps",
				       vm->pc, (unsigned long long)limit);
		r = step(vm);
	}
	return r;
}

uint8_t *vm_kinds(const struct bpf_insn *insns, size_t n_insns)
{
	uint8_t *kinds = calloc(n_insns, 1);

	for (size_t pc = 0; kinds && pc < n_insns; pc++) {
		kinds[pc] = (uint8_t)vm_insn__kind(insns + pc, &(const char *){0});
		pc += vm_insn__slots(kinds[pc]) - 1;
	}
	return kinds;
}

int vm_interpret(const struct bpf_insn *insns, size_t n_insns, void *ctx, const struct vm_interp_opts *opts,
		 uint64_t *r0, char *err, size_t err_size)
{
	static const struct vm_interp_opts none = {.sz = sizeof(none)};
	struct interp vm;
	int r = 0;

	vm.opts = opts ? opts : &none;
	if (!vm.opts->trusted)
		r = vm_validate_features(insns, n_insns, vm.opts->features & VM_FEATURES_RUN, err, err_size);
	if (r)
		return r;
	vm.prog = (struct vm_program){.insns = insns, .n_insns = n_insns, .kinds = vm.opts->kinds};
	vm.pc = vm.depth = vm.tail_calls = 0;
	vm.err = err;
	vm.err_size = err_size;
	new_frame(&vm.frame[0]);
	vm.frame[0].r[1] = (uintptr_t)ctx;
	vm.frame[0].r[2] = vm.opts->r2;
	r = run(&vm);
	if (r < 0)
		return r;
	*r0 = vm.frame[0].r[0];
	return 0;
}
