/* SPDX-License-Identifier: MIT */
/*
 * watch.c: what no event tells, and is looked at now and then while something runs in userspace: places that cool down
 * or do not open, targets that could not do as the kernel would, other bpftimeds' claims, calls that the carriers did
 * not meet, nodes of maps that can be used again, uprobes of processes that have ended.
 */
#include <stdio.h>

#include "daemon/domain.h"
#include "daemon/engine_impl.h"
#include "daemon/log.h"
#include "daemon/park.h"
#include "daemon/permit.h"
#include "daemon/state.h"
#include "daemon/tracepoint.h"
#include "shm-runtime/shm_map.h"

#define COOL_NS	      1000000000ull
#define STUCK_NS      10000000000ull /* between two tries to give up a place in which a thread is held */
#define WATCH_NS      1000000000ull  /* between two looks at what carries may have missed */
#define SETTLE_TRIES  50u
#define BURIED_MOST   512 /* a few KiB of the kernel's each, and all of one instruction are looked through together */
#define BURIED_FEW    16
#define CLEAR_NS      10000000000ull /* as long at most it takes to close them */
#define CLEAR_LOOK_NS 100000000ull

/* ---- places ---- */

static bool is_unsettled(struct engine *e)
{
	for (struct host *h = e->hosts.list; h; h = h->next)
		for_each_used_place(pl, h) if (pl->site && !pl->open && place_is_carried(&e->sw, h, pl)) return true;
	return false;
}

/* A place that should be open and is not (the kernel was at work there at that moment): again, for a while. */
static uint64_t settle_again(struct engine *e, uint64_t now)
{
	if (!is_unsettled(e)) {
		e->settle_tries = 0;
		return 0;
	}
	switch_settle(&e->sw);
	if (!is_unsettled(e)) {
		converge__changed(e);
		return 0;
	}
	return ++e->settle_tries < SETTLE_TRIES ? now + SETTLE_NS : 0;
}

static bool is_shared_at(struct engine *e, const struct host *h, const struct place *pl)
{
	for_each_probe_at(p, &e->at, pl->ino, pl->offset)
	{
		if (p->group && p->group->state == GROUP_SHARED && probe_reaches(p, h))
			return true;
	}
	return false;
}

/* Since when it has been closed; when to give it up, or 0. */
static uint64_t due_of(struct engine *e, const struct host *h, struct place *pl, uint64_t now)
{
	if (!pl->site || pl->open || is_shared_at(e, h, pl)) {
		pl->closed_at = 0;
		return 0;
	}
	if (!pl->closed_at)
		pl->closed_at = now;
	return pl->closed_at + (pl->stuck ? STUCK_NS : COOL_NS);
}

/* Those that could not be given up; when to try again. */
static uint64_t begin_anew(struct engine *e)
{
	uint64_t now = now_ns();

	for (struct host *h = e->hosts.list; h; h = h->next)
		for_each_used_place(pl, h) if (pl->stuck && pl->closed_at && pl->closed_at + COOL_NS <= now)
			pl->closed_at = now;
	return now + STUCK_NS;
}

/*
 * The uprobes that hold a closed place cost the kernel's probe several times its price: a place that nobody takes over
 * again soon is given up. Returns when to look again, or 0.
 */
static uint64_t cool_places(struct engine *e, uint64_t now)
{
	uint64_t next = 0;
	bool dropped = false;

	for (struct host *h = e->hosts.list; h; h = h->next)
		for_each_used_place(pl, h)
		{
			uint64_t due = due_of(e, h, pl, now);

			pl->drop = due && now >= due;
			dropped |= pl->drop;
			if (!pl->drop)
				next = earlier(due, next);
		}
	if (!dropped)
		return next;
	if (!hosts__drop_marked(&e->hosts))
		next = earlier(begin_anew(e), next);
	for (struct host *h = e->hosts.list, *following; h; h = following) {
		following = h->next;
		if (h->leaving && !host__has_places(h))
			hosts__forget(&e->hosts, h);
	}
	state__save(e->groups, &e->hosts);
	return next;
}

/* ---- what goes back ---- */

