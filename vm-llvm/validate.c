// SPDX-License-Identifier: MIT
/*
 * validate.c: the form of a program, as far as everything else in this folder relies on it. The kernel's verifier has
 * proved much more; this guards against a capture that went wrong and names what we do not carry.
 */
#include "insn.h"
#include "vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum mark {
	MARK_START = 1, /* an instruction begins here (not the second half of an immediate) */
	MARK_SUB = 2,	/* a subprogram begins here */
};

static int check_one(const struct bpf_insn *insns, size_t n, size_t pc, uint32_t features, enum vm_kind *kind,
		     char *err, size_t err_size)
{
	static const struct bpf_insn none;
	const char *why = "";
	struct bpf_insn in[2] = {insns[pc], pc + 1 < n ? insns[pc + 1] : none};

	if (in->code == (BPF_LD | BPF_IMM | BPF_DW) && pc + 1 >= n)
		return vm_fail(err, err_size, -EINVAL, "instruction %zu: half of a 64-bit immediate at the end", pc);
	*kind = vm_insn__kind(in, &why);
	if (*kind == VM_BAD || vm_insn__feature(in, *kind, &why) & ~features)
		return vm_fail(err, err_size, -EINVAL, "instruction %zu (opcode 0x%02x): %s", pc, in->code, why);
	if (in->dst_reg > 10 || (*kind != VM_LDDW && *kind != VM_CALL && *kind != VM_LOCAL && in->src_reg > 10))
		return vm_fail(err, err_size, -EINVAL, "instruction %zu: there is no register r%u", pc,
			       in->dst_reg > 10 ? in->dst_reg : in->src_reg);
	if (vm_insn__writes(in, *kind) & (1u << 10))
		return vm_fail(err, err_size, -EINVAL, "instruction %zu: writes the frame pointer r10", pc);
	return 0;
}

static int check_jump(const struct bpf_insn *in, enum vm_kind kind, size_t pc, size_t lo, size_t hi,
		      const uint8_t *mark, char *err, size_t err_size)
{
	int64_t to = vm_insn__target(in, kind, pc);

	if (to < (int64_t)lo || to >= (int64_t)hi || !(mark[to] & MARK_START))
		return vm_fail(err, err_size, -EINVAL,
			       "instruction %zu: goes to %lld, which is not an instruction of its %s", pc,
			       (long long)to, kind == VM_LOCAL || kind == VM_LDDW ? "program" : "subprogram");
	return 0;
}

/* Marks where instructions and subprograms begin. */
static int mark_all(const struct bpf_insn *insns, size_t n, uint32_t features, uint8_t *mark, size_t *n_subs, char *err,
		    size_t err_size)
{
	enum vm_kind kind = VM_BAD;
	int r;

	for (size_t pc = 0; pc < n; pc += vm_insn__slots(kind)) {
		r = check_one(insns, n, pc, features, &kind, err, err_size);
		if (r)
			return r;
		mark[pc] |= MARK_START;
	}
	mark[0] |= MARK_SUB;
	*n_subs = 1;
	for (size_t pc = 0; pc < n; pc++) {
		if (!(mark[pc] & MARK_START))
			continue;
		kind = vm_insn__kind(insns + pc, &(const char *){0});
		if (kind != VM_LOCAL && !vm_insn__is_func(insns + pc, kind))
			continue;
		r = check_jump(insns + pc, kind, pc, 1, n, mark, err, err_size);
		if (r)
			return r;
		size_t to = vm_insn__target(insns + pc, kind, pc);

		*n_subs += !(mark[to] & MARK_SUB);
		mark[to] |= MARK_SUB;
	}
	return 0;
}

static int check_sub(const struct bpf_insn *insns, size_t lo, size_t hi, const uint8_t *mark, char *err,
		     size_t err_size)
{
	enum vm_kind kind = VM_BAD;
	int r;

	for (size_t pc = lo; pc < hi; pc += vm_insn__slots(kind)) {
		kind = vm_insn__kind(insns + pc, &(const char *){0});
		if (kind != VM_JCC && kind != VM_JA)
			continue;
		r = check_jump(insns + pc, kind, pc, lo, hi, mark, err, err_size);
		if (r)
			return r;
	}
	if (kind != VM_EXIT && kind != VM_JA)
		return vm_fail(err, err_size, -EINVAL, "instruction %zu: the subprogram ends without exit", hi - 1);
	return 0;
}

int vm_layout__init(struct vm_layout *l, const struct bpf_insn *insns, size_t n_insns, uint32_t features, char *err,
		    size_t err_size)
{
	uint8_t *mark;
	size_t n = 0;
	int r;

	memset(l, 0, sizeof(*l));
	if (n_insns == 0)
		return vm_fail(err, err_size, -EINVAL, "the program has no instructions");
	mark = calloc(n_insns, 1);
	if (!mark)
		return vm_fail(err, err_size, -ENOMEM, "no memory for a program of %zu instructions", n_insns);
	r = mark_all(insns, n_insns, features, mark, &n, err, err_size);
	if (r)
		goto out;
	l->start = calloc(n + 1, sizeof(*l->start));
	if (!l->start) {
		r = vm_fail(err, err_size, -ENOMEM, "no memory for %zu subprograms", n);
		goto out;
	}
	for (size_t pc = 0; pc < n_insns; pc++)
		if (mark[pc] & MARK_SUB)
			l->start[l->n++] = pc;
	l->start[l->n] = n_insns;
	for (size_t i = 0; !r && i < l->n; i++)
		r = check_sub(insns, l->start[i], l->start[i + 1], mark, err, err_size);
	if (r)
		vm_layout__clear(l);
out:
	free(mark);
	return r;
}

void vm_layout__clear(struct vm_layout *l)
{
	free(l->start);
	memset(l, 0, sizeof(*l));
}

int vm_layout__sub(const struct vm_layout *l, size_t pc)
{
	size_t lo = 0, hi = l->n;

	while (lo + 1 < hi) {
		size_t mid = (lo + hi) / 2;

		if (l->start[mid] <= pc)
			lo = mid;
		else
			hi = mid;
	}
	return l->start[lo] == pc ? (int)lo : -1;
}

int vm_validate_features(const struct bpf_insn *insns, size_t n_insns, uint32_t features, char *err, size_t err_size)
{
	struct vm_layout l;
	int r = vm_layout__init(&l, insns, n_insns, features, err, err_size);

	if (!r)
		vm_layout__clear(&l);
	return r;
}

int vm_validate(const struct bpf_insn *insns, size_t n_insns, char *err, size_t err_size)
{
	return vm_validate_features(insns, n_insns, 0, err, err_size);
}
