/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* on_cpu.h: for programs that look at tasks. */
#ifndef BPFTIME_BPF_ON_CPU_H
#define BPFTIME_BPF_ON_CPU_H

#include <bpf/bpf_core_read.h>

/* 0 or 1 in an int, and since a kernel between 6.18 and 7.2 in a byte, with other things behind it. */
static __always_inline bool is_on_cpu(struct task_struct *task)
{
	__u8 on = 1;

	bpf_core_read(&on, sizeof(on), &task->on_cpu);
	return on;
}

#endif
