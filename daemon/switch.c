/* SPDX-License-Identifier: MIT */
#include "daemon/switch.h"

#include <bpf/bpf.h>
#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "agent/cpus.h"
#include "daemon/domain.h"
#include "daemon/handlers.h"
#include "daemon/log.h"
#include "daemon/map_look.h"
#include "daemon/mapped.h"
#include "daemon/occupy.h"
#include "daemon/park.h"
#include "daemon/permit.h"
#include "daemon/state.h"
#include "daemon/views.h"
#include "shm-runtime/shm_map.h"

#define QUIESCE_TIMEOUT_MS	2000
#define RECYCLE_TIMEOUT_MS	100
#define RETURNS_TIMEOUT_MS	1000
#define HELD_RETURNS_TIMEOUT_MS 20
#define FREE_TRIES		3
#define OCCUPIED_TRIES		5
#define PREEMPTED_TRIES		50 /* until nobody has lost its processor in a handler */
#define MOST_HELD_S		10 /* longer than all that is waited for meanwhile */
#define VIEW_TRIES		10
#define MANY_HITS		10 /* while maps are copied */
#define BRIEF_TRIES		3
#define OCCUPIED_MOST_US	4000 /* for the maps, when we are alone; */
#define OCCUPIED_LEAST_MS	5    /* and with what comes before and after; */
#define OCCUPIED_MS		8    /* for no longer, whatever comes between */
#define LOOK_ENTRIES		256  /* fewer are read in as short a time */
#define MAX_RANGES		256
#define SWITCH_MOST		48   /* processes that are held for a switch */
#define SWITCH_PLACES		2000 /* places in them, at most, but in the first */

static int __attribute__((format(printf, 3, 4))) fail(struct group *g, int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(g->reason, sizeof(g->reason), fmt, ap);
	va_end(ap);
	return err;
}

/* ---- who serves what ---- */

bool probe_is_tracepoint(const struct probe *p)
{
	return probe_kind__is_tracepoint(p->o.kind);
}

bool probe_reaches(const struct probe *p, const struct host *h)
{
	return !probe_is_tracepoint(p) && (p->o.target < 0 || p->o.target == h->pid);
}

bool group_has_tracepoint(const struct group *g)
{
	for (unsigned int i = 0; i < g->n_probes; i++)
		if (probe_is_tracepoint(g->probe[i]) && !g->probe[i]->is_beside)
			return true;
	return false;
}

bool group_reaches(const struct group *g, struct host *h)
{
	for (unsigned int i = 0; i < g->n_probes; i++)
		if (probe_reaches(g->probe[i], h) && host__maps(h, g->probe[i]->o.dev, g->probe[i]->o.ino))
			return true;
	return false;
}

bool group_is_host_wide(const struct group *g, const struct gprog *prog)
{
	for (unsigned int i = 0; i < g->n_probes; i++)
		if (g->probe[i]->o.target < 0 && !probe_is_tracepoint(g->probe[i]) &&
		    (!prog || &g->prog[g->probe[i]->prog] == prog))
			return true;
	return false;
}

bool place_is_crowded(struct switcher *sw, const struct host *h, const struct place *pl)
{
	unsigned int n = 0;

	for_each_probe_at(p, sw->at, pl->ino, pl->offset)
	{
		n += probe_reaches(p, h);
	}
	return n > AGENT_MAX_ACTIONS;
}

bool place_is_carried(struct switcher *sw, const struct host *h, const struct place *pl)
{
	unsigned int n = 0;

	if (!pl->used || !pl->site || pl->gone)
		return false;
	for_each_probe_at(p, sw->at, pl->ino, pl->offset)
	{
		if (!probe_reaches(p, h))
			continue;
		if (!p->group || p->group->state != GROUP_SHARED || !host__lodging(h, p->group))
			return false;
		/* It was made for entries only and could not be given up. */
		if (p->o.kind == PROBE_URETPROBE && !pl->has_return)
			return false;
		n++;
	}
	return n > 0 && n <= AGENT_MAX_ACTIONS;
}

static bool group_is_at(const struct switcher *sw, const struct group *g, const struct host *h, const struct place *pl)
{
	if (!pl->used || !pl->site)
		return false;
	for_each_probe_at(p, sw->at, pl->ino, pl->offset) if (p->group == g && probe_reaches(p, h)) return true;
	return false;
}

bool holds_probes(struct switcher *sw, pid_t pid)
{
	for (const struct probe *p = *sw->probes; p; p = p->next)
		if (p->tool->pid == pid)
			return true;
	return false;
}

#define for_each_place(sw, g, h, pl)                                                                                   \
	for (struct host * (h) = (sw)->hosts->list; (h); (h) = (h)->next)                                              \
		for (struct place * (pl) = (h)->place; (pl) < (h)->place + (h)->n_places; (pl)++)                      \
			if (group_is_at((sw), (g), (h), (pl)))

#define for_each_place_in(sw, g, h, pl)                                                                                \
	for (struct place * (pl) = (h)->place; (pl) < (h)->place + (h)->n_places; (pl)++)                              \
		if (group_is_at((sw), (g), (h), (pl)))

bool may_be_stopped(struct switcher *sw, const struct group *g, struct host *h)
{
	const char *rule;

	if (!holds_probes(sw, h->pid) || permit__grants(sw->hosts, g, h, POLICY_STOP_TOOLS, &rule))
		return true;
	snprintf(h->why, sizeof(h->why), "policy lets no tool be stopped, and process %d (%s) is one (%s)", h->pid,
		 h->comm, rule);
	return false;
}

/* Another group with a probe at a place of g. */
static bool is_neighbour(struct switcher *sw, const struct group *g, const struct group *other)
{
	if (g == other || other->state != GROUP_SHARED)
		return false;
	for_each_place(sw, g, h, pl) if (group_is_at(sw, other, h, pl)) return true;
	return false;
}

static void set_gate(struct group *g, enum shm_ugate gate)
{
	if (g->arena)
		__atomic_store_n(&g->arena->ugate, (uint32_t)gate, __ATOMIC_SEQ_CST);
}

/*
 * While threads are held, every moment that we are not running is one that they stand still: run before all ordinary
 * tasks. Bounded by the timeouts of what is waited for.
 */
static void set_urgent(bool urgent)
{
	const struct sched_param param = {.sched_priority = urgent ? 1 : 0};
	DIR *dir = opendir("/proc/self/task");
	struct dirent *e;

	while (dir && (e = readdir(dir)))
		if (atoi(e->d_name) > 0)
			sched_setscheduler(atoi(e->d_name), urgent ? SCHED_FIFO | SCHED_RESET_ON_FORK : SCHED_OTHER,
					   &param);
	if (dir)
		closedir(dir);
}

/*
 * Threads that are held wait for us for ever. Should we stand still, stopped or waiting for one of them, the kernel
 * ends us after a while, and the guard lets them go.
 */
