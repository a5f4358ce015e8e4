/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * carry.h: what the hook on bpf(), the carriers behind it and the daemon agree on.
 */
#ifndef BPFTIME_BPF_CARRY_H
#define BPFTIME_BPF_CARRY_H

#define CARRY_MAX 1024 /* mirrored maps of the host */

/* Commands of bpf(2) that read or change a map, and what may be asked of the descriptor; uapi/linux/bpf.h. */
enum carry_need { CARRY_READ = 1, CARRY_WRITE = 2 };

/* A carrier that exists, turned on or not: what the map `known` holds for the address of a tool's map. */
struct carry_known {
	unsigned int place;
	unsigned int arena_id;
};

/* Argument of the program carry_learn: which kernel object is behind a descriptor of the caller. */
struct carry_learn {
	unsigned int fd;
	unsigned int pad;
	unsigned long long map;	 /* out: address of the struct bpf_map */
	unsigned long long f_op; /* out: what makes a file a map */
};

/* Calls of bpf() that carriers wait for the end of: at most so many at once. */
#define CARRY_CALLS 4096

/*
 * A call under way that changes a mirrored map: value of the map `calls`, by the caller's pid_tgid. The carrier writes
 * it at the entry of bpf() and takes it away at the exit.
 */
struct carry_call {
	unsigned int place;
	unsigned int cmd;
	unsigned int late;	  /* nothing is done yet: to be done when the kernel has done it */
	unsigned int done;	  /* batch: elements that the arena has already */
	unsigned int bucket, end; /* batch that moves out: buckets of the tool's map that have been emptied into it, */
	unsigned int planned;	  /* and how many entries that was; otherwise what the caller asked for */
	unsigned int passes;	  /* nothing is to be done at its exit */
	unsigned long long uattr;      /* the caller's attributes, */
	unsigned long long key, value; /* and of these what the command uses */
	unsigned long long flags;
};

#endif
