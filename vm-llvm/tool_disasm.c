// SPDX-License-Identifier: MIT
/* tool_disasm.c: `bpftime vm disasm`: each program under a line with its name and section. */
#include "disasm.h"
#include "tool.h"

#include <stdio.h>
#include <string.h>

struct source {
	const struct vm_elf *elf;
	const struct vm_elf_prog *prog;
};

static const char *map_name(void *arg, int32_t imm)
{
	const struct source *s = arg;

	return imm >= 0 && (size_t)imm < s->elf->n_maps ? s->elf->maps[imm].name : NULL;
}

static const char *sub_name(void *arg, size_t pc)
{
	const struct source *s = arg;

	for (size_t i = 0; i < s->prog->n_subs; i++)
		if (s->prog->subs[i].start == pc)
			return s->prog->subs[i].name;
	return NULL;
}

static void print_program(const struct vm_elf *elf, const struct vm_elf_prog *p)
{
	struct source source = {elf, p};
	struct vm_names names = {.sz = sizeof(names), .map = map_name, .sub = sub_name, .arg = &source};
	char text[VM_DISASM_SIZE + 256];
	size_t pc = 0;

	printf("%s: section %s, %zu instructions\n", p->name, p->section, p->n_insns);
	while (pc < p->n_insns) {
		const char *sub = sub_name(&source, pc);

		if (sub && pc)
			printf("%s:\n", sub);
		printf("%4zu: ", pc);
		pc += vm_disasm(p->insns, p->n_insns, pc, &names, text, sizeof(text));
		puts(text);
	}
}

enum tool_exit tool_disasm(const struct tool_args *args)
{
	char err[TOOL_ERR_SIZE] = "";
	struct vm_elf *elf;
	size_t shown = 0;

	if (vm_elf__open(args->file, &elf, err, sizeof(err)))
		return tool_complain("%s", err);
	for (size_t i = 0; i < elf->n_progs; i++) {
		const struct vm_elf_prog *p = &elf->progs[i];

		if ((args->section && strcmp(p->section, args->section)) ||
		    (args->program && strcmp(p->name, args->program)))
			continue;
		if (shown++)
			putchar('\n');
		print_program(elf, p);
	}
	if (!shown) {
		vm_elf__find(elf, args->section, args->program, err, sizeof(err));
		tool_complain("%s: %s", args->file, err);
	}
	vm_elf__free(elf);
	return shown ? TOOL_DONE : TOOL_FAILED;
}