static void set_patience(bool on)
{
	struct sigevent kill_us = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL};
	const struct itimerspec at = {.it_value.tv_sec = on ? MOST_HELD_S : 0};
	static timer_t timer;
	static bool is_made;

	if (!is_made)
		is_made = !timer_create(CLOCK_MONOTONIC, &kill_us, &timer);
	if (is_made)
		timer_settime(timer, 0, &at, NULL);
}

static long microseconds_since(const struct timespec *then)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (now.tv_sec - then->tv_sec) * 1000000 + (now.tv_nsec - then->tv_nsec) / 1000;
}

/* Processor time of the calling thread. */
static long own_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void hold(struct switcher *sw, struct group *g)
{
	state__unsettle();
	set_patience(true);
	set_urgent(true);
	clock_gettime(CLOCK_MONOTONIC, &sw->held_since);
	sw->is_holding = true;
	set_gate(g, SHM_UGATE_WAIT);
	for (struct group *n = *sw->groups; n; n = n->next)
		if (is_neighbour(sw, g, n))
			set_gate(n, SHM_UGATE_WAIT);
}

static void set_own_gate(struct group *g)
{
	set_gate(g, g->state == GROUP_SHARED ? SHM_UGATE_OPEN
		    : g->state == GROUP_GONE ? SHM_UGATE_OFF
					     : SHM_UGATE_KERNEL);
}

static void let_go(struct switcher *sw, struct group *g)
{
	set_own_gate(g);
	for (struct group *n = *sw->groups; n; n = n->next)
		if (is_neighbour(sw, g, n))
			set_gate(n, SHM_UGATE_OPEN);
	set_patience(false);
	if (sw->is_holding) {
		long us = microseconds_since(&sw->held_since);

		log_debug("group %u: threads were held for %ld us", g->id, us);
		histogram__add(&sw->held, (double)us / 1e6);
	}
	sw->is_holding = false;
	set_urgent(false);
}

/* ---- places ---- */

/* Sites of places, in one array: what takes long about them is done for all at once. */
struct sites {
	struct site **s;
	size_t n, room;
};

static void add_site(struct sites *all, struct site *s)
{
	if (all->n == all->room) {
		size_t room = all->room ? 2 * all->room : 64;
		struct site **more = realloc(all->s, room * sizeof(struct site *));

		if (!more)
			return; /* site__open() arms it, and another disarm_places() comes */
		all->s = more;
		all->room = room;
	}
	all->s[all->n++] = s;
}

/* What takes long about a place is done before and after threads are held: agent/patch.c. */
static void arm_places(struct switcher *sw, struct group *g)
{
	struct sites all = {0};

	for_each_place(sw, g, h, pl) add_site(&all, pl->site);
	site__arm_all(all.s, all.n);
	free(all.s);
}

static void arm_places_in(struct switcher *sw, struct group *g, struct host *h)
{
	struct sites all = {0};

	for_each_place_in(sw, g, h, pl) if (place_is_carried(sw, h, pl)) add_site(&all, pl->site);
	site__arm_all(all.s, all.n);
	free(all.s);
}

/* Closed places have the file's bytes, for fork children. */
static void disarm_places(struct switcher *sw)
{
	struct sites all = {0};

	for (struct host *h = sw->hosts->list; h; h = h->next)
		for_each_used_place(pl, h) if (pl->site && !pl->open) add_site(&all, pl->site);
	site__disarm_all(all.s, all.n);
	free(all.s);
}

static struct agent_site *descriptor(const struct host *h, const struct place *pl)
{
	return &h->arena->site[pl - h->place];
}

static void open_place(struct host *h, struct place *pl)
{
	struct agent_error err;

	agent_site_serve(descriptor(h, pl), (uint32_t)(pl - h->place));
	if (!pl->open)
		state__unsettle();
	if (!site__is_open(pl->site)) {
		int ret;

		state__unsettle();
		ret = site__open(pl->site, &err);
		pl->gone |= ret == -ESTALE;
		if (ret) {
			snprintf(pl->why, sizeof(pl->why), "%s", err.text);
			return;
		}
	}
	pl->open = true;
	pl->why[0] = '\0';
	pl->closed_at = 0;
}

/* First the byte, then the flag: a thread that is sent back must find the kernel's int3. */
static void close_place(struct host *h, struct place *pl)
{
	struct agent_error err;

	bool was_open = site__is_open(pl->site);

	if (pl->open || was_open)
		state__unsettle();
	if (was_open && site__close(pl->site, &err) && site__is_open(pl->site))
		return;
	__atomic_store_n(&descriptor(h, pl)->mode, AGENT_SITE_BOUNCE, __ATOMIC_SEQ_CST);
	pl->open = false;
}

static void fill_action(struct agent_action *a, const struct host *h, const struct place *pl, const struct probe *p)
{
	const struct group *g = p->group;
	const struct lodging *l = host__lodging(h, g);

	*a = (struct agent_action){
		.flags = (p->o.kind == PROBE_URETPROBE ? AGENT_ACT_RETURN : 0) |
			 (p->o.target >= 0 ? AGENT_ACT_PID_LIMITED : 0),
		.group = g->id,
		.env =
			{
				.arena = l->arena,
				.target = target__arena_addr(h->target),
				.service = target__service_addr(h->target),
				.vdso_gettime = target__vdso_gettime(h->target),
				.hits_off = (uint64_t)((char *)group__hits(g, p->hit_index) - (char *)g->arena),
				.func_ip = site__address(pl->site),
				.cookie = p->o.cookie,
				.fork_page = target__fork_page(h->target),
			},
	};
	memcpy(a->env.direct, l->direct, sizeof(a->env.direct));
	a->fn = l->code[p->prog];
	a->flags |= g->prog[p->prog].plain ? 0 : AGENT_ACT_GENERAL;
}

/* Do all probes that the place has stand at its escape slot, too? */
static bool has_escape(struct switcher *sw, const struct host *h, const struct place *pl)
{
	bool some = false;

	if (pl->escape < 0)
		return false;
	for_each_probe_at(p, sw->at, pl->ino, pl->offset)
	{
		if (!probe_reaches(p, h) || (p->group && p->group->leaving))
			continue;
		if (p->escape != pl->escape)
			return false;
		some = true;
	}
	return some;
}

