/* SPDX-License-Identifier: MIT */
/* obey.c: what the policy in force lets be done with a group, asked before anything is made for it. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "daemon/build.h"
#include "daemon/engine_impl.h"
#include "daemon/permit.h"
#include "daemon/plan.h"

#define MIB (1024 * 1024)

/* Of all groups but this one; of its tool's, or of all tools'. */
static uint64_t memory_beside(const struct engine *e, const struct group *g, bool of_tool)
{
	uint64_t sum = 0;

	for (const struct group *other = e->groups; other; other = other->next)
		sum += other != g && other->arena && (!of_tool || other->tool == g->tool) ? other->arena_size : 0;
	return sum;
}

/* So that there is room again when others go. */
static int refuse_memory(struct group *g, const char *whose, uint64_t limit, uint64_t used, uint64_t size,
			 const char *rule)
{
	snprintf(g->reason, sizeof(g->reason),
		 "policy allows %llu MiB of shared memory %s (%s), of which %.1f are in use: its maps need %.1f more",
		 (unsigned long long)limit, whose, rule, (double)used / MIB, (double)size / MIB);
	return -EDQUOT;
}

int obey__memory(struct engine *e, struct group *g)
{
	const char *rule = NULL;
	uint64_t size = g->arena_size, limit, used;
	int err = g->arena ? 0 : group__lay_out(g, &size);

	if (err)
		return err;
	limit = policy__limit(e->policy, POLICY_SHARED_MEMORY_MIB, &rule);
	used = memory_beside(e, g, false);
	if (limit != POLICY_NO_LIMIT && used + size > limit * MIB)
		return refuse_memory(g, "in all", limit, used, size, rule);
	limit = permit__limit(&e->hosts, g, NULL, POLICY_SHARED_MEMORY_PER_TOOL_MIB, &rule);
	used = memory_beside(e, g, true);
	if (limit != POLICY_NO_LIMIT && used + size > limit * MIB)
		return refuse_memory(g, "for a tool", limit, used, size, rule);
	return 0;
}

/* The first few of those whom the group's probes reach. */
struct reached {
	char pids[96];
	size_t len;
	unsigned int n;
};

static void note_reached(pid_t pid, void *arg)
{
	struct reached *r = arg;

	if (r->len + 16 < sizeof(r->pids))
		r->len += (size_t)snprintf(r->pids + r->len, sizeof(r->pids) - r->len, "%s%d", r->n ? ", " : "", pid);
	else if (r->pids[r->len - 1] != '.')
		r->len += (size_t)snprintf(r->pids + r->len, sizeof(r->pids) - r->len, " ...");
	r->n++;
}

static void find_reached(const struct group *g, struct reached *r)
{
	pid_t last = 0;

	group__each_process(g, note_reached, r);
	for (unsigned int i = 0; i < g->n_probes; i++) {
		const struct obs_probe *o = &g->probe[i]->o;

		if (o->target > 0 && o->target != last && !probe_is_tracepoint(g->probe[i]) &&
		    host__maps_file(o->target, o->dev, o->ino))
			note_reached(o->target, r);
		last = o->target;
	}
}

/* Says what would be done; g->reason is what the policy says. */
static void observe_only(struct engine *e, struct group *g)
{
	char rule[REASON_SIZE], why[REASON_SIZE] = "";
	struct reached r = {.n = 0};
	int err;

	snprintf(rule, sizeof(rule), "%s", g->reason);
	err = group__plan(g, e->observer);
	g->planned = !err;
	if (!err)
		err = obey__memory(e, g);
	if (!err)
		err = group__check_strangers(g);
	if (err)
		memcpy(why, g->reason, sizeof(why));
	group__unbuild(g);
	find_reached(g, &r);
	if (err)
		snprintf(g->reason, sizeof(g->reason), "%.150s; else: %.160s", rule, why);
	else
		snprintf(g->reason, sizeof(g->reason), "%.150s; else it could run in userspace in %u process(es): %s",
			 rule, r.n, r.n ? r.pids : "none maps the file now");
}

int obey__group(struct engine *e, struct group *g)
{
	enum policy_action action = permit__group(&e->hosts, g, g->reason, sizeof(g->reason));

	g->permit = permit__fingerprint(&e->hosts, g);
	g->compile_seconds = permit__limit(&e->hosts, g, NULL, POLICY_COMPILE_SECONDS, NULL);
	g->stop_ms = permit__limit(&e->hosts, g, NULL, POLICY_TARGET_STOP_MS, NULL);
	if (action == POLICY_OBSERVE && !g->planned)
		observe_only(e, g);
	return action == POLICY_OFFLOAD ? 0 : -EPERM;
}
