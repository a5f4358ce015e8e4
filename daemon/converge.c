/* SPDX-License-Identifier: MIT */
/*
 * converge.c: level-triggered. A hint says where to look; the scan says what is; this file makes it so.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "daemon/build.h"
#include "daemon/engine_impl.h"
#include "daemon/escape.h"
#include "daemon/log.h"
#include "daemon/park.h"
#include "daemon/permit.h"
#include "daemon/plan.h"
#include "daemon/procfs.h"
#include "daemon/state.h"
#include "daemon/symbol.h"
#include "daemon/uprobe.h"
#include "daemon/views.h"

#define RETRY_FIRST_NS 200000000ull
#define RETRY_MAX      6u
#define SHORTAGE_NS    2000000000ull
#define SHORTAGE_MAX   5u	      /* then once a minute */
#define RENEW_EXACT_NS 10000000000ull /* for how long a group is tried to be handed back exactly */
#define SHED_NS	       600000000ull   /* the kernel takes 110 ms to detach a perf event, and tools do one by one */

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static double seconds_since(uint64_t begin)
{
	return (double)(now_ns() - begin) / 1e9;
}

void converge__changed(struct engine *e)
{
	if (e->changed)
		e->changed(e->changed_arg);
}

/* ---- tools ---- */

struct tool *engine__tool(struct engine *e, pid_t pid)
{
	for (struct tool *t = e->tools; t; t = t->next)
		if (t->pid == pid)
			return t;
	return NULL;
}

static bool tool_has_probes(struct engine *e, const struct tool *t)
{
	for (const struct probe *p = e->probes; p; p = p->next)
		if (p->tool == t)
			return true;
	return false;
}

static void __attribute__((format(printf, 3, 4)))
refuse_tool(struct tool *t, enum reason_class class, const char *format, ...)
{
	va_list ap;

	t->refusal_class = class;
	va_start(ap, format);
	vsnprintf(t->refusal, sizeof(t->refusal), format, ap);
	va_end(ap);
}

static void judge_tool(struct engine *e, struct tool *t)
{
	const char *rule = NULL;
	enum policy_action action;
	pid_t tracer = procfs_tracer(t->pid);

	t->refusal[0] = 0;
	action = permit__tool(e->policy, t, &rule, t->refusal, sizeof(t->refusal));
	t->refusal_class = action == POLICY_KERNEL ? REASON_POLICY : REASON_NONE;
	if (action != POLICY_KERNEL && tracer)
		refuse_tool(t, REASON_DEBUGGER, "the tool is under a debugger (process %d)", tracer);
	else if (action != POLICY_KERNEL && t->held)
		refuse_tool(t, REASON_REQUEST, "handed back on request (bpftime handback %d)", t->pid);
	if (tool_has_probes(e, t))
		tell__policy(e, t, action, rule);
}

struct tool *engine__add_tool(struct engine *e, pid_t pid)
{
	struct tool *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->pid = pid;
	t->start_time = procfs_start_time(pid);
	procfs_comm(pid, t->comm, sizeof(t->comm));
	procfs_exe(pid, t->exe, sizeof(t->exe));
	procfs_uid(pid, &t->uid);
	clock_gettime(CLOCK_BOOTTIME, &t->since);
	t->next = e->tools;
	e->tools = t;
	observer__watch(e->observer, pid);
	return t;
}

static void remove_tool(struct engine *e, struct tool *t)
{
	for (struct tool **link = &e->tools; *link; link = &(*link)->next) {
		if (*link == t) {
			*link = t->next;
			break;
		}
	}
	if (!hosts__find(&e->hosts, t->pid))
		observer__unwatch(e->observer, t->pid);
	claims__drop_tool(e->claims, t->pid);
	if (procfs_start_time(t->pid) != t->start_time)
		park__drop_left(t->pid, t->start_time);
	free(t);
}

/* ---- groups ---- */

static void unlink_group(struct engine *e, struct group *g)
{
	for (struct group **link = &e->groups; *link; link = &(*link)->next) {
		if (*link == g) {
			*link = g->next;
			return;
		}
	}
}

static bool is_wanted(struct engine *e, const struct host *h, const struct place *pl)
{
	for_each_probe_at(p, &e->at, pl->ino, pl->offset)
	{
		if (p->group && p->group->state != GROUP_GONE && probe_reaches(p, h))
			return true;
	}
	return false;
}

/* Places at which no probe with a lodging is left: the file's bytes come back. */
static void drop_empty_places(struct engine *e)
{
	for (struct host *h = e->hosts.list; h; h = h->next)
		for_each_used_place(pl, h) pl->drop = !is_wanted(e, h, pl);
	hosts__drop_marked(&e->hosts);
}

void group__free(struct group *g)
{
	if (!g)
		return;
	free(g->probe);
	free(g->map_id);
	free(g);
}