/* The kernel runs the newest consumer first; so do we. Nobody may be inside. */
static void fill_place(struct switcher *sw, struct host *h, struct place *pl)
{
	struct agent_site *s;
	uint32_t n = 0, n_return = 0;

	state__unsettle();
	s = site__fill_addresses(pl->site, h->arena);
	host__settle_hits(h, pl);
	for_each_probe_at(p, sw->at, pl->ino, pl->offset)
	{
		if (n == AGENT_MAX_ACTIONS)
			break;
		if (!probe_reaches(p, h) || !p->group || p->group->leaving || !host__lodging(h, p->group))
			continue;
		fill_action(&s->action[n++], h, pl, p);
		pl->counts = p->group;
		pl->hit_index = p->hit_index;
		n_return += p->o.kind == PROBE_URETPROBE;
	}
	if (n != 1)
		pl->counts = NULL;
	s->has_return = n_return > 0;
	site__set_escape(pl->site, has_escape(sw, h, pl));
	__atomic_store_n(&s->n_actions, n, __ATOMIC_SEQ_CST);
}

/* ---- waiting for what is under way ---- */

/* Every thread of the group's targets was at rest once. Else the process that was not, with err. */
static const struct host *come_to_rest(struct switcher *sw, const struct group *g, int timeout_ms, int *ret,
				       struct agent_error *err)
{
	struct code_range ranges[MAX_RANGES];

	for (struct host *h = sw->hosts->list; h; h = h->next) {
		if (!h->injected || !host__lodging(h, g) || !target__alive(h->target))
			continue;
		*ret = target__quiesce(h->target, ranges, host__code_ranges(h, ranges, MAX_RANGES), timeout_ms, err);
		if (*ret && target__alive(h->target))
			return h;
	}
	return NULL;
}

static int quiesce_within(struct switcher *sw, struct group *g, int timeout_ms)
{
	struct agent_error err = {""};
	const struct host *h;
	int ret = 0;

	h = come_to_rest(sw, g, timeout_ms, &ret, &err);
	return h ? fail(g, ret, "process %d (%s) did not come to rest: %s", h->pid, h->comm, err.text) : 0;
}

static int quiesce(struct switcher *sw, struct group *g)
{
	return quiesce_within(sw, g, QUIESCE_TIMEOUT_MS);
}

/*
 * Who had looked up a node that was gone when it was collected does not hold it any more when all threads of the
 * targets have been at rest since, and all programs of the kernel half that were running have ended.
 */
void switch_recycle(struct switcher *sw, struct group *g)
{
	struct agent_error err = {""};
	bool some = false;
	int ret = 0;

	for (unsigned int i = 0; i < g->n_maps; i++) {
		struct gmap *m = &g->map[i];

		if (m->carrier < 0)
			continue;
		if (!m->waste && shm_map_is_short(g->arena, &m->geo)) {
			state__unsettle();
			m->waste = shm_map_collect(g->arena, &m->geo, (m->geo.n_nodes - m->geo.max_entries) / 8);
		}
		some |= m->waste != 0;
	}
	/* Not now: next time. */
	if (!some || come_to_rest(sw, g, RECYCLE_TIMEOUT_MS, &ret, &err) || carriers__wait_for_programs(sw->carriers))
		return;
	state__unsettle();
	for (unsigned int i = 0; i < g->n_maps; i++) {
		shm_map_release(g->arena, &g->map[i].geo, g->map[i].waste);
		g->map[i].waste = 0;
	}
}

static int pending_returns(struct switcher *sw, struct group *g)
{
	int n = 0;

	for (struct host *h = sw->hosts->list; h; h = h->next)
		if (h->injected && host__lodging(h, g) && target__alive(h->target))
			n += target__pending_returns(h->target, h->arena);
	return n;
}

static int wait_for_returns(struct switcher *sw, struct group *g, int timeout_ms)
{
	const struct timespec step = {.tv_nsec = 500000};
	struct timespec begin;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	while (pending_returns(sw, g)) {
		if (microseconds_since(&begin) >= timeout_ms * 1000l)
			return -EAGAIN;
		nanosleep(&step, NULL);
	}
	return 0;
}

/* ---- the maps ---- */

static int copy_map(struct group *g, unsigned int i, bool in)
{
	struct gmap *m = &g->map[i];
	const struct map_copy copy = {.fd = m->fd, .arena = g->arena, .g = &m->geo, .look = m->look};
	char text[160] = "";
	int err;

	if (m->geo.kind == SHM_DIRECT)
		return 0;
	m->waste = 0;
	err = in ? map_copy_in(&copy, m->is_copied, text, sizeof(text)) : map_copy_out(&copy, text, sizeof(text));
	if (err)
		return fail(g, err, "map %s cannot be copied: %s", m->m.name, text[0] ? text : strerror(-err));
	m->is_copied = in;
	return 0;
}

static int copy_maps(struct group *g, bool in)
{
	int err = 0;

	for (unsigned int i = 0; i < g->n_maps && !err; i++)
		err = copy_map(g, i, in);
	return err;
}

static bool has_many_entries(const struct group *g, const struct gmap *m)
{
	return (shm_is_hash(&m->geo) ? shm_map_count(g->arena, &m->geo) : m->geo.max_entries) >= LOOK_ENTRIES;
}

/* At leisure: it takes a program for each map. Is there any to be looked at? */
static bool prepare_looks(struct group *g)
{
	bool some = false;

	for (unsigned int i = 0; i < g->n_maps; i++) {
		struct gmap *m = &g->map[i];

		if (m->geo.kind != SHM_DIRECT && !m->look && !m->has_no_look && has_many_entries(g, m))
			m->has_no_look = map_look__new(&m->look, m->fd, g->arena_fd, &m->geo) != 0;
		some |= m->look != NULL;
	}
	return some;
}

static int add_carriers(struct switcher *sw, struct group *g)
{
	char text[200] = "";

	state__unsettle();
	for (unsigned int i = 0; i < g->n_maps; i++) {
		struct gmap *m = &g->map[i];

		if (m->geo.kind == SHM_DIRECT || m->carrier >= 0)
			continue;
		m->carrier = carriers__add(sw->carriers, m->fd, m->m.id, g->arena_fd, &m->geo, text, sizeof(text));
		if (m->carrier < 0)
			return fail(g, m->carrier, "the tool's view of map %s cannot be kept: %s", m->m.name, text);
	}
	return 0;
}

static void enable_carriers(struct switcher *sw, struct group *g, bool on)
{
	state__unsettle();
	for (unsigned int i = 0; i < g->n_maps; i++)
		if (g->map[i].carrier >= 0)
			carriers__enable(sw->carriers, g->map[i].carrier, on);
}

static void remove_carriers(struct switcher *sw, struct group *g)
{
	state__unsettle();
	for (unsigned int i = 0; i < g->n_maps; i++) {
		if (g->map[i].carrier >= 0)
			carriers__remove(sw->carriers, g->map[i].carrier);
		g->map[i].carrier = -1;
	}
}

/* ---- what the tool sees of its memory ---- */

/* For one switch. */
struct viewing {
	struct switcher *sw;
	const struct group *g;
	struct view_memory memory[SHM_MAX_MAPS];
	struct views_opts opts;
	struct views *views; /* NULL: the group has no such memory */
};

