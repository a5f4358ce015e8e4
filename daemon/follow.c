/* SPDX-License-Identifier: MIT */
/*
 * follow.c: processes that come to a shared group while it is at work: new ones, and those that map a probed file
 * later. The kernel half serves them from their first hit, and tells of them (bpf/arrivals.h). One that is still there
 * a moment later is given the agent; to a short-lived one nothing is done.
 */
#include <errno.h>
#include <stdlib.h>

#include "daemon/engine_impl.h"
#include "daemon/procfs.h"

#define FOLLOW_NS 250000000ull	/* from the first hit to the agent, which costs the kernel grace periods of RCU */
#define AGAIN_NS  1000000000ull /* until a process that does not map every probed file yet is looked at again */
#define BUSY_NS	  50000000ull	/* until one that could not be stopped is tried again */
#define BUSY_MAX  8u

struct arrived_process {
	pid_t pid;
	uint64_t due; /* CLOCK_MONOTONIC ns */
	unsigned int busy;
	bool is_waiting; /* done with for now: at `due` its next hit is to be told again */
};

void follow__free(struct follow *f)
{
	free(f->process);
	*f = (struct follow){0};
}

static int add(struct follow *f, pid_t pid, uint64_t due)
{
	for (size_t i = 0; i < f->n; i++)
		if (f->process[i].pid == pid)
			return 0;
	if (f->n == f->room) {
		size_t room = f->room ? 2 * f->room : 64;
		void *grown = realloc(f->process, room * sizeof(*f->process));

		if (!grown)
			return -ENOMEM;
		f->process = grown;
		f->room = room;
	}
	f->process[f->n++] = (struct arrived_process){.pid = pid, .due = due};
	return 0;
}

static bool is_followed(const struct group *g)
{
	return g->state == GROUP_SHARED && group_is_host_wide(g, NULL);
}

static void add_mapping(pid_t pid, void *arg)
{
	struct engine *e = arg;

	if (pid != getpid())
		add(&e->follow, pid, now_ns() + FOLLOW_NS);
}

void follow__arrived(struct engine *e, pid_t pid)
{
	if (pid) {
		add(&e->follow, pid, now_ns() + FOLLOW_NS);
		return;
	}
	/* Somebody whom we cannot name: everybody who maps a probed file is looked at. */
	for (struct group *g = e->groups; g; g = g->next)
		if (is_followed(g))
			group__each_process(g, add_mapping, e);
}

/* Of the files that the group probes: does the process map one, does it map all? */
static bool maps_any(const struct group *g, pid_t pid, bool *all)
{
	const struct obs_probe *last = NULL;
	bool any = false, found = false;

	for (unsigned int i = 0; i < g->n_probes; i++) {
		const struct obs_probe *o = &g->probe[i]->o;

		if (o->target >= 0)
			continue;
		if (!last || last->ino != o->ino || last->dev != o->dev)
			found = host__maps_file(pid, o->dev, o->ino);
		last = o;
		any |= found;
		*all &= found;
	}
	return any;
}

/* -EAGAIN: a process that could not be stopped; 1: one that does not map every probed file; 0: nothing is left to do.
 */
static int follow_one(struct engine *e, pid_t pid)
{
	bool all = true, busy = false, joined = false;

	if (pid == getpid() || claims__is_daemon(e->claims, pid))
		return 0;
	for (struct group *g = e->groups; g; g = g->next) {
		struct host *h;

		if (!is_followed(g) || !maps_any(g, pid, &all))
			continue;
		busy |= switch_join(&e->sw, g, pid) == -EAGAIN;
		h = hosts__find(&e->hosts, pid);
		joined |= h && host__lodging(h, g);
	}
	if (joined) {
		observer__watch(e->observer, pid);
		converge__changed(e);
	}
	return busy ? -EAGAIN : !all;
}

uint64_t follow__run(struct engine *e, uint64_t now)
{
	struct follow *f = &e->follow;
	uint64_t next = 0;
	size_t kept = 0;

	for (size_t i = 0; i < f->n; i++) {
		struct arrived_process p = f->process[i];

		if (p.due <= now && p.is_waiting) {
			observer__await_arrival(e->observer, p.pid);
			continue;
		}
		if (p.due <= now) {
			int ret = procfs_start_time(p.pid) ? follow_one(e, p.pid) : 0;

			if (!ret || (ret < 0 && ++p.busy > BUSY_MAX))
				continue;
			p.is_waiting = ret > 0;
			p.due = now + (ret > 0 ? AGAIN_NS : BUSY_NS << p.busy);
		}
		f->process[kept++] = p;
		next = earlier(p.due, next);
	}
	f->n = kept;
	return next;
}
