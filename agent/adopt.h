/* SPDX-License-Identifier: MIT */
/*
 * adopt.h: what one daemon writes down about targets and sites so that the next one, after a crash, can hand back
 * exactly, or go on. Records are plain data of one build: whoever reads them checks AGENT_RECORD_VERSION and their
 * sizes.
 */
#ifndef BPFTIME_AGENT_ADOPT_H
#define BPFTIME_AGENT_ADOPT_H

#include "agent.h"

#define AGENT_RECORD_VERSION 7u
#define AGENT_RECORD_CODE    32u

struct target_record {
	uint64_t image, arena, fork_page, shadow;
};

struct site_record {
	uint64_t addr, stub, map_addr, map_size, stub_ino;
	uint64_t covered;
	uint32_t index, file_size;
	uint32_t hold_link, unused;
	uint8_t file[AGENT_RECORD_CODE];
	uint8_t jump[12];
	uint16_t boundary_mask;
	uint8_t size, step, has_return;
	uint8_t n_before, before[4];
	uint8_t pad[2];
	uint64_t offset;
	uint32_t instruction, escape;
};

void target__record(const struct target *t, struct target_record *out);
void site__record(const struct site *s, struct site_record *out);

/* The process, which has the agent of a daemon that is gone, as target__inject() would have left it. */
int target__adopt(pid_t pid, const struct target_record *r, struct target **out, struct agent_error *err);
/*
 * A site of that daemon. Its uprobes are those pinned in pin_dir, as far as they are there. noop_prog_fd: as in struct
 * site_opts; -1: it is closed and freed only. -ENOENT: it is not there any more.
 */
int site__adopt(struct target *t, const struct site_record *r, const char *pin_dir, int noop_prog_fd, struct site **out,
		struct agent_error *err);
/*
 * The same for all of a target: those that are not there any more are NULL in out, and so are all after an error. 0 or
 * -errno.
 */
int site__adopt_all(struct target *t, const struct site_record *r, size_t n, const char *pin_dir, int noop_prog_fd,
		    struct site **out, struct agent_error *err);
/*
 * The site goes on, open or closed as that daemon had it: its bytes are such, and all of its uprobes are there. Nothing
 * is written. Else -errno.
 */
int site__go_on(struct site *s, bool is_open, struct agent_error *err);
/*
 * Repairs what fork children of a process that has ended, by these records of its sites, there are on the host. 0, or
 * -errno when one could not be, or it cannot be told.
 */
int orphans__repair(pid_t parent, const struct target_record *t, const struct site_record *r, size_t n,
		    struct agent_error *err);
/*
 * The uprobes that held them, which are pinned in this folder, end as those of a process end that was watched:
 * agent_bury_holds().
 */
void orphans__let_end(pid_t parent, const struct site_record *r, size_t n, const char *pin_dir);
/* Repairs the fork children of these sites' targets of which nothing was told. */
void children__repair(struct site *const *s, size_t n);
/* The image that the process has, from that daemon: ino is its file's. It is of the same bytes as ours, or -ESTALE. */
int agent_image__adopt(struct agent_image **out, pid_t pid, const struct target_record *r, uint64_t ino,
		       struct agent_error *err);
uint64_t agent_image__ino(const struct agent_image *img);
/* Where the agent's code is. */
struct code_range target__image_range(const struct target *t);
/* Removes the agent itself, when no thread is in it. */
int target__evict(struct target *t, int timeout_ms, struct agent_error *err);
/* Unmaps what of these mappings is still ours: made of BPF maps or of our code. */
int target__unmap_ours(struct target *t, const struct target_mapping *m, size_t n, struct agent_error *err);

#endif
