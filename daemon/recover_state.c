/* SPDX-License-Identifier: MIT */
/*
 * recover_state.c: after a bpftimed was killed, the next one hands back what it had taken, as switch.c would have:
 * gates at WAIT, targets quiet, arenas copied to the tools' maps, places closed and freed, pins removed. Then it begins
 * anew.
 */
#include <bpf/bpf.h>
#include <fcntl.h>
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "agent/adopt.h"
#include "agent/clock.h"
#include "agent/cpus.h"
#include "daemon/build.h"
#include "daemon/decision.h"
#include "daemon/handlers.h"
#include "daemon/kernel_features.h"
#include "daemon/khalf.h"
#include "daemon/log.h"
#include "daemon/mapped.h"
#include "daemon/occupy.h"
#include "daemon/park.h"
#include "daemon/pins.h"
#include "daemon/procfs.h"
#include "daemon/record.h"
#include "daemon/state.h"
#include "daemon/views.h"
#include "shm-runtime/shm.h"

#define QUIESCE_TIMEOUT_MS 2000
#define RETURNS_TIMEOUT_MS 1000
#define EVICT_TIMEOUT_MS   200
#define SWITCH_TRIES	   50
#define FREE_TRIES	   3 /* before the processors are kept for a group at tracepoints */
#define VIEW_TRIES	   20
#define END_TIMEOUT_MS	   10000
#define MAX_RANGES	   256
#define MAX_LODGED	   512

struct old_map {
	uint32_t id;
	int fd;		 /* the tool's map */
	uint64_t viewed; /* bytes that the tool sees in the arena instead; 0: none */
	struct shm_geo geo;
};

struct old_group {
	unsigned int id;
	uint32_t arena_id;
	struct shm_group_hdr *arena; /* NULL: its pin is gone */
	size_t size;
	pid_t tool;
	uint64_t tool_start;
	bool tool_lives, has_khalf, at_tracepoints, shared;
	struct old_map map[SHM_MAX_MAPS];
	unsigned int n_maps;
	struct parked **parked;
	size_t n_parked;
	struct view_memory memory[SHM_MAX_MAPS];
	struct views_opts views_opts;
	struct views *views;
};

struct old_host {
	struct target *target;
	struct agent_target *arena; /* NULL: cannot be had */
	struct old_site {
		struct site *site;
		int index;
		bool was_open;
	} * at;
	unsigned int n_sites;
	struct target_mapping lodged[MAX_LODGED];
	size_t n_lodged;
	bool has_return;
	struct code_range code[MAX_RANGES]; /* programs, then the agent */
	size_t n_code, n_programs;
	json_object *record; /* what it was read from */
	bool left;	     /* a place could not be given up */
};

struct old {
	struct old_group *group;
	size_t n_groups;
	struct old_host *host;
	size_t n_hosts;
};

/* ---- reading ---- */

/* An arena's map lives without its pin, too, as long as a target or a program has it. */
static int or_by_id(int fd, json_object *o)
{
	return fd >= 0 ? fd : bpf_map_get_fd_by_id((uint32_t)record__number_in(o, "arena"));
}

static void *map_pin(int fd, size_t least, size_t *size, uint32_t *id)
{
	void *p = fd < 0 ? NULL : mapped__array(fd, least, size, id);

	if (fd >= 0)
		close(fd);
	return p;
}

static void read_parked(struct old_group *g, json_object *all)
{
	g->parked = calloc(record__length(all) + 1, sizeof(*g->parked));
	for (size_t i = 0; g->parked && i < record__length(all); i++) {
		struct parked *p = parked__from_json(json_object_array_get_idx(all, i));

		if (p)
			g->parked[g->n_parked++] = p;
	}
}

