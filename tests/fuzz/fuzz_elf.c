// SPDX-License-Identifier: MIT
/* libFuzzer target: object files. What is read is shown as text, bound to maps, and run for a few steps. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "vm-llvm/disasm.h"
#include "vm-llvm/elf.h"
#include "vm-llvm/standalone.h"

#define MAX_PROGRAMS 8
#define MAX_INSNS    2000
#define MAX_BYTES    (1u << 20) /* of maps */
#define STEPS	     2000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void show(const struct vm_elf_prog *p)
{
	char text[VM_DISASM_SIZE];

	for (size_t pc = 0; pc < p->n_insns && pc < MAX_INSNS;)
		pc += vm_disasm(p->insns, p->n_insns, pc, NULL, text, sizeof(text));
}

/* Helpers trust the verifier about pointers, so programs are run only when they call none. */
static int calls(const struct bpf_insn *insns, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (BPF_OP(insns[i].code) == BPF_CALL)
			return 1;
	return 0;
}

static void run(struct vm_standalone *s, const struct vm_elf_prog *p)
{
	struct vm_interp_opts o = {
		.sz = sizeof(o), .env = s, .max_steps = STEPS, .check_memory = 1, .allowed = vm_standalone__allowed};
	char err[256];
	struct bpf_insn *insns = vm_standalone__bind(s, p, err, sizeof(err));
	uint64_t r0;

	if (insns && !calls(insns, p->n_insns))
		vm_interpret(insns, p->n_insns, NULL, &o, &r0, err, sizeof(err));
	free(insns);
}

static int modest(const struct vm_elf *elf)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < elf->n_maps; i++)
		bytes += (uint64_t)elf->maps[i].max_entries * (elf->maps[i].value_size + 16ull);
	return bytes < MAX_BYTES;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct vm_standalone *s;
	struct vm_elf *elf;
	char err[256];

	if (vm_elf__read(data, size, &elf, err, sizeof(err)))
		return 0;
	s = modest(elf) ? vm_standalone__new(elf) : NULL;
	for (size_t i = 0; i < elf->n_progs && i < MAX_PROGRAMS; i++) {
		show(&elf->progs[i]);
		if (s)
			run(s, &elf->progs[i]);
	}
	vm_standalone__free(s);
	vm_elf__free(elf);
	return 0;
}
