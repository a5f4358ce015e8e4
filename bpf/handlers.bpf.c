/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * handlers.bpf.c: is any task in the middle of serving a uprobe, that lost its processor there or sleeps? Its kernel
 * stack tells: whatever runs at a uprobe is called from one of few functions.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

#include "bpf/handlers.h"
#include "bpf/on_cpu.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define PF_EXITING 0x4	       /* include/linux/sched.h */
#define PF_KTHREAD 0x00200000u /* never in user mode, where uprobes are */

struct handlers_range ranges[HANDLERS_RANGES]; /* code of these functions, by the daemon */
__u32 under_way;

static __u64 stack[HANDLERS_DEPTH];

static __always_inline bool is_inside(__u64 ip)
{
	__u32 i;

	for (i = 0; i < HANDLERS_RANGES; i++)
		if (ip >= ranges[i].from && ip < ranges[i].to)
			return true;
	return false;
}

static __always_inline bool is_serving(struct task_struct *task)
{
	long size, i;

	/* Where it is cannot be told, unless it is one of ours. */
	if (is_on_cpu(task))
		return task->tgid != bpf_get_current_task_btf()->tgid;
	size = bpf_get_task_stack(task, stack, sizeof(stack), 0);
	if (size < 0)
		return true;
	for (i = 0; i < HANDLERS_DEPTH && i < size / 8; i++)
		if (is_inside(stack[i]))
			return true;
	/* What called it lies deeper than we have seen. */
	return size == sizeof(stack);
}

SEC("iter/task")
int handlers(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;

	if (task && !(task->flags & (PF_KTHREAD | PF_EXITING)) && is_serving(task))
		under_way++;
	return 0;
}
