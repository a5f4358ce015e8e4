/* SPDX-License-Identifier: MIT */
/*
 * adopt.h: what one daemon writes down about targets and sites so that the next one, after a crash, can hand back
 * exactly. Records are plain data of one build: whoever reads them checks AGENT_RECORD_VERSION and their sizes.
 */
#ifndef BPFTIME_AGENT_ADOPT_H
#define BPFTIME_AGENT_ADOPT_H

#include "agent.h"

#define AGENT_RECORD_VERSION 6u
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
	uint8_t pad[7];
};

void target__record(const struct target *t, struct target_record *out);
void site__record(const struct site *s, struct site_record *out);

/* The process, which has the agent of a daemon that is gone, as target__inject() would have left it. */
int target__adopt(pid_t pid, const struct target_record *r, struct target **out, struct agent_error *err);
/*
 * A site of that daemon, for closing and freeing. Its uprobes are those pinned in pin_dir. -ENOENT: it is not there any
 * more.
 */
int site__adopt(struct target *t, const struct site_record *r, const char *pin_dir, struct site **out,
		struct agent_error *err);
/* Where the agent's code is. */
struct code_range target__image_range(const struct target *t);
/* Removes the agent itself, when no thread is in it. */
int target__evict(struct target *t, int timeout_ms, struct agent_error *err);
/* Unmaps what of these mappings is still ours: made of BPF maps or of our code. */
int target__unmap_ours(struct target *t, const struct target_mapping *m, size_t n, struct agent_error *err);

#endif