static bool may_stop_viewer(void *arg, pid_t pid, char *why, size_t why_size)
{
	const struct viewing *v = arg;
	const char *rule = NULL;

	if (permit__grants(v->sw->hosts, v->g, NULL, POLICY_STOP_TOOLS, &rule))
		return true;
	snprintf(why, why_size, "policy lets no tool be stopped, and process %d sees memory-mapped results of one (%s)",
		 pid, rule);
	return false;
}

/* At leisure, before anybody is held. */
static int prepare_views(struct switcher *sw, struct group *g, struct viewing *v, bool in)
{
	uint32_t arena_id;

	*v = (struct viewing){.sw = sw, .g = g};
	if (!g->has_viewed)
		return 0;
	arena_id = mapped__id(g->arena_fd);
	if (!arena_id)
		return fail(g, -errno, "shared memory cannot be looked at: %s", strerror(errno));
	v->opts = (struct views_opts){
		.memory = v->memory,
		.arena_fd = g->arena_fd,
		.arena_id = arena_id,
		.arena = g->arena,
		.in = in,
		.may_stop = in ? may_stop_viewer : NULL,
		.arg = v,
	};
	for (unsigned int i = 0; i < g->n_maps; i++) {
		const struct gmap *m = &g->map[i];

		if (m->is_viewed)
			v->memory[v->opts.n++] = (struct view_memory){
				.map_id = m->m.id, .map_fd = m->fd, .arena_off = m->geo.nodes_off, .size = m->map_size};
	}
	return views__prepare(&v->views, &v->opts, g->reason, sizeof(g->reason));
}

/* force: see hold_views(). */
static int prepare_views_back(struct switcher *sw, struct group *g, struct viewing *v, bool force)
{
	int err = prepare_views(sw, g, v, false);

	if (force && (err == -EAGAIN || err == -ETIMEDOUT)) {
		v->opts.anywhere = true;
		err = views__prepare(&v->views, &v->opts, g->reason, sizeof(g->reason));
		v->opts.anywhere = false;
	}
	if (err && force)
		log_error("%s (%d): %s", g->tool->comm, g->tool->pid, g->reason);
	return err;
}

/* force: if need be where a transfer of data comes back short, which is better than results that stand still. */
static int hold_views(struct group *g, struct viewing *v, bool force)
{
	int err = v->views ? views__hold(v->views, g->reason, sizeof(g->reason)) : 0;

	for (int i = 0; i < VIEW_TRIES && force && err == -EAGAIN; i++) {
		v->opts.anywhere = i == VIEW_TRIES - 1;
		err = views__hold(v->views, g->reason, sizeof(g->reason));
	}
	return err;
}

static bool is_crowded(const struct viewing *v)
{
	return v->views && views__are_crowded(v->views);
}

static void let_views_go(const struct group *g, const struct viewing *v)
{
	char why[REASON_SIZE];

	if (v->views && views__let_go(v->views, why, sizeof(why)))
		log_error("%s (%d): %s", g->tool->comm, g->tool->pid, why);
}

static void end_views(const struct group *g, struct viewing *v)
{
	let_views_go(g, v);
	views__free(v->views);
	v->views = NULL;
}

