/* SPDX-License-Identifier: MIT */
/* Handlers of uprobes that are under way: one that sleeps, because what its program reads comes late. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <cmocka.h>

#include "daemon/handlers.h"
#include "daemon/uprobe.h"
#include "tests/unit/code_offset.h"

static char *late; /* a page that is not there yet */

__attribute__((noinline, noclone)) static void probed(void)
{
	__asm__ volatile("nop");
}

/* Reads what is late, and waits for it. */
static int load_reader(void)
{
	LIBBPF_OPTS(bpf_prog_load_opts, opts, .prog_flags = BPF_F_SLEEPABLE);
	const struct bpf_insn insns[] = {
		{.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = 1, .src_reg = 10},
		{.code = BPF_ALU64 | BPF_ADD | BPF_K, .dst_reg = 1, .imm = -8},
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 2, .imm = 8},
		{.code = BPF_LD | BPF_IMM | BPF_DW, .dst_reg = 3, .imm = (int)(uintptr_t)late},
		{.imm = (int)((uintptr_t)late >> 32)},
		{.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_copy_from_user},
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0},
		{.code = BPF_JMP | BPF_EXIT},
	};

	return bpf_prog_load(BPF_PROG_TYPE_KPROBE, "reader", "GPL", insns, sizeof(insns) / sizeof(insns[0]), &opts);
}

static int make_late(void)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register area = {.mode = UFFDIO_REGISTER_MODE_MISSING};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

	late = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	area.range.start = (uintptr_t)late;
	area.range.len = 4096;
	if (fd < 0 || late == MAP_FAILED || ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &area))
		return -1;
	return fd;
}

static void *call(void *arg)
{
	probed();
	return arg;
}

/* Others that run at the moment may be in one: until there is none, for a second. */
static bool have_ended(void)
{
	for (int i = 0; i < 1000; i++) {
		int n = handlers__under_way();

		assert_true(n >= 0);
		if (n == 0)
			return true;
		usleep(1000);
	}
	return false;
}

static void test_none(void **state)
{
	assert_true(have_ended());
}

static void test_one_sleeps(void **state)
{
	struct uprobe_opts opts = {.path = "/proc/self/exe", .root_pid = getpid(), .pid = getpid()};
	struct uffdio_zeropage page = {.range.len = 4096};
	int fault = make_late(), event = -1, link = -1, prog;
	struct pollfd waits = {.fd = fault, .events = POLLIN};
	pthread_t thread;

	if (fault < 0)
		skip(); /* no userfaultfd here */
	prog = load_reader();
	assert_true(prog >= 0);
	opts.prog_fd = prog;
	opts.offset = code_offset((void *)(uintptr_t)probed);
	assert_int_equal(uprobe__attach(&opts, &event, &link), 0);
	assert_int_equal(pthread_create(&thread, NULL, call, NULL), 0);
	assert_int_equal(poll(&waits, 1, 10000), 1);
	/* Our own threads that are on a processor do not count. */
	usleep(100000);
	for (int i = 0; i < 100; i++)
		assert_true(handlers__under_way() > 0);
	page.range.start = (uintptr_t)late;
	assert_int_equal(ioctl(fault, UFFDIO_ZEROPAGE, &page), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_true(have_ended());
	uprobe__detach(&event, &link);
	close(prog);
	close(fault);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_none), cmocka_unit_test(test_one_sleeps)};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
