/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * pid_ns.bpf.c: how deep the PID namespace of the process that runs this is nested, and what the initial one calls a
 * thread.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

SEC("syscall")
int level(void *ctx)
{
	return (int)BPF_CORE_READ(bpf_get_current_task_btf(), thread_pid, level);
}

SEC("iter/task")
int number(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	__u32 pid;

	if (!task)
		return 0;
	pid = (__u32)task->pid;
	bpf_seq_write(ctx->meta->seq, &pid, sizeof(pid));
	return 0;
}
