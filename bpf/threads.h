/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* threads.h: what bpf/threads.bpf.c says about a thread of the process that it is asked about. */
#ifndef BPFTIME_THREADS_H
#define BPFTIME_THREADS_H

enum thread_where {
	THREAD_ON_CPU,	   /* now, or for some of the time in which it was looked at */
	THREAD_PREEMPTED,  /* wants a CPU; in user mode or on the way there, or in a system call */
	THREAD_IN_SYSCALL, /* asleep in one */
	THREAD_ELSEWHERE,  /* asleep elsewhere in the kernel: a page fault, a stop */
	THREAD_ENDING	   /* does not return to user mode */
};

struct thread_rec {
	__s32 tid; /* as the reader's PID namespace numbers it */
	__u32 where;
	__u32 cpu; /* it runs there or ran there last */
	/* It may be in a system call that copies the process, and is so if it has been for longer than a moment. */
	__u32 forks;
	__u64 pid_tgid; /* as bpf_get_current_pid_tgid(): the initial namespace's */
	__u64 ip, sp;	/* of user mode; not with THREAD_ON_CPU */
};

#endif
