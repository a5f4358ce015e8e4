// SPDX-License-Identifier: MIT
/*
 * escape: calls work() with a value of its own in every register and with all flags set or clear, and looks whether
 * they are the same afterwards; so does a fork child, first. The child's calls are not among "calls N".
 *
 * usage: escape CALLS [strict]    (strict: the child allows itself to end, no more)
 */
#include <linux/seccomp.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define VICTIM_HAS_ITS_OWN_WORK
#include "victim.h"

#define REGS  15
#define FLAGS 0xcd5ull /* OF, DF, SF, ZF, AF, PF, CF */

uint64_t before[REGS], after[REGS], below[2], flags_before, flags_after;

/* Reads below the stack pointer what it has written there before its probed instruction. */
__asm__(".text\n.p2align 4\nwith_work:\n movabs $0x5152535455565758, %rax\n mov %rax, -8(%rsp)\n"
	" mov %rax, -128(%rsp)\n mov before(%rip), %rax\n.globl work\n.type work, @function\n"
	"work: nopw 0(%rax,%rax,1)\n nopw 0(%rax,%rax,1)\n mov %rax, after(%rip)\n mov -8(%rsp), %rax\n"
	" mov %rax, below(%rip)\n mov -128(%rsp), %rax\n mov %rax, below+8(%rip)\n mov after(%rip), %rax\n ret\n"
	".size work, . - work\n");
#define BELOW 0x5152535455565758ull

#define ALL(op)                                                                                                        \
	op(8, rbx) op(16, rcx) op(24, rdx) op(32, rsi) op(40, rdi) op(48, rbp) op(56, r8) op(64, r9) op(72, r10)       \
		op(80, r11) op(88, r12) op(96, r13) op(104, r14) op(112, r15)
#define LOAD(off, reg)	" mov before+" #off "(%rip), %" #reg "\n"
#define STORE(off, reg) " mov %" #reg ", after+" #off "(%rip)\n"

void one_call(void);
__asm__(".text\n.p2align 4\none_call:\n push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"
	" pushq flags_before(%rip)\n" ALL(
		LOAD) " popfq\n call with_work\n"
		      " mov %rax, after(%rip)\n" ALL(
			      STORE) " pushfq\n popq flags_after(%rip)\n cld\n"
				     " pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n");

static bool call_with(uint64_t i)
{
	for (uint64_t k = 0; k < REGS; k++)
		before[k] = (i + 1) * 0x9e3779b97f4a7c15ull + k * 0x0101010101010101ull;
	flags_before = 0x202 | (i & 1 ? FLAGS : 0);
	memset(after, 0, sizeof(after));
	memset(below, 0, sizeof(below));
	atomic_fetch_add(&calls, 1);
	one_call();
	return below[0] == BELOW && below[1] == BELOW && !memcmp(before, after, sizeof(after)) &&
	       (flags_before & FLAGS) == (flags_after & FLAGS);
}

static int call_all(long n)
{
	for (long i = 0; i < n; i++)
		if (!call_with((uint64_t)i))
			return 1;
	return 0;
}

int main(int argc, char **argv)
{
	long n = argc > 1 ? atol(argv[1]) : 100;
	int status;
	pid_t child;

	ready_and_wait();
	child = fork();
	if (!child) {
		if (argc > 2 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT))
			_exit(2);
		syscall(SYS_exit, call_all(n));
	}
	if (waitpid(child, &status, 0) != child || status)
		return 3;
	status = call_all(n);
	tell_calls();
	return status;
}
