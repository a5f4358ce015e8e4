/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * khalf.h: what bpf/khalf.bpf.c is told by daemon/khalf.c: the value of a frozen array with one element, so that the
 * verifier knows every number in it.
 */
#ifndef BPFTIME_BPF_KHALF_H
#define BPFTIME_BPF_KHALF_H

#include "../shm-runtime/shm.h"

struct khalf_consts {
	struct shm_geo geo[SHM_MAX_MAPS];
	__u32 caller_width; /* 8, 4 or 1: how the tool's program aligns keys and values on its stack */
	__u32 pad;
};

#endif
