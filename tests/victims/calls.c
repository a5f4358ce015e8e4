// SPDX-License-Identifier: MIT
/*
 * calls: threads that call small functions with different beginnings, and know how often.
 *
 * usage: calls FUNCTION|all THREADS CALLS [DELAY_NS]
 * Prints "ready", waits for a line on stdin, calls, prints "calls N" (N: per function, all threads), exits 0; 1 when a
 * function gave a wrong result. With CALLS 0 it goes on until a second line comes.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Each returns 3 * a + 1; the second argument is 0. Written out so that the first bytes are known. */
#define FN(name, body)                                                                                                 \
	long name(long a, long zero);                                                                                  \
	__asm__(".text\n.p2align 4\n.globl " #name "\n.type " #name ", @function\n" #name ":\n" body "\n.size " #name  \
		", . - " #name "\n")

/* 1, 3, 4 bytes: boundaries at 0, 1, 4 */
FN(push_rbp, "push %rbp\n mov %rsp, %rbp\n mov %rdi, -8(%rbp)\n lea 1(%rdi,%rdi,2), %rax\n pop %rbp\n ret");
/* boundaries at 0, 1, 4, 5, 6 */
FN(push_more, "push %rbp\n mov %rsp, %rbp\n push %rbx\n push %rbx\n sub $16, %rsp\n lea 1(%rdi,%rdi,2), %rax\n"
	      " add $16, %rsp\n pop %rbx\n pop %rbx\n pop %rbp\n ret");
/* boundaries at 0, 1, 2, 4, 8 */
FN(push_push, "push %rbp\n push %rbx\n mov %edi, %ebx\n sub $8, %rsp\n lea 1(%rbx,%rbx,2), %eax\n add $8, %rsp\n"
	      " pop %rbx\n pop %rbp\n ret");
/* 4 bytes, then others: boundaries at 0, 4 */
FN(endbr, "endbr64\n push %rbx\n mov %rdi, %rbx\n lea 1(%rbx,%rbx,2), %rax\n pop %rbx\n ret");
/* 4, 3 bytes */
FN(sub_rsp, "sub $24, %rsp\n mov %rdi, (%rsp)\n mov (%rsp), %rdi\n lea 1(%rdi,%rdi,2), %rax\n add $24, %rsp\n ret");
/* 7 bytes, rip-relative */
FN(rip_relative, "mov calls_one(%rip), %rax\n lea (%rdi,%rdi,2), %rdi\n add %rdi, %rax\n ret");
/* 5 bytes: nothing but the jump's place */
FN(five_bytes, "lea 1(%rdi,%rdi,2), %rax\n ret");
/* shorter than a jump: lea 0(,%rdi,..) does not fit either */
FN(too_short, "mov %edi, %eax\n ret");
/* test and a short conditional branch among the first bytes */
FN(branches, "test %rdi, %rdi\n je 1f\n lea 1(%rdi,%rdi,2), %rax\n ret\n1: mov $1, %eax\n ret");
/* a loop back to its own start: hit 4 times for each call */
FN(loops, "lea 1(%rsi), %esi\n and $3, %esi\n jnz loops\n lea 1(%rdi,%rdi,2), %rax\n ret");
/* a loop into the patch: must be left alone */
FN(loops_inside, "xor %esi, %esi\n1: inc %esi\n cmp $4, %esi\n jne 1b\n lea 1(%rdi,%rdi,2), %rax\n ret");
/* tail call of a function that can be probed too */
FN(tail, "mov %rdi, %rsi\n mov %rsi, %rdi\n jmp push_rbp");
/* reads its red zone after a call-free path: what the caller's callee left below the stack pointer must survive */
FN(red_zone, "mov %rdi, -8(%rsp)\n mov %rdi, -120(%rsp)\n jmp 2f\n.p2align 4\n.globl red_zone_probe\n"
	     ".type red_zone_probe, @function\nred_zone_probe:\n2: mov -120(%rsp), %rax\n add -8(%rsp), %rax\n"
	     " lea 1(%rax,%rdi), %rax\n ret\n.size red_zone_probe, . - red_zone_probe");
/* carry and overflow go through the probed instruction */
FN(flags, "movabs $0x7fffffffffffffff, %rax\n add $1, %rax\n stc\n jmp flags_probe\n");
FN(flags_probe, "nopw 0(%rax,%rax,1)\n jno 1f\n jnc 1f\n lea 1(%rdi,%rdi,2), %rax\n ret\n1: xor %eax, %eax\n ret");

long calls_one = 1;

__attribute__((noinline)) long recursion(long n, long zero);
__attribute__((noinline)) long recursion(long n, long zero)
{
	long r = n > 0 ? recursion(n - 1, zero) + 3 : 1;

	__asm__ volatile("" : "+r"(r));
	return r;
}

static const struct function {
	const char *name;
	long (*fn)(long a, long zero);
	bool other_result;
} functions[] = {
	{"push_rbp", push_rbp, false},	       {"endbr", endbr, false},
	{"push_more", push_more, false},       {"push_push", push_push, false},
	{"sub_rsp", sub_rsp, false},	       {"rip_relative", rip_relative, false},
	{"five_bytes", five_bytes, false},     {"too_short", too_short, true},
	{"branches", branches, false},	       {"loops", loops, false},
	{"loops_inside", loops_inside, false}, {"tail", tail, false},
	{"red_zone", red_zone, false},	       {"flags", flags, false},
	{"recursion", recursion, false},
};
#define N_FUNCTIONS (sizeof(functions) / sizeof(functions[0]))

static const char *wanted;
static long n_calls, delay_ns;
static atomic_long done, wrong;
static atomic_bool stop;

static void *caller(void *arg)
{
	struct timespec nap = {0, delay_ns};
	long i;

	for (i = 0; n_calls ? i < n_calls : !atomic_load_explicit(&stop, memory_order_relaxed); i++) {
		long a = i & 7;

		for (size_t k = 0; k < N_FUNCTIONS; k++) {
			long r;

			if (strcmp(wanted, "all") && strcmp(wanted, functions[k].name))
				continue;
			r = functions[k].fn(a, 0);
			if (r != 3 * a + 1 && !functions[k].other_result)
				atomic_fetch_add(&wrong, 1);
		}
		if (delay_ns)
			nanosleep(&nap, NULL);
	}
	atomic_fetch_add(&done, i);
	return arg;
}

int main(int argc, char **argv)
{
	pthread_t thread[256];
	int n_threads;
	char line[16];

	if (argc < 4) {
		fprintf(stderr, "usage: calls FUNCTION|all THREADS CALLS [DELAY_NS]\n");
		return 2;
	}
	wanted = argv[1];
	n_threads = atoi(argv[2]);
	n_calls = atol(argv[3]);
	delay_ns = argc > 4 ? atol(argv[4]) : 0;
	if (n_threads < 1 || n_threads > 256)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("ready");
	if (!fgets(line, sizeof(line), stdin))
		return 2;
	for (int i = 0; i < n_threads; i++)
		if (pthread_create(&thread[i], NULL, caller, NULL))
			return 2;
	if (!n_calls) {
		if (!fgets(line, sizeof(line), stdin))
			clearerr(stdin);
		atomic_store(&stop, true);
	}
	for (int i = 0; i < n_threads; i++)
		pthread_join(thread[i], NULL);
	printf("calls %ld\n", atomic_load(&done));
	if (atomic_load(&wrong))
		fprintf(stderr, "%ld wrong results\n", atomic_load(&wrong));
	return atomic_load(&wrong) != 0;
}