static void read_group(struct old_group *g, json_object *o)
{
	json_object *maps = json_object_object_get(o, "maps");

	g->id = (unsigned int)record__number_in(o, "id");
	g->tool = (pid_t)record__number_in(o, "tool");
	g->tool_start = record__number_in(o, "tool_start");
	g->tool_lives = procfs_start_time(g->tool) == g->tool_start;
	g->has_khalf = json_object_get_boolean(json_object_object_get(o, "kernel_half"));
	g->at_tracepoints = json_object_get_boolean(json_object_object_get(o, "at_tracepoints"));
	g->arena = map_pin(or_by_id(pins__get(PIN_GROUP, g->id), o), sizeof(*g->arena), &g->size, &g->arena_id);
	if (g->arena && g->arena->magic != SHM_MAGIC) {
		mapped__end(g->arena, g->size);
		g->arena = NULL;
	}
	if (g->arena)
		__atomic_store_n(&g->arena->daemon, shm_daemon(), __ATOMIC_SEQ_CST);
	g->shared = g->arena && (g->arena->kgate & SHM_KGATE_OPEN);
	for (size_t i = 0; i < record__length(maps) && g->n_maps < SHM_MAX_MAPS; i++) {
		json_object *m = json_object_array_get_idx(maps, i);
		struct old_map *to = &g->map[g->n_maps];

		if (!record__read_bytes(json_object_object_get(m, "geometry"), &to->geo, sizeof(to->geo)) ||
		    to->geo.end_off > g->size)
			continue;
		to->id = (uint32_t)record__number_in(m, "id");
		to->viewed = record__number_in(m, "viewed");
		to->fd = bpf_map_get_fd_by_id(to->id);
		g->n_maps += to->fd >= 0;
	}
	read_parked(g, json_object_object_get(o, "parked"));
}

static void read_lodgings(struct old_host *h, json_object *lodgings)
{
	for (size_t i = 0; i < record__length(lodgings); i++) {
		json_object *maps = json_object_object_get(json_object_array_get_idx(lodgings, i), "mappings");

		for (size_t k = 0; k < record__length(maps) && h->n_lodged < MAX_LODGED; k++) {
			json_object *m = json_object_array_get_idx(maps, k);
			uint64_t addr = record__number_in(m, "address"), size = record__number_in(m, "size");

			h->lodged[h->n_lodged++] = (struct target_mapping){.fd = -1, .addr = addr, .size = size};
			if (json_object_get_boolean(json_object_object_get(m, "code")) && h->n_code < MAX_RANGES - 1)
				h->code[h->n_code++] = (struct code_range){addr, addr + size};
		}
	}
}

/* Its sites have no pin: the file is reached where the process has it mapped. */
static struct agent_target *map_arena(int fd, pid_t pid, const struct target_record *t)
{
	struct agent_target *arena;
	int sites;

	if (fd < 0)
		return NULL;
	sites = agent_sites__open(pid, t->arena);
	/* A process that has moved it has harmed itself: something of the size is enough for us. */
	arena = agent_arena__map(fd, &sites);
	if (sites >= 0)
		close(sites);
	close(fd);
	return arena;
}

/* false: it has ended, or executed another program; the kernel has cleaned up. */
static bool read_host(struct old_host *h, json_object *o)
{
	json_object *places = json_object_object_get(o, "places");
	pid_t pid = (pid_t)record__number_in(o, "pid");
	uint64_t start = record__number_in(o, "start");
	struct agent_error err = {""};
	struct target_record t;
	struct site_record s;

	h->record = o;
	if (procfs_start_time(pid) != start || !record__read_bytes(json_object_object_get(o, "target"), &t, sizeof(t)))
		return false;
	if (target__adopt(pid, &t, &h->target, &err)) {
		log_warning("process %d: %s", pid, err.text);
		return false;
	}
	h->arena = map_arena(or_by_id(pins__get(PIN_HOST, pid, (unsigned long long)start), o), pid, &t);
	h->at = calloc(record__length(places) + 1, sizeof(*h->at));
	for (size_t i = 0; h->at && i < record__length(places); i++) {
		struct old_site *at = &h->at[h->n_sites];

		if (!record__read_bytes(json_object_array_get_idx(places, i), &s, sizeof(s)) ||
		    s.index >= AGENT_MAX_SITES || site__adopt(h->target, &s, pins__dir(), -1, &at->site, &err))
			continue;
		at->index = (int)s.index;
		/* The kernel writes its int3 over an open place when a probe is attached there, our own restoring too.
		 */
		at->was_open =
			site__is_open(at->site) || (h->arena && h->arena->site[s.index].mode != AGENT_SITE_BOUNCE);
		h->has_return |= s.has_return;
		h->n_sites++;
	}
	read_lodgings(h, json_object_object_get(o, "lodgings"));
	h->n_programs = h->n_code;
	h->code[h->n_code++] = target__image_range(h->target);
	return true;
}

