/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * lsm_trial.bpf.c: does this kernel let us stand at the LSM hook of bpf(), and does the hook fire? Two programs of the
 * kinds that carry_hook.bpf.c has there; the daemon makes a call that no kernel knows and looks whether both saw it.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "lsm_trial.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

__u64 seen, seen_sleepable;

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