/* To the kernel, to stay there. */
static void give_back(struct engine *e, struct group *g, const char *why)
{
	converge__hand_back(e, g, true, REASON_INEXACT, why);
	g->retry_at = UINT64_MAX;
	converge__changed(e);
}

/*
 * A library that a process has unmapped may be mapped again elsewhere, where only the kernel knows the probes. Without
 * a kernel half these hits are for the tool's own program, which does not see the group's maps.
 */
static bool has_lost_code(const struct engine *e, const struct group *g, const struct host *h)
{
	if (g->has_khalf || !g->has_mirrored)
		return false;
	for_each_used_place(pl, h)
	{
		if (!pl->site || (!pl->gone && !site__is_gone(pl->site)))
			continue;
		for_each_probe_at(p, &e->at, pl->ino, pl->offset) if (p->group == g) return true;
	}
	return false;
}

#define SHORTCOMINGS (AGENT_TARGET_NO_SLOT | AGENT_TARGET_KERNEL_READ | AGENT_TARGET_LATE_CHILD)

/* What the agent of a process could not do as the kernel would have; NULL: nothing. */
static const char *shortcoming(const struct host *h)
{
	uint32_t flags = h->arena ? __atomic_load_n(&h->arena->flags, __ATOMIC_RELAXED) : 0;

	if (flags & AGENT_TARGET_NO_SLOT)
		return "has more threads than are kept apart, so that a return was not probed";
	if (flags & AGENT_TARGET_LATE_CHILD)
		return "forked a child that went on before it could be given back to the kernel";
	if (flags & AGENT_TARGET_KERNEL_READ)
		return "ran a program that reads the kernel's memory, which is not for code in processes";
	return NULL;
}

/*
 * What a process cannot do exactly goes back to the kernel and stays there. Returns when to look again, or 0.
 */
static uint64_t watch_targets(struct engine *e, uint64_t now)
{
	char why[REASON_SIZE];
	bool some = false;

	for (struct host *h = e->hosts.list; h; h = h->next) {
		const char *of_agent = shortcoming(h);

		some |= h->lodgings != NULL;
		for (struct group *g = e->groups; g; g = g->next) {
			const char *what = of_agent;

			if (g->state != GROUP_SHARED || !host__lodging(h, g))
				continue;
			if (!what && has_lost_code(e, g, h))
				what = "has unmapped the probed file";
			if (!what)
				continue;
			snprintf(why, sizeof(why), "process %d (%s) %s", h->pid, h->comm, what);
			give_back(e, g, why);
		}
		if (of_agent)
			__atomic_fetch_and(&h->arena->flags, ~(uint32_t)SHORTCOMINGS, __ATOMIC_RELAXED);
	}
	return some ? now + WATCH_NS : 0;
}

static void join_claimed(struct engine *e, struct group *g)
{
	for (struct host *h = e->hosts.list, *next; h; h = next) {
		next = h->next;
		if (h->claimed && group_reaches(g, h))
			switch_join(&e->sw, g, h->pid);
	}
	converge__watch_hosts(e, g);
	converge__changed(e);
}

/*
 * A process that another bpftimed had, and has let go, joins the groups that run without it. Returns when to look
 * again, or 0.
 */
static uint64_t watch_claims(struct engine *e, uint64_t now)
{
	bool is_due = now >= e->claims_look_at, some = false;

	for (struct group *g = e->groups; g; g = g->next) {
		if (g->state != GROUP_SHARED || !converge__reaches_claimed(e, g))
			continue;
		some = true;
		if (is_due && e->claims_look_at)
			join_claimed(e, g);
	}
	if (!some)
		e->claims_look_at = 0;
	else if (is_due)
		e->claims_look_at = now + CLAIMS_NS;
	return e->claims_look_at;
}

/* ---- who may share memory ---- */

#define USERS_NS   1000000000ull
#define USERS_MOST 128u /* processes that are looked at at once */

/* A process that is another user's by now leaves the memory that it shared as the one that it was. */
static void look_at_users(struct engine *e)
{
	unsigned int n = 0, turns;
	char why[REASON_SIZE];

	for (struct host *h = e->hosts.list; h; h = h->next)
		n += h->lodgings != NULL;
	turns = 1 + n / USERS_MOST;
	e->users_looks++;
	for (struct host *h = e->hosts.list, *next; h; h = next) {
		next = h->next;
		if (!h->lodgings || ((unsigned int)h->pid + e->users_looks) % turns || !domain__has_left(&e->hosts, h))
			continue;
		snprintf(why, sizeof(why), "process %d (%s) has become another user's", h->pid, h->comm);
		converge__renew(e, h, why);
	}
}