/* The group's state is KERNEL or GONE: nothing of it is used any more once the hosts are quiet. */
static void destroy_group(struct engine *e, struct group *g)
{
	if (g->arena)
		state__unsettle();
	for (unsigned int i = 0; i < g->n_maps; i++) {
		if (g->map[i].carrier >= 0)
			carriers__remove(e->carriers, g->map[i].carrier);
		g->map[i].carrier = -1;
	}
	builder__cancel(e->builder, g);
	switch_settle(&e->sw);
	if (g->state != GROUP_GONE)
		hosts__await_children(&e->hosts, g);
	escapes__detach(e->hosts.escapes, g);
	switch_forget(&e->sw, g);
	unlink_group(e, g);
	for (unsigned int i = 0; i < g->n_probes; i++)
		g->probe[i]->group = NULL;
	group__unbuild(g);
	group__free(g);
	drop_empty_places(e);
	state__save(e->groups, &e->hosts);
}

/* Whether its program could be looked at, if only to find that it has gone. If not it may share maps with any other. */
static bool is_known(struct engine *e, const struct probe *p)
{
	return observer__prog(e->observer, p->o.prog_id) || errno == ENOENT;
}

static bool has_map(const struct group *g, uint32_t id)
{
	for (size_t i = 0; i < g->n_map_ids; i++)
		if (g->map_id[i] == id)
			return true;
	return false;
}

/* By a map; a program without maps is in one group for all its probes. */
static bool belongs(struct engine *e, const struct group *g, const struct probe *p)
{
	const struct obs_prog *prog = observer__prog(e->observer, p->o.prog_id);

	if (prog && g->probe[0]->o.prog_id == p->o.prog_id)
		return true;
	for (size_t i = 0; prog && i < prog->n_maps; i++)
		if (has_map(g, prog->map_ids[i]))
			return true;
	return false;
}

/* Those of the probe's program become the group's. */
static bool append_maps(struct engine *e, struct group *g, const struct probe *p)
{
	const struct obs_prog *prog = observer__prog(e->observer, p->o.prog_id);
	uint32_t *more;

	for (size_t i = 0; prog && i < prog->n_maps; i++) {
		if (has_map(g, prog->map_ids[i]))
			continue;
		more = realloc(g->map_id, (g->n_map_ids + 1) * sizeof(*more));
		if (!more)
			return false;
		g->map_id = more;
		g->map_id[g->n_map_ids++] = prog->map_ids[i];
	}
	return true;
}

bool group__append(struct engine *e, struct group *g, struct probe *p)
{
	unsigned int room = g->room ? 2 * g->room : 4;
	struct probe **more;

	if (g->n_probes == g->room) {
		more = realloc(g->probe, room * sizeof(struct probe *));
		if (!more)
			return false;
		g->probe = more;
		g->room = room;
	}
	if (!append_maps(e, g, p))
		return false;
	p->group = g;
	p->hit_index = g->n_probes;
	g->probe[g->n_probes++] = p;
	return true;
}

/* Adds to g all ungrouped probes of its tool that share maps with it, directly or through others. */
static void grow_group(struct engine *e, struct group *g)
{
	bool grew = true;

	while (grew) {
		grew = false;
		for (struct probe *p = e->probes; p; p = p->next) {
			if (p->group || p->tool != g->tool || g->n_probes == GROUP_MAX_PROBES || !belongs(e, g, p))
				continue;
			grew |= group__append(e, g, p);
		}
	}
}

static struct group *add_group(struct engine *e, struct probe *p)
{
	struct group *g = calloc(1, sizeof(*g));

	if (!g || !group__append(e, g, p)) {
		group__free(g);
		return NULL;
	}
	g->id = ++e->next_group_id;
	g->tool = p->tool;
	g->arena_fd = g->watcher_fd = -1;
	g->next = e->groups;
	e->groups = g;
	grow_group(e, g);
	return g;
}

/* A new probe, of whatever tool, that shares maps with a group that is already at work: the group is made anew. */
static void dissolve_touched(struct engine *e, struct probe *p)
{
	bool known = is_known(e, p);

	for (struct group *g = e->groups, *next; g; g = next) {
		next = g->next;
		if (known && !belongs(e, g, p))
			continue;
		if (g->state == GROUP_SHARED)
			converge__hand_back(e, g, true, REASON_TOOL, "a probe has come that shares maps with it");
		if (!g->tool->dirty_at)
			g->tool->dirty_at = now_ns();
		destroy_group(e, g);
	}
}

/* The hits of a probe outside the group change its maps, too: the group has no truth of its own. */
static int check_whole(struct engine *e, struct group *g)
{
	for (const struct probe *p = e->probes; p; p = p->next) {
		if (p->group != g && !is_known(e, p)) {
			int err = -errno;

			snprintf(g->reason, sizeof(g->reason),
				 "whether program %u of process %d uses its maps, too, cannot be seen: %s",
				 p->o.prog_id, p->tool->pid, strerror(-err));
			return err;
		}
		if (p->group == g || !belongs(e, g, p))
			continue;
		if (p->tool == g->tool)
			snprintf(g->reason, sizeof(g->reason), "more than %u probes share maps", GROUP_MAX_PROBES);
		else
			snprintf(g->reason, sizeof(g->reason),
				 "its maps are also used by another tool, process %d (%s)", p->tool->pid,
				 p->tool->comm);
		return -EOPNOTSUPP;
	}
	return 0;
}

