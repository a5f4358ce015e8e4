/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* views.h: what the iterators of views.bpf.c write. */
#ifndef BPFTIME_BPF_VIEWS_H
#define BPFTIME_BPF_VIEWS_H

/* A map, and where it is in the kernel. */
struct views_map {
	unsigned int id;
	unsigned int pad;
	unsigned long long address;
};

/* A mapping of one of the wanted maps in a process. */
struct views_rec {
	int tgid; /* as the daemon's PID namespace numbers it; 0 when it does not */
	unsigned int map_id;
	unsigned long long mm; /* two processes with the same one share their memory */
	unsigned long long start, end;
	unsigned long long offset; /* in the map's memory */
	unsigned long long flags;  /* VM_*, include/linux/mm.h */
};

#endif
