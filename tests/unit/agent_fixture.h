/* SPDX-License-Identifier: MIT */
/* agent_fixture.h: a victim with the agent, a counting action written by hand, and the kernel's own count as oracle. */
#ifndef BPFTIME_TEST_AGENT_FIXTURE_H
#define BPFTIME_TEST_AGENT_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "agent/agent.h"
#include "agent/service.h"

/* ---- victims ---- */

struct victim {
	pid_t pid;
	FILE *in, *out; /* its stdin and stdout */
};

/* Starts $B/tests/victims/argv[0] and waits for its "ready". */
void victim_start(struct victim *v, char *const argv[]);
void victim_go(struct victim *v);		       /* sends a line */
long victim_number(struct victim *v, const char *key); /* waits for the line "KEY N" */
int victim_wait(struct victim *v);		       /* exit status; -signal */
const char *victim_path(const char *name);
uint64_t victim_symbol(const char *name, const char *symbol); /* file offset */

/* ---- the host's part of the agent ---- */

struct rig {
	struct agent_image *image;
	struct agent_service *service;
	int noop_fd;
};
void rig_start(struct rig *r);
void rig_stop(struct rig *r);

struct CMUnitTest; /* cmocka.h */
/* What main() of a test with one rig for all its tests returns. Skips them all when it is not run by root. */
int rig_tests(struct rig *r, const char *name, const struct CMUnitTest *tests, size_t n);

/* ---- a target ---- */

#define GROUP_HITS_OFF	SHM_HDR_SIZE
#define GROUP_VALUE_OFF (SHM_HDR_SIZE * 2) /* where the hand-written actions count: one cache line each */
#define GROUP_SIZE	(SHM_HDR_SIZE * 3)

struct rider {
	struct rig *rig;
	struct target *t;
	struct agent_target *arena;
	int arena_fd, sites_fd, group_fd, code_fd;
	uint8_t *group;		      /* our view of the group's arena */
	struct target_mapping map[2]; /* code, group */
};
/* Opens the process and gives it the agent and a group with its gate closed (KERNEL). */
void rider_start(struct rider *rd, struct rig *rig, pid_t pid);
void rider_stop(struct rider *rd);
void rider_gate(struct rider *rd, enum shm_ugate gate);
/* An action that adds 1 to counter number n of the group. */
void rider_action(struct rider *rd, struct agent_site *s, uint32_t which, uint32_t n, uint32_t flags);
uint64_t rider_count(const struct rider *rd, uint32_t n);
uint64_t rider_hits(const struct rider *rd, uint32_t n); /* hit counter of action n, all CPUs */

/* ---- the kernel's count ---- */

struct oracle {
	int map, prog, event;
};
/* Counts hits of a uprobe (or uretprobe) at a file's offset that the kernel serves, in every process, by a BPF program.
 */
void oracle_start(struct oracle *o, const char *path, uint64_t offset, bool at_return);
uint64_t oracle_count(const struct oracle *o);
void oracle_stop(struct oracle *o);

#endif