/* One compare-and-swap on the word that also counts hits: fails when one came since `seen` was read. */
static bool turn_kgate(struct group *g, uint64_t seen, bool open)
{
	uint64_t want = open ? seen | SHM_KGATE_STATE : seen & ~SHM_KGATE_STATE;

	return __atomic_compare_exchange_n(&g->arena->kgate, &seen, want, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* Where threads of the tool or of others must not run, nothing is turned when they could. */
static bool is_in_time(const struct switcher *sw)
{
	return !sw->needs_cpus || cpus_are_occupied();
}

/*
 * Do threads that are not held hit the probes, which the kernel may have taken from a handler? Then a processor that
 * has been visited tells nothing.
 */
static bool may_be_preempted(const struct switcher *sw, const struct group *g)
{
	if (!sw->hosts->is_preempted)
		return false;
	for (unsigned int i = 0; i < g->n_probes; i++)
		if (!probe_is_tracepoint(g->probe[i]) && g->probe[i]->o.target < 0)
			return true;
	return false;
}

static bool handlers_have_ended(const struct switcher *sw, const struct group *g)
{
	return !may_be_preempted(sw, g) || (cpus_are_occupied() && handlers__under_way() == 0);
}

/* Have threads been held for a take-over for longer than policy allows? */
static bool is_held_too_long(const struct switcher *sw, const struct group *g)
{
	return sw->is_holding && g->stop_ms != POLICY_NO_LIMIT &&
	       microseconds_since(&sw->held_since) / 1000 >= (long)g->stop_ms;
}

/* What was under way may go uncounted still. */
static uint64_t start_counting(struct group *g)
{
	return __atomic_or_fetch(&g->arena->kgate, SHM_KGATE_COUNTS, __ATOMIC_SEQ_CST);
}

uint64_t group__count_hits(struct group *g)
{
	return start_counting(g) & SHM_KGATE_HITS;
}

void group__stop_counting(struct group *g)
{
	__atomic_and_fetch(&g->arena->kgate, ~SHM_KGATE_COUNTS, __ATOMIC_SEQ_CST);
}

/* May the tool's program run before the kernel half at a hit? At uprobes consumers run newest first. */
static bool is_tool_first(const struct group *g)
{
	return group_has_tracepoint(g) || g->is_unordered;
}

/*
 * For both directions: from now on hits are counted, and every processor is passed, so that the programs of those that
 * were not, or before kgate was read, have ended; the maps are copied; the gate is turned if it counts no other hit. At
 * a uprobe the kernel half runs before the tool's program, so that a hit that changes the tool's map during the copy
 * has been counted. At a tracepoint it is the other way round, and where the tool's program has been parked since, but
 * nothing comes between the two: so every processor is passed once more when the copy is done. A hit of which a part
 * was copied, or was written over, has ended then and is counted; one that begins later has no part in the copy, and is
 * served by the one side that the gate says when its kernel half looks.
 *
 * Calls of bpf() go on. Those that change a map change both sides while the gate is open, so that a map which was
 * copied out stays as it is in the arena; nobody may come between while it is copied. While the gate is closed they
 * change the tool's map alone, so that a map which is copied in must not be changed before the gate is turned.
 */

#define SEAL_TRIES 50

static int seal(struct switcher *sw, const struct gmap *m, bool turns)
{
	int err = m->carrier < 0 ? 0 : carriers__seal(sw->carriers, m->carrier, turns);

	/* A call takes some microseconds. */
	for (int i = 1; i < SEAL_TRIES && err == -EAGAIN; i++)
		err = carriers__seal(sw->carriers, m->carrier, turns);
	return err;
}

static void unseal(struct switcher *sw, const struct gmap *m)
{
	if (m->carrier >= 0)
		carriers__unseal(sw->carriers, m->carrier);
}

static struct carrier_changes changes_of(const struct switcher *sw, const struct gmap *m)
{
	return m->carrier < 0 ? (struct carrier_changes){0} : carriers__changes(sw->carriers, m->carrier);
}

static int copy_out_sealed(struct switcher *sw, struct group *g)
{
	int err = 0;

	for (unsigned int i = 0; i < g->n_maps && !err; i++) {
		const struct gmap *m = &g->map[i];
		struct carrier_changes before;

		err = seal(sw, m, false);
		if (err)
			return err;
		before = changes_of(sw, m);
		err = copy_map(g, i, false);
		if (!err && changes_of(sw, m).begun != before.begun)
			err = -EAGAIN;
		unseal(sw, m);
	}
	return err;
}

/*
 * Calls wait for some microseconds, until it is clear which side is theirs. ended: to open; no other changes than these
 * must have been made.
 */
static int turn(struct switcher *sw, struct group *g, uint64_t seen, const uint64_t *ended)
{
	unsigned int n = 0;
	int err = 0;

	while (n < g->n_maps && !err) {
		err = seal(sw, &g->map[n], true);
		n += !err;
	}
	for (unsigned int i = 0; i < g->n_maps && ended && !err; i++)
		err = changes_of(sw, &g->map[i]).begun == ended[i] ? 0 : -EAGAIN;
	if (!err && ended && is_held_too_long(sw, g))
		err = -ETIMEDOUT;
	if (!err && (!is_in_time(sw) || !turn_kgate(g, seen, ended != NULL)))
		err = -EAGAIN;
	while (n--)
		unseal(sw, &g->map[n]);
	return err;
}

/* On failure the truth is where it was. */
static int copy_and_turn(struct switcher *sw, struct group *g, bool in)
{
	uint64_t seen = start_counting(g), ended[SHM_MAX_MAPS];
	int err = cpus_pass() && handlers_have_ended(sw, g) ? 0 : -EAGAIN;

	for (unsigned int i = 0; i < g->n_maps; i++)
		ended[i] = changes_of(sw, &g->map[i]).ended;
	if (!err)
		err = in ? copy_maps(g, true) : copy_out_sealed(sw, g);
	if (!err && is_tool_first(g) && !cpus_pass())
		err = -EAGAIN;
	return err ? err : turn(sw, g, seen, in ? ended : NULL);
}

/*
 * Each try needs a moment without a hit in the kernel, and handlers that had begun must be done. Where hits leave no
 * such moment, one is made; so it is where the tool has threads that could write its memory meanwhile, and where the
 * kernel can have taken a processor from a handler.
 */
static int move(struct switcher *sw, struct group *g, struct viewing *v, bool in)
{
	bool preempted = may_be_preempted(sw, g);
	int err = -EAGAIN, tries = preempted ? PREEMPTED_TRIES : OCCUPIED_TRIES;
	int seen = preempted ? handlers__under_way() : 0;

	if (seen < 0)
		return fail(g, -EOPNOTSUPP,
			    "this kernel preempts programs, and which are under way in other processes cannot be "
			    "seen%s%s",
			    seen == -EXDEV ? " from a PID namespace" : ": ", seen == -EXDEV ? "" : strerror(-seen));
	sw->needs_cpus = is_crowded(v) || preempted;
	for (int i = 0; i < FREE_TRIES && err == -EAGAIN && !sw->needs_cpus; i++)
		err = copy_and_turn(sw, g, in);
	for (int i = 0; i < tries && err == -EAGAIN; i++) {
		int ret = cpus_occupy(CPUS_LONG_MS);

		log_debug("group %u: not a moment without a hit; processors kept: %s", g->id, strerror(-ret));
		if (ret)
			continue;
		/* Interrupts go on, and may be at a tracepoint. */
		do {
			err = copy_and_turn(sw, g, in);
		} while (err == -EAGAIN && group_has_tracepoint(g) && cpus_are_occupied());
		if (!err)
			let_views_go(g, v);
		cpus_release();
	}
	sw->needs_cpus = false;
	return err == -EAGAIN ? fail(g, -EBUSY,
				     "processes that do not carry the agent hit the probes too often for an "
				     "exact switch%s",
				     group_has_tracepoint(g) ? ", or one of its tracepoints is hit too often" : "")
			      : err;
}

/*
 * Everything on the machine stands still for as long as the last look takes, which is shorter than what the scheduler
 * makes tasks wait.
 */
static int move_occupied(struct switcher *sw, struct group *g, bool in)
{
	struct timespec begun;
	long us;
	int err;

	clock_gettime(CLOCK_MONOTONIC, &begun);
	err = cpus_occupy(g->stop_ms < OCCUPIED_MS ? (int)g->stop_ms : OCCUPIED_MS);
	if (err) {
		log_debug("group %u: processors not kept: %s", g->id, strerror(-err));
		return -EAGAIN;
	}
	err = copy_and_turn(sw, g, in);
	cpus_release();
	us = microseconds_since(&begun);
	log_debug("group %u: processors kept for %ld us: %s", g->id, us, strerror(-err));
	histogram__add(&sw->held, (double)us / 1e6);
	return err;
}

static bool may_occupy(const struct group *g, long us)
{
	return us <= OCCUPIED_MOST_US && g->stop_ms >= OCCUPIED_LEAST_MS;
}

/*
 * Where the kernel alone serves and hits come rarely there is such a moment by itself: nobody has to be held. Where
 * they come often it can be made, if it is short: what is left to be copied is little, and found by looks. Not for
 * memory that the tool maps, and not where a handler can lose its CPU: to visit that does not tell that it has ended.
 * What was copied in vain is not copied again later.
 */
static int move_unnoticed(struct switcher *sw, struct group *g, const struct viewing *v, bool in)
{
	int err = -EAGAIN;
	long us = 0;

	if (v->views || sw->hosts->is_preempted)
		return err;
	for (int i = 0; i < FREE_TRIES && err == -EAGAIN; i++) {
		uint64_t seen = group__count_hits(g);

		/* All that it takes when nobody else runs. */
		us = -own_us();
		err = copy_and_turn(sw, g, in);
		us += own_us();
		/* A look takes much shorter than the first try, and the next one shorter than the first one. */
		if (err && (!prepare_looks(g) || (i && may_occupy(g, us))) && group__count_hits(g) - seen > MANY_HITS)
			break;
	}
	for (int i = 0; i < BRIEF_TRIES && err == -EAGAIN && may_occupy(g, us); i++)
		err = move_occupied(sw, g, in);
	return err;
}

/* Whatever it costs: hits of the last instant may be lost. */
static void close_by_force(struct switcher *sw, struct group *g)
{
	log_error("%s (%d): cannot be handed back exactly: %s", g->tool->comm, g->tool->pid, g->reason);
	__atomic_and_fetch(&g->arena->kgate, ~SHM_KGATE_OPEN, __ATOMIC_SEQ_CST);
	cpus_visit();
	enable_carriers(sw, g, false);
	copy_maps(g, false);
	__atomic_and_fetch(&g->arena->kgate, ~SHM_KGATE_STATE, __ATOMIC_SEQ_CST);
}

/* ---- the switch ---- */

/* Every process that the group's probes reach gets the agent, the group's memory and its places, all still closed. */
struct lodge_arg {
	struct switcher *sw;
	struct group *g;
	unsigned int n;
};

static int lodge_process(struct switcher *sw, struct group *g, pid_t pid)
{
	struct host *h = hosts__get(sw->hosts, pid);
	const char *rule = NULL;
	char why[REASON_SIZE] = "";
	int err;

	if (!h)
		return -ESRCH;
	err = permit__lodging(sw->hosts, g, h);
	if (err)
		return err;
	if (!may_be_stopped(sw, g, h))
		return -EPERM;
	err = domain__admit(sw->hosts, g, h, h->why, sizeof(h->why));
	if (err)
		return err;
	for (struct host *other = sw->hosts->list; other; other = other->next)
		if (other != h && host__lodging(other, g) && other->uid != h->uid &&
		    !permit__grants(sw->hosts, g, h, POLICY_SHARE_ACROSS_USERS, &rule)) {
			snprintf(h->why, sizeof(h->why),
				 "policy lets no memory be shared across users, and process %d belongs to another user "
				 "than process %d (%s)",
				 pid, other->pid, rule);
			return -EPERM;
		}
	err = host__lodge(sw->hosts, h, g, why, sizeof(why));
	if (!err)
		h->why[0] = 0;
	else if (why[0])
		snprintf(h->why, sizeof(h->why), "%s", why);
	return err;
}

static void lodge_one(pid_t pid, void *arg)
{
	struct lodge_arg *a = arg;

	/* The others join when it is done: nobody is held for that. */
	if (a->n < SWITCH_MOST && (!a->n || a->n * a->g->n_probes < SWITCH_PLACES))
		a->n += !lodge_process(a->sw, a->g, pid);
}

static bool has_return_at(struct switcher *sw, const struct probe *at)
{
	for_each_probe_at(p, sw->at, at->o.ino, at->o.offset) if (p->o.kind == PROBE_URETPROBE) return true;
	return false;
}

/* A place that was made for entries only, at a function whose return is now probed, too: it is made anew. */
static void give_up_entry_place(struct switcher *sw, struct group *g, struct host *h, const struct probe *p)
{
	struct place *pl = host__find_place(h, p->o.ino, p->o.offset);

	if (!pl || !pl->site || pl->has_return || !has_return_at(sw, p))
		return;
	if (pl->open) {
		close_place(h, pl);
		if (pl->open || quiesce(sw, g))
			return;
		disarm_places(sw);
	}
	pl->drop = true;
	hosts__drop_marked(sw->hosts);
}

/* Places for all probes of the group whose files the host maps. Returns how many can be patched. */
static unsigned int plan_places(struct switcher *sw, struct group *g, struct host *h)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < g->n_probes; i++) {
		const struct probe *p = g->probe[i];

		if (!probe_reaches(p, h) || !host__maps(h, p->o.dev, p->o.ino))
			continue;
		give_up_entry_place(sw, g, h, p);
		host__place(h, p, has_return_at(sw, p));
	}
	host__plan(sw->hosts, h);
	for_each_place_in(sw, g, h, pl) n++;
	return n;
}

