/* SPDX-License-Identifier: MIT */
/* report.c: what `bpftime status`, `ps` and `explain` show, gathered from the model. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/report.h"
#include "daemon/tracepoint.h"

#define MAX_SHOWN 4096 /* processes of a probe, of either kind */

/* The strings and arrays that one struct status_tool points into. */
struct report {
	struct status_probe *probe;
	struct shown {
		pid_t *targets;
		struct status_refused *refused;
		char name[BPF_OBJ_NAME_LEN + 1];
	} * shown; /* of each probe */
	size_t room;
	struct status_tool tool;
};

void report__free(struct report *r)
{
	for (size_t i = 0; r && i < r->tool.n_probes; i++) {
		free(r->shown[i].targets);
		free(r->shown[i].refused);
	}
	if (r) {
		free(r->probe);
		free(r->shown);
	}
	free(r);
}

static double seconds_since(const struct timespec *then)
{
	struct timespec now;

	if (!then->tv_sec)
		return -1;
	clock_gettime(CLOCK_BOOTTIME, &now);
	return (double)(now.tv_sec - then->tv_sec) + (double)(now.tv_nsec - then->tv_nsec) / 1e9;
}

/* But for those that threads count for themselves: fill_hosts(). */
static uint64_t hits_of(const struct probe *p)
{
	const struct group *g = p->group && p->group->arena ? p->group : NULL;
	uint64_t sum = 0;

	for (uint32_t cpu = 0; g && cpu < g->n_cpus; cpu++)
		sum += __atomic_load_n(group__hits(g, p->hit_index) + cpu, __ATOMIC_RELAXED);
	return sum;
}

/* One more fits. false: out of memory. */
static bool make_room(void **array, size_t n, size_t size)
{
	void *more = n & (n - 1) ? *array : realloc(*array, (n ? 2 * n : 1) * size);

	if (more)
		*array = more;
	return more != NULL;
}

static void show_target(struct shown *s, struct status_probe *sp, pid_t pid)
{
	if (sp->n_targets < MAX_SHOWN && make_room((void **)&s->targets, sp->n_targets, sizeof(*s->targets)))
		s->targets[sp->n_targets++] = pid;
}

static void show_refused(struct shown *s, struct status_probe *sp, pid_t pid, const char *why)
{
	if (sp->n_refused < MAX_SHOWN && make_room((void **)&s->refused, sp->n_refused, sizeof(*s->refused)))
		s->refused[sp->n_refused++] = (struct status_refused){pid, why};
}

_Static_assert(AGENT_MAX_ACTIONS == 8, "a reason below names it");

/* Open places of this probe; the processes in which it stays in the kernel, with the reason. */
static void fill_hosts(struct engine *e, const struct probe *p, struct report *r, size_t i)
{
	struct status_probe *sp = &r->probe[i];
	struct shown *shown = &r->shown[i];

	for (struct host *h = e->hosts.list; h; h = h->next) {
		struct place *pl = host__find_place(h, p->o.ino, p->o.offset);
		const char *why = NULL;

		if (pl && p->group && p->group->arena)
			sp->hits += host__counted_hits(h, pl, p->group, p->hit_index);
		if (!probe_reaches(p, h))
			continue;
		if (p->group && p->group->state == GROUP_SHARED && pl && pl->open && host__lodging(h, p->group)) {
			show_target(shown, sp, h->pid);
			continue;
		}
		if (pl && (!pl->site || pl->gone || pl->why[0]))
			why = pl->why;
		else if (h->why[0] && host__maps(h, p->o.dev, p->o.ino))
			why = h->why;
		else if (pl && p->group && p->group->state == GROUP_SHARED && place_is_crowded(&e->sw, h, pl))
			why = "more than 8 probes are on this instruction";
		else if (pl && p->group && p->group->state == GROUP_SHARED)
			why = "another probe on this instruction stays in the kernel";
		if (why)
			show_refused(shown, sp, h->pid, why);
	}
	sp->targets = shown->targets;
	sp->refused = shown->refused;
}

/* How its truth moves, see daemon/switch.h. */
static const char *way_of(const struct group *g)
{
	if (g->is_replaced)
		return g->has_viewed ? "freplace, with an exchange of the memory that the tool sees" : "freplace";
	if (g->is_parked)
		return g->has_viewed
			       ? "the opening gate, with an exchange of the memory that the tool sees; the tool's own "
				 "attachment is parked"
			       : "the opening gate; the tool's own attachment is parked";
	if (g->has_viewed)
		return "the opening gate, with an exchange of the memory that the tool sees";
	if (g->has_khalf)
		return "the opening gate";
	return g->has_mirrored ? "holding the process" : "nothing: the tool's own memory is used";
}