/*
 * Groups whose memory another user is to have from now on, and processes that have become another user's. Returns when
 * to look again, or 0.
 */
static uint64_t watch_users(struct engine *e, uint64_t now)
{
	bool some = false;

	for (struct group *g = e->groups; g; g = g->next) {
		if (g->state != GROUP_SHARED || !group_is_host_wide(g, NULL))
			continue;
		some = true;
		if (!g->domain_over)
			continue;
		converge__hand_back(e, g, true, REASON_TARGET, "processes of several users hit its probes");
		group__retry(g);
		converge__changed(e);
	}
	if (!some) {
		e->users_look_at = 0;
		return 0;
	}
	if (now >= e->users_look_at) {
		if (e->users_look_at)
			look_at_users(e);
		e->users_look_at = now + USERS_NS;
	}
	return e->users_look_at;
}

static bool has_carriers(const struct group *g)
{
	for (unsigned int i = 0; i < g->n_maps; i++)
		if (g->map[i].carrier >= 0)
			return true;
	return false;
}

/*
 * A call of bpf() that the carriers' hook did not see may have shown a tool an old value: what is carried goes
 * back to the kernel and stays there. Returns when to look again, or 0.
 */
static uint64_t watch_carriers(struct engine *e, uint64_t now)
{
	char why[REASON_SIZE];
	bool some = false;
	uint64_t missed;

	for (struct group *g = e->groups; g; g = g->next)
		some |= g->state == GROUP_SHARED && has_carriers(g);
	if (!some)
		return 0;
	missed = carriers__missed(e->carriers);
	if (!missed)
		return now + WATCH_NS;
	snprintf(why, sizeof(why), CARRIERS_MISSED, missed);
	for (struct group *g = e->groups; g; g = g->next)
		if (g->state == GROUP_SHARED && has_carriers(g))
			give_back(e, g, why);
	return 0;
}

/* A tracepoint of the group at which the kernel has skipped the kernel half, or NULL. */
static const struct probe *skipped_tracepoint(const struct group *g)
{
	for (unsigned int i = 0; i < g->n_probes; i++) {
		const struct probe *p = g->probe[i];

		if (probe_is_tracepoint(p) && !p->is_beside && tracepoint__missed(g->prog[p->prog].khalf_fd))
			return p;
	}
	return NULL;
}

/*
 * What the kernel skips at a tracepoint, because programs are at work on the same CPU, it might not have skipped
 * without ours: the group goes back to the kernel and stays there. Returns when to look again, or 0.
 */
static uint64_t watch_tracepoints(struct engine *e, uint64_t now)
{
	bool some = false;

	for (struct group *g = e->groups; g; g = g->next) {
		const struct probe *p;
		char why[REASON_SIZE];

		if (g->state != GROUP_SHARED || !group_has_tracepoint(g))
			continue;
		some = true;
		p = skipped_tracepoint(g);
		if (!p)
			continue;
		snprintf(why, sizeof(why),
			 "the kernel has skipped hits of tracepoint %.128s, because programs were running on the same "
			 "CPU",
			 p->o.path);
		give_back(e, g, why);
	}
	return some ? now + WATCH_NS : 0;
}

/* The map of which nodes were used again while a thread could hold them still, or NULL. */
static const struct gmap *overrun_map(const struct group *g)
{
	for (unsigned int i = 0; i < g->n_maps; i++)
		if (g->map[i].geo.kind == SHM_PERCPU_HASH && shm_map_hasty(g->arena, &g->map[i].geo))
			return &g->map[i];
	return NULL;
}