int converge__hand_back(struct engine *e, struct group *g, bool force, enum reason_class class, const char *why)
{
	uint64_t begin = now_ns();
	int err = switch_handback(&e->sw, g, force);

	if (err)
		return err;
	tell__group(e, DECISION_HANDBACK, class, g, why, seconds_since(begin));
	snprintf(g->reason, sizeof(g->reason), "%s", why);
	group__set_reasons(g);
	return 0;
}

void group__set_reasons(struct group *g)
{
	for (unsigned int i = 0; i < g->n_probes; i++)
		snprintf(g->probe[i]->reason, sizeof(g->probe[i]->reason), "%s", g->reason);
}

/* All its programs, not the group's only: a tool is served by one bpftimed. */
static int claim_tool(struct engine *e, struct group *g)
{
	uint32_t *prog_ids = NULL;
	size_t n = 0;
	int err;

	for (const struct probe *p = e->probes; p; p = p->next)
		n += p->tool == g->tool;
	prog_ids = calloc(n ? n : 1, sizeof(*prog_ids));
	if (!prog_ids)
		return -ENOMEM;
	n = 0;
	for (const struct probe *p = e->probes; p; p = p->next)
		if (p->tool == g->tool)
			prog_ids[n++] = p->o.prog_id;
	err = claims__take_tool(e->claims, g->tool->pid, prog_ids, n, g->reason, sizeof(g->reason));
	free(prog_ids);
	return err;
}

/* Something was made for this tool, if not taken over; else another bpftimed may try. */
static bool is_worked_on(const struct engine *e, const struct tool *t)
{
	for (const struct group *g = e->groups; g; g = g->next)
		if (g->tool == t && (g->built || g->building))
			return true;
	return false;
}

bool converge__reaches_claimed(struct engine *e, const struct group *g)
{
	hosts__look_anew();
	for (struct host *h = e->hosts.list; h; h = h->next)
		if (h->claimed && group_reaches(g, h))
			return true;
	return false;
}

void converge__watch_hosts(struct engine *e, const struct group *g)
{
	for (struct host *h = e->hosts.list; h; h = h->next)
		if (host__lodging(h, g))
			observer__watch(e->observer, h->pid);
}

/* When a take-over that failed is worth another try. */
static uint64_t retry_at(struct engine *e, struct group *g, int err, bool is_claimed)
{
	bool passing = err == -EBUSY || err == -EAGAIN || err == -ETIMEDOUT;
	bool shortage = err == -ENOMEM || err == -EMFILE || err == -ENFILE || err == -ENOSPC || err == -EROFS;

	/* That the other one ends, hands back or drops a claim is no event here, nor that there is memory again. */
	if (is_claimed || err == -EDQUOT || converge__reaches_claimed(e, g))
		return now_ns() + CLAIMS_NS;
	if (shortage)
		return now_ns() + (SHORTAGE_NS << (g->attempts < SHORTAGE_MAX ? g->attempts++ : SHORTAGE_MAX));
	return passing && ++g->attempts < RETRY_MAX ? now_ns() + (RETRY_FIRST_NS << g->attempts) : UINT64_MAX;
}

static void takeover_failed(struct engine *e, struct group *g, int err, bool is_claimed)
{
	/* What was begun and not finished is not to be gone on with by the next try. */
	if (!g->built)
		group__unbuild(g);
	g->retry_at = retry_at(e, g, err, is_claimed);
	if (strcmp(g->reason, g->probe[0]->reason)) {
		tell__group(e, DECISION_REFUSAL, is_claimed ? REASON_CLAIMED : reason_class__of(err), g, g->reason, 0);
		tell__refused_targets(e, g);
	}
	if (!is_worked_on(e, g->tool))
		claims__drop_tool(e->claims, g->tool->pid);
	group__set_reasons(g);
}

/* ---- policy ---- */

/*
 * The group is made anew, as far as the policy lets it. false: it could not be handed back exactly yet, because a
 * thread is in a function whose return is probed; one that stays there does not keep the policy from taking effect.
 */
static bool renew(struct engine *e, struct group *g, uint64_t now)
{
	bool force = now - g->outdated_since >= RENEW_EXACT_NS && !g->has_viewed && !g->is_parked;

	if (g->state == GROUP_SHARED &&
	    converge__hand_back(e, g, force, REASON_POLICY, "the policy says something else of it now"))
		return false;
	g->tool->dirty_at = now_ns() - SETTLE_NS;
	g->tool->sheds = false;
	destroy_group(e, g);
	return true;
}