static bool read_all(struct old *old, json_object *o)
{
	json_object *groups = json_object_object_get(o, "groups"), *hosts = json_object_object_get(o, "hosts");

	if (record__number_in(o, "version") != STATE_VERSION || record__number_in(o, "records") != AGENT_RECORD_VERSION)
		return false;
	old->group = calloc(record__length(groups) + 1, sizeof(*old->group));
	old->host = calloc(record__length(hosts) + 1, sizeof(*old->host));
	if (!old->group || !old->host)
		return false;
	for (size_t i = 0; i < record__length(groups); i++)
		read_group(&old->group[old->n_groups++], json_object_array_get_idx(groups, i));
	for (size_t i = 0; i < record__length(hosts); i++)
		old->n_hosts += read_host(&old->host[old->n_hosts], json_object_array_get_idx(hosts, i));
	return true;
}

/* ---- handing back ---- */

static void set_gates(struct old *old, enum shm_ugate gate)
{
	for (size_t i = 0; i < old->n_groups; i++)
		if (old->group[i].arena)
			__atomic_store_n(&old->group[i].arena->ugate, (uint32_t)gate, __ATOMIC_SEQ_CST);
}

static void open_places(struct old *old)
{
	struct agent_error err;

	for (size_t i = 0; i < old->n_hosts; i++) {
		struct old_host *h = &old->host[i];

		for (unsigned int k = 0; k < h->n_sites; k++) {
			const struct old_site *at = &h->at[k];

			if (!at->was_open)
				continue;
			if (h->arena)
				agent_site_serve(&h->arena->site[at->index], (uint32_t)at->index);
			if (!site__is_open(at->site))
				site__open(at->site, &err);
		}
	}
}

static void close_places(struct old *old)
{
	struct agent_error err;

	for (size_t i = 0; i < old->n_hosts; i++) {
		struct old_host *h = &old->host[i];

		for (unsigned int k = 0; k < h->n_sites; k++) {
			const struct old_site *at = &h->at[k];

			if (site__is_open(at->site) && site__close(at->site, &err))
				log_warning("%s", err.text);
			if (h->arena)
				__atomic_store_n(&h->arena->site[at->index].mode, AGENT_SITE_BOUNCE, __ATOMIC_SEQ_CST);
		}
	}
}

static void arm_places(struct old *old)
{
	struct agent_error err;

	for (size_t i = 0; i < old->n_hosts; i++)
		for (unsigned int k = 0; k < old->host[i].n_sites; k++)
			if (old->host[i].at[k].was_open)
				site__arm(old->host[i].at[k].site, &err);
}

static int pending_returns(struct old *old)
{
	int n = 0;

	for (size_t i = 0; i < old->n_hosts; i++)
		if (old->host[i].arena && target__alive(old->host[i].target))
			n += target__pending_returns(old->host[i].target, old->host[i].arena);
	return n;
}

static void wait_for_returns(struct old *old)
{
	const struct timespec step = {.tv_nsec = 500000};

	int64_t deadline = clock_us() + RETURNS_TIMEOUT_MS * 1000ll;

	while (pending_returns(old) > 0 && clock_us() < deadline)
		nanosleep(&step, NULL);
}

static void quiesce(struct old *old)
{
	struct agent_error err = {""};

	for (size_t i = 0; i < old->n_hosts; i++) {
		struct old_host *h = &old->host[i];

		if (target__quiesce(h->target, h->code, h->n_programs, QUIESCE_TIMEOUT_MS, &err) &&
		    target__alive(h->target))
			log_warning("%s: its last hits may be lost", err.text);
	}
}

