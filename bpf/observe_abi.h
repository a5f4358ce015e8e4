/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * observe_abi.h: the records that observe.bpf.c and scan.bpf.c give to the daemon. The including file provides the
 * fixed-width types (vmlinux.h or linux/types.h). Process ids are as the daemon's PID namespace shows them, 0 when it
 * does not.
 */
#ifndef BPFTIME_OBSERVE_ABI_H
#define BPFTIME_OBSERVE_ABI_H

enum {
	OBS_CHUNK_INSNS = 512,
	OBS_MAX_INSNS = 1000000, /* the kernel's own limit: BPF_COMPLEXITY_LIMIT_INSNS */
	OBS_LICENSE_LEN = 128,
	OBS_PATH_LEN = 4096,
};

/* ---- ring buffer ---- */

enum obs_rec_kind {
	OBS_REC_CODE = 1,    /* struct obs_rec_code */
	OBS_REC_LOADED = 2,  /* struct obs_rec_loaded: after the last OBS_REC_CODE of the same load */
	OBS_REC_CHANGED = 3, /* struct obs_rec_head */
	OBS_REC_EXEC = 4,    /* struct obs_rec_head */
	OBS_REC_FORK = 5,    /* struct obs_rec_head, arg: the child */
	OBS_REC_LEADER = 6,  /* struct obs_rec_head: the main thread ended, others go on */
	OBS_REC_MAPPED = 7,  /* struct obs_rec_head, arg: the BPF map whose memory was mapped */
};

/* Why the bytecode of a load is not complete. */
enum obs_refusal {
	OBS_REFUSAL_NONE = 0,
	OBS_REFUSAL_TOO_LARGE = 1,
	OBS_REFUSAL_UNREADABLE = 2,
	OBS_REFUSAL_NO_ROOM = 3,
	OBS_REFUSAL_MAP = 4,
	OBS_REFUSAL_MAP_INDEX = 5,
	OBS_REFUSAL_GONE = 6,
	OBS_REFUSAL_MAX,
};

struct obs_rec_head {
	__u32 kind;
	__s32 tgid;
	__u64 arg; /* the load's number, or what the kind says */
};

struct obs_rec_code {
	struct obs_rec_head head;
	__u32 first, n;
	__u64 insns[OBS_CHUNK_INSNS]; /* n of them; map descriptors are replaced by map ids */
};

struct obs_rec_loaded {
	struct obs_rec_head head;
	__u32 prog_id; /* 0: the load failed */
	__u32 n_insns;
	__u32 refusal;
	__u32 expected_attach_type;
	__u32 prog_flags;
	__u32 pad;
	__u8 tag[8];
	char license[OBS_LICENSE_LEN];
};

/* ---- iterators ---- */

enum obs_file_form {
	OBS_FILE_PERF_EVENT = 1,
	OBS_FILE_PERF_LINK = 2,
	OBS_FILE_MULTI_LINK = 3,
	OBS_FILE_OTHER_LINK = 4,
	OBS_FILE_RAW_LINK = 5,
};

/* A descriptor through which a program is attached. */
struct obs_rec_file {
	__u32 size; /* of this record, path included, a multiple of 8 */
	__u32 form;
	__s32 tgid, fd;
	__u64 event; /* kernel address of the perf event, of the array of a multi link, or of the link */
	__u32 prog_id, link_id;
	__s32 target; /* -1: every process */
	__u8 is_uprobe, is_return, enabled;
	__u8 is_tracepoint; /* path says which; of a perf event's, offset its number */
	__u32 prog_type, pad;
	__u64 dev, ino; /* dev as the kernel has it: 12 bits major, 20 bits minor */
	__u64 offset, ref_ctr_offset, cookie;
	char path[OBS_PATH_LEN];
};

struct obs_rec_fops {
	__s32 fd;
	__u32 pad;
	__u64 f_op;
};

struct obs_rec_prog {
	__u32 prog_id;
	__u32 sleepable;
};

struct obs_rec_return {
	__s32 tid;
	__u32 pad;
	__u64 func; /* address of the probed function in the process */
};

#endif