/* Nodes that were deleted are used again, in time. Returns when to look again, or 0. */
static uint64_t watch_nodes(struct engine *e, uint64_t now)
{
	bool some = false;

	for (struct group *g = e->groups; g; g = g->next) {
		const struct gmap *m;
		char why[REASON_SIZE];

		if (g->state != GROUP_SHARED || !has_carriers(g))
			continue;
		some = true;
		m = overrun_map(g);
		if (!m) {
			switch_recycle(&e->sw, g);
			continue;
		}
		snprintf(why, sizeof(why), "keys of map %s come and go faster than their memory can be used again",
			 m->m.name);
		give_back(e, g, why);
	}
	return some ? now + WATCH_NS : 0;
}

/*
 * Processes that have ended leave uprobes behind, which cannot be closed while others have jumps at the same
 * instructions (agent_bury_holds()). When there are many, all processes are let go of, and taken in again when the
 * kernel has closed them. Returns when to look again, or 0.
 */
static uint64_t watch_buried(struct engine *e, uint64_t now)
{
	char why[REASON_SIZE];

	if (e->clears_until) {
		if (agent_buried() > BURIED_FEW && now < e->clears_until)
			return now + CLEAR_LOOK_NS;
		e->clears_until = 0;
		for (struct group *g = e->groups; g; g = g->next)
			if (g->state == GROUP_KERNEL)
				group__retry(g);
		return now;
	}
	if (agent_buried() < BURIED_MOST)
		return 0;
	snprintf(why, sizeof(why),
		 "%zu processes that have ended had places of tools that go on: all are let go of and taken in anew",
		 agent_buried());
	log_info("%s", why);
	e->clears_until = now + CLEAR_NS;
	for (struct host *h = e->hosts.list, *next; h; h = next) {
		next = h->next;
		converge__renew(e, h, why);
	}
	return now + CLEAR_LOOK_NS;
}

/* ---- tools' own attachments ---- */

#define PARK_LEAST_HITS 10u /* of the kernel half's, from look to look: fewer are not worth it */
#define PARK_MAX_TRIES	6u

static int save_state(void *arg)
{
	const struct engine *e = arg;

	return state__save(e->groups, &e->hosts);
}

static bool may_park(const struct engine *e, const struct group *g)
{
	return permit__grants(&e->hosts, g, NULL, POLICY_STOP_TOOLS, NULL);
}

static void try_to_park(struct engine *e, struct group *g)
{
	char why[REASON_SIZE] = "";

	if (!park__group(g, save_state, e, why, sizeof(why))) {
		g->park_tries = 0;
		log_debug("group %u: parked", g->id);
		converge__changed(e);
		return;
	}
	g->park_tries += g->park_tries < PARK_MAX_TRIES;
	log_debug("group %u: not parked: %s", g->id, why);
}

/* Where hits reach the kernel half, the tool's own program is taken from the instruction. Returns when to look again,
 * or 0. */
static uint64_t watch_parking(struct engine *e, uint64_t now)
{
	int delay = park__delay_ms();
	uint64_t next = 0;

	for (struct group *g = e->groups; delay >= 0 && g; g = g->next) {
		uint64_t hits;

		if (g->state != GROUP_SHARED || g->is_parked || g->tool->dirty_at || !park__suits(g) ||
		    !may_park(e, g)) {
			if (g->park_at)
				group__stop_counting(g);
			g->park_at = 0;
			continue;
		}
		if (g->park_at && now < g->park_at) {
			next = earlier(g->park_at, next);
			continue;
		}
		hits = group__count_hits(g);
		if (!delay || (g->park_at && hits - g->park_seen >= PARK_LEAST_HITS))
			try_to_park(e, g);
		if (g->is_parked)
			continue;
		g->park_seen = hits;
		g->park_at = now + ((delay ? (uint64_t)delay : 100) * 1000000ull << g->park_tries);
		next = earlier(g->park_at, next);
	}
	return next;
}

uint64_t watch__run(struct engine *e, uint64_t now)
{
	uint64_t next = cool_places(e, now);

	next = earlier(watch_targets(e, now), next);
	next = earlier(watch_claims(e, now), next);
	next = earlier(watch_users(e, now), next);
	next = earlier(watch_carriers(e, now), next);
	next = earlier(watch_tracepoints(e, now), next);
	next = earlier(watch_nodes(e, now), next);
	next = earlier(watch_buried(e, now), next);
	next = earlier(watch_parking(e, now), next);
	return earlier(settle_again(e, now), next);
}