/* Is this the first probe of the group in its file, that is not limited to a process? */
static bool is_first_in_file(const struct group *g, unsigned int i)
{
	const struct obs_probe *o = &g->probe[i]->o;

	/* Mostly the one before is in the same file, too. */
	for (unsigned int k = i; k--;)
		if (!probe_is_tracepoint(g->probe[k]) && g->probe[k]->o.ino == o->ino && g->probe[k]->o.dev == o->dev &&
		    g->probe[k]->o.target < 0)
			return false;
	return true;
}

void group__each_process(const struct group *g, void (*cb)(pid_t pid, void *arg), void *arg)
{
	for (unsigned int i = 0; i < g->n_probes; i++) {
		const struct obs_probe *o = &g->probe[i]->o;

		if (o->target < 0 && !probe_is_tracepoint(g->probe[i]) && is_first_in_file(g, i))
			hosts__each_mapping(o->dev, o->ino, cb, arg);
	}
}

static unsigned int lodge(struct switcher *sw, struct group *g)
{
	struct lodge_arg arg = {sw, g, 0};
	unsigned int n = 0;

	hosts__look_anew();
	group__each_process(g, lodge_one, &arg);
	for (unsigned int i = 0; i < g->n_probes; i++) {
		const struct obs_probe *o = &g->probe[i]->o;

		if (o->target >= 0 &&
		    (!i || g->probe[i - 1]->o.target != o->target || g->probe[i - 1]->o.ino != o->ino) &&
		    host__maps_file(o->target, o->dev, o->ino))
			lodge_one(o->target, &arg);
	}
	for (struct host *h = sw->hosts->list; h; h = h->next)
		if (host__lodging(h, g))
			n += plan_places(sw, g, h);
	return n;
}

/* Who may not have the group's memory any more loses it first. */
static unsigned int lodge_domain(struct switcher *sw, struct group *g)
{
	unsigned int n;

	do {
		if (g->domain_over)
			switch_forget(sw, g);
		g->domain_over = false;
		n = lodge(sw, g);
	} while (g->domain_over);
	return n;
}

/* Nobody maps what it probes, but somebody may later: the kernel half waits for him. */
static bool waits_for_processes(const struct switcher *sw, const struct group *g)
{
	for (unsigned int i = 0; i < g->n_probes; i++)
		if (g->probe[i]->o.target >= 0)
			return false;
	for (struct host *h = sw->hosts->list; h; h = h->next)
		if (group_reaches(g, h))
			return false;
	return true;
}

static bool why_no_place(struct switcher *sw, struct group *g)
{
	for (struct host *h = sw->hosts->list; h; h = h->next)
		for_each_used_place(pl, h) if (!pl->site)
			for_each_probe_at(p, sw->at, pl->ino, pl->offset) if (p->group == g)
		{
			fail(g, 0, "%s", pl->why);
			return true;
		}
	return false;
}

static void why_nowhere(struct switcher *sw, struct group *g)
{
	if (why_no_place(sw, g))
		return;
	for (struct host *h = sw->hosts->list; h; h = h->next)
		for (unsigned int i = 0; h->why[0] && i < g->n_probes; i++)
			if (!probe_is_tracepoint(g->probe[i]) &&
			    (g->probe[i]->o.target == h->pid ||
			     host__maps(h, g->probe[i]->o.dev, g->probe[i]->o.ino))) {
				fail(g, 0, "%s", h->why);
				return;
			}
	fail(g, 0, "no process has the probed file mapped");
}

