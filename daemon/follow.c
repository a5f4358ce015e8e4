/* SPDX-License-Identifier: MIT */
/*
 * follow.c: processes that come to a shared group while it is at work: new ones, and those that map a probed file
 * later. The kernel half serves them from their first hit, and tells of them (bpf/arrivals.h). One that is still there
 * a moment later is given the agent; to a short-lived one nothing is done.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "daemon/engine_impl.h"
#include "daemon/procfs.h"

#define SOON_NS	     4000000ull	   /* from the first hit to the agent */
#define LATER_NS     250000000ull  /* the same while many come: most of them end soon */
#define SOON_MOST    4u		   /* processes at once to which the first applies, */
#define REFILL_NS    50000000ull   /* and one more in this time */
#define AGAIN_NS     1000000000ull /* until a process that does not map every probed file yet is looked at again */
#define BUSY_NS	     50000000ull   /* until one that could not be stopped is tried again */
#define BUSY_MAX     8u
#define FOLLOW_BATCH 32u /* processes that are given the agent before other events are looked at */

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

static uint64_t due_at(struct follow *f)
{
	uint64_t now = now_ns(), refill = (now - f->soon_since) / REFILL_NS;

	if (refill) {
		f->soon = f->soon + refill < SOON_MOST ? f->soon + (unsigned int)refill : SOON_MOST;
		f->soon_since = now;
	}
	if (!f->soon)
		return now + LATER_NS;
	f->soon--;
	return now + SOON_NS;
}

static void add_mapping(pid_t pid, void *arg)
{
	struct engine *e = arg;

	if (pid != getpid())
		add(&e->follow, pid, now_ns() + LATER_NS);
}

void follow__arrived(struct engine *e, pid_t pid)
{
	if (pid) {
		add(&e->follow, pid, due_at(&e->follow));
		return;
	}
	/* Somebody whom we cannot name: everybody who maps a probed file is looked at. */
	for (struct group *g = e->groups; g; g = g->next)
		if (is_followed(g))
			group__each_process(g, add_mapping, e);
}

struct unlodged {
	struct engine *e;
	const struct group *g;
};

static void add_unlodged(pid_t pid, void *arg)
{
	const struct unlodged *u = arg;
	const struct host *h = hosts__find(&u->e->hosts, pid);

	/* Those that may not have been asked. */
	if (pid != getpid() && (!h || (!host__lodging(h, u->g) && !h->why[0])))
		add(&u->e->follow, pid, now_ns());
}

void follow__group(struct engine *e, struct group *g)
{
	struct unlodged u = {e, g};

	if (is_followed(g))
		group__each_process(g, add_unlodged, &u);
}

/* Of the files that the group probes: does the process map one, does it map all? */
static bool maps_any(const struct group *g, pid_t pid, bool *all)
{
	const struct obs_probe *last = NULL;
	bool any = false, found = false;

	for (unsigned int i = 0; i < g->n_probes; i++) {
		const struct obs_probe *o = &g->probe[i]->o;

		if (o->target >= 0 || probe_is_tracepoint(g->probe[i]))
			continue;
		if (!last || last->ino != o->ino || last->dev != o->dev)
			found = host__maps_file(pid, o->dev, o->ino);
		last = o;
		any |= found;
		*all &= found;
	}
	return any;
}

/* A process whose time has come, and what became of it. */
struct due_process {
	struct arrived_process p;
	bool all;    /* it maps every probed file */
	bool busy;   /* it could not be stopped */
	bool joined; /* it has the agent, for some group */
};

static void join_group(struct engine *e, struct group *g, struct due_process *due, size_t n)
{
	struct joining j[FOLLOW_BATCH];
	struct due_process *of[FOLLOW_BATCH];
	pid_t joined[FOLLOW_BATCH];
	size_t n_joining = 0, n_joined = 0;

	for (size_t i = 0; i < n; i++) {
		if (!maps_any(g, due[i].p.pid, &due[i].all))
			continue;
		of[n_joining] = &due[i];
		j[n_joining++] = (struct joining){.pid = due[i].p.pid};
	}
	if (n_joining)
		switch_join_all(&e->sw, g, j, n_joining);
	for (size_t i = 0; i < n_joining; i++) {
		struct host *h = hosts__find(&e->hosts, j[i].pid);

		of[i]->busy |= j[i].err == -EAGAIN;
		if (h)
			tell__refused_target(e, g, h);
		if (!h || !host__lodging(h, g))
			continue;
		of[i]->joined = true;
		if (j[i].is_new)
			joined[n_joined++] = h->pid;
	}
	tell__joined(e, g, joined, n_joined);
}

static void join_all(struct engine *e, struct due_process *due, size_t n)
{
	bool changed = false;

	for (struct group *g = e->groups; g; g = g->next)
		if (is_followed(g))
			join_group(e, g, due, n);
	for (size_t i = 0; i < n; i++) {
		if (due[i].joined)
			observer__watch(e->observer, due[i].p.pid);
		changed |= due[i].joined;
	}
	if (changed)
		converge__changed(e);
}

static bool is_ours(const struct engine *e, pid_t pid)
{
	return pid == getpid() || claims__is_daemon(e->claims, pid);
}

/* Takes those whose time has come, as many as are joined at once, out of the list. */
static size_t take_due(struct engine *e, uint64_t now, struct due_process *due)
{
	struct follow *f = &e->follow;
	size_t kept = 0, n = 0;

	for (size_t i = 0; i < f->n; i++) {
		struct arrived_process p = f->process[i];

		if (p.due > now || n == FOLLOW_BATCH)
			f->process[kept++] = p;
		else if (p.is_waiting)
			observer__await_arrival(e->observer, p.pid);
		else if (procfs_start_time(p.pid) && !is_ours(e, p.pid))
			due[n++] = (struct due_process){.p = p, .all = true};
	}
	f->n = kept;
	return n;
}

static void put_back(struct follow *f, struct due_process *due, uint64_t now)
{
	struct arrived_process *p = &due->p;

	if (due->busy ? ++p->busy > BUSY_MAX : due->all)
		return;
	p->is_waiting = !due->busy;
	p->due = now + (due->busy ? BUSY_NS << p->busy : AGAIN_NS);
	if (!add(f, p->pid, p->due))
		f->process[f->n - 1] = *p;
}

uint64_t follow__run(struct engine *e, uint64_t now)
{
	struct due_process due[FOLLOW_BATCH];
	struct follow *f = &e->follow;
	size_t n = take_due(e, now, due);
	uint64_t next = 0;

	if (n)
		join_all(e, due, n);
	for (size_t i = 0; i < n; i++)
		put_back(f, &due[i], now_ns());
	for (size_t i = 0; i < f->n; i++)
		next = earlier(f->process[i].due, next);
	return next;
}
