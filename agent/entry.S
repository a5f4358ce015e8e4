/* SPDX-License-Identifier: MIT */
/*
 * entry.S: the way into the agent and out of it. See abi.h for the stub that calls this.
 *
 * agent_entry is called 128 bytes (the red zone) below the probed function's stack pointer. It lays down struct pt_regs as
 * the kernel would show it at a breakpoint, but only what nearly all programs read: the registers that calls do not
 * preserve, rsp and rip. In the common case agent_hit() names the program, which is called with it. What it declines is
 * done by agent_hit_slowly(), with every register in its place; that says where in the stub to return. A fork child's hit
 * leaves for the escape before any of this.
 *
 * Flags are kept as lahf and seto give them and come back by an addition that overflows when OF was set, and sahf: popf
 * costs ten times as much, and the other flags are changed by nothing here. Nothing that runs before agent_hit_slowly()
 * has cleared DF has string instructions that would mind it.
 */
#include "abi.h"

#define R_RBX	 40
#define R_RBP	 32
#define R_R12	 24
#define R_R13	 16
#define R_R14	  8
#define R_R15	  0
#define R_R11	 48
#define R_R10	 56
#define R_R9	 64
#define R_R8	 72
#define R_RAX	 80
#define R_RCX	 88
#define R_RDX	 96
#define R_RSI	104
#define R_RDI	112
#define R_ORIG	120
#define R_RIP	128
#define R_CS	136
#define R_FLAGS	144
#define R_RSP	152
#define R_SS	160
#define R_SIZE	168
#define USER_DS	0x2b
#define USER_CS	0x33

	.if 128 + 8 + R_SIZE != AGENT_STACK_PLAIN /* the red zone, the stub's call, struct pt_regs */
	.error "abi.h says otherwise what a hit uses of the stack"
	.endif

	/* Changes no flags. */
	.macro save_args
	leaq	(R_RDI + 8 - R_SIZE)(%rsp), %rsp
	pushq	%rdi
	pushq	%rsi
	pushq	%rdx
	pushq	%rcx
	.endm

	/* In R_FLAGS: lahf's byte, then 1 for OF. */
	.macro save_rest
	pushq	%rax
	pushq	%r8
	pushq	%r9
	pushq	%r10
	pushq	%r11
	leaq	-R_R11(%rsp), %rsp
	lahf
	seto	%al
	movq	%rax, R_FLAGS(%rsp)
	.endm

	/* rdi: the site. */
	.macro save_rest_for_site
	save_rest
	leaq	(R_SIZE + 8 + 128)(%rsp), %rax
	movq	%rax, R_RSP(%rsp)
	movq	(%rdi), %rax
	movq	%rax, R_RIP(%rsp)
	.endm

	.macro save_other_regs
	movq	%rbx, R_RBX(%rsp)
	movq	%rbp, R_RBP(%rsp)
	movq	%r12, R_R12(%rsp)
	movq	%r13, R_R13(%rsp)
	movq	%r14, R_R14(%rsp)
	movq	%r15, R_R15(%rsp)
	movq	$-1, R_ORIG(%rsp)		/* not in a system call */
	movq	$USER_CS, R_CS(%rsp)
	movq	$USER_DS, R_SS(%rsp)
	.endm

	/*
	 * Where C is called the stack is aligned to 8 only: it has no vector registers to spill, and a register to keep the
	 * old stack pointer in would put a store and a load into the caller's every loop.
	 */
	.macro restore_regs
	movq	R_FLAGS(%rsp), %rax
	movq	R_R11(%rsp), %r11
	movq	R_R10(%rsp), %r10
	movq	R_R9(%rsp), %r9
	movq	R_R8(%rsp), %r8
	movq	R_RCX(%rsp), %rcx
	movq	R_RDX(%rsp), %rdx
	movq	R_RSI(%rsp), %rsi
	movq	R_RDI(%rsp), %rdi
	addb	$0x7f, %al			/* 0x7f + 1 overflows */
	sahf
	movq	R_RAX(%rsp), %rax
	leaq	R_SIZE(%rsp), %rsp
	.endm

	.section .text.head, "ax", @progbits
base:
	.long	AGENT_IMAGE_MAGIC, AGENT_ABI_VERSION
	.long	agent_entry - base, agent_entry_ret - base, agent_return - base
	.long	agent_service - base, service_nop - base
	.long	agent_wait - base, wait_end - base
	.long	agent_escapes - base

	.globl	agent_private
	.hidden	agent_private
	.set	agent_private, base + AGENT_PRIVATE_OFF

	.balign	64
	/*
	 * In a fork child, of which its parent's descriptor says nothing else. To the escape, if may_escape() in hit.c
	 * would say so, with the flags as they are; not by ret, which never would be predicted right.
	 */
in_child:
	movq	(STUB_ESCAPE_SLOT - STUB_CALLED)(%rdx), %rcx
	jrcxz	1f
	leaq	agent_escapes(%rip), %rsi
	notq	%rsi
	leaq	1(%rsi, %rcx), %rsi
	.if AGENT_ESCAPE_STEP != 2 * AGENT_ESCAPE_SIZE
	.error "a slot and its struct agent_escape are found by one addition"
	.endif
	movq	(agent_private + AGENT_ESCAPE_TO + 8 - agent_escapes)(%rsi, %rcx), %rcx
	jrcxz	1f
	leaq	(STUB_ESCAPE - STUB_CALLED)(%rdx), %rdx
	movq	%rdx, (R_SIZE - R_RCX)(%rsp)
	popq	%rcx
	popq	%rdx
	popq	%rsi
	popq	%rdi
	leaq	(R_SIZE - R_ORIG + 8)(%rsp), %rsp
	jmp	*-8(%rsp)
