// SPDX-License-Identifier: MIT
/*
 * steady: looks after itself: registers, red zone, what a blocking call says, and what it does at a SIGTRAP.
 *
 * usage: steady spin|wait [ignore]
 * Prints "ready". spin: the only thread is nearly always in user mode, with a value that it knows in every register.
 * wait: it sits in read(). On a line on stdin prints "rounds N" and "wrong N" and exits 0.
 */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Fills all registers and the red zone, lets time pass, and returns how many of them have changed. */
long watch(void);
long watch_left;
/* clang-format off */
__asm__(".text\n.p2align 4\n.globl watch\n.type watch, @function\nwatch:\n"
	" push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"
	" movq $20000, watch_left(%rip)\n"
	" .set i, 1\n .rept 16\n movq $0x5eed0000 + i, -8 * i(%rsp)\n .set i, i + 1\n .endr\n"
	" mov $0x51510000, %rax\n"
	" mov $0x51510101, %rbx\n"
	" mov $0x51510202, %rcx\n"
	" mov $0x51510303, %rdx\n"
	" mov $0x51510404, %rsi\n"
	" mov $0x51510505, %rdi\n"
	" mov $0x51510606, %rbp\n"
	" mov $0x51510707, %r8\n"
	" mov $0x51510808, %r9\n"
	" mov $0x51510909, %r10\n"
	" mov $0x51510a0a, %r11\n"
	" mov $0x51510b0b, %r12\n"
	" mov $0x51510c0c, %r13\n"
	" mov $0x51510d0d, %r14\n"
	" mov $0x51510e0e, %r15\n"
	" movq %rax, %xmm0\n"
	" movq %rbx, %xmm1\n"
	" movq %rcx, %xmm2\n"
	" movq %rdx, %xmm3\n"
	" movq %rsi, %xmm4\n"
	" movq %rdi, %xmm5\n"
	" movq %rbp, %xmm6\n"
	" movq %r8, %xmm7\n"
	" movq %r9, %xmm8\n"
	" movq %r10, %xmm9\n"
	" movq %r11, %xmm10\n"
	" movq %r12, %xmm11\n"
	" movq %r13, %xmm12\n"
	" movq %r14, %xmm13\n"
	" movq %r15, %xmm14\n"
	" movq %rax, %xmm15\n"
	"1: decq watch_left(%rip)\n jnz 1b\n"
	" movq $0, watch_left(%rip)\n"
	" cmp $0x51510000, %rax\n je 2f\n incq watch_left(%rip)\n 2:\n"
	" cmp $0x51510101, %rbx\n je 2f\n incq watch_left(%rip)\n 2:\n"
	" cmp $0x51510202, %rcx\n je 2f\n incq watch_left(%rip)\n 2:\n"
	" cmp $0x51510303, %rdx\n je 2f\n incq watch_left(%rip)\n 2:\n"
	" cmp $0x51510404, %rsi\n je 2f\n incq watch_left(%rip)\n 2:\n"
	" cmp $0x51510505, %rdi\n je 2f\n incq watch_left(%rip)\n 2:\n"
	" cmp $0x51510606, %rbp\n je 2f\n incq watch_left(%rip)\n 2:\n"
	" cmp $0x51510707, %r8\n je 2f\n incq watch_left(%rip)\n 2:\n"
	" cmp $0x51510808, %r9\n je 2f\n incq watch_left(%rip)\n 2:\n"
	" cmp $0x51510909, %r10\n je 2f\n incq watch_left(%rip)\n 2:\n"
	" cmp $0x51510a0a, %r11\n je 2f\n incq watch_left(%rip)\n 2:\n"
	" cmp $0x51510b0b, %r12\n je 2f\n incq watch_left(%rip)\n 2:\n"
	" cmp $0x51510c0c, %r13\n je 2f\n incq watch_left(%rip)\n 2:\n"
	" cmp $0x51510d0d, %r14\n je 2f\n incq watch_left(%rip)\n 2:\n"
	" cmp $0x51510e0e, %r15\n je 2f\n incq watch_left(%rip)\n 2:\n"
	" movq %xmm0, %rax\n cmp $0x51510000, %rax\n je 2f\n incq watch_left(%rip)\n 2:\n"
	" movq %xmm1, %rax\n cmp $0x51510101, %rax\n je 2f\n incq watch_left(%rip)\n 2:\n"
	" movq %xmm2, %rax\n cmp $0x51510202, %rax\n je 2f\n incq watch_left(%rip)\n 2:\n"
	" movq %xmm3, %rax\n cmp $0x51510303, %rax\n je 2f\n incq watch_left(%rip)\n 2:\n"
	" movq %xmm4, %rax\n cmp $0x51510404, %rax\n je 2f\n incq watch_left(%rip)\n 2:\n"
	" movq %xmm5, %rax\n cmp $0x51510505, %rax\n je 2f\n incq watch_left(%rip)\n 2:\n"
	" movq %xmm6, %rax\n cmp $0x51510606, %rax\n je 2f\n incq watch_left(%rip)\n 2:\n"
	" movq %xmm7, %rax\n cmp $0x51510707, %rax\n je 2f\n incq watch_left(%rip)\n 2:\n"
	" movq %xmm8, %rax\n cmp $0x51510808, %rax\n je 2f\n incq watch_left(%rip)\n 2:\n"
	" movq %xmm9, %rax\n cmp $0x51510909, %rax\n je 2f\n incq watch_left(%rip)\n 2:\n"
	" movq %xmm10, %rax\n cmp $0x51510a0a, %rax\n je 2f\n incq watch_left(%rip)\n 2:\n"
	" movq %xmm11, %rax\n cmp $0x51510b0b, %rax\n je 2f\n incq watch_left(%rip)\n 2:\n"
	" movq %xmm12, %rax\n cmp $0x51510c0c, %rax\n je 2f\n incq watch_left(%rip)\n 2:\n"
	" movq %xmm13, %rax\n cmp $0x51510d0d, %rax\n je 2f\n incq watch_left(%rip)\n 2:\n"
	" movq %xmm14, %rax\n cmp $0x51510e0e, %rax\n je 2f\n incq watch_left(%rip)\n 2:\n"
	" movq %xmm15, %rax\n cmp $0x51510000, %rax\n je 2f\n incq watch_left(%rip)\n 2:\n"
	" .set i, 1\n .rept 16\n cmpq $0x5eed0000 + i, -8 * i(%rsp)\n je 2f\n incq watch_left(%rip)\n 2:\n .set i, i + 1\n .endr\n"
	" mov watch_left(%rip), %rax\n"
	" pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n.size watch, . - watch\n");
/* clang-format on */

static void trapped(int sig)
{
}

int main(int argc, char **argv)
{
	struct sigaction act = {.sa_handler = argc > 2 ? SIG_IGN : trapped}, now;
	long rounds = 0, wrong = 0;
	char c;

	sigaction(SIGTRAP, &act, NULL);
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("ready");
	if (argc > 1 && !strcmp(argv[1], "spin")) {
		struct pollfd p = {.fd = 0, .events = POLLIN};
		int rc;

		do {
			for (int i = 0; i < 100; i++, rounds++)
				wrong += watch();
			rc = poll(&p, 1, 0);
			wrong += rc < 0;
		} while (rc <= 0);
	} else {
		wrong += read(0, &c, 1) != 1;
		rounds++;
	}
	wrong += sigaction(SIGTRAP, NULL, &now) || now.sa_handler != act.sa_handler;
	printf("rounds %ld\nwrong %ld\n", rounds, wrong);
	return 0;
}