/* Processes that carry the agent for nobody any more, and may not. */
static void forget_forbidden(struct engine *e)
{
	const char *rule;

	for (struct host *h = e->hosts.list, *next; h; h = next) {
		next = h->next;
		if (h->injected && !h->lodgings && !h->leaving &&
		    !permit__process(&e->hosts, h, &rule, h->why, sizeof(h->why)))
			hosts__forget(&e->hosts, h);
	}
}

/* Returns when to come back, or 0. */
static uint64_t renew_outdated(struct engine *e, uint64_t now)
{
	uint64_t next = 0;

	for (struct group *g = e->groups, *following; g; g = following) {
		following = g->next;
		if (!g->outdated_since)
			continue;
		if (now >= g->renew_at) {
			g->renew_at = now + CLAIMS_NS;
			if (renew(e, g, now)) {
				forget_forbidden(e);
				continue;
			}
		}
		next = earlier(g->renew_at, next);
	}
	return next;
}

static bool has_outdated(const struct host *h)
{
	for (const struct lodging *l = h->lodgings; l; l = l->next)
		if (l->group->outdated_since)
			return true;
	return false;
}

/* A process that carries the agent, of which the policy says something else for one of the groups in it; h->why says
 * what. */
static bool is_forbidden(struct engine *e, struct host *h)
{
	const char *rule;

	for (const struct lodging *l = h->lodgings; l; l = l->next)
		if (permit__lodging(&e->hosts, l->group, h) || !may_be_stopped(&e->sw, l->group, h))
			return true;
	return !permit__process(&e->hosts, h, &rule, h->why, sizeof(h->why));
}

void converge__policy(struct engine *e)
{
	uint64_t now = now_ns();

	hosts__look_anew();
	for (struct group *g = e->groups; g; g = g->next) {
		g->retry_at = 0;
		if (permit__fingerprint(&e->hosts, g) == g->permit)
			g->outdated_since = 0;
		else if (!g->outdated_since)
			g->outdated_since = now;
		g->renew_at = 0;
	}
	renew_outdated(e, now);
	for (struct host *h = e->hosts.list, *next; h; h = next) {
		next = h->next;
		if (h->leaving)
			continue;
		h->why[0] = 0;
		if (!h->injected)
			hosts__forget(&e->hosts, h);
		else if (!has_outdated(h) && is_forbidden(e, h))
			converge__evict(e, h, REASON_POLICY, h->why);
	}
	/* Who was not allowed to join may be now. */
	for (struct group *g = e->groups; g; g = g->next)
		follow__group(e, g);
	for (struct tool *t = e->tools; t; t = t->next) {
		t->dirty_at = now_ns() - SETTLE_NS;
		t->sheds = false;
	}
}

/* ---- take-over ---- */

static int plan(struct engine *e, struct group *g)
{
	int err = group__plan(g, e->observer);

	g->planned = !err;
	if (!err)
		err = obey__group(e, g);
	if (!err)
		err = obey__memory(e, g);
	if (!err)
		err = group__make_arena(g);
	return err;
}

/* Once it has failed, that is what is to be read of it, until it has not. */
static void tell_building(struct group *g)
{
	if (g->probe[0]->reason[0])
		return;
	snprintf(g->reason, sizeof(g->reason), "its programs are being compiled and verified");
	group__set_reasons(g);
}

static void takeover(struct engine *e, struct group *g)
{
	int err = obey__group(e, g);
	bool is_claimed = false;
	uint64_t begin = 0;
	double seconds;

	if (!err) {
		err = claim_tool(e, g);
		is_claimed = err == -EALREADY || err == -EAGAIN;
	}
	if (!err)
		err = check_whole(e, g);
	if (!err && !g->planned)
		err = plan(e, g);
	if (!err)
		err = group__check_strangers(g);
	if (!err && !g->built) {
		err = builder__start(e->builder, g);
		if (!err) {
			tell_building(g);
			return;
		}
	}
	if (!err) {
		state__unsettle();
		err = group__attach_khalf(g);
	}
	if (!err) {
		escapes__attach(e->hosts.escapes, g);
		begin = now_ns();
		err = switch_takeover(&e->sw, g);
	}
	if (err) {
		takeover_failed(e, g, err, is_claimed);
		return;
	}
	seconds = seconds_since(begin);
	g->attempts = 0;
	g->retry_at = 0;
	converge__watch_hosts(e, g);
	/* Those that have come since we looked, and those that were told of for another group. */
	observer__await_arrival(e->observer, 0);
	follow__group(e, g);
	tell__group(e, DECISION_OFFLOAD, REASON_NONE, g, NULL, seconds);
	tell__refused_targets(e, g);
	group__set_reasons(g);
}

bool converge__is_building(const struct engine *e, const struct tool *t)
{
	for (const struct group *g = e->groups; g; g = g->next)
		if (g->building && (!t || g->tool == t))
			return true;
	return false;
}

