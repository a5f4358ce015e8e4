/* SPDX-License-Identifier: MIT */
/*
 * i386: a program of 32 bits, which has nobody's library.
 *
 * Calls work() 1,000 times, says nothing and ends with 0.
 */
	.text
	.globl	work
	.type	work, @function
work:
	push	%ebp
	mov	%esp, %ebp
	lea	1(%eax), %eax
	pop	%ebp
	ret
	.size	work, . - work

	.globl	_start
_start:
	mov	$1000, %esi
1:	call	work
	dec	%esi
	jnz	1b
	mov	$1, %eax	/* exit(0) */
	xor	%ebx, %ebx
	int	$0x80

	.section .note.GNU-stack, "", @progbits