/* Who sees the arena in place of the tool's map sees the map again when the gate has turned. */
static void prepare_views(struct old_group *g)
{
	char why[256] = "";

	g->views_opts =
		(struct views_opts){.memory = g->memory, .arena_fd = -1, .arena_id = g->arena_id, .arena = g->arena};
	for (unsigned int i = 0; i < g->n_maps; i++)
		if (g->map[i].viewed)
			g->memory[g->views_opts.n++] = (struct view_memory){.map_id = g->map[i].id,
									    .map_fd = g->map[i].fd,
									    .arena_off = g->map[i].geo.nodes_off,
									    .size = g->map[i].viewed};
	for (int i = 0; i < 2 && g->views_opts.n; i++) {
		g->views_opts.anywhere = i > 0;
		if (!views__prepare(&g->views, &g->views_opts, why, sizeof(why)))
			return;
	}
	if (g->views_opts.n)
		log_warning("after the last bpftimed was killed: %s", why);
}

static void hold_views(struct old_group *g)
{
	char why[256] = "";
	int err = -EAGAIN;

	for (int i = 0; g->views && err == -EAGAIN && i < VIEW_TRIES; i++) {
		g->views_opts.anywhere = i == VIEW_TRIES - 1;
		err = views__hold(g->views, why, sizeof(why));
	}
	if (g->views && err)
		log_warning("after the last bpftimed was killed: %s", why);
}

static void let_views_go(const struct old_group *g)
{
	char why[256];

	if (g->views && views__let_go(g->views, why, sizeof(why)))
		log_warning("after the last bpftimed was killed: %s", why);
}

static void copy_out(struct old_group *g)
{
	char err[160] = "";

	for (unsigned int i = 0; i < g->n_maps; i++) {
		const struct map_copy m = {.fd = g->map[i].fd, .arena = g->arena, .g = &g->map[i].geo};

		if (map_copy_out(&m, err, sizeof(err)))
			log_warning("a map of a tool cannot be handed back: %s", err);
	}
}

/* One try, as in switch.c. */
static bool copy_out_and_close(struct old_group *g, bool preempted, bool needs_cpus)
{
	uint64_t seen = __atomic_or_fetch(&g->arena->kgate, SHM_KGATE_COUNTS, __ATOMIC_SEQ_CST);
	/* Where that cannot be told no group was carried of which not all threads are held. */
	bool passed = cpus_pass() && (!preempted || handlers__under_way() <= 0);

	copy_out(g);
	carriers__unrescue(pins__dir(), g->arena_id);
	if (g->at_tracepoints)
		seen = __atomic_load_n(&g->arena->kgate, __ATOMIC_SEQ_CST);
	passed &= cpus_pass();
	copy_out(g);
	/* The tool's program may run before the kernel half: at a tracepoint, or where it has been parked. */
	passed &= cpus_pass();
	return passed && (!needs_cpus || cpus_are_occupied()) &&
	       __atomic_compare_exchange_n(&g->arena->kgate, &seen, seen & ~SHM_KGATE_STATE, false, __ATOMIC_SEQ_CST,
					   __ATOMIC_SEQ_CST);
}

/* As in switch.c: what the tool reads is right at any time, and nothing is counted twice or not at all. */
static void move_out(struct old_group *g)
{
	bool preempted = kernel_features__preempts();

	for (int try = 0; g->tool_lives && try < SWITCH_TRIES; try++) {
		bool needs_cpus = preempted || (g->views && views__are_crowded(g->views));
		bool kept = (needs_cpus || (g->at_tracepoints && try >= FREE_TRIES)) && !cpus_occupy(CPUS_LONG_MS);
		bool turned = copy_out_and_close(g, preempted, needs_cpus);

		if (turned)
			let_views_go(g);
		if (kept)
			cpus_release();
		if (turned)
			return;
		carriers__rescue(pins__dir(), g->arena_id);
	}
	if (g->tool_lives)
		log_warning(
			"processes hit the probes too often for an exact hand-back after the last bpftimed was killed");
	__atomic_and_fetch(&g->arena->kgate, ~SHM_KGATE_STATE, __ATOMIC_SEQ_CST);
	carriers__unrescue(pins__dir(), g->arena_id);
}

