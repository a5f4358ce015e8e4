/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * shm.h: the layout of a group's shared memory.
 *
 * A group is a set of programs that share maps. Its truth lives in one *arena*: the value of a one-element
 * BPF_MAP_TYPE_ARRAY with BPF_F_MMAPABLE, so that the same bytes are reached by native code in targets (mmap), by
 * kernel programs (the map's value) and by the daemon (mmap). The arena begins with a struct shm_group_hdr, then the
 * hit counters, then the maps, each described by a struct shm_geo. Targets map the header for reading only.
 *
 * This header has layouts and constants only and compiles for x86-64, BPF and LLVM bitcode alike. The algorithms are
 * in shm_map.h.
 */
#ifndef BPFTIME_SHM_H
#define BPFTIME_SHM_H

#ifdef __BPF__
#ifndef __VMLINUX_H__
#include <linux/types.h>
#endif
#else
#include <linux/types.h>
#endif

#define SHM_MAGIC	   0x53454d495446u
#define SHM_LAYOUT_VERSION 2u
#define SHM_HDR_SIZE	   4096u
#define SHM_MAX_CPUS	   256u /* more possible CPUs than this: groups with per-CPU maps stay in the kernel */
#define SHM_MAX_MAPS	   16u	/* mirrored and direct maps of one program */

/* State of a group as the user half sees it (struct shm_group_hdr.ugate). Written by the daemon only. */
enum shm_ugate {
	SHM_UGATE_KERNEL = 0, /* the kernel serves: a thread that is already in a trampoline goes back to the site */
	SHM_UGATE_OPEN = 1,   /* the user half serves */
	SHM_UGATE_WAIT = 2,   /* a switch is under way: threads wait in the trampoline for a moment */
	SHM_UGATE_OFF = 3,    /* the tool has detached: nobody serves, threads go back to the place as for KERNEL */
};

/*
 * State of a group as the kernel half sees it (struct shm_group_hdr.kgate): the top bit says whether the kernel half
 * works on the arena (1) or does nothing (0), the one below it whether the carriers do. While the third is set the
 * others count every hit that the kernel half sees; one that had begun before may go uncounted. The daemon opens or
 * closes by one compare-and-swap on the whole word, which fails when a hit came in between.
 */
#define SHM_KGATE_OPEN	  (1ull << 63)
#define SHM_KGATE_CARRIED (1ull << 62)
#define SHM_KGATE_STATE	  (SHM_KGATE_OPEN | SHM_KGATE_CARRIED)
#define SHM_KGATE_COUNTS  (1ull << 61) /* else processors that hit at once would wait for each other here */
#define SHM_KGATE_HITS	  (SHM_KGATE_COUNTS - 1)

#define SHM_NOBODY 0xffffffffu /* no process: the idle tasks are 0 */

struct shm_group_hdr {
	__u64 magic;
	__u32 version;
	__u32 n_cpus;	/* possible CPUs */
	__u64 size;	/* bytes of the whole arena */
	__u64 hits_off; /* hit counters: __u64 [n_probes][n_cpus] */
	__u32 n_probes;
	__u32 daemon; /* tgid, in the initial PID namespace, whose own hits of tracepoints kgate does not count; or
			 NOBODY */
	__u64 kgate __attribute__((aligned(64)));
	__u32 ugate __attribute__((aligned(64)));
};

/* Where the memory of a map is. */
enum shm_kind {
	SHM_ARRAY = 1,
	SHM_HASH = 2,
	SHM_PERCPU_ARRAY = 3,
	SHM_PERCPU_HASH = 4,
	SHM_DIRECT = 5, /* the tool's own mmapable array (.bss, .data, .rodata): mapped itself, not in the arena */
};

/*
 * The geometry of one map: a pure function of the tool's map attributes. It is a constant wherever an algorithm is
 * compiled (baked into JIT code, .rodata of kernel programs), never read from memory that a target can write.
 */
struct shm_geo {
	__u32 kind;
	__u32 key_size;	   /* as the tool created it */
	__u32 value_size;  /* as the tool created it */
	__u32 max_entries; /* as the tool created it */
	__u32 n_cpus;	   /* 1 for maps that are not per-CPU */
	__u32 key_room;	   /* key_size rounded up to 8 */
	__u32 value_room;  /* value_size rounded up to 8: the stride between CPUs */
	__u32 node_size;   /* hash: bytes of one node; array: bytes of one element, all CPUs */
	__u32 value_off;   /* where the first value is in a node */
	__u32 n_buckets;   /* hash: a power of two */
	__u32 n_nodes;	   /* hash: nodes that exist; array: max_entries */
	__u32 seed;	   /* hash seed; for SHM_DIRECT the index into agent_env.direct */
	__u64 ctl_off;	   /* offsets from the start of the arena: control block (free list, count, ...) */
	__u64 buckets_off;
	__u64 nodes_off;
	__u64 end_off; /* one past the last byte of this map */
};

_Static_assert(sizeof(struct shm_geo) == 80, "geometry is an ABI between daemon, JIT and kernel programs");

#endif
