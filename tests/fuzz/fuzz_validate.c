// SPDX-License-Identifier: MIT
/* libFuzzer: any bytes as a program, all features: the validator refuses with a reason, or what it accepts is sound. */
#include <stdlib.h>
#include <string.h>

#include "vm-llvm/flow.h"
#include "vm-llvm/insn.h"
#include "vm-llvm/vm.h"

#define ALL_FEATURES 0x7f

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_sentence(const char *err)
{
	if (!err[0] || strlen(err) > 250)
		abort();
}

/* Each jump and call leads to an instruction, each instruction is of some kind. */
static void check_valid(const struct bpf_insn *insns, size_t n, const struct vm_layout *l)
{
	for (size_t pc = 0; pc < n; pc++) {
		const char *why = NULL;
		enum vm_kind kind = vm_insn__kind(insns + pc, &why);
		int64_t to = vm_insn__target(insns + pc, kind, pc);

		if (kind == VM_BAD)
			abort();
		if ((kind == VM_JCC || kind == VM_JA || kind == VM_LOCAL) && (to < 0 || (size_t)to >= n))
			abort();
		if (kind == VM_LOCAL && vm_layout__sub(l, (size_t)to) <= 0)
			abort();
		pc += vm_insn__slots(kind) - 1;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t n = size / sizeof(struct bpf_insn);
	struct bpf_insn *insns = malloc(n * sizeof(*insns) + 1);
	struct vm_fact *facts = calloc(n + 1, sizeof(*facts));
	struct vm_layout l;
	char err[512] = "";

	if (!insns || !facts)
		abort();
	memcpy(insns, data, n * sizeof(*insns));
	if (vm_layout__init(&l, insns, n, ALL_FEATURES, err, sizeof(err))) {
		check_sentence(err);
	} else {
		check_valid(insns, n, &l);
		vm_flow_unverified(insns, n, &l, facts);
		vm_flow(insns, n, &l, facts, NULL, NULL);
		vm_layout__clear(&l);
	}
	free(facts);
	free(insns);
	return 0;
}
