// SPDX-License-Identifier: MIT
/* The interpreter against the kernel, form by form; and what the validator refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "vm-llvm/vm.h"
#include "vm_forms.h"

static const struct vm_interp_opts limited = {.sz = sizeof(limited), .max_steps = 100000};

static void forms_as_kernel(void **state)
{
	struct bpf_insn prog[FORM_MAX_INSNS];
	size_t compared = 0;
	char err[256], log[16384];

	for (size_t i = 0; i < N_FORMS; i++) {
		size_t n = form_program(&forms[i], prog);
		int fd = form_load(prog, n, log, sizeof(log));

		if (fd == -EPERM && i == 0) {
			print_message("no right to load programs: not compared with the kernel\n");
			skip();
		}
		if (fd < 0)
			print_message("%s: the kernel refuses it: %s\n", forms[i].name, log);
		for (size_t k = 0; k < N_VALUES * N_VALUES; k++) {
			struct form_ctx want = {.in = {form_values[k / N_VALUES], form_values[k % N_VALUES]}},
					got = want;
			uint64_t r0;

			assert_int_equal(vm_interpret(prog, n, &got, &limited, &r0, err, sizeof(err)), 0);
			if (fd < 0)
				continue;
			assert_int_equal(form_run(fd, &want), 0);
			if (memcmp(&want, &got, sizeof(want)))
				fail_msg("%s of %#lx, %#lx: r0 %#lx r2 %#lx, the kernel has r0 %#lx r2 %#lx",
					 forms[i].name, want.in[0], want.in[1], got.out[0], got.out[1], want.out[0],
					 want.out[1]);
			compared++;
		}
		if (fd >= 0)
			close(fd);
	}
	print_message("%zu runs compared\n", compared);
	assert_true(compared > 10000);
}

static uint64_t add_helper(void *env, uint32_t id, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	return *(uint64_t *)env + id + r1 + 10 * r2 + 100 * r3 + 1000 * r4 + 10000 * r5;
}

static uint64_t value_address(void *env, uint32_t imm, uint32_t off)
{
	return 1000 * imm + off;
}

static void helpers_and_immediates(void **state)
{
	const struct bpf_insn prog[] = {
		MOVI(1, 1),
		MOVI(2, 2),
		MOVI(3, 3),
		MOVI(4, 4),
		MOVI(5, 5),
		CALL(7),
		MOV(6, 0),
		LDDW(1, BPF_PSEUDO_MAP_FD, 9, 0),
		I(BPF_ALU64 | BPF_ADD | BPF_X, 6, 1, 0, 0),
		LDDW(1, BPF_PSEUDO_MAP_VALUE, 2, 30),
		I(BPF_ALU64 | BPF_ADD | BPF_X, 6, 1, 0, 0),
		MOV(0, 6),
		EXIT,
	};
	uint64_t base = 5, r0 = 0;
	struct vm_interp_opts o = {.sz = sizeof(o), .helper = add_helper, .map_value = value_address, .env = &base};
	char err[256];

	assert_int_equal(vm_interpret(prog, N_INSNS(prog), NULL, &o, &r0, err, sizeof(err)), 0);
	assert_int_equal(r0, 5 + 7 + 1 + 20 + 300 + 4000 + 50000 + 9 + 2030);
}

static void refusals(void **state)
{
	static const struct {
		struct bpf_insn in[4];
		size_t n;
		const char *says;
	} rows[] = {
		{{EXIT}, 0, "no instructions"},
		{{MOVI(0, 0)}, 1, "ends without exit"},
		{{I(BPF_JMP | BPF_JA, 0, 0, 5, 0), EXIT}, 2, "goes to 6"},
		{{I(BPF_JMP | BPF_JA, 0, 0, -2, 0), EXIT}, 2, "goes to -1"},
		{{I(BPF_JMP | BPF_JA, 0, 0, 1, 0), LDDW(0, 0, 1, 1), EXIT}, 4, "goes to 2"},
		{{LDDW(0, 0, 1, 1)}, 1, "half of a 64-bit immediate"},
		{{MOVI(10, 0), EXIT}, 2, "frame pointer"},
		{{MOVI(12, 0), EXIT}, 2, "no register r12"},
		{{I(BPF_ALU64 | 0xe0, 0, 0, 0, 0), EXIT}, 2, "unknown arithmetic"},
		{{CALL(12), EXIT}, 2, "tail call"},
		{{I(BPF_JMP | BPF_CALL, 0, 2, 0, 1), EXIT}, 2, "kernel function"},
		{{LDDW(1, VM_PSEUDO_FUNC, 1, 0), EXIT}, 3, "callback"},
		{{LDDW(1, VM_PSEUDO_MAP_IDX, 1, 0), EXIT}, 3, "fd_array"},
		{{I(BPF_LD | BPF_ABS | BPF_W, 0, 0, 0, 0), EXIT}, 2, "legacy packet access"},
		{{I(BPF_STX | BPF_ATOMIC | BPF_B, 1, 2, 0, BPF_ADD), EXIT}, 2, "less than 4 bytes"},
		{{I(BPF_JMP | VM_OP_JCOND, 0, 0, 0, 0), EXIT}, 2, "may_goto"},
	};
	char err[256];

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		assert_int_equal(vm_validate(rows[i].in, rows[i].n, err, sizeof(err)), -EINVAL);
		if (!strstr(err, rows[i].says))
			fail_msg("row %zu: '%s' does not say '%s'", i, err, rows[i].says);
	}
}

static void endless(void **state)
{
	const struct bpf_insn loop[] = {MOVI(0, 0), I(BPF_JMP | BPF_JA, 0, 0, -2, 0), EXIT};
	const struct bpf_insn recursion[] = {I(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, 1), EXIT,
					     I(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, 0, -1), EXIT};
	uint64_t r0;
	char err[256];

	assert_int_equal(vm_interpret(loop, 3, NULL, &limited, &r0, err, sizeof(err)), -ELOOP);
	assert_int_equal(vm_interpret(recursion, 4, NULL, &limited, &r0, err, sizeof(err)), -E2BIG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(forms_as_kernel),
		cmocka_unit_test(helpers_and_immediates),
		cmocka_unit_test(refusals),
		cmocka_unit_test(endless),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
