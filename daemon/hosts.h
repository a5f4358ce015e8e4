/* SPDX-License-Identifier: MIT */
/*
 * hosts.h: the processes that carry the agent: finding them, giving them the agent, a group's memory and code, and
 * patched places.
 */
#ifndef BPFTIME_HOSTS_H
#define BPFTIME_HOSTS_H

#include "agent/adopt.h"
#include "daemon/model.h"
#include "daemon/policy.h"

struct agent_service; /* agent/service.h */
struct claims;
struct escapes;	 /* daemon/escape.h */
struct repairer; /* daemon/repair.h */

struct hosts {
	struct host *list;
	struct agent_image *image;
	struct agent_service *service;
	const struct policy *policy;
	struct claims *claims;
	struct escapes *escapes;
	int noop_prog_fd;
	bool is_preempted; /* threads can lose the processor in the middle of a program of the kernel's */
	struct repairer *repairer;
	/* Called when a process is to get the agent for the first time: from now on its forks are to be known. */
	void (*on_new)(void *arg, pid_t pid);
	void *on_new_arg;
};

/* A process that carries the agent of another daemon, which is gone, and the inode of that. */
struct hosts_origin {
	pid_t pid;
	struct target_record target; /* agent/adopt.h */
	uint64_t image_ino;
};
/*
 * repairer, on_new and on_new_arg stay as the caller has set them. from: what that daemon has pinned for targets is
 * gone on with, and stays where it is until hosts__own(); NULL: there is nothing.
 */
int hosts__init(struct hosts *hs, const struct policy *policy, struct claims *claims, const struct hosts_origin *from,
		char *err, size_t err_size);
void hosts__own(struct hosts *hs);
/*
 * Lets go of every process; their sites must be closed and quiescent. A place that cannot be given up is left to the
 * next daemon (state__leave()).
 */
void hosts__fini(struct hosts *hs);

/* The process, if it is known and still the same. */
struct host *hosts__find(struct hosts *hs, pid_t pid);
/* Finds or makes the entry; host->why tells when it may not be touched. NULL: no such process, or out of memory. */
struct host *hosts__get(struct hosts *hs, pid_t pid);
/*
 * Forgets a process: it has ended, executed another program, or may not carry the agent any longer. false: one of its
 * places cannot be given up yet; it stays in the list and is lodged in no more.
 */
bool hosts__forget(struct hosts *hs, struct host *h);
/* Frees what is known of a process that is in no list any more; nothing is done to it, nor to what is pinned for it. */
void host__leave(struct host *h);

/*
 * The group's places are closed. Returns when fork children that have them open have been repaired: what stands at the
 * group's escape slots can go. Gives up after a while.
 */
void hosts__await_children(struct hosts *hs, const struct group *g);

/* Does this process map the file executable? */
bool host__maps_file(pid_t pid, uint64_t dev, uint64_t ino);
/* The same, as it was at any time since hosts__look_anew(). */
bool host__maps(struct host *h, uint64_t dev, uint64_t ino);
void hosts__look_anew(void);
/* Calls cb for every process on the host that maps the file executable. */
void hosts__each_mapping(uint64_t dev, uint64_t ino, void (*cb)(pid_t pid, void *arg), void *arg);

/* The agent, the group's memory and its code are in the host. 0, or -errno with a sentence in why. */
int host__lodge(struct hosts *hs, struct host *h, struct group *g, char *why, size_t why_size);
void host__unlodge(struct host *h, struct group *g);
/* From where its mappings are: where the group's arena, code and direct maps are. */
void lodging__fill(struct lodging *l);
struct lodging *host__lodging(const struct host *h, const struct group *g);

/* The place of this probe in this host; a new one is to be planned. NULL: no room. Others may move in memory. */
struct place *host__place(struct host *h, const struct probe *p, bool has_return);
/* The repairer knows the host's places from now on, for its fork children. -ENOMEM */
int host__tell_repairer(struct hosts *hs, struct host *h);
/* Its fork children of which nothing was told get the file's bytes back. */
void host__repair_children(struct host *h);
/* Plans those that are to be planned. place->site == NULL: stays in the kernel, see why. */
void host__plan(struct hosts *hs, struct host *h);
struct place *host__find_place(struct host *h, uint64_t ino, uint64_t offset);
bool host__has_places(const struct host *h);
/*
 * Gives up the places of all hosts that have place->drop. false: some cannot be given up, because a thread is held in
 * the middle of their jump, see site__free(); try again.
 */
bool hosts__drop_marked(struct hosts *hs);

/*
 * Of the hits in this place, those of the probe of the group that its threads have counted for themselves; and: they go
 * to the group's counters, because something changes here. Nobody may be inside.
 */
uint64_t host__counted_hits(const struct host *h, const struct place *p, const struct group *g, unsigned int hit_index);
void host__settle_hits(struct host *h, struct place *p);

/* Where code runs that must have ended before memory is moved: the agent's programs of all groups in this host. */
size_t host__code_ranges(const struct host *h, struct code_range *ranges, size_t max);

#endif
