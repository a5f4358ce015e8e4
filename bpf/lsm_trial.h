/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/* lsm_trial.h: the call that lsm_trial.bpf.c looks for. */
#ifndef BPFTIME_BPF_LSM_TRIAL_H
#define BPFTIME_BPF_LSM_TRIAL_H

/* No command of bpf(); its attributes are the address of a byte with this value. */
enum { LSM_TRIAL_CMD = 0x627074, LSM_TRIAL_BYTE = 0x5a };

#endif
