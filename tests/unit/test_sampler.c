/* SPDX-License-Identifier: MIT */
/* Samples of the processors: those of a process that is busy are where it is busy, and as many as it was. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>
#include <time.h>
#include <unistd.h>

#include "daemon/sampler.h"

#define BUSY_NS	     300000000ull
#define FUNCTION_MAX 512 /* bytes of busy() */

static volatile unsigned long turns;

static __attribute__((noinline)) void busy(unsigned long n)
{
	while (n--)
		turns++;
}

static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

struct seen {
	uint64_t mine, busy;
};

static void on_sample(pid_t pid, uint64_t address, void *arg)
{
	struct seen *seen = arg;

	if (pid != getpid())
		return;
	seen->mine++;
	seen->busy += address - (uint64_t)(uintptr_t)busy < FUNCTION_MAX;
}

static void samples_are_where_time_goes(void **state)
{
	struct sampler *s = sampler__new();
	struct seen seen = {0};
	uint64_t begin;

	if (!s)
		skip();
	begin = cpu_ns();
	while (cpu_ns() - begin < BUSY_NS) {
		busy(1000000);
		sampler__read(s, on_sample, &seen);
	}
	sampler__read(s, on_sample, &seen);
	/* A hypervisor may take ticks, and the clock is asked, too. */
	assert_true(seen.mine * SAMPLE_NS > BUSY_NS / 3);
	assert_true(seen.mine * SAMPLE_NS < BUSY_NS * 2);
	assert_true(seen.busy > seen.mine * 8 / 10);
	sampler__free(s);
	sampler__free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(samples_are_where_time_goes)};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