/* Places that no probe may hold any longer go back to the kernel; the others serve. */
static void settle_places(struct switcher *sw, struct group *g)
{
	for_each_place(sw, g, h, pl)
	{
		if (place_is_carried(sw, h, pl))
			open_place(h, pl);
		else
			close_place(h, pl);
	}
}

/* Another group is served there: somebody may be inside. */
static bool has_open_place(struct switcher *sw, struct group *g)
{
	for_each_place(sw, g, h, pl) if (pl->open) return true;
	return false;
}

/* Does the host have, in the group's way, a place at which others were served? A thread may still be inside. */
static bool has_used_place(const struct switcher *sw, const struct group *g, struct host *h)
{
	for_each_place_in(sw, g, h, pl) if (descriptor(h, pl)->n_actions) return true;
	return false;
}

static bool has_used_place_anywhere(const struct switcher *sw, const struct group *g)
{
	for (struct host *h = sw->hosts->list; h; h = h->next)
		if (has_used_place(sw, g, h))
			return true;
	return false;
}

/*
 * Nobody is held: the kernel serves until the gate turns, the kernel half from then on until the first byte of a place
 * is the jump's.
 */
static int take_over_unnoticed(struct switcher *sw, struct group *g, const struct viewing *v)
{
	int err;

	if (!g->has_khalf || has_open_place(sw, g) || (has_used_place_anywhere(sw, g) && quiesce(sw, g)))
		return -EAGAIN;
	err = move_unnoticed(sw, g, v, true);
	if (err)
		return err;
	g->state = GROUP_SHARED;
	for_each_place(sw, g, h, pl) fill_place(sw, h, pl);
	set_own_gate(g);
	settle_places(sw, g);
	return 0;
}

static int fail_for_time(const struct switcher *sw, struct group *g)
{
	const char *rule = NULL;

	permit__limit(sw->hosts, g, NULL, POLICY_TARGET_STOP_MS, &rule);
	return fail(g, -ETIMEDOUT, "policy lets threads of targets be held for %llu ms (%s), which was not enough",
		    (unsigned long long)g->stop_ms, rule ? rule : "before");
}

static int take_over_held(struct switcher *sw, struct group *g, struct viewing *v)
{
	int patience = g->stop_ms < QUIESCE_TIMEOUT_MS ? (int)g->stop_ms : QUIESCE_TIMEOUT_MS;
	int err = 0;

	/* From here threads wait; every path below lets them go. */
	hold(sw, g);
	if (has_open_place(sw, g))
		err = quiesce_within(sw, g, patience);
	if (!err) {
		for_each_place(sw, g, h, pl)
		{
			fill_place(sw, h, pl);
			open_place(h, pl);
		}
		err = quiesce_within(sw, g, patience);
	}
	if (!err)
		err = hold_views(g, v, false);
	if (!err)
		err = move(sw, g, v, true);
	if (!err)
		g->state = GROUP_SHARED;
	else if (is_held_too_long(sw, g))
		err = fail_for_time(sw, g);
	end_views(g, v);
	settle_places(sw, g);
	let_go(sw, g);
	return err;
}

int switch_takeover(struct switcher *sw, struct group *g)
{
	struct viewing viewing;
	int err;

	state__unsettle();
	if (!lodge_domain(sw, g) && !waits_for_processes(sw, g)) {
		why_nowhere(sw, g);
		return -EOPNOTSUPP;
	}
	err = add_carriers(sw, g);
	if (err)
		return err;
	g->arena->kgate = 0;
	for (unsigned int i = 0; i < g->n_maps; i++)
		g->map[i].is_copied = false;
	err = state__save(*sw->groups, sw->hosts);
	if (err)
		return fail(g, err, "what the next bpftimed would have to undo cannot be written down: %s",
			    strerror(-err));
	err = prepare_views(sw, g, &viewing, true);
	if (err)
		return err;
	/* Calls that began before have ended when all processors are passed, but for those that sleep in a page fault.
	 */
	enable_carriers(sw, g, true);
	arm_places(sw, g);
	err = take_over_unnoticed(sw, g, &viewing);
	if (err)
		err = take_over_held(sw, g, &viewing);
	disarm_places(sw);
	group__stop_counting(g);
	if (err) {
		enable_carriers(sw, g, false);
		return err;
	}
	clock_gettime(CLOCK_BOOTTIME, &g->since);
	g->was_adopted = false;
	g->reason[0] = 0;
	return 0;
}

/* ---- a process that comes later ---- */

/* Nobody is inside such a place, and nobody will return to one. */
static int empty_places(struct host *h)
{
	struct code_range ranges[MAX_RANGES];
	struct agent_error err = {""};

	if (target__quiesce(h->target, ranges, host__code_ranges(h, ranges, MAX_RANGES), QUIESCE_TIMEOUT_MS, &err))
		return -EAGAIN;
	return target__pending_returns(h->target, h->arena) ? -EAGAIN : 0;
}

/*
 * The kernel half serves the process until the first byte of a place is the jump's, and every hit is one's or the
 * other's: nothing has to be held, nothing is copied.
 */
static int prepare_join(struct switcher *sw, struct group *g, struct joining *j)
{
	struct host *h = hosts__find(sw->hosts, j->pid);
	int err;

	j->is_new = !h || !host__lodging(h, g);
	err = lodge_process(sw, g, j->pid);
	if (err)
		return err == -EBUSY || err == -ETIMEDOUT ? -EAGAIN : err == -EAGAIN ? err : 0;
	h = hosts__find(sw->hosts, j->pid);
	if (j->is_new) {
		for_each_place_in(sw, g, h, pl) close_place(h, pl);
		err = has_used_place(sw, g, h) ? empty_places(h) : 0;
	}
	if (err) {
		host__unlodge(h, g);
		switch_settle(sw);
		return err;
	}
	plan_places(sw, g, h);
	target__rest(h->target);
	j->is_prepared = true;
	return 0;
}

static void open_joined(struct switcher *sw, struct group *g, const struct joining *j)
{
	struct host *h = hosts__find(sw->hosts, j->pid);

	if (!h || !host__lodging(h, g))
		return;
	arm_places_in(sw, g, h);
	for_each_place_in(sw, g, h, pl)
	{
		if (j->is_new || !descriptor(h, pl)->n_actions)
			fill_place(sw, h, pl);
		if (place_is_carried(sw, h, pl))
			open_place(h, pl);
	}
}

static void give_up_joining(struct switcher *sw, struct group *g, struct joining *j)
{
	struct host *h = hosts__find(sw->hosts, j->pid);

	if (j->is_new && h)
		host__unlodge(h, g);
	j->err = -EAGAIN;
}