static void fill_probe(struct engine *e, const struct probe *p, struct report *r)
{
	size_t i = r->tool.n_probes++;
	struct status_probe *sp = &r->probe[i];
	const struct obs_prog *prog = observer__prog(e->observer, p->o.prog_id);

	snprintf(r->shown[i].name, sizeof(r->shown[i].name), "%s", prog ? prog->name : "");
	*sp = (struct status_probe){
		.kind = probe_kind__name(p->o.kind),
		.path = p->o.path,
		.offset = probe_is_tracepoint(p) ? 0 : p->o.offset,
		.is_tracepoint = probe_is_tracepoint(p),
		.symbol = p->symbol[0] ? p->symbol : NULL,
		.program = r->shown[i].name,
		.hits = hits_of(p),
		.since = seconds_since(p->group && p->group->since.tv_sec ? &p->group->since : &p->tool->since),
	};
	if (!sp->is_tracepoint)
		fill_hosts(e, p, r, i);
	sp->userspace = p->group && p->group->state == GROUP_SHARED && sp->n_targets > 0;
	if (sp->userspace) {
		sp->switched = way_of(p->group);
		sp->adopted = p->group->was_adopted;
		return;
	}
	if (p->group && p->group->state == GROUP_SHARED && sp->is_tracepoint)
		sp->reason = p->is_beside ? "it is no place in a process, and its program uses no map that has moved"
					  : "it is no place in a process: the kernel half serves it, on the same "
					    "memory as the other probes";
	else if (p->group && p->group->state == GROUP_SHARED)
		sp->reason = sp->n_refused ? sp->refused[0].reason
					   : "no process has the probed file mapped; one that does will be followed";
	else if (p->tool->refusal[0])
		sp->reason = p->tool->refusal;
	else
		sp->reason = p->reason[0] ? p->reason : "it has just been attached";
}

struct report *report__new(struct engine *e, const struct tool *t)
{
	struct report *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	hosts__look_anew();
	for (const struct probe *p = e->probes; p; p = p->next)
		r->room += p->tool == t;
	r->probe = calloc(r->room + 1, sizeof(*r->probe));
	r->shown = calloc(r->room + 1, sizeof(*r->shown));
	if (!r->probe || !r->shown)
		r->room = 0;
	r->tool.pid = t->pid;
	r->tool.comm = t->comm;
	r->tool.since = seconds_since(&t->since);
	r->tool.probes = r->probe;
	for (const struct probe *p = e->probes; p && r->tool.n_probes < r->room; p = p->next)
		if (p->tool == t)
			fill_probe(e, p, r);
	return r;
}

const struct status_tool *report__tool(const struct report *r)
{
	return &r->tool;
}

json_object *engine__ps(struct engine *e)
{
	json_object *all = json_object_new_array();

	for (const struct tool *t = e->tools; t; t = t->next) {
		struct report *r = report__new(e, t);

		if (r && r->tool.n_probes)
			json_object_array_add(all, status_tool__json(&r->tool, false));
		report__free(r);
	}
	return all;
}

json_object *engine__explain(struct engine *e, pid_t pid, char *err, size_t err_size)
{
	const struct tool *t = engine__tool(e, pid);
	struct report *r = t ? report__new(e, t) : NULL;
	json_object *json = NULL;

	if (r && !r->tool.n_probes && t->refusal[0])
		snprintf(err, err_size, "%s", t->refusal);
	else if (r)
		json = status_tool__json(&r->tool, true);
	else
		snprintf(err, err_size, "process %d has no probes that bpftimed knows", pid);
	report__free(r);
	return json;
}

enum status_state engine__tool_state(struct engine *e, pid_t pid)
{
	const struct tool *t = engine__tool(e, pid);
	struct report *r = t ? report__new(e, t) : NULL;
	enum status_state state = STATUS_UNKNOWN;

	if (r && r->tool.n_probes)
		state = converge__is_decided(e, t) ? status_tool__state(&r->tool) : STATUS_UNDECIDED;
	report__free(r);
	return state;
}

bool host__has_open_place(const struct host *h)
{
	for_each_used_place(pl, h) if (pl->open) return true;
	return false;
}

json_object *engine__status(struct engine *e)
{
	struct status_daemon d = {
		.hook = carriers__hook(e->carriers),
		.way = kernel_features__can_replace() ? "freplace" : "the opening gate",
		.holds = agent_holds_are_links() ? "links" : "perf events",
		.policy_files = policy__files(e->policy),
		.policy_rules = policy__rules(e->policy),
		.policy_error = e->policy_error,
		.last = e->last[0] ? e->last : NULL,
	};

	for (const struct tool *t = e->tools; t; t = t->next) {
		struct report *r = report__new(e, t);
		size_t before = d.probes_userspace;

		d.tools += r && r->tool.n_probes;
		for (size_t i = 0; r && i < r->tool.n_probes; i++) {
			d.probes_userspace += r->probe[i].userspace;
			d.probes_kernel += !r->probe[i].userspace;
		}
		d.tools_carried += d.probes_userspace > before;
		report__free(r);
	}
	for (const struct host *h = e->hosts.list; h; h = h->next)
		d.targets += host__has_open_place(h);
	return status_daemon__json(&d);
}
