/* SPDX-License-Identifier: MIT */
/*
 * The functions that the benchmark calls, with chosen first instructions. All take (a, b) and return a + b.
 *
 *   bench_push   the kernel emulates `push %rbp`: its cheap case
 *   bench_endbr  single-stepped
 *   bench_sub    single-stepped
 *   bench_nop    a nop: the kernel emulates that, too, with the least to do
 *   bench_kept   the same, for a tool that is kept in the kernel
 *   bench_bare	  the same as bench_push, never probed
 *   bench_hand   begins with a hand-written jump to a trampoline that saves all registers and the flags (as a probe must),
 *		  calls empty code, restores them and jumps back: the limit to aim at
 */
	.text

	.macro	function name
	.globl	\name
	.type	\name, @function
	.p2align 6
\name:
	.endm

function bench_push
	push	%rbp
	mov	%rsp, %rbp
	lea	(%rdi,%rsi), %rax
	pop	%rbp
	ret
	.size	bench_push, . - bench_push

function bench_bare
	push	%rbp
	mov	%rsp, %rbp
	lea	(%rdi,%rsi), %rax
	pop	%rbp
	ret
	.size	bench_bare, . - bench_bare

function bench_endbr
	endbr64
	push	%rbp
	mov	%rsp, %rbp
	lea	(%rdi,%rsi), %rax
	pop	%rbp
	ret
	.size	bench_endbr, . - bench_endbr

	.irp	name, bench_nop, bench_kept
function \name
	nop
	lea	(%rdi,%rsi), %rax
	ret
	.size	\name, . - \name
	.endr

function bench_sub
	sub	$24, %rsp
	lea	(%rdi,%rsi), %rax
	nop
	add	$24, %rsp
	ret
	.size	bench_sub, . - bench_sub

function bench_hand
	jmp	hand_trampoline
	.balign	8
hand_back:
	lea	(%rdi,%rsi), %rax
	pop	%rbp
	ret
	.size	bench_hand, . - bench_hand

	.type	empty, @function
	.p2align 4
empty:
	ret
	.size	empty, . - empty

	.type	hand_trampoline, @function
	.p2align 6
hand_trampoline:
	lea	-128(%rsp), %rsp
	.irp	reg, rax, rcx, rdx, rsi, rdi, r8, r9, r10, r11, rbx, rbp, r12, r13, r14, r15
	push	%\reg
	.endr
	lahf
	seto	%al
	push	%rax
	call	empty
	pop	%rax
	add	$0x7f, %al
	sahf
	.irp	reg, r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rdi, rsi, rdx, rcx, rax
	pop	%\reg
	.endr
	lea	128(%rsp), %rsp
	push	%rbp
	mov	%rsp, %rbp
	jmp	hand_back
	.size	hand_trampoline, . - hand_trampoline

	.section .note.GNU-stack, "", @progbits
