// SPDX-License-Identifier: MIT
/* The compile worker: an answer, an error, a crash, a hang, and what it may still do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "vm-llvm/worker.h"
#include "vm_forms.h"

#define TIMEOUT_MS 20000

static const uint8_t library[] = {
#include "tests/unit/vm_library.bc.inc"
};
static const uint32_t lib_maps[][2] = {{0, 1}};
static const struct vm_blob blobs[] = {{"lib_maps", lib_maps, sizeof(lib_maps)}};
static const struct vm_compile_opts opts = {
	.sz = sizeof(opts),
	.bitcode = library,
	.bitcode_size = sizeof(library),
	.blobs = blobs,
	.n_blobs = 1,
};
static const struct bpf_insn answer[] = {MOVI(1, 0), MOVI(2, 0), MOVI(3, 0), MOVI(4, 0), MOVI(5, 0), CALL(7), EXIT};

static const char *worker_path(void)
{
	static char path[PATH_MAX];
	char self[PATH_MAX] = "";

	assert_true(readlink("/proc/self/exe", self, sizeof(self) - 1) > 0);
	snprintf(path, sizeof(path), "%s/../../bpftimed-jit", dirname(self));
	return path;
}

/* Our only child. */
static pid_t worker_pid(void)
{
	FILE *f = fopen("/proc/thread-self/children", "r");
	int pid = 0;

	assert_non_null(f);
	assert_int_equal(fscanf(f, "%d", &pid), 1);
	fclose(f);
	return pid;
}

static int try(struct vm_worker *w, int timeout_ms, char *err)
{
	struct vm_code code;
	uint64_t base = 35;
	void *mem;
	int r = vm_worker__compile(w, answer, N_INSNS(answer), &opts, timeout_ms, &code, err, 256);

	if (r)
		return r;
	mem = mmap(NULL, code.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memcpy(mem, code.bytes, code.size);
	mprotect(mem, code.size, PROT_READ | PROT_EXEC);
	assert_int_equal(((uint64_t(*)(void *, void *))((uintptr_t)mem + code.entry))(NULL, &base), 42);
	assert_true(code.stack_size > 0);
	munmap(mem, code.size);
	vm_code__clear(&code);
	return 0;
}

static void answers(void **state)
{
	struct vm_worker *w = vm_worker__new(worker_path(), NULL);
	const struct bpf_insn bad[] = {CALL(99), EXIT};
	struct vm_code code;
	char err[256] = "";
	pid_t pid;

	assert_int_equal(try(w, TIMEOUT_MS, err), 0);
	pid = worker_pid();
	assert_int_equal(vm_worker__compile(w, bad, 2, &opts, TIMEOUT_MS, &code, err, sizeof(err)), -EOPNOTSUPP);
	assert_string_equal(err, "instruction 0: helper 99 is not carried");
	assert_int_equal(try(w, TIMEOUT_MS, err), 0);
	assert_int_equal(worker_pid(), pid);
	vm_worker__free(w);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
}

static void killed_between_jobs(void **state)
{
	struct vm_worker *w = vm_worker__new(worker_path(), NULL);
	char err[256];
	siginfo_t info;

	assert_int_equal(try(w, TIMEOUT_MS, err), 0);
	kill(worker_pid(), SIGKILL);
	assert_int_equal(waitid(P_PID, worker_pid(), &info, WEXITED | WNOWAIT), 0);
	assert_int_equal(try(w, TIMEOUT_MS, err), 0);
	vm_worker__free(w);
}

static void hangs(void **state)
{
	struct vm_worker *w = vm_worker__new(worker_path(), NULL);
	char err[256];

	assert_int_equal(try(w, TIMEOUT_MS, err), 0);
	kill(worker_pid(), SIGSTOP);
	assert_int_equal(try(w, 100, err), -ETIMEDOUT);
	assert_non_null(strstr(err, "did not finish"));
	assert_int_equal(try(w, TIMEOUT_MS, err), 0);
	vm_worker__free(w);
}

static void crashes(void **state)
{
	struct vm_worker *w = vm_worker__new("/bin/false", NULL);
	char err[256];

	assert_int_equal(try(w, TIMEOUT_MS, err), -EPIPE);
	assert_non_null(strstr(err, "crashed"));
	assert_int_equal(try(w, TIMEOUT_MS, err), -EPIPE);
	vm_worker__free(w);
	w = vm_worker__new("/nonexistent/compiler", NULL);
	assert_int_equal(try(w, TIMEOUT_MS, err), -ENOENT);
	assert_non_null(strstr(err, "/nonexistent/compiler"));
	vm_worker__free(w);
}

static long status_field(pid_t pid, const char *field)
{
	char path[64], line[256];
	long v = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	f = fopen(path, "r");
	assert_non_null(f);
	while (v < 0 && fgets(line, sizeof(line), f))
		if (!strncmp(line, field, strlen(field)))
			v = strtol(line + strlen(field) + 1, NULL, 16);
	fclose(f);
	return v;
}

static void no_rights(void **state)
{
	struct vm_worker *w = vm_worker__new(worker_path(), NULL);
	char err[256], path[64];
	pid_t pid;

	assert_int_equal(try(w, TIMEOUT_MS, err), 0);
	pid = worker_pid();
	assert_int_equal(status_field(pid, "NoNewPrivs:"), 1);
	assert_int_equal(status_field(pid, "CapPrm:"), 0);
	assert_int_equal(status_field(pid, "CapEff:"), 0);
#ifndef __SANITIZE_ADDRESS__
	assert_int_equal(status_field(pid, "Seccomp:"), 2);
#endif
	for (int fd = 3; fd < 64; fd++) {
		struct stat st;

		snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, fd);
		assert_int_not_equal(lstat(path, &st), 0);
	}
	vm_worker__free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(answers), cmocka_unit_test(killed_between_jobs), cmocka_unit_test(hangs),
		cmocka_unit_test(crashes), cmocka_unit_test(no_rights),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
