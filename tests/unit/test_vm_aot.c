// SPDX-License-Identifier: MIT
/*
 * Programs compiled ahead of time, linked into a C program (aot_harness.c) and run: here, and as aarch64 code under
 * qemu-user.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "vm-llvm/aot.h"
#include "vm_forms.h"

#define HARNESS "tests/unit/aot_harness.c vm-llvm/insn.c vm-llvm/validate.c vm-llvm/interp.c"

static struct bpf_insn programs[N_FORMS + 1][FORM_MAX_INSNS];
static char names[N_FORMS][32];
static struct vm_elf_prog progs[N_FORMS + 1];
static uint64_t data[2] = {0, 77};
static struct vm_elf_map maps[] = {
	{.name = (char *)"counts", .type = BPF_MAP_TYPE_HASH, .key_size = 4, .value_size = 8, .max_entries = 3},
	{.name = (char *)".data", .is_data = true, .value_size = sizeof(data), .max_entries = 1, .data = data},
};
static struct vm_elf elf = {.maps = maps, .n_maps = 2, .progs = progs};

/* helper 1 (map counts, 5, 0, 0, 0) + what stands in .data at 8, which is then one more. */
static const struct bpf_insn outside[] = {
	LDDW(1, BPF_PSEUDO_MAP_FD, 0, 0),
	MOVI(2, 5),
	MOVI(3, 0),
	MOVI(4, 0),
	MOVI(5, 0),
	CALL(1),
	LDDW(2, BPF_PSEUDO_MAP_VALUE, 1, 8),
	LDX(BPF_DW, 3, 2, 0),
	I(BPF_ALU64 | BPF_ADD | BPF_X, 0, 3, 0, 0),
	ADDI(3, 1),
	STX(BPF_DW, 2, 0, 3),
	EXIT,
};

static int make_programs(void **state)
{
	for (size_t i = 0; i < N_FORMS; i++) {
		snprintf(names[i], sizeof(names[i]), "form_%zu", i);
		progs[i] = (struct vm_elf_prog){.name = names[i], .section = (char *)"forms", .insns = programs[i]};
		progs[i].n_insns = form_program(&forms[i], programs[i]);
	}
	memcpy(programs[N_FORMS], outside, sizeof(outside));
	progs[N_FORMS] = (struct vm_elf_prog){.name = (char *)"outside",
					      .section = (char *)"forms",
					      .insns = programs[N_FORMS],
					      .n_insns = N_INSNS(outside)};
	elf.n_progs = N_FORMS + 1;
	return 0;
}

static void compile(const char *triple, const char *cpu, const char *path)
{
	struct vm_aot_opts o = {.sz = sizeof(o), .triple = triple, .cpu = cpu, .table = "forms_bpf"};
	char err[512] = "";
	void *object;
	size_t size;
	FILE *f;

	if (vm_aot_compile(&elf, &o, &object, &size, err, sizeof(err)))
		fail_msg("%s", err);
	f = fopen(path, "w");
	assert_non_null(f);
	assert_int_equal(fwrite(object, 1, size, f), size);
	fclose(f);
	free(object);
}

/* Links the harness with the object, and runs it, `run` before its name. */
static void link_and_run(const char *compiler, const char *run, const char *folder)
{
	char command[1024];

	snprintf(command, sizeof(command),
		 "%s -std=gnu11 -D_GNU_SOURCE -O1 -g -I. -Itests/unit -static -o %s/harness " HARNESS
		 " %s/forms.o && %s %s/harness",
		 compiler, folder, folder, run, folder);
	if (system(command))
		fail_msg("failed: %s", command);
}

static void run_as(const char *triple, const char *cpu, const char *compiler, const char *run)
{
	char folder[] = "/tmp/test_vm_aot.XXXXXX", path[64];

	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/forms.o", folder);
	compile(triple, cpu, path);
	link_and_run(compiler, run, folder);
	unlink(path);
	snprintf(path, sizeof(path), "%s/harness", folder);
	unlink(path);
	rmdir(folder);
}

static void here(void **state)
{
	run_as(NULL, NULL, "gcc", "");
}

static void for_this_cpu(void **state)
{
	run_as(NULL, "native", "gcc", "");
}

static void aarch64(void **state)
{
	if (system("command -v qemu-aarch64 >/dev/null && command -v aarch64-linux-gnu-gcc >/dev/null")) {
		print_message("no qemu-aarch64 or aarch64-linux-gnu-gcc (qemu-user, gcc-aarch64-linux-gnu): not run\n");
		skip();
	}
	run_as("aarch64-linux-gnu", NULL, "aarch64-linux-gnu-gcc", "qemu-aarch64");
}

static void refusals(void **state)
{
	struct bpf_insn in[] = {MOVI(0, 1), I(BPF_JMP | BPF_JA, 0, 0, 5, 0), EXIT};
	struct vm_elf_prog prog = {.name = (char *)"wild", .section = (char *)"forms", .insns = in, .n_insns = 3};
	struct vm_elf one = {.progs = &prog, .n_progs = 1};
	struct vm_aot_opts o = {.sz = sizeof(o), .table = "wild_bpf"};
	char err[512] = "";
	void *object;
	size_t size;

	assert_int_equal(vm_aot_compile(&one, &o, &object, &size, err, sizeof(err)), -EINVAL);
	assert_non_null(strstr(err, "wild: instruction 1"));
	in[1].off = 0;
	o.triple = "riscv64-linux-gnu";
	assert_int_equal(vm_aot_compile(&one, &o, &object, &size, err, sizeof(err)), -EOPNOTSUPP);
	assert_non_null(strstr(err, "riscv64"));
	o.triple = NULL;
	o.table = "wild";
	assert_int_equal(vm_aot_compile(&one, &o, &object, &size, err, sizeof(err)), -EINVAL);
	assert_non_null(strstr(err, "taken twice"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(here),
		cmocka_unit_test(for_this_cpu),
		cmocka_unit_test(aarch64),
		cmocka_unit_test(refusals),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, make_programs, NULL);
}
