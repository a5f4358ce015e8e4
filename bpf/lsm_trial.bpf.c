/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * lsm_trial.bpf.c: does this kernel let us stand at the LSM hook of bpf() and at the end of the call, and do the hooks
 * fire? Three programs of the kinds that carry_hook.bpf.c has there; the daemon makes a call that no kernel knows and
 * looks whether all saw it.
 */
#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "lsm_trial.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

__u64 seen, seen_sleepable, seen_exit;

SEC("lsm/bpf")
int BPF_PROG(trial, int cmd)
{
	if (cmd == LSM_TRIAL_CMD)
		__sync_fetch_and_add(&seen, 1);
	return 0;
}

SEC("lsm.s/bpf")
int BPF_PROG(trial_sleepable, int cmd, union bpf_attr *attr)
{
	__u64 at = 0;
	char byte = 0;

	if (cmd != LSM_TRIAL_CMD || bpf_probe_read_kernel(&at, sizeof(at), attr))
		return 0;
	if (!bpf_copy_from_user(&byte, sizeof(byte), (void *)at) && byte == LSM_TRIAL_BYTE)
		__sync_fetch_and_add(&seen_sleepable, 1);
	return 0;
}

SEC("fexit/__x64_sys_bpf")
int BPF_PROG(trial_exit, const struct pt_regs *regs, long ret)
{
	if (BPF_CORE_READ(regs, di) == LSM_TRIAL_CMD && ret < 0)
		__sync_fetch_and_add(&seen_exit, 1);
	return 0;
}
