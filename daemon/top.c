/* SPDX-License-Identifier: MIT */
/*
 * top.c: what `bpftime top` shows. How long a hit takes nobody measures at the hit, which would cost more than most of
 * them; while somebody looks, the processors are sampled, and samples in code of the agent and of programs are counted.
 */
#include <stdio.h>

#include "daemon/report.h"
#include "daemon/sampler.h"

#define READ_NS	     500000000ull
#define ID_SIZE	     32
#define MOST_SECONDS 3600.0

/* The program of which this is code in that process, or NULL. */
static struct gprog *program_at(const struct host *h, uint64_t address)
{
	for (const struct lodging *l = h->lodgings; l; l = l->next)
		for (unsigned int i = 0; i < l->group->n_user_progs; i++)
			if (address - l->maps[1 + i].addr < l->maps[1 + i].size)
				return &l->group->prog[i];
	return NULL;
}

static bool is_around(const struct host *h, uint64_t address)
{
	if (target__is_agent_code(h->target, address))
		return true;
	for_each_used_place(pl, h) if (pl->open && site__is_stub_code(pl->site, address)) return true;
	return false;
}

static void on_sample(pid_t pid, uint64_t address, void *arg)
{
	struct engine *e = arg;
	const struct host *h = hosts__find(&e->hosts, pid);
	struct gprog *p;

	if (!h || !h->lodgings || !h->target)
		return;
	p = program_at(h, address);
	if (p)
		p->sampled_ns += SAMPLE_NS;
	else if (is_around(h, address))
		e->sampled_around_ns += SAMPLE_NS;
}

uint64_t top__run(struct engine *e, uint64_t now)
{
	if (!e->sampler)
		return 0;
	sampler__read(e->sampler, on_sample, e);
	if (now < e->sampled_until)
		return now + READ_NS;
	sampler__free(e->sampler);
	e->sampler = NULL;
	return 0;
}

/* In the order of the report. */
static void add_samples(struct engine *e, const struct tool *t, json_object *probes)
{
	size_t i = 0;

	for (const struct probe *p = e->probes; p && i < json_object_array_length(probes); p = p->next) {
		json_object *o;
		char id[ID_SIZE];

		if (p->tool != t)
			continue;
		o = json_object_array_get_idx(probes, i++);
		if (!p->group || p->group->state != GROUP_SHARED || probe_is_tracepoint(p))
			continue;
		snprintf(id, sizeof(id), "%u.%u", p->group->id, p->prog);
		json_object_object_add(o, "program_id", json_object_new_string(id));
		json_object_object_add(o, "program_ns", json_object_new_uint64(p->group->prog[p->prog].sampled_ns));
	}
}

json_object *top__look(struct engine *e, double seconds)
{
	json_object *o = json_object_new_object(), *tools = json_object_new_array();

	if (!e->sampler)
		e->sampler = sampler__new();
	e->sampled_until = now_ns() + (uint64_t)((seconds < MOST_SECONDS ? seconds : MOST_SECONDS) * 1e9);
	if (e->sampler)
		sampler__read(e->sampler, on_sample, e);
	for (const struct tool *t = e->tools; t; t = t->next) {
		struct report *r = report__new(e, t);

		if (r && report__tool(r)->n_probes) {
			json_object *tool = status_tool__json(report__tool(r), false), *probes;

			json_object_object_get_ex(tool, "probes", &probes);
			add_samples(e, t, probes);
			json_object_array_add(tools, tool);
		}
		report__free(r);
	}
	json_object_object_add(o, "tools", tools);
	json_object_object_add(o, "entry_ns", json_object_new_uint64(e->sampled_around_ns));
	json_object_object_add(o, "sample_ns", json_object_new_uint64(e->sampler ? SAMPLE_NS : 0));
	return o;
}