/*
 * All at once: where one's uprobes end, an unrepaired fork child of another must not have a jump any more. What cannot
 * be freed is left as it is.
 */
static void free_sites(struct old *old)
{
	struct site **sites;
	size_t n = 0;

	for (size_t i = 0; i < old->n_hosts; i++)
		n += old->host[i].n_sites;
	sites = calloc(n + 1, sizeof(struct site *));
	n = 0;
	for (size_t i = 0; sites && i < old->n_hosts; i++)
		for (unsigned int k = 0; k < old->host[i].n_sites; k++)
			sites[n++] = old->host[i].at[k].site;
	if (sites)
		site__free_all(sites, n);
	n = 0;
	for (size_t i = 0; i < old->n_hosts; i++) {
		struct old_host *h = &old->host[i];

		for (unsigned int k = 0; sites && k < h->n_sites; k++, n++) {
			if (!sites[n])
				continue;
			h->left = true;
			site__leave(sites[n]);
		}
		free(h->at);
		h->at = NULL;
		h->n_sites = 0;
	}
	free(sites);
}

static void let_go_of_hosts(struct old *old)
{
	free_sites(old);
	for (size_t i = 0; i < old->n_hosts; i++) {
		struct old_host *h = &old->host[i];
		bool returns = !h->arena || target__pending_returns(h->target, h->arena) > 0;
		struct agent_error err = {""};

		if (h->left)
			state__leave_again(json_object_get(h->record));
		/* A return that is still to come, or a thread that is held in a jump, needs all of it. */
		if (!returns && !h->left &&
		    target__left(h->target, h->code, h->n_code, QUIESCE_TIMEOUT_MS, &err) == 0) {
			target__unmap_ours(h->target, h->lodged, h->n_lodged, &err);
			target__evict(h->target, EVICT_TIMEOUT_MS, &err);
		}
		agent_arena__unmap(h->arena);
		target__free(h->target);
	}
}

/*
 * New calls go to the kernel halves while we wait for returns. That a thread is not inside is certain only once the
 * places are closed and it has been seen outside the agent: before it might be about to note its return, or have taken
 * it off and be about to count it.
 */
static void drain_returns(struct old *old)
{
	close_places(old);
	quiesce(old);
	wait_for_returns(old);
	quiesce(old);
}

/* Whoever has what the tool attached gets its program back, before it is to serve. */
static void restore_parked(struct old_group *g)
{
	char why[256] = "";
	int err = g->n_parked ? parked__restore(g->parked, g->n_parked, true, why, sizeof(why)) : 0;

	if (err)
		log_error("after the last bpftimed was killed: a tool's own attachment cannot be restored: %s", why);
	if (err)
		parked__leave(g->parked, g->n_parked, g->tool, g->tool_start);
	for (size_t i = 0; i < g->n_parked; i++)
		parked__free(g->parked[i]);
	free(g->parked);
	g->parked = NULL;
	g->n_parked = 0;
}

/* A tracer of the killed one goes on to the end with what it is doing to the tool: agent/ptrace.c. */
static void wait_for_tracer(pid_t tool)
{
	const struct timespec step = {.tv_nsec = 5000000};
	int64_t deadline = clock_us() + END_TIMEOUT_MS * 1000ll;
	char comm[16];
	pid_t tracer;

	while ((tracer = procfs_tracer(tool)) && clock_us() < deadline) {
		procfs_comm(tracer, comm, sizeof(comm));
		if (strcmp(comm, "bpftimed-tracer"))
			return;
		nanosleep(&step, NULL);
	}
}

