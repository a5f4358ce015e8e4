/* SPDX-License-Identifier: MIT */
/*
 * model.h: what the daemon knows and wants, as plain data. Observe fills tools and probes, plan decides about groups,
 * build makes what a group needs, switch moves its truth, hosts.c keeps the processes that carry the agent.
 *
 *   tool  1 --- n  probe  n --- 1  group  1 --- n  gprog, gmap
 *                    |                       |
 *                    n                       n
 *                  seat (one action at one site of one host)
 *                    n
 *                    |
 *   host  1 --- n  place (a patched instruction)
 *
 * Everything is owned by struct engine and used from one thread.
 */
#ifndef BPFTIME_MODEL_H
#define BPFTIME_MODEL_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "agent/agent.h"
#include "daemon/decision.h"
#include "daemon/observe.h"
#include "shm-runtime/shm.h"
#include "vm-llvm/vm.h"

#define REASON_SIZE	 320
#define GROUP_MAX_PROGS	 56 /* that differ */
#define GROUP_MAX_PROBES 4096
#define GPROG_HELPERS	 256

#define HOST_FILES 4

struct engine;
struct group;
struct khalf_link; /* build.h */
struct parked;	   /* park.c */

/* A process that holds probes. */
struct tool {
	struct tool *next;
	pid_t pid;
	uint64_t start_time; /* of the process, clock ticks since boot: pid and this are its identity */
	uid_t uid;
	char comm[16];
	char exe[PATH_MAX];
	bool held;		   /* `bpftime handback`: until `bpftime takeover` */
	char refusal[REASON_SIZE]; /* why no probe of this tool is offloaded, or empty */
	enum reason_class refusal_class;
	char verdict[REASON_SIZE]; /* the policy's, when it was last told */
	struct timespec since;	   /* CLOCK_BOOTTIME when it was first seen */
	uint64_t dirty_at;	   /* CLOCK_MONOTONIC ns of the last hint; 0: clean */
	bool sheds;		   /* it has lost some of its probes since it was clean: it may be about to lose all */
};

/* One attachment of a tool's program. */
struct probe {
	struct probe *next;
	struct probe *older_here; /* see probes.h */
	struct tool *tool;
	struct obs_probe o;
	struct group *group; /* NULL: cannot be carried, see reason */
	char symbol[256];
	char reason[REASON_SIZE]; /* why it is in the kernel, or empty */
	unsigned int hit_index;	  /* in the group's counters */
	unsigned int prog;	  /* in the group's programs, once it is planned */
	int khalf_fd;		  /* perf event of the kernel half, or -1 */
	int khalf_link_fd;
	int escape;			     /* the slot at which its program stands, too, or -1: escape.h */
	int escape_taken;		     /* that is its instruction's, or -1 */
	int escape_event_fd, escape_link_fd; /* or -1 */
	struct parked *parked;		     /* what it was before it was parked: park.h; NULL: it is not */
	bool seen;
	bool is_beside; /* a tracepoint whose program uses no map that moves: it goes on by itself, and prog says
			   nothing */
};

struct map_look; /* daemon/map_look.h */

struct gmap {
	struct obs_map m;
	int fd;
	struct shm_geo geo; /* kind SHM_DIRECT: geo.seed is the index into agent_env.direct */
	bool read_only;	    /* direct, frozen: mapped without PROT_WRITE */
	size_t map_size;    /* direct: bytes to map */
	bool is_viewed;	    /* memory-mapped, and yet in the arena, which is what the tool then sees: daemon/views.h */
	bool is_copied;	    /* into the arena, since the take-over began: it holds nothing but older values */
	int carrier;	    /* handle, or -1 */
	struct map_look *look; /* NULL: it is read as a whole */
	bool has_no_look;      /* it cannot be looked at */
	uint64_t waste;	    /* nodes that can be used again when nobody holds them: shm_map_collect(); 0: none */
};

/* Programs with the same bytecode are one: tools load one for every probe. */
struct gprog {
	char name[BPF_OBJ_NAME_LEN];
	uint32_t type, expected_attach_type;
	uint32_t attach_btf_id; /* of a PROBE_TP_BTF */
	const char *license;
	struct bpf_insn *insns; /* map ids replaced by indices into the group's maps */
	size_t n_insns;
	uint64_t helpers[GPROG_HELPERS / 64]; /* a bit for each that it calls */
	struct vm_code code;
	int code_fd;
	uint64_t sampled_ns;  /* in its code: top.c */
	bool plain;	      /* a hit without AGENT_ACT_GENERAL does for its code */
	int khalf_fd;	      /* the translated program, or -1 */
	bool is_multi;	      /* it is for uprobe_multi links */
	struct bpf_insn *own; /* as the tool has loaded them, with ids of maps; NULL: it has no escape */
	size_t n_own;
	int escape_fd; /* what stands at escape slots, or -1 */
	bool escape_is_multi;
};

enum group_state {
	GROUP_KERNEL = 0, /* truth in the tool's maps */
	GROUP_SHARED = 1, /* truth in the arena */
	GROUP_GONE = 2,	  /* the tool has detached; waiting for targets to let go */
};

