/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * threads.bpf.c: where the threads of a process are, without stopping any. A thread that is not on a CPU has its user
 * registers at the top of its kernel stack. It is looked at twice: what is said holds for one moment in between.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "bpf/on_cpu.h"
#include "bpf/threads.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define PF_EXITING   0x4  /* include/linux/sched.h */
#define PF_IO_WORKER 0x10 /* a thread of io_uring: never in user mode */
#define NR_URETPROBE 335  /* the system calls by which the kernel's own probes are reached, */
#define NR_UPROBE    336  /* arch/x86/entry/syscalls/syscall_64.tbl */
#define NR_CLONE     56
#define NR_FORK	     57
#define NR_CLONE3    435
#define NR32_FORK    2 /* arch/x86/entry/syscalls/syscall_32.tbl */
#define NR32_CLONE   120
#define NR32_CLONE3  435
#define TS_COMPAT    0x2   /* arch/x86/include/asm/thread_info.h: in a system call of 32 bits */
#define CLONE_VM     0x100 /* include/uapi/linux/sched.h: nothing is copied */

/* Before Linux 5.14 and 5.16. */
struct task_struct___old {
	long state;
	unsigned int cpu;
} __attribute__((preserve_access_index));

struct moment {
	__u64 switches;
	bool on_cpu;
};

static __always_inline struct moment look(struct task_struct *task)
{
	struct moment m;

	m.on_cpu = is_on_cpu(task);
	m.switches = BPF_CORE_READ(task, nvcsw) + BPF_CORE_READ(task, nivcsw);
	return m;
}

static __always_inline long state_of(struct task_struct *task)
{
	if (bpf_core_field_exists(task->__state))
		return BPF_CORE_READ(task, __state);
	return BPF_CORE_READ((struct task_struct___old *)task, state);
}

static __always_inline __u32 cpu_of(struct task_struct *task)
{
	if (bpf_core_field_exists(task->thread_info.cpu))
		return BPF_CORE_READ(task, thread_info.cpu);
	return BPF_CORE_READ((struct task_struct___old *)task, cpu);
}

static __always_inline __s32 tid_for_reader(struct task_struct *task)
{
	struct task_struct *reader = bpf_get_current_task_btf();
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	__u32 level = BPF_CORE_READ(reader, thread_pid, level);
	struct upid up = {};

	if (!pid || BPF_CORE_READ(pid, level) < level)
		return 0;
	bpf_probe_read_kernel(&up, sizeof(up),
			      (const void *)pid + bpf_core_field_offset(struct pid, numbers) +
				      (__u64)level * bpf_core_type_size(struct upid));
	return up.nr;
}

static __always_inline __u32 where_is(struct thread_rec *rec, struct task_struct *task)
{
	struct moment before = look(task), after;
	struct pt_regs *regs;
	long nr, state;

	if (BPF_CORE_READ(task, flags) & (PF_EXITING | PF_IO_WORKER))
		return THREAD_ENDING;
	if (before.on_cpu)
		return THREAD_ON_CPU;
	regs = (struct pt_regs *)bpf_task_pt_regs(task);
	state = state_of(task);
	nr = (int)BPF_CORE_READ(regs, orig_ax);
	rec->ip = BPF_CORE_READ(regs, ip);
	rec->sp = BPF_CORE_READ(regs, sp);
	after = look(task);
	if (after.on_cpu || after.switches != before.switches)
		return THREAD_ON_CPU;
	if (nr == NR_URETPROBE || nr == NR_UPROBE)
		return THREAD_ELSEWHERE;
	if (!state)
		return THREAD_PREEMPTED;
	return nr >= 0 ? THREAD_IN_SYSCALL : THREAD_ELSEWHERE;
}

/*
 * In a system call the registers are those with which it began. What a thread has that is in user mode is from when it
 * was in the kernel last, until the next interrupt.
 */
static __always_inline bool may_fork(struct task_struct *task)
{
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(task);
	long nr = (int)BPF_CORE_READ(regs, orig_ax);

	if (BPF_CORE_READ(task, flags) & PF_EXITING)
		return false;
	if (BPF_CORE_READ(task, thread_info.status) & TS_COMPAT)
		return nr == NR32_FORK || nr == NR32_CLONE3 ||
		       (nr == NR32_CLONE && !(BPF_CORE_READ(regs, bx) & CLONE_VM));
	return nr == NR_FORK || nr == NR_CLONE3 || (nr == NR_CLONE && !(BPF_CORE_READ(regs, di) & CLONE_VM));
}

SEC("iter/task")
int threads(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct thread_rec rec = {};

	if (!task)
		return 0;
	rec.tid = tid_for_reader(task);
	rec.pid_tgid = (__u64)(__u32)task->tgid << 32 | (__u32)task->pid;
	rec.cpu = cpu_of(task);
	rec.where = where_is(&rec, task);
	rec.forks = may_fork(task);
	bpf_seq_write(ctx->meta->seq, &rec, sizeof(rec));
	return 0;
}