static void hand_back(struct old *old)
{
	bool all_khalf = true, has_return = false;

	for (size_t i = 0; i < old->n_groups; i++)
		all_khalf &= old->group[i].has_khalf || !old->group[i].shared;
	for (size_t i = 0; i < old->n_hosts; i++)
		has_return |= old->host[i].has_return;
	for (size_t i = 0; i < old->n_groups; i++) {
		if (old->group[i].tool_lives)
			wait_for_tracer(old->group[i].tool);
		restore_parked(&old->group[i]);
	}
	carriers__inherit(pins__dir());
	for (size_t i = 0; i < old->n_groups; i++)
		if (old->group[i].shared)
			prepare_views(&old->group[i]);
	/* Without a kernel half, calls would be lost meanwhile. */
	if (all_khalf && has_return)
		drain_returns(old);
	arm_places(old);
	set_gates(old, SHM_UGATE_WAIT);
	open_places(old);
	quiesce(old);
	for (size_t i = 0; i < old->n_groups; i++) {
		if (!old->group[i].shared)
			continue;
		hold_views(&old->group[i]);
		move_out(&old->group[i]);
		let_views_go(&old->group[i]);
		views__free(old->group[i].views);
		old->group[i].views = NULL;
	}
	close_places(old);
	set_gates(old, SHM_UGATE_KERNEL);
	let_go_of_hosts(old);
}

static void clear(struct old *old)
{
	for (size_t i = 0; i < old->n_groups; i++) {
		struct old_group *g = &old->group[i];

		for (unsigned int k = 0; k < g->n_maps; k++)
			close(g->map[k].fd);
		mapped__end(g->arena, g->size);
	}
	free(old->group);
	free(old->host);
}

static void tell_left(const struct old *old)
{
	for (size_t i = 0; i < old->n_hosts; i++)
		if (old->host[i].left)
			log_warning("process %ld stays patched: a debugger still holds a thread of it in the middle of "
				    "a jump",
				    (long)record__number_in(old->host[i].record, "pid"));
}

static void tell_handed_back(const struct old *old, struct decisions *decisions, const char *why)
{
	char reason[512] = "the bpftimed that carried it was killed";

	if (why && why[0])
		snprintf(reason, sizeof(reason),
			 "the bpftimed that carried it was killed, and this one does not go on with it: %s", why);
	for (size_t i = 0; i < old->n_groups; i++) {
		const struct old_group *g = &old->group[i];
		struct decision what = {
			.kind = g->tool_lives ? DECISION_HANDBACK : DECISION_RELEASE,
			.class = REASON_END,
			.reason = g->tool_lives ? reason
						: "the bpftimed that carried it was killed, and the tool has ended",
		};
		char comm[16] = "";

		if (!g->shared)
			continue;
		procfs_comm(g->tool, comm, sizeof(comm));
		what.tool = (struct decision_process){.pid = g->tool, .comm = comm[0] ? comm : "?"};
		decisions__record(decisions, &what);
	}
}

int recover_state(struct decisions *decisions, const char *why)
{
	json_object *o = state__path() ? json_object_from_file(state__path()) : NULL;
	struct old old = {0};
	int ret = 0;

	state__unsettle();
	if (o)
		state__await_end(o);
	if (o && !read_all(&old, o)) {
		ret = -EPROTO;
		log_error("the bpftimed that was killed was of another version: what it had taken over is not handed "
			  "back exactly");
	} else if (o && (old.n_groups || old.n_hosts)) {
		hand_back(&old);
		tell_handed_back(&old, decisions, why);
		log_info("after the last bpftimed was killed: %zu process(es) handed back to the kernel", old.n_hosts);
	}
	tell_left(&old);
	clear(&old);
	if (o)
		json_object_put(o);
	pins__clear(state__needs_pin);
	state__remove();
	return state__has_left() ? -EBUSY : ret;
}

bool recover_left(pid_t pid, uint64_t start_time)
{
	json_object *o = state__take_left(pid, start_time);
	struct old_host host = {0};
	struct old old = {.host = &host, .n_hosts = 1};

	if (o && read_host(&host, o)) {
		close_places(&old);
		let_go_of_hosts(&old);
	}
	if (o)
		json_object_put(o);
	return !host.left;
}
