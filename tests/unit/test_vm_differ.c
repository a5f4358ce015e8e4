// SPDX-License-Identifier: MIT
/* A bounded number of what `make fuzz` does without end: always the same programs, and as many that nobody has run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <time.h>

#include "tests/fuzz/differ.h"
#include "vm_forms.h"

#define PROGRAMS 300

static void run(uint64_t first)
{
	struct differ *d = differ__new(true);

	assert_non_null(d);
	if (!differ__has_kernel(d))
		print_message("not compared with the kernel\n");
	for (uint64_t i = 0; i < PROGRAMS; i++)
		if (!differ__run(d, first + i))
			fail_msg("make fuzz SEED=%llu COUNT=1", (unsigned long long)(first + i));
	if (differ__has_kernel(d) && form_kernel_has_v4())
		assert_true(differ__counts(d)->kernel >= PROGRAMS * 3 / 4);
	differ__free(d);
}

static void same_programs(void **state)
{
	run(0);
}

static void new_programs(void **state)
{
	uint64_t first = (uint64_t)time(NULL) * 1000;

	print_message("seeds from %llu\n", (unsigned long long)first);
	run(first);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(same_programs),
		cmocka_unit_test(new_programs),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
