/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* park.h: what the iterator of park.bpf.c writes. The including file provides the fixed-width types. */
#ifndef BPFTIME_BPF_PARK_H
#define BPFTIME_BPF_PARK_H

enum {
	PARK_ATTR_SIZE = 256, /* room for struct perf_event_attr, which grows */
	PARK_PATH_LEN = 256,
};

/*
 * A descriptor of a uprobe's perf event, or of the link of one, and who else refers to it. The iterator itself holds a
 * reference to the file that it shows.
 */
struct park_rec {
	__s32 tgid, fd; /* tgid 0: of a PID namespace that the daemon does not see */
	__u64 event;	/* kernel address */
	__u32 link_id;	/* 0: the descriptor is the event's */
	__s32 cpu;
	__u64 file_refs;   /* to this file */
	__u64 event_refs;  /* to the event's file, which may be the same */
	__u64 link_refs;   /* to the link: one for each file and each pin */
	__u8 is_entangled; /* waited for by epoll, mapped, redirected, or in a group of events */
	__u8 enabled;
	__u8 pad[2];
	__u32 pad2;
	__u64 offset;		  /* in the probed file */
	char path[PARK_PATH_LEN]; /* of it, as the event was told; cut off when it is longer */
	__u8 attr[PARK_ATTR_SIZE];
};

#endif
