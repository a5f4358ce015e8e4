/* SPDX-License-Identifier: MIT */
/*
 * switch.h: moves a group's truth between the tool's own maps and the arena, exactly, while the probes are being hit.
 *
 * How, in both directions: all hits that come by a patched place are held for a moment at the group's gate (threads
 * wait in the trampoline; nobody is stopped who is not running); what is still in the middle of something is waited
 * for; the maps are copied; the side that serves changes by one store (user half) and one compare-and-swap (kernel
 * half, which counts every hit that it sees and so tells whether one came in between); the gate opens, or the places
 * close and the threads go back to the kernel's int3.
 */
#ifndef BPFTIME_SWITCH_H
#define BPFTIME_SWITCH_H

#include "daemon/histogram.h"
#include "daemon/hosts.h"
#include "daemon/khalf.h"
#include "daemon/model.h"
#include "daemon/probes.h"

struct switcher {
	struct hosts *hosts;
	struct group **groups;	      /* head of the engine's list: neighbours are found in it */
	struct probe **probes;	      /* head of the engine's list: all probes known on the machine */
	const struct probe_table *at; /* the same, by instruction */
	struct carriers *carriers;
	bool is_holding;	    /* threads, */
	struct timespec held_since; /* CLOCK_MONOTONIC */
	struct histogram held;	    /* how long each time */
	bool needs_cpus; /* the switch under way needs the processors to be kept: threads that are not held could run */
};

/* KERNEL -> SHARED for a built group. 0, or -errno with g->reason: then nothing has changed. */
int switch_takeover(struct switcher *sw, struct group *g);
/*
 * SHARED -> KERNEL. -EAGAIN with g->reason when a thread is inside a function whose return was probed and does not come
 * back: the group then stays shared, served by its kernel half. With force the switch is made all the same.
 */
int switch_handback(struct switcher *sw, struct group *g, bool force);
/* The tool has detached: nobody serves any more, the last values are in the tool's maps, targets let go. */
void switch_release(struct switcher *sw, struct group *g);

/* The group is not served in userspace any more: no place names it, no host holds its memory. */
void switch_forget(struct switcher *sw, struct group *g);

/*
 * A process that the group's probes reach is new, or another bpftimed has let go of it, or it maps more of the probed
 * files than before: it gets the agent, or more places, while the group stays shared. 0: nothing more to do, the host
 * has the reason when it is not lodged; -EAGAIN: not at this moment.
 */
int switch_join(struct switcher *sw, struct group *g, pid_t pid);
/* The same for many at once. */
struct joining {
	pid_t pid;
	int err;	  /* what switch_join() returns */
	bool is_new;	  /* it was not lodged */
	bool is_prepared; /* it is now, and has its places */
};
void switch_join_all(struct switcher *sw, struct group *g, struct joining *j, size_t n);

/*
 * Lets nodes of the group's hashes be used again that were deleted, when many have been. For a group that is SHARED,
 * now and then: targets go on.
 */
void switch_recycle(struct switcher *sw, struct group *g);

/* Opens the places that may be open and closes those that may not (another tool came or went). */
void switch_settle(struct switcher *sw);

/* Is it a tool? */
bool holds_probes(struct switcher *sw, pid_t pid);
/* May its threads be stopped for the group? Not a tool's where the policy lets none be; then h->why is the sentence. */
bool may_be_stopped(struct switcher *sw, const struct group *g, struct host *h);
/* Are there more probes on this instruction than a place holds? */
bool place_is_crowded(struct switcher *sw, const struct host *h, const struct place *pl);
/* May every probe on this instruction be served in userspace? */
bool place_is_carried(struct switcher *sw, const struct host *h, const struct place *pl);
bool probe_reaches(const struct probe *p, const struct host *h);
/* Does it have no place in any process? */
bool probe_is_tracepoint(const struct probe *p);
/* Does the kernel half stand at a tracepoint, too? */
bool group_has_tracepoint(const struct group *g);
/* Does the process map a file in which a probe of the group reaches it? */
bool group_reaches(const struct group *g, struct host *h);
/* Calls cb for every process on the host that maps a file in which a probe is that is not limited to one. */
void group__each_process(const struct group *g, void (*cb)(pid_t pid, void *arg), void *arg);
/* From now on the kernel half's hits are counted. How many there have been while they were. */
uint64_t group__count_hits(struct group *g);
void group__stop_counting(struct group *g);
/* Is a uprobe of the group not limited to a process? prog: only those of this program; NULL: all. */
bool group_is_host_wide(const struct group *g, const struct gprog *prog);

#endif
