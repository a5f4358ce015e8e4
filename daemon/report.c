/* SPDX-License-Identifier: MIT */
/* report.c: what `bpftime status`, `ps` and `explain` show, gathered from the model. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/engine_impl.h"

#define MAX_SHOWN 256

/* The strings and arrays that one struct status_tool points into. */
struct report {
	struct status_probe probe[GROUP_MAX_PROBES * 4];
	pid_t targets[GROUP_MAX_PROBES * 4][MAX_SHOWN];
	struct status_refused refused[GROUP_MAX_PROBES * 4][MAX_SHOWN];
	char names[GROUP_MAX_PROBES * 4][BPF_OBJ_NAME_LEN + 1];
	struct status_tool tool;
};

static double seconds_since(const struct timespec *then)
{
	struct timespec now;

	if (!then->tv_sec)
		return -1;
	clock_gettime(CLOCK_REALTIME, &now);
	return (double)(now.tv_sec - then->tv_sec) + (double)(now.tv_nsec - then->tv_nsec) / 1e9;
}

static uint64_t hits_of(struct engine *e, const struct probe *p)
{
	const struct shm_group_hdr *a = p->group ? p->group->arena : NULL;
	uint64_t sum = 0;

	for (uint32_t cpu = 0; a && cpu < a->n_cpus; cpu++)
		sum += __atomic_load_n((const uint64_t *)((const char *)a + SHM_HDR_SIZE) + p->hit_index * a->n_cpus +
					       cpu,
				       __ATOMIC_RELAXED);
	for (struct host *h = e->hosts.list; a && h; h = h->next) {
		const struct place *pl = host__find_place(h, p->o.ino, p->o.offset);

		sum += pl ? host__counted_hits(h, pl, p->group, p->hit_index) : 0;
	}
	return sum;
}

/* Open places of this probe; the processes in which it stays in the kernel, with the reason. */
static void fill_hosts(struct engine *e, const struct probe *p, struct report *r, size_t i)
{
	struct status_probe *sp = &r->probe[i];

	for (struct host *h = e->hosts.list; h; h = h->next) {
		struct place *pl = host__find_place(h, p->o.ino, p->o.offset);
		const char *why = NULL;

		if (!probe_reaches(p, h) || sp->n_targets == MAX_SHOWN || sp->n_refused == MAX_SHOWN)
			continue;
		if (p->group && p->group->state == GROUP_SHARED && pl && pl->open && host__lodging(h, p->group)) {
			r->targets[i][sp->n_targets++] = h->pid;
			continue;
		}
		if (pl && (!pl->site || pl->gone))
			why = pl->why;
		else if (h->why[0] && host__maps_file(h->pid, p->o.dev, p->o.ino))
			why = h->why;
		else if (pl && p->group && p->group->state == GROUP_SHARED)
			why = "another probe on this instruction stays in the kernel";
		if (why)
			r->refused[i][sp->n_refused++] = (struct status_refused){h->pid, why};
	}
	sp->targets = r->targets[i];
	sp->refused = r->refused[i];
}

/* How its truth moves, see daemon/switch.h. */
static const char *way_of(const struct group *g)
{
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

	snprintf(r->names[i], sizeof(r->names[i]), "%s", prog ? prog->name : "");
	*sp = (struct status_probe){
		.kind = p->o.kind == PROBE_URETPROBE ? "uretprobe" : "uprobe",
		.path = p->o.path,
		.offset = p->o.offset,
		.symbol = p->symbol[0] ? p->symbol : NULL,
		.program = r->names[i],
		.hits = hits_of(e, p),
		.since = seconds_since(p->group && p->group->since.tv_sec ? &p->group->since : &p->tool->since),
	};
	fill_hosts(e, p, r, i);
	sp->userspace = p->group && p->group->state == GROUP_SHARED && sp->n_targets > 0;
	if (sp->userspace) {
		sp->switched = way_of(p->group);
		return;
	}
	if (p->group && p->group->state == GROUP_SHARED)
		sp->reason = sp->n_refused ? sp->refused[0].reason
					   : "no process has the probed file mapped; one that does will be followed";
	else if (p->tool->refusal[0])
		sp->reason = p->tool->refusal;
	else
		sp->reason = p->reason[0] ? p->reason : "it has just been attached";
}

static struct report *report_tool(struct engine *e, const struct tool *t)
{
	struct report *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->tool.pid = t->pid;
	r->tool.comm = t->comm;
	r->tool.since = seconds_since(&t->since);
	r->tool.probes = r->probe;
	for (const struct probe *p = e->probes; p && r->tool.n_probes < GROUP_MAX_PROBES * 4; p = p->next)
		if (p->tool == t)
			fill_probe(e, p, r);
	return r;
}

json_object *engine__ps(struct engine *e)
{
	json_object *all = json_object_new_array();

	for (const struct tool *t = e->tools; t; t = t->next) {
		struct report *r = report_tool(e, t);

		if (r && r->tool.n_probes)
			json_object_array_add(all, status_tool__json(&r->tool, false));
		free(r);
	}
	return all;
}

json_object *engine__explain(struct engine *e, pid_t pid, char *err, size_t err_size)
{
	const struct tool *t = engine__tool(e, pid);
	struct report *r = t ? report_tool(e, t) : NULL;
	json_object *json = NULL;

	if (r)
		json = status_tool__json(&r->tool, true);
	else
		snprintf(err, err_size, "process %d has no probes that bpftimed knows", pid);
	free(r);
	return json;
}

enum status_state engine__tool_state(struct engine *e, pid_t pid)
{
	const struct tool *t = engine__tool(e, pid);
	struct report *r = t ? report_tool(e, t) : NULL;
	enum status_state state = STATUS_UNKNOWN;

	if (r && r->tool.n_probes)
		state = status_tool__state(&r->tool);
	free(r);
	return state;
}

json_object *engine__status(struct engine *e)
{
	struct status_daemon d = {.hook = carriers__hook(e->carriers)};

	for (const struct tool *t = e->tools; t; t = t->next) {
		struct report *r = report_tool(e, t);

		d.tools += r && r->tool.n_probes;
		for (size_t i = 0; r && i < r->tool.n_probes; i++) {
			d.probes_userspace += r->probe[i].userspace;
			d.probes_kernel += !r->probe[i].userspace;
		}
		free(r);
	}
	for (const struct host *h = e->hosts.list; h; h = h->next)
		for (unsigned int i = 0; i < AGENT_MAX_SITES; i++)
			if (h->place[i].used && h->place[i].open) {
				d.targets++;
				break;
			}
	return status_daemon__json(&d);
}
