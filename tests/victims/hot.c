// SPDX-License-Identifier: MIT
/*
 * hot: spends all its time inside one tiny function, so that it is there whenever somebody looks.
 *
 * usage: hot [THREADS]
 * Prints "ready"; runs until a line comes on stdin; prints "calls N".
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

/* Calls fn in a loop that is part of the same few bytes of code. */
long tiny(long a);
__asm__(".text\n.p2align 4\n.globl tiny\n.type tiny, @function\ntiny:\n"
	" push %rbp\n mov %rsp, %rbp\n lea 1(%rdi), %rax\n pop %rbp\n ret\n.size tiny, . - tiny\n");

static atomic_int stop, wrong;
static atomic_long calls;

static void *run(void *arg)
{
	long n = 0;

	while (!atomic_load_explicit(&stop, memory_order_relaxed))
		for (int i = 0; i < 256; i++) {
			if (tiny(n) != n + 1)
				atomic_store(&wrong, 1);
			n++;
		}
	atomic_fetch_add(&calls, n);
	return arg;
}

int main(int argc, char **argv)
{
	int n = argc > 1 ? atoi(argv[1]) : 1;
	pthread_t t[64];
	char line[16];

	if (n < 1 || n > 64)
		return 2;
	for (int i = 0; i < n; i++)
		pthread_create(&t[i], NULL, run, NULL);
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("ready");
	if (!fgets(line, sizeof(line), stdin))
		clearerr(stdin);
	atomic_store(&stop, 1);
	for (int i = 0; i < n; i++)
		pthread_join(t[i], NULL);
	printf("calls %ld\n", atomic_load(&calls));
	return atomic_load(&wrong);
}
