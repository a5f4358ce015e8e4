// SPDX-License-Identifier: MIT
/*
 * edge: calls with hardly any stack left.
 *
 * usage: edge ROOM CALLS
 * Prints "ready"; on a line on stdin calls work() once on its own stack, then CALLS times on one that has ROOM bytes
 * between work()'s first stack pointer and a page that cannot be touched. Prints "touched N", how many of the bytes
 * were, and "calls N".
 */
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE  4096
#define PAINT 0xa5

/* The function to probe; long on_stack(void *top, long a) calls it with its return address at top - 8. */
long work(long a);
long on_stack(void *top, long a);
__asm__("	.globl	work\n"
	"	.type	work, @function\n"
	"	.p2align 4\n"
	"work:	push	%rbp\n"
	"	mov	%rsp, %rbp\n"
	"	lea	1(%rdi,%rdi,2), %rax\n"
	"	pop	%rbp\n"
	"	ret\n"
	"	.size	work, . - work\n"
	"	.type	on_stack, @function\n"
	"on_stack:\n"
	"	push	%rbx\n"
	"	mov	%rsp, %rbx\n"
	"	mov	%rdi, %rsp\n"
	"	mov	%rsi, %rdi\n"
	"	call	work\n"
	"	mov	%rbx, %rsp\n"
	"	pop	%rbx\n"
	"	ret\n"
	"	.size	on_stack, . - on_stack\n");

#define VICTIM_HAS_ITS_OWN_WORK
#include "victim.h"

int main(int argc, char **argv)
{
	long room = argc > 1 ? atol(argv[1]) : PAGE / 2, n = argc > 2 ? atol(argv[2]) : 1000;
	uint8_t *guard = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *stack = guard + PAGE;
	long untouched = 0;

	if (guard == MAP_FAILED || mprotect(guard, PAGE, PROT_NONE) || room > PAGE / 2)
		return 2;
	ready_and_wait();
	call_work();
	memset(stack, PAINT, PAGE);
	for (long i = 0; i < n; i++) {
		long a = atomic_fetch_add(&calls, 1) & 7;

		if (on_stack(stack + room + sizeof(void *), a) != 3 * a + 1)
			abort();
	}
	while (untouched < room && stack[untouched] == PAINT)
		untouched++;
	printf("touched %ld\n", room - untouched);
	tell_calls();
	return 0;
}
