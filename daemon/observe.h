/* SPDX-License-Identifier: MIT */
/*
 * observe.h: what the kernel knows: who loaded which programs, attached where, with which maps. Level-triggered: events
 * are hints; scan() reads the real state. The one thing that only an event gives is the bytecode of a program as it was
 * given to BPF_PROG_LOAD; programs that were loaded before we started are recovered from the kernel's translated code
 * when their tag proves the recovery (recover.c).
 */
#ifndef BPFTIME_OBSERVE_H
#define BPFTIME_OBSERVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <linux/bpf.h>

enum probe_kind {
	PROBE_UPROBE = 1,
	PROBE_URETPROBE = 2,
	PROBE_OTHER = 3,
	PROBE_TRACEPOINT = 4,	  /* by a perf event */
	PROBE_RAW_TRACEPOINT = 5, /* by a link of its own */
	PROBE_TP_BTF = 6,	  /* the same, with a program of type BPF_PROG_TYPE_TRACING */
};
enum attach_form {
	ATTACH_PERF_EVENT = 1,
	ATTACH_PERF_LINK = 2,
	ATTACH_MULTI_LINK = 3,
	ATTACH_OTHER = 4,
	ATTACH_RAW_LINK = 5, /* of a raw tracepoint */
};

/* A place in a process, at its start or its end. */
static inline bool probe_kind__is_uprobe(enum probe_kind kind)
{
	return kind == PROBE_UPROBE || kind == PROBE_URETPROBE;
}

/* An event of the kernel's, which is nowhere in a process. */
static inline bool probe_kind__is_tracepoint(enum probe_kind kind)
{
	return kind == PROBE_TRACEPOINT || kind == PROBE_RAW_TRACEPOINT || kind == PROBE_TP_BTF;
}

/* One attachment as found by a scan. */
struct obs_probe {
	pid_t tool;	   /* tgid of the process that holds the descriptor (lowest, when several) */
	int fd;		   /* of the perf event in that process, -1: it holds only the link */
	int link_fd;	   /* of the link in that process, or -1 */
	uint32_t link_id;  /* 0: no link */
	uint64_t event_id; /* kernel address or id of the perf event / link: identity between scans */
	enum probe_kind kind;
	enum attach_form form;
	uint32_t prog_id;
	char path[4096];   /* of the probed file, from the kernel; of a tracepoint: SYSTEM:NAME, or only NAME */
	uint64_t dev, ino; /* of the probed file */
	uint64_t offset;   /* in the file; of a PROBE_TRACEPOINT its number */
	uint64_t ref_ctr_offset;
	uint64_t cookie;
	pid_t target;	    /* tgid the event is limited to, -1: every process, 0: one that has ended */
	bool enabled;	    /* perf event enabled */
	uint32_t n_holders; /* processes that hold it, among those that were scanned */
};

/* One program, with its bytecode. Owned by the observer; valid until the program is gone from a later scan. */
struct obs_prog {
	uint32_t id;
	uint8_t tag[8];
	char name[BPF_OBJ_NAME_LEN];
	uint32_t type, expected_attach_type;
	uint32_t attach_btf_obj_id, attach_btf_id; /* what the program is for, where that is a type; 0: nothing */
	bool sleepable;
	/* Original instructions; maps are named by id in imm of BPF_PSEUDO_MAP_FD / BPF_PSEUDO_MAP_VALUE. NULL when
	 * unknown. */
	struct bpf_insn *insns;
	size_t n_insns;
	const char *why_unknown; /* a sentence, when insns is NULL */
	const char *license;
	uint32_t map_ids[64];
	size_t n_maps;
};

struct obs_map {
	uint32_t id;
	uint32_t type, key_size, value_size, max_entries, flags;
	char name[BPF_OBJ_NAME_LEN];
	bool frozen;
};

struct obs_scan {
	struct obs_probe *probes;
	size_t n_probes;
};

enum obs_event_kind {
	OBS_CHANGED = 1, /* something about this process's bpf objects changed: scan again */
	OBS_EXEC = 2,
	OBS_EXIT = 3,	 /* a watched process (see observer__watch) ended */
	OBS_FORK = 4,	 /* a watched process forked: child in arg */
	OBS_LOST = 5,	 /* ring buffer overflowed: scan everything */
	OBS_MAPPED = 8,	 /* a process has mapped the memory of a BPF map; arg: its id */
	OBS_LEADER = 6,	 /* the main thread of a watched process ended, others go on */
	OBS_ARRIVED = 7, /* a process was served by a kernel half for the first time; 0: one that has no number here */
};

struct observer;

/* Loads and attaches the kernel-side programs. -errno and a sentence in err. cb is called from observer__dispatch(). */
int observer__new(struct observer **out, void (*cb)(void *arg, enum obs_event_kind kind, pid_t pid, pid_t arg2),
		  void *arg, char *err, size_t err_size);
/*
 * The same, told by the kernel halves of another daemon, which is gone and has pinned in this folder what they tell by
 * (observer__pin()).
 */
int observer__adopt(struct observer **out, const char *dir,
		    void (*cb)(void *arg, enum obs_event_kind kind, pid_t pid, pid_t arg2), void *arg, char *err,
		    size_t err_size);
int observer__pin(struct observer *o, const char *dir);
void observer__free(struct observer *o);
const char *observer__hook(const struct observer *o); /* "tracepoint", "raw tracepoint": how bpf() is observed */
int observer__epoll_fd(const struct observer *o);     /* readable: call dispatch */
int observer__dispatch(struct observer *o);

/* Reads the real state. pid == 0: the whole host but the daemon; a process that does not exist has no probes. The
 * caller owns *scan, obs_scan__clear() frees it. */
int observer__scan(struct observer *o, pid_t pid, struct obs_scan *scan, char *err, size_t err_size);
void obs_scan__clear(struct obs_scan *scan);

/* The program with this id, or NULL with errno. Looks at captures first, then tries to recover. */
const struct obs_prog *observer__prog(struct observer *o, uint32_t prog_id);
int observer__map(struct observer *o, uint32_t map_id, struct obs_map *out);

/* Tools and targets whose exit and forks are wanted. */
int observer__watch(struct observer *o, pid_t tgid);
void observer__unwatch(struct observer *o, pid_t tgid);

/* What khalf_load() needs so that OBS_ARRIVED comes; the descriptors stay the observer's. */
void observer__arrivals(const struct observer *o, int *arrived_fd, int *arrivals_fd);
/*
 * For a reader who sees to the children of watched processes: a ring buffer of struct obs_rec_head, in which are the
 * same forks as told by OBS_FORK, and those of the children, as their ancestor's, until the reader deletes them from
 * *kin_fd, a hash whose keys are process ids.
 */
int observer__forks(const struct observer *o, int *kin_fd);
/* OBS_ARRIVED is to come once more for this process, or, with 0, for all. */
void observer__await_arrival(struct observer *o, pid_t tgid);

/* Pending kernel return instances of this process whose function is at one of the file offsets. -errno or a count. */
int observer__pending_returns(struct observer *o, pid_t tgid, uint64_t ino, const uint64_t *offsets, size_t n);

#endif