bool converge__is_decided(const struct engine *e, const struct tool *t)
{
	if (t->refusal[0])
		return true;
	for (const struct probe *p = e->probes; p; p = p->next)
		if (p->tool == t && !p->group)
			return false;
	for (const struct group *g = e->groups; g; g = g->next)
		if (g->tool == t && g->state == GROUP_KERNEL && (g->building || !g->retry_at))
			return false;
	return true;
}

void converge__built(struct engine *e)
{
	struct group *g;
	int err;

	while ((g = builder__done(e->builder, &err))) {
		state__unsettle();
		g->built = !err;
		g->retry_at = 0;
		if (err)
			takeover_failed(e, g, err, false);
		converge__changed(e);
	}
}

/* ---- scans ---- */

/* What a bpftimed attaches is not a tool's, and looking at another one would wake it in turn. */
static bool is_daemon(const struct engine *e, pid_t pid)
{
	return pid == getpid() || claims__is_daemon(e->claims, pid);
}

static struct probe *find_probe(struct engine *e, const struct obs_probe *o)
{
	for (struct probe *p = park__is_parked(o) ? e->probes : NULL; p; p = p->next)
		if (park__is_of(o, p))
			return p;
	for_each_probe_at(p, &e->at, o->ino, o->offset)
	{
		if (p->o.event_id == o->event_id && p->o.prog_id == o->prog_id)
			return p;
	}
	return NULL;
}

/* The kernel remembers the path as the tool gave it, which may be relative to where the tool was. */
static void make_absolute(struct obs_probe *o)
{
	char cwd[sizeof(o->path)], link[32], whole[2 * sizeof(o->path) + 1];
	ssize_t n;

	if (o->path[0] == '/' || probe_kind__is_tracepoint(o->kind))
		return;
	snprintf(link, sizeof(link), "/proc/%d/cwd", o->tool);
	n = readlink(link, cwd, sizeof(cwd) - 1);
	if (n < 0)
		return;
	cwd[n] = 0;
	if ((size_t)snprintf(whole, sizeof(whole), "%s/%s", cwd, o->path) < sizeof(o->path))
		memcpy(o->path, whole, sizeof(o->path));
}

struct probe *probe__new(struct tool *t, const struct obs_probe *o)
{
	struct probe *p = calloc(1, sizeof(*p));
	char path[PATH_MAX + 32];

	if (!p)
		return NULL;
	p->tool = t;
	p->o = *o;
	make_absolute(&p->o);
	p->khalf_fd = p->khalf_link_fd = -1;
	p->escape = p->escape_taken = p->escape_event_fd = p->escape_link_fd = -1;
	p->seen = true;
	snprintf(path, sizeof(path), "/proc/%d/root%s", t->pid, p->o.path);
	if (!probe_is_tracepoint(p))
		symbol_at(path, o->offset, p->symbol, sizeof(p->symbol));
	return p;
}

void engine__add_probe(struct engine *e, struct probe *p)
{
	p->next = e->probes;
	e->probes = p;
	probes__add(&e->at, p);
}

static void add_probe(struct engine *e, struct tool *t, const struct obs_probe *o)
{
	struct probe *p = probe__new(t, o);

	if (!p)
		return;
	engine__add_probe(e, p);
	dissolve_touched(e, p);
}

static void remove_probe(struct engine *e, struct probe *p)
{
	/* It may have been in the way of another tool's. */
	for (struct group *g = e->groups; g; g = g->next)
		if (g->tool != p->tool && belongs(e, g, p) && !g->tool->dirty_at)
			g->tool->dirty_at = now_ns();
	for (struct probe **link = &e->probes; *link; link = &(*link)->next) {
		if (*link == p) {
			*link = p->next;
			break;
		}
	}
	probes__remove(&e->at, p);
	parked__free(p->parked);
	uprobe__detach(&p->khalf_fd, &p->khalf_link_fd);
	free(p);
}

/* Probes of this tool that the scan did not find: their groups are released and made anew without them. */
static void remove_unseen(struct engine *e, const struct tool *t)
{
	for (struct group *g = e->groups, *next; g; g = next) {
		unsigned int gone = 0;

		next = g->next;
		if (g->tool != t)
			continue;
		for (unsigned int i = 0; i < g->n_probes; i++)
			gone += !g->probe[i]->seen;
		if (!gone)
			continue;
		g->tool->sheds = true;
		if (gone != g->n_probes && g->state == GROUP_SHARED) {
			converge__hand_back(e, g, true, REASON_TOOL, "the tool has detached some of its probes");
		} else {
			if (g->state == GROUP_SHARED)
				tell__group(e, DECISION_RELEASE, REASON_TOOL, g, "the tool has detached its probes", 0);
			switch_release(&e->sw, g);
		}
		destroy_group(e, g);
	}
	for (struct probe *p = e->probes, *next; p; p = next) {
		next = p->next;
		if (p->tool == t && !p->seen)
			remove_probe(e, p);
	}
}