void switch_join_all(struct switcher *sw, struct group *g, struct joining *j, size_t n)
{
	int saved;

	state__unsettle();
	hosts__look_anew();
	for (size_t i = 0; i < n; i++) {
		j[i].is_prepared = false;
		j[i].err = prepare_join(sw, g, &j[i]);
	}
	saved = state__save(*sw->groups, sw->hosts);
	for (size_t i = 0; i < n; i++) {
		if (!j[i].is_prepared)
			continue;
		if (!saved)
			open_joined(sw, g, &j[i]);
		else
			give_up_joining(sw, g, &j[i]);
	}
	if (saved)
		switch_settle(sw);
}

int switch_join(struct switcher *sw, struct group *g, pid_t pid)
{
	struct joining j = {.pid = pid};

	switch_join_all(sw, g, &j, 1);
	return j.err;
}

/* ---- back ---- */

static bool has_returns(const struct group *g)
{
	for (unsigned int i = 0; i < g->n_probes; i++)
		if (g->probe[i]->o.kind == PROBE_URETPROBE)
			return true;
	return false;
}

/* So many processes that they would stand still for long if all were held until the last has come to rest. */
static bool is_crowd(const struct switcher *sw, const struct group *g)
{
	unsigned int n = 0;

	for (struct host *h = sw->hosts->list; h; h = h->next)
		n += host__lodging(h, g) != NULL;
	return n > SWITCH_MOST + SWITCH_MOST / 3 || (n > 1 && n * g->n_probes > 2 * SWITCH_PLACES);
}

/* May its places be closed while it is shared? Whatever is served there the kernel must be able to serve as well. */
static bool may_close(struct switcher *sw, const struct group *g)
{
	for (const struct group *n = *sw->groups; n; n = n->next)
		if (n->has_mirrored && !n->has_khalf && (n == g || is_neighbour(sw, g, n)))
			return false;
	return g->has_khalf;
}

/*
 * Returns that began in userspace end in userspace. With a kernel half, new calls go there from here on, and nobody is
 * inside when this has succeeded; without one they are held, so the wait must be short. Calls that had begun have
 * pushed their return when the targets have come to rest.
 */
static int drain(struct switcher *sw, struct group *g, bool closes)
{
	int err;

	if (closes) {
		for_each_place(sw, g, h, pl) close_place(h, pl);
	} else if (has_returns(g)) {
		hold(sw, g);
	} else {
		return 0;
	}
	err = quiesce(sw, g);
	if (!err && wait_for_returns(sw, g, closes ? RETURNS_TIMEOUT_MS : HELD_RETURNS_TIMEOUT_MS))
		err = fail(g, -EAGAIN, "a thread is inside a function whose return is probed");
	return err;
}

/* The tool's program must be attached where it is to serve. */
static int unpark(struct group *g, bool force)
{
	char why[REASON_SIZE] = "";
	int err = park__restore(g, force, why, sizeof(why));

	if (!err)
		return 0;
	if (!force)
		return fail(g, err, "its own attachment cannot be restored: %s", why);
	log_error("%s (%d): its own attachment cannot be restored: %s", g->tool->comm, g->tool->pid, why);
	park__leave(g);
	return 0;
}

static int hand_back_held(struct switcher *sw, struct group *g, struct viewing *v, bool force, bool opens)
{
	int err = 0;

	if (opens) {
		arm_places(sw, g);
		hold(sw, g);
		for_each_place(sw, g, h, pl) open_place(h, pl);
		err = quiesce(sw, g);
	} else {
		hold(sw, g);
	}
	if (!err || force)
		err = hold_views(g, v, force);
	if (!err || force)
		err = move(sw, g, v, false);
	if (err && force)
		close_by_force(sw, g);
	return force ? 0 : err;
}

int switch_handback(struct switcher *sw, struct group *g, bool force)
{
	bool closes = may_close(sw, g);
	struct viewing viewing;
	int err;

	state__unsettle();
	err = unpark(g, force);
	if (err)
		return err;
	err = prepare_views_back(sw, g, &viewing, force);
	if (err && !force)
		return err;
	err = drain(sw, g, closes);
	if ((!err && (!closes || move_unnoticed(sw, g, &viewing, false))) || (err && force))
		err = hand_back_held(sw, g, &viewing, force, !closes || !is_crowd(sw, g));
	if (!err)
		g->state = GROUP_KERNEL;
	end_views(g, &viewing);
	settle_places(sw, g);
	let_go(sw, g);
	disarm_places(sw);
	group__stop_counting(g);
	if (err)
		return err;
	enable_carriers(sw, g, false);
	clock_gettime(CLOCK_BOOTTIME, &g->since);
	g->was_adopted = false;
	return 0;
}

void switch_release(struct switcher *sw, struct group *g)
{
	bool was_shared = g->state == GROUP_SHARED;
	struct viewing viewing = {0};
	bool kept;

	state__unsettle();
	if (was_shared)
		unpark(g, true);
	g->state = GROUP_GONE;
	if (!g->arena)
		return;
	set_gate(g, SHM_UGATE_OFF);
	__atomic_and_fetch(&g->arena->kgate, ~SHM_KGATE_OPEN, __ATOMIC_SEQ_CST);
	if (was_shared)
		prepare_views_back(sw, g, &viewing, true);
	quiesce(sw, g);
	if (was_shared)
		hold_views(g, &viewing, true);
	kept = is_crowded(&viewing) && !cpus_occupy(CPUS_LONG_MS);
	if (was_shared) {
		if (!kept)
			cpus_visit();
		copy_maps(g, false);
		let_views_go(g, &viewing);
	}
	if (kept)
		cpus_release();
	end_views(g, &viewing);
	remove_carriers(sw, g);
}

/*
 * The actions of a place are written anew while nobody is inside: its threads wait at the gates of the groups that
 * stay, or run on past the gate of the one that goes.
 */
void switch_forget(struct switcher *sw, struct group *g)
{
	state__unsettle();
	hold(sw, g);
	set_gate(g, g->state == GROUP_GONE ? SHM_UGATE_OFF : SHM_UGATE_KERNEL);
	quiesce(sw, g);
	g->leaving = true;
	for_each_place(sw, g, h, pl) fill_place(sw, h, pl);
	g->leaving = false;
	let_go(sw, g);
	for (struct host *h = sw->hosts->list; h; h = h->next)
		host__unlodge(h, g);
}

void switch_settle(struct switcher *sw)
{
	for (struct host *h = sw->hosts->list; h; h = h->next) {
		for_each_used_place(pl, h)
		{
			if (!pl->site)
				continue;
			if (place_is_carried(sw, h, pl))
				open_place(h, pl);
			else
				close_place(h, pl);
		}
	}
	disarm_places(sw);
}
