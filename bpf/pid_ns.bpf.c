/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* pid_ns.bpf.c: how deep the PID namespace of the process that runs this is nested. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

SEC("syscall")
int level(void *ctx)
{
	return (int)BPF_CORE_READ(bpf_get_current_task_btf(), thread_pid, level);
}