/* The tool has passed it on: another process has it, and the tool itself has not any more. */
static bool has_moved(const struct probe *p, const struct obs_probe *o)
{
	return o->tool != p->tool->pid && (o->n_holders == 1 || procfs_start_time(p->tool->pid) != p->tool->start_time);
}

static bool has_unseen(struct engine *e, const struct tool *t)
{
	for (const struct probe *p = e->probes; p; p = p->next)
		if (p->tool == t && !p->seen)
			return true;
	return false;
}

static bool shares_map(const struct obs_prog *a, const struct obs_prog *b)
{
	for (size_t i = 0; i < a->n_maps; i++)
		for (size_t k = 0; k < b->n_maps; k++)
			if (a->map_ids[i] == b->map_ids[k])
				return true;
	return false;
}

/* Does a uprobe of this tool, or a tracepoint that does, use one of the maps? */
static bool touches_tool(struct engine *e, const struct tool *t, uint32_t prog_id)
{
	const struct obs_prog *a = observer__prog(e->observer, prog_id);

	for (const struct probe *p = e->probes; a && p; p = p->next) {
		const struct obs_prog *b = p->tool == t && p->seen ? observer__prog(e->observer, p->o.prog_id) : NULL;

		if (b && shares_map(a, b))
			return true;
	}
	return false;
}

/* Nobody becomes a tool by them: they are of interest as far as they share maps with a tool's uprobes. */
static bool take_tracepoint(struct engine *e, const struct obs_probe *o)
{
	struct tool *t = engine__tool(e, o->tool);
	struct probe *p = find_probe(e, o);

	if (!o->prog_id || !t || (p && p->seen) || !touches_tool(e, t, o->prog_id))
		return false;
	if (p && !has_moved(p, o)) {
		p->seen = true;
		return true;
	}
	add_probe(e, t, o);
	if (!t->dirty_at)
		t->dirty_at = now_ns();
	p = find_probe(e, o);
	return p && p->seen;
}

static void take_tracepoints(struct engine *e, const struct obs_scan *scan)
{
	bool more = true;

	while (more) {
		more = false;
		for (size_t i = 0; i < scan->n_probes; i++)
			if (probe_kind__is_tracepoint(scan->probes[i].kind))
				more |= take_tracepoint(e, &scan->probes[i]);
	}
}

/* What the tool has done with parked attachments is for the kernel to answer: they are restored. Were some? */
static bool unpark_changed(struct engine *e, const struct tool *only)
{
	bool some = false;
	char why[REASON_SIZE];

	for (struct group *g = e->groups; g; g = g->next) {
		bool changed = false;

		for (unsigned int i = 0; i < g->n_probes; i++)
			changed |= !g->probe[i]->seen;
		if (!g->is_parked || (only && g->tool != only) || !changed)
			continue;
		if (!park__restore(g, false, why, sizeof(why))) {
			some = true;
			continue;
		}
		/* Not now. Until then the kernel half serves all hits. */
		for (unsigned int i = 0; i < g->n_probes; i++)
			g->probe[i]->seen = true;
		g->tool->dirty_at = now_ns();
	}
	return some;
}

static void take_scan(struct engine *e, struct tool *only, const struct obs_scan *scan)
{
	pid_t daemon = 0; /* one that was recognised: it may have many probes */

	for (struct probe *p = e->probes; p; p = p->next)
		if (!only || p->tool == only)
			p->seen = false;
	for (size_t i = 0; i < scan->n_probes; i++) {
		const struct obs_probe *o = &scan->probes[i];
		struct probe *p = probe_kind__is_uprobe(o->kind) ? find_probe(e, o) : NULL;

		if (p && !has_moved(p, o))
			p->seen = o->enabled;
	}
	if (unpark_changed(e, only)) {
		converge__everything(e);
		return;
	}
	for (size_t i = 0; i < scan->n_probes; i++) {
		const struct obs_probe *o = &scan->probes[i];
		struct probe *p;
		struct tool *t;

		if (!probe_kind__is_uprobe(o->kind))
			continue;
		p = find_probe(e, o);
		if ((p && !has_moved(p, o)) || !o->enabled || !o->prog_id || park__is_parked(o) || o->tool == daemon)
			continue;
		t = engine__tool(e, o->tool);
		if (!t && is_daemon(e, o->tool)) {
			daemon = o->tool;
			continue;
		}
		if (!t)
			t = engine__add_tool(e, o->tool);
		if (!t)
			continue;
		add_probe(e, t, o);
		if (!t->dirty_at)
			t->dirty_at = now_ns();
	}
	take_tracepoints(e, scan);
	/* What a tool has no more another process may have got from it: only a look at all of them tells. */
	if (only && has_unseen(e, only)) {
		converge__everything(e);
		return;
	}
	for (struct tool *t = e->tools; t; t = t->next)
		if (!only || t == only)
			remove_unseen(e, t);
}

