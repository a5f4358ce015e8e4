/* SPDX-License-Identifier: MIT */
/*
 * khalf_lib.h: the subprograms of bpf/khalf.bpf.c, taken out of the object that is built into the daemon.
 */
#ifndef BPFTIME_KHALF_LIB_H
#define BPFTIME_KHALF_LIB_H

#include <stddef.h>
#include <linux/bpf.h>

enum khalf_sub { KHALF_LOOKUP, KHALF_UPDATE, KHALF_DELETE, KHALF_ADD, KHALF_ARRIVE, KHALF_N_SUBS };

struct khalf_code {
	const struct bpf_insn *insns; /* in the daemon's image */
	size_t n;
};

/* Where one subprogram is. -ENOENT when the object is not what it should be. */
int khalf_lib__find(enum khalf_sub sub, struct khalf_code *out);
/* The maps that the subprograms use. */
struct khalf_fds {
	int arena, consts;
	int arrived, arrivals; /* see bpf/arrivals.h */
};

/* Lets the addresses in a copy of that subprogram point to these maps: to element 0, or to the ring buffer itself. */
int khalf_lib__link(enum khalf_sub sub, struct bpf_insn *copy, const struct khalf_fds *fds);

#endif
