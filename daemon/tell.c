/* SPDX-License-Identifier: MIT */
/* tell.c: decisions of the engine in the form in which they are recorded: daemon/decision.h. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "daemon/engine_impl.h"
#include "daemon/permit.h"

#define PROBE_TEXT 512

/* A decision with the texts that it points to. */
struct telling {
	struct decision d;
	char probe[DECISION_LIST_MAX][PROBE_TEXT];
	char program[DECISION_LIST_MAX][BPF_OBJ_NAME_LEN];
};

static void add_program(struct engine *e, struct telling *t, const struct probe *p)
{
	const struct obs_prog *prog = observer__prog(e->observer, p->o.prog_id);

	if (!prog || t->d.n_programs == DECISION_LIST_MAX)
		return;
	for (size_t i = 0; i < t->d.n_programs; i++)
		if (strcmp(t->program[i], prog->name) == 0)
			return;
	snprintf(t->program[t->d.n_programs], BPF_OBJ_NAME_LEN, "%s", prog->name);
	t->d.program[t->d.n_programs] = t->program[t->d.n_programs];
	t->d.n_programs++;
}

/* "/usr/bin/x:main", "/usr/bin/x:0x1234", "sched:sched_switch" */
static void add_probe(struct engine *e, struct telling *t, const struct probe *p)
{
	size_t i = t->d.n_probes++;

	if (i < DECISION_LIST_MAX) {
		if (probe_is_tracepoint(p))
			snprintf(t->probe[i], PROBE_TEXT, "%.*s", PROBE_TEXT - 1, p->o.path);
		else if (p->symbol[0])
			snprintf(t->probe[i], PROBE_TEXT, "%.*s:%s", (int)(PROBE_TEXT - sizeof(p->symbol) - 1),
				 p->o.path, p->symbol);
		else
			snprintf(t->probe[i], PROBE_TEXT, "%.*s:0x%" PRIx64, PROBE_TEXT - 32, p->o.path, p->o.offset);
		t->d.probe[i] = t->probe[i];
	}
	add_program(e, t, p);
}

static void add_target(struct telling *t, const struct host *h)
{
	size_t i = t->d.n_targets++;

	if (i < DECISION_LIST_MAX)
		t->d.target[i] = (struct decision_process){.pid = h->pid, .comm = h->comm};
}

static void begin(struct telling *t, enum decision_kind kind, enum reason_class class, const struct tool *tool)
{
	memset(&t->d, 0, sizeof(t->d));
	t->d.kind = kind;
	t->d.class = class;
	t->d.tool =
		(struct decision_process){.pid = tool->pid, .comm = tool->comm, .exe = tool->exe[0] ? tool->exe : NULL};
}

void tell__group(struct engine *e, enum decision_kind kind, enum reason_class class, const struct group *g,
		 const char *reason, double seconds)
{
	struct telling t;

	begin(&t, kind, class, g->tool);
	for (unsigned int i = 0; i < g->n_probes; i++)
		add_probe(e, &t, g->probe[i]);
	for (const struct host *h = e->hosts.list; h && (kind == DECISION_OFFLOAD || kind == DECISION_ADOPT);
	     h = h->next)
		if (host__lodging(h, g))
			add_target(&t, h);
	t.d.reason = reason;
	t.d.seconds = seconds;
	decisions__record(e->decisions, &t.d);
}

void tell__joined(struct engine *e, const struct group *g, const pid_t *pid, size_t n)
{
	struct telling t;

	if (!n)
		return;
	begin(&t, DECISION_TARGET_OFFLOAD, REASON_NONE, g->tool);
	for (unsigned int i = 0; i < g->n_probes; i++)
		add_probe(e, &t, g->probe[i]);
	for (size_t i = 0; i < n; i++) {
		const struct host *h = hosts__find(&e->hosts, pid[i]);

		if (h)
			add_target(&t, h);
	}
	decisions__record(e->decisions, &t.d);
}

/* FNV-1a. 0 is none. Of what stays the same when a group is made anew. */
static uint64_t hash_of(const char *text, const struct group *g)
{
	const struct obs_probe *first = &g->probe[0]->o;
	uint64_t hash = 0xcbf29ce484222325u ^ (uint64_t)g->tool->pid ^ first->ino << 24 ^ first->offset << 8;

	for (; *text; text++)
		hash = (hash ^ (unsigned char)*text) * 0x100000001b3u;
	return hash ? hash : 1;
}

/* Why the process stays in the kernel as a whole, or in the probes that are added; NULL: it does not. */
static const char *why_not(struct engine *e, struct telling *t, const struct group *g, struct host *h)
{
	const char *why = NULL;

	if (!host__lodging(h, g)) {
		if (!h->why[0] || !group_reaches(g, h))
			return NULL;
		for (unsigned int i = 0; i < g->n_probes; i++)
			if (probe_reaches(g->probe[i], h))
				add_probe(e, t, g->probe[i]);
		return h->why;
	}
	for_each_used_place(pl, h)
	{
		if (pl->site)
			continue;
		for_each_probe_at(p, &e->at, pl->ino, pl->offset)
		{
			if (p->group != g || !probe_reaches(p, h))
				continue;
			add_probe(e, t, p);
			why = why ? why : pl->why;
		}
	}
	return why;
}

void tell__refused_target(struct engine *e, const struct group *g, struct host *h)
{
	const char *why, *rule = NULL;
	char forbidden[REASON_SIZE];
	struct telling t;
	uint64_t hash;

	begin(&t, DECISION_TARGET_REFUSAL, REASON_TARGET, g->tool);
	why = why_not(e, &t, g, h);
	hash = why ? hash_of(why, g) : 0;
	if (!hash || h->told == hash)
		return;
	h->told = hash;
	add_target(&t, h);
	t.d.reason = why;
	if (h->claimed)
		t.d.class = REASON_CLAIMED;
	else if (!permit__process(&e->hosts, h, &rule, forbidden, sizeof(forbidden)))
		t.d.class = REASON_POLICY;
	t.d.rule = t.d.class == REASON_POLICY ? rule : NULL;
	decisions__record(e->decisions, &t.d);
}

void tell__refused_targets(struct engine *e, const struct group *g)
{
	for (struct host *h = e->hosts.list; h; h = h->next)
		tell__refused_target(e, g, h);
}

void tell__policy(struct engine *e, struct tool *t, enum policy_action action, const char *rule)
{
	static const char *const says[] = {
		[POLICY_OFFLOAD] = "lets this tool run in userspace",
		[POLICY_OBSERVE] = "only observes this tool",
		[POLICY_KERNEL] = "keeps this tool in the kernel",
	};
	char verdict[REASON_SIZE];
	struct telling what;

	snprintf(verdict, sizeof(verdict), "policy %s (%s)", says[action], rule ? rule : "the default");
	if (strcmp(verdict, t->verdict) == 0)
		return;
	snprintf(t->verdict, sizeof(t->verdict), "%s", verdict);
	begin(&what, DECISION_POLICY, action == POLICY_OFFLOAD ? REASON_NONE : REASON_POLICY, t);
	what.d.reason = t->verdict;
	what.d.rule = rule;
	decisions__record(e->decisions, &what.d);
}