/* false: not now; what is known of it stays. */
static bool scan_tool(struct engine *e, struct tool *t)
{
	struct obs_scan scan = {0};
	char err[200];

	if (observer__scan(e->observer, t->pid, &scan, err, sizeof(err))) {
		if (!t->refusal[0])
			log_warning("process %d cannot be scanned: %s", t->pid, err);
		snprintf(t->refusal, sizeof(t->refusal), "what process %d has attached cannot be seen: %s", t->pid,
			 err);
		return false;
	}
	take_scan(e, t, &scan);
	obs_scan__clear(&scan);
	return true;
}

void converge__everything(struct engine *e)
{
	struct obs_scan scan = {0};
	char err[200];

	if (observer__scan(e->observer, 0, &scan, err, sizeof(err))) {
		if (!e->look_at)
			log_warning("the host cannot be scanned: %s", err);
		e->look_at = now_ns() + SHORTAGE_NS;
		return;
	}
	e->look_at = 0;
	take_scan(e, NULL, &scan);
	obs_scan__clear(&scan);
}

/* ---- hints ---- */

static bool is_shared(const struct engine *e, const struct tool *t)
{
	for (const struct group *g = e->groups; g; g = g->next)
		if (g->tool == t && g->state == GROUP_SHARED)
			return true;
	return false;
}

/* What is gone is acted upon at once; what is new waits until the tool is quiet. */
void converge__hint(struct engine *e, pid_t pid)
{
	struct tool *t = engine__tool(e, pid);

	if (!t && is_daemon(e, pid))
		return;
	if (!t)
		t = engine__add_tool(e, pid);
	if (!t)
		return;
	if (is_shared(e, t))
		scan_tool(e, t);
	t->dirty_at = now_ns();
}

void converge__tool_gone(struct engine *e, pid_t pid)
{
	struct tool *t = engine__tool(e, pid);

	if (!t || procfs_start_time(pid) == t->start_time)
		return;
	converge__everything(e);
	/* Also when the host could not be scanned. */
	for (struct probe *p = e->probes; p; p = p->next)
		if (p->tool == t)
			p->seen = false;
	remove_unseen(e, t);
	remove_tool(e, t);
	converge__changed(e);
}

void group__retry(struct group *g)
{
	g->retry_at = 0;
	g->attempts = 0;
	g->tool->dirty_at = now_ns();
}

void converge__host_gone(struct engine *e, pid_t pid)
{
	struct host *h = hosts__find(&e->hosts, pid);
	char why[REASON_SIZE];

	if (!h)
		return;
	/* Without a kernel half the group's truth must come back before the new image's hits reach the tool's program.
	 */
	for (struct group *g = e->groups; g; g = g->next) {
		if (!host__lodging(h, g))
			continue;
		if (g->state == GROUP_SHARED && (g->has_khalf || !g->has_mirrored))
			continue;
		if (g->state == GROUP_SHARED) {
			snprintf(why, sizeof(why), "process %d (%s) has ended, or executed another program", h->pid,
				 h->comm);
			converge__hand_back(e, g, true, REASON_TARGET, why);
		}
		group__retry(g);
	}
	if (!engine__tool(e, pid))
		observer__unwatch(e->observer, pid);
	hosts__forget(&e->hosts, h);
	converge__changed(e);
}

/* ---- doing what is due ---- */

static void group_probes(struct engine *e, struct tool *t)
{
	for (struct probe *p = e->probes; p; p = p->next) {
		if (p->tool != t || p->group || is_known(e, p))
			continue;
		snprintf(p->reason, sizeof(p->reason), "program %u cannot be looked at: %s", p->o.prog_id,
			 strerror(errno));
		t->sheds = true;
		t->dirty_at = now_ns();
		return;
	}
	/* A group begins with a uprobe. */
	for (int tracepoints = 0; tracepoints < 2; tracepoints++)
		for (struct probe *p = e->probes; p; p = p->next)
			if (p->tool == t && !p->group && probe_is_tracepoint(p) == tracepoints)
				add_group(e, p);
}

static uint64_t settle_ns(const struct tool *t)
{
	return t->sheds ? SHED_NS : SETTLE_NS;
}

static void run_tool(struct engine *e, struct tool *t, uint64_t now)
{
	if (t->dirty_at && now - t->dirty_at >= settle_ns(t)) {
		t->dirty_at = 0;
		t->sheds = false;
		if (!scan_tool(e, t)) {
			t->sheds = true;
			t->dirty_at = now;
			return;
		}
		t->dirty_at = 0;
		judge_tool(e, t);
		group_probes(e, t);
		for (struct group *g = e->groups; g; g = g->next)
			if (g->tool == t && g->retry_at == UINT64_MAX)
				g->retry_at = 0;
		switch_settle(&e->sw);
		converge__changed(e);
	}
	if (t->dirty_at)
		return;
	for (struct group *g = e->groups; g; g = g->next) {
		if (g->tool != t)
			continue;
		if (t->refusal[0]) {
			/* A tool under a debugger cannot be made to see its own memory, nor have its attachment
			 * back: it goes on as it is. */
			if (g->state == GROUP_SHARED && !g->outdated_since)
				converge__hand_back(e, g, !g->has_viewed && !g->is_parked, t->refusal_class,
						    t->refusal);
			else if (g->state != GROUP_SHARED && strcmp(g->probe[0]->reason, t->refusal))
				tell__group(e, DECISION_REFUSAL, t->refusal_class, g, t->refusal, 0);
			snprintf(g->reason, sizeof(g->reason), "%s", t->refusal);
			group__set_reasons(g);
		} else if (g->state == GROUP_KERNEL && !g->building && g->retry_at <= now && !e->clears_until) {
			takeover(e, g);
			converge__changed(e);
		}
	}
}

