/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/* replace_trial.bpf.c: does this kernel let us replace a loaded program (freplace)? One of the two is put in the other's place. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual MIT/GPL";

SEC("uprobe")
int replaced(struct pt_regs *ctx)
{
	return 0;
}

SEC("freplace/replaced")
int replacing(struct pt_regs *ctx)
{
	return 0;
}
