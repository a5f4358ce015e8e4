/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* handlers.h: what bpf/handlers.bpf.c and daemon/handlers.c share. */
#ifndef BPFTIME_BPF_HANDLERS_H
#define BPFTIME_BPF_HANDLERS_H

#define HANDLERS_RANGES 4
#define HANDLERS_DEPTH	64 /* frames of a stack */

struct handlers_range {
	unsigned long long from, to;
};

#endif