uint64_t converge__run(struct engine *e)
{
	uint64_t now = now_ns(), next = 0, renewal;

	if (e->stopping)
		return 0;
	renewal = renew_outdated(e, now);
	if (e->look_at && now >= e->look_at)
		converge__everything(e);
	for (struct tool *t = e->tools, *following; t; t = following) {
		following = t->next;
		run_tool(e, t, now);
		if (!t->dirty_at && !tool_has_probes(e, t))
			remove_tool(e, t);
	}
	for (struct tool *t = e->tools; t; t = t->next)
		if (t->dirty_at && (!next || t->dirty_at + settle_ns(t) < next))
			next = t->dirty_at + settle_ns(t);
	if (!next && !converge__is_building(e, NULL))
		claims__drop_last(e->claims);
	for (struct group *g = e->groups; g; g = g->next)
		if (g->state == GROUP_SHARED && (g->has_viewed || g->is_parked) && g->tool->refusal[0])
			next = earlier(now + CLAIMS_NS, next);
	for (struct group *g = e->groups; g; g = g->next)
		if (g->state == GROUP_KERNEL && !g->building && !g->tool->refusal[0] && g->retry_at &&
		    g->retry_at != UINT64_MAX && (!next || g->retry_at < next))
			next = g->retry_at;
	next = earlier(renewal, earlier(e->look_at, next));
	next = earlier(follow__run(e, now), next);
	next = earlier(top__run(e, now), next);
	return earlier(watch__run(e, now), next);
}

int converge__handback_tool(struct engine *e, struct tool *t, bool force, char *err, size_t err_size)
{
	int ret = 0;

	for (struct group *g = e->groups; g; g = g->next) {
		int one;

		if (g->tool != t || g->state != GROUP_SHARED)
			continue;
		one = converge__hand_back(e, g, force, e->stopping ? REASON_END : t->refusal_class,
					  e->stopping ? "bpftimed ends" : t->refusal);
		if (one) {
			snprintf(err, err_size, "%s", g->reason);
			ret = one;
		}
	}
	converge__changed(e);
	return ret;
}

void converge__evict(struct engine *e, struct host *h, enum reason_class class, const char *why)
{
	for (struct group *g = e->groups; g; g = g->next)
		if (g->state == GROUP_SHARED && host__lodging(h, g))
			converge__hand_back(e, g, true, class, why);
	for (struct group *g = e->groups; g; g = g->next)
		host__unlodge(h, g);
	hosts__forget(&e->hosts, h);
	state__save(e->groups, &e->hosts);
}

/* Who maps a tool's memory while the arena is what is seen of it sees the wrong one: back, and again with him. */
void converge__mapped(struct engine *e, pid_t pid, uint32_t map_id)
{
	char why[REASON_SIZE];

	for (struct group *g = e->groups; g; g = g->next) {
		pid_t who = pid;

		if (g->state != GROUP_SHARED || !g->has_viewed)
			continue;
		for (unsigned int i = 0; i < g->n_maps; i++) {
			if (!g->map[i].is_viewed || g->map[i].m.id != map_id || !views__has_stranger(map_id, &who))
				continue;
			snprintf(why, sizeof(why), "process %d has just mapped its map %s", who, g->map[i].m.name);
			converge__hand_back(e, g, true, REASON_TOOL, why);
			g->retry_at = now_ns() + RETRY_FIRST_NS;
			converge__changed(e);
			break;
		}
	}
}

void converge__renew(struct engine *e, struct host *h, const char *why)
{
	for (struct group *g = e->groups; g; g = g->next)
		if (host__lodging(h, g))
			group__retry(g);
	converge__evict(e, h, REASON_TARGET, why);
	converge__changed(e);
}

void converge__leader_gone(struct engine *e, pid_t pid)
{
	struct host *h = hosts__find(&e->hosts, pid);
	char why[REASON_SIZE];

	if (h && h->injected && procfs_start_time(pid) == h->start_time) {
		snprintf(why, sizeof(why), "the main thread of process %d (%s) has ended", h->pid, h->comm);
		converge__renew(e, h, why);
	}
}

void converge__drop_all(struct engine *e)
{
	while (e->groups)
		destroy_group(e, e->groups);
	while (e->probes)
		remove_probe(e, e->probes);
	while (e->tools)
		remove_tool(e, e->tools);
}