1:	jmp	not_to_escape

	.balign	64
	.globl	agent_entry
	.hidden	agent_entry
	.type	agent_entry, @function
agent_entry:
	save_args
	movq	(R_SIZE - R_RCX)(%rsp), %rdx
	movq	(STUB_SITE_SLOT - STUB_CALLED)(%rdx), %rdi
	movq	AGENT_SITE_FORK_PAGE(%rdi), %rcx
	movl	(%rcx), %ecx
	jrcxz	in_child
	save_rest_for_site
	call	agent_hit
	testq	%rax, %rax
	jz	1f
	movq	%rsp, %rdi
	movq	%rdx, %rsi
	call	*%rax
	restore_regs
	ret
1:	save_other_regs
	movq	R_SIZE(%rsp), %rdx
	movq	(STUB_SITE_SLOT - STUB_CALLED)(%rdx), %rsi
	movq	%rsp, %rdi
	leaq	-STUB_CALLED(%rdx), %rdx
	call	agent_hit_slowly
	addq	%rax, R_SIZE(%rsp)
	restore_regs
	ret
not_to_escape:
	save_rest_for_site
	jmp	1b
	.size	agent_entry, . - agent_entry

	/*
	 * The same for functions whose return is probed. When nothing else is to be done here, the registers that C does not
	 * preserve are all that has to be saved; the agent's own code has no string instructions that would mind DF.
	 */
#define LEAN_SIZE 80
	.balign	64
	.globl	agent_entry_ret
	.hidden	agent_entry_ret
	.type	agent_entry_ret, @function
	.macro lean_restore
	popq	%r11
	popq	%r10
	popq	%r9
	popq	%r8
	popq	%rdi
	popq	%rsi
	popq	%rdx
	popq	%rcx
	popq	%rax
	addb	$0x7f, %al		/* 0x7f + 1 overflows */
	sahf
	popq	%rax
	.endm
agent_entry_ret:
	pushq	%rax
	lahf
	seto	%al
	pushq	%rax
	pushq	%rcx
	pushq	%rdx
	pushq	%rsi
	pushq	%rdi
	pushq	%r8
	pushq	%r9
	pushq	%r10
	pushq	%r11
	movq	LEAN_SIZE(%rsp), %rdi
	leaq	(LEAN_SIZE + 8 + 128)(%rsp), %rsi
	movq	(STUB_SITE_SLOT - STUB_CALLED)(%rdi), %rdi
	call	agent_push
	testl	%eax, %eax
	jz	1f
	lean_restore
	ret
1:	lean_restore
	jmp	agent_entry
	.size	agent_entry_ret, . - agent_entry_ret

	/*
	 * The probed function has returned to the stub, which made room for the return address again: it lies above ours.
	 */
	.balign	64
	.globl	agent_return
	.hidden	agent_return
	.type	agent_return, @function
agent_return:
	save_args
	save_rest
	leaq	(R_SIZE + 8 + 8)(%rsp), %rax
	movq	%rax, R_RSP(%rsp)
	movq	R_SIZE(%rsp), %rsi
	movq	(STUB_SITE_SLOT - STUB_RET_CALLED)(%rsi), %rsi
	movq	%rsp, %rdi
	call	agent_returned
	testq	%rax, %rax
	jz	1f
	movq	%rsp, %rdi
	movq	%rdx, %rsi
	call	*%rax
0:	movq	R_RIP(%rsp), %rax
	movq	%rax, (R_SIZE + 8)(%rsp)
	restore_regs
	ret
1:	save_other_regs
	movq	R_SIZE(%rsp), %rsi
	movq	(STUB_SITE_SLOT - STUB_RET_CALLED)(%rsi), %rsi
	movq	%rsp, %rdi
	call	agent_returned_slowly
	jmp	0b
	.size	agent_return, . - agent_return

	/* A uprobe on the nop runs the kernel's service program, which finds the arguments in their registers. */
	.balign	64
	.globl	agent_service
	.hidden	agent_service
	.type	agent_service, @function
agent_service:
service_nop:
	nop
	ret
	.size	agent_service, . - agent_service

	/*
	 * Waits until the gate at rdi is not SHM_UGATE_WAIT (2) any more, or rsi times a moment have passed: rax is 0
	 * then. A thread in here counts as outside.
	 */
	.balign	64
	.globl	agent_wait
	.hidden	agent_wait
	.type	agent_wait, @function
agent_wait:
	movq	%rsi, %rax
1:	pause
	cmpl	$2, (%rdi)
	jne	2f
	decq	%rax
	jnz	1b
2:	ret
wait_end:
	.size	agent_wait, . - agent_wait

	/* See abi.h. In the page of service_nop as far as they fit: a page with breakpoints is the process's own. */
	.balign	AGENT_ESCAPE_SIZE
	.globl	agent_escapes
	.hidden	agent_escapes
	.type	agent_escapes, @object
agent_escapes:
	.set	to, agent_private + AGENT_ESCAPE_TO
	.rept	AGENT_MAX_ESCAPES
	nop
	jmp	*to(%rip)
	int3
	.set	to, to + AGENT_ESCAPE_STEP
	.endr
	.size	agent_escapes, . - agent_escapes

	.section .note.GNU-stack, "", @progbits
