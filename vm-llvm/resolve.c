// SPDX-License-Identifier: MIT
/* resolve.c: what stands for something outside the program becomes a number, so that no engine has to know of it. */
#include "insn.h"
#include "vm.h"

#include <errno.h>
#include <string.h>

static void to_number(struct bpf_insn *in, uint64_t v)
{
	in[0].src_reg = 0;
	in[0].imm = (int32_t)(uint32_t)v;
	in[1].imm = (int32_t)(uint32_t)(v >> 32);
}

int vm_resolve(struct bpf_insn *insns, size_t n_insns, vm_resolve_fn *resolve, void *arg, char *err, size_t err_size)
{
	for (size_t pc = 0; pc < n_insns; pc++) {
		struct bpf_insn *in = insns + pc;
		enum vm_kind kind = vm_insn__kind(in, &(const char *){0});
		uint64_t v = 0;
		int r;

		if (kind == VM_KFUNC || (kind == VM_LDDW && in->src_reg && in->src_reg != VM_PSEUDO_FUNC)) {
			r = resolve(arg, in, &v);
			if (!r && kind == VM_KFUNC && v > INT32_MAX)
				r = -ERANGE;
			if (r)
				return vm_fail(err, err_size, r, "instruction %zu: %s %d cannot be resolved: %s", pc,
					       kind == VM_KFUNC ? "kernel function" : "immediate", in->imm,
					       strerror(-r));
			if (kind == VM_KFUNC) {
				in->src_reg = 0;
				in->imm = (int32_t)v;
			} else {
				to_number(in, v);
			}
		}
		pc += vm_insn__slots(kind) - 1;
	}
	return 0;
}