/* Programs that share maps, with those maps. */
struct group {
	struct group *next;
	unsigned int id;
	enum group_state state;
	struct tool *tool;
	struct gprog prog[GROUP_MAX_PROGS + 1];
	unsigned int n_progs;
	unsigned int n_user_progs; /* the first ones: those with a user half. The others are tracepoints' */
	struct gmap map[SHM_MAX_MAPS];
	unsigned int n_maps;
	uint32_t *map_id; /* of all programs, carried or not */
	size_t n_map_ids;
	struct probe **probe;
	unsigned int n_probes, room;
	struct khalf_link *link; /* of the kernel half, for many probes at once, or for a program of the tool */
	unsigned int n_links;
	int *escape_link; /* uprobe_multi links at escape slots */
	unsigned int n_escape_links;
	bool planned;  /* all of it can be carried */
	bool leaving;  /* no place is to name it any longer */
	bool building; /* its code is being made: daemon/builder.h */
	bool built;
	bool was_adopted;    /* since its last switch another daemon was killed, and this one goes on: adopt.h */
	bool has_khalf;	     /* a kernel half serves what still reaches the kernel; else the tool's own program does */
	bool is_replaced;    /* it stands in the place of the tool's programs: replace.h */
	bool never_replaced; /* that was tried */
	bool has_direct, has_mirrored;
	bool has_viewed; /* some map is_viewed */
	/* Of a group that is not limited to a process, see domain.h: */
	bool has_domain, several_users;
	uid_t domain;	    /* whose processes may have its memory */
	bool domain_over;   /* they were another user's until now: they are to lose it */
	bool is_parked;	    /* the tool's attachment is away: park.h */
	bool is_unordered;  /* it has been: the tool's program may run before the kernel half at a hit */
	uint64_t park_at;   /* CLOCK_MONOTONIC ns; 0: to be thought of */
	uint64_t park_seen; /* kgate then */
	unsigned int park_tries;
	int watcher_fd; /* without a kernel half: what stands in its place and tells of new processes, or -1 */
	int arena_fd;
	struct shm_group_hdr *arena; /* what it says is not asked, but for the gates: a target may have got at it */
	size_t arena_size;
	uint32_t n_cpus;	  /* possible CPUs, for which there are hit counters */
	char reason[REASON_SIZE]; /* why it is not shared, or empty */
	uint64_t permit;	  /* permit__fingerprint() when it was last taken over or tried to be */
	uint64_t outdated_since; /* CLOCK_MONOTONIC ns: the policy says something else, it is to be made anew; 0: not */
	uint64_t renew_at;	 /* the same clock: when to try that */
	uint64_t compile_seconds, stop_ms; /* limits of the policy, or POLICY_NO_LIMIT */
	unsigned int attempts;		   /* take-overs that failed one after another */
	uint64_t retry_at;		   /* CLOCK_MONOTONIC ns */
	struct timespec since;		   /* CLOCK_BOOTTIME of the last switch; 0: none */
};

/* Hit counters of a probe, one for each CPU. */
static inline uint64_t *group__hits(const struct group *g, unsigned int hit_index)
{
	return (uint64_t *)((char *)g->arena + SHM_HDR_SIZE) + (size_t)hit_index * g->n_cpus;
}

/* Where a group's memory and code are in one host. */
struct lodging {
	struct lodging *next;
	struct group *group;
	uint64_t arena;
	uint64_t code[GROUP_MAX_PROGS];
	uint64_t direct[AGENT_MAX_DIRECT];
	struct target_mapping *maps; /* all of them, for unmapping */
	size_t n_maps;
};

/* A patched, or patchable, instruction of one host. */
struct place {
	bool used;
	uint64_t ino, offset;
	const struct probe *plan_for; /* not NULL: it is still to be planned, for this probe */
	struct site *site;	      /* NULL: cannot be patched, see why */
	bool has_return;
	int escape; /* its instruction's slot, or -1 */
	bool open;
	const struct group *counts; /* whose only program its threads count for themselves, or NULL */
	unsigned int hit_index;	    /* of its probe there */
	uint64_t closed_at;	    /* CLOCK_MONOTONIC ns; 0: open, or never opened */
	bool drop;		    /* see hosts__drop_marked() */
	bool stuck;		    /* that failed */
	bool gone;		    /* the process has unmapped its code since: see why */
	char why[REASON_SIZE];
};

/* A process that has, or may get, the agent. */
struct host {
	struct host *next;
	pid_t pid;
	uint64_t start_time;
	uid_t uid;
	char comm[16];
	struct target *target; /* NULL: may not be touched, see why */
	bool injected;
	int arena_fd, sites_fd;
	uint32_t arena_id; /* the map's */
	struct agent_target *arena;
	struct place *place; /* at the index of their sites */
	unsigned int n_places;
	struct lodging *lodgings;
	char why[REASON_SIZE];
	uint64_t told; /* a hash of why, and for which group, when that was last told: tell.c */
	bool claimed;  /* not given the agent, because another bpftimed has it: that may change */
	bool leaving;  /* see hosts__forget() */
	struct mapped_file {
		uint64_t moment, dev, ino;
		bool is_mapped;
	} file[HOST_FILES]; /* see host__maps() */
	unsigned int next_file;
};

#define for_each_used_place(pl, h)                                                                                     \
	for (struct place * (pl) = (h)->place; (pl) < (h)->place + (h)->n_places; (pl)++)                              \
		if ((pl)->used)

#endif
