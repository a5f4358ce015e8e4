/* SPDX-License-Identifier: MIT */
#include "daemon/permit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/plan.h"
#include "daemon/switch.h"
#include "daemon/tracepoint.h"

#define NO_ACTION	 (POLICY_KERNEL + 1) /* none is known yet */
#define FINGERPRINT_STEP 31

/* What a program does by calling a helper, beside calling it. */
static const struct {
	uint32_t helper;
	enum policy_grant grant;
	const char *what;
} deeds[] = {
	{BPF_FUNC_probe_read, POLICY_READ_TARGET_MEMORY, "read the memory of targets"},
	{BPF_FUNC_probe_read_str, POLICY_READ_TARGET_MEMORY, "read the memory of targets"},
	{BPF_FUNC_probe_read_user, POLICY_READ_TARGET_MEMORY, "read the memory of targets"},
	{BPF_FUNC_probe_read_user_str, POLICY_READ_TARGET_MEMORY, "read the memory of targets"},
	{BPF_FUNC_copy_from_user, POLICY_READ_TARGET_MEMORY, "read the memory of targets"},
	{BPF_FUNC_copy_from_user_task, POLICY_READ_TARGET_MEMORY, "read the memory of targets"},
	{BPF_FUNC_probe_write_user, POLICY_WRITE_TARGET_MEMORY, "write the memory of targets"},
	{BPF_FUNC_override_return, POLICY_CHANGE_RETURN_VALUES, "change what functions of targets return"},
};

/* ---- what is asked ---- */

static void tool_subject(struct subject *s, const struct tool *t)
{
	*s = (struct subject){.pid = t->pid, .has_uid = true, .uid = t->uid};
	memcpy(s->exe, t->exe, sizeof(s->exe));
	memcpy(s->comm, t->comm, sizeof(s->comm));
}

/* What is asked of all probes of a group, one after another, and how the answers are taken. */
struct asking {
	const struct hosts *hs;
	const struct group *g;
	struct host *h; /* NULL: of any process */
	struct subject tool, target;
	const struct probe *p; /* asked about now */
	/* Takes a verdict on it; true: the others do not matter. */
	bool (*take)(struct asking *a, const struct policy_verdict *v);
	/* It has all of them; true: other probes do not matter. May be NULL. */
	bool (*next)(struct asking *a);
	/* Of actions: */
	enum policy_action best, worst; /* for this probe, of all */
	char best_why[REASON_SIZE], worst_why[REASON_SIZE];
	/* Of grants, limits, fingerprints: */
	enum policy_grant grant;
	enum policy_limit limit;
	uint64_t number;
	const char *rule;
};

static bool take(const struct policy_verdict *v, void *arg)
{
	struct asking *a = arg;

	return a->take(a, v);
}

/* Links on the way resolved, as the tool sees them; empty when it cannot be told. */
static void real_path(const struct probe *p, char *out, size_t size)
{
	char path[PATH_MAX + 64], link[64];
	ssize_t n = -1;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/root%s", p->tool->pid, p->o.path);
	fd = open(path, O_PATH | O_CLOEXEC);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	if (fd >= 0) {
		n = readlink(link, out, size - 1);
		close(fd);
	}
	out[n > 0 ? n : 0] = 0;
}

static void ask_of_probe(struct asking *a, const struct probe *p)
{
	const struct policy *policy = a->hs->policy;
	char real[PATH_MAX] = "";
	struct policy_probe probe = {
		.file = p->o.path,
		.real_file = real,
		.symbol = p->symbol[0] ? p->symbol : NULL,
		.kind = probe_kind__name(p->o.kind),
	};
	struct policy_query q = {.tool = &a->tool, .probe = &probe};

	if (policy__asks_for_probes(policy))
		real_path(p, real, sizeof(real));
	if (a->h || (p->o.target > 0 && (a->target.pid == p->o.target || subject__of_process(&a->target, p->o.target))))
		q.target = &a->target;
	a->p = p;
	policy__each(policy, &q, take, a);
}

/* Programs that differ may do different things. */
static bool is_like(const struct asking *a, const struct probe *p, const struct probe *last)
{
	return last && last->o.target == p->o.target && last->prog == p->prog &&
	       !policy__asks_for_probes(a->hs->policy);
}

/* Probes that have a place in the process, or in any. */
static void ask(struct asking *a)
{
	const struct probe *last = NULL;
	bool enough = false;

	tool_subject(&a->tool, a->g->tool);
	/* Without rules nobody asks. */
	if (a->h && policy__rules(a->hs->policy))
		subject__of_process(&a->target, a->h->pid);
	for (unsigned int i = 0; i < a->g->n_probes && !enough; i++) {
		const struct probe *p = a->g->probe[i];

		if (probe_is_tracepoint(p) || is_like(a, p, last) ||
		    (a->h && (!probe_reaches(p, a->h) || !host__maps(a->h, p->o.dev, p->o.ino))))
			continue;
		ask_of_probe(a, p);
		enough = a->next && a->next(a);
		last = p;
	}
}

/* ---- actions ---- */

static bool calls(const struct gprog *prog, uint32_t helper)
{
	return helper < GPROG_HELPERS && (prog->helpers[helper / 64] >> helper % 64 & 1);
}

/* false: the planned program calls something that is not granted. */
static bool grants_program(const struct policy_verdict *v, const struct gprog *prog, char *why, size_t why_size)
{
	const char *rule = NULL;

	for (size_t i = 0; i < sizeof(deeds) / sizeof(deeds[0]); i++) {
		if (!calls(prog, deeds[i].helper) || policy_verdict__grants(v, deeds[i].grant, &rule))
			continue;
		snprintf(why, why_size, "policy does not let program %s %s (%s)", prog->name, deeds[i].what, rule);
		return false;
	}
	for (uint32_t id = 0; id < GPROG_HELPERS; id++) {
		if (!calls(prog, id) || policy_verdict__grants_helper(v, bpf_helper_name(id), &rule))
			continue;
		snprintf(why, why_size, "policy does not let program %s call %s (%s)", prog->name, bpf_helper_name(id),
			 rule);
		return false;
	}
	return true;
}

/* "work", "work in process 42 (app)". */
static void name_probe(const struct asking *a, char *out, size_t size)
{
	const char *name = a->p->symbol[0] ? a->p->symbol : a->p->o.path;

	if (a->h)
		snprintf(out, size, "process %d (%s)", a->h->pid, a->h->comm);
	else if (a->p->o.target > 0)
		snprintf(out, size, "%.120s in process %d", name, a->p->o.target);
	else
		snprintf(out, size, "%.120s", name);
}

/* Less than offloading: why gets the sentence. */
static enum policy_action action_of(const struct asking *a, const struct policy_verdict *v, char *why, size_t why_size)
{
	char what[160];
	const char *rule = NULL;

	name_probe(a, what, sizeof(what));
	if (v->action != POLICY_OFFLOAD) {
		snprintf(why, why_size,
			 v->action == POLICY_KERNEL ? "policy keeps %s in the kernel (%s)"
						    : "policy only observes %s (%s)",
			 what, v->rule);
		return v->action;
	}
	if (!policy_verdict__grants(v, POLICY_WRITABLE_CODE, &rule)) {
		snprintf(why, why_size, "policy lets no code of targets be written (%s)", rule);
		return POLICY_KERNEL;
	}
	if (a->g->planned && !a->p->is_beside && !grants_program(v, &a->g->prog[a->p->prog], why, why_size))
		return POLICY_KERNEL;
	return POLICY_OFFLOAD;
}

/* Of the verdicts on one probe the best counts, of the probes the worst. */
static bool take_action(struct asking *a, const struct policy_verdict *v)
{
	char why[REASON_SIZE] = "";
	enum policy_action action = action_of(a, v, why, sizeof(why));

	if (action < a->best) {
		a->best = action;
		memcpy(a->best_why, why, sizeof(why));
	}
	return action == POLICY_OFFLOAD;
}

static bool next_action(struct asking *a)
{
	if (a->best > a->worst) {
		a->worst = a->best;
		memcpy(a->worst_why, a->best_why, sizeof(a->worst_why));
	}
	a->best = NO_ACTION;
	return a->worst == POLICY_KERNEL;
}

static enum policy_action worst_action(const struct hosts *hs, const struct group *g, struct host *h, char *why,
				       size_t why_size)
{
	struct asking a = {.hs = hs,
			   .g = g,
			   .h = h,
			   .take = take_action,
			   .next = next_action,
			   .best = NO_ACTION,
			   .worst = POLICY_OFFLOAD};

	ask(&a);
	if (a.worst != POLICY_OFFLOAD)
		snprintf(why, why_size, "%s", a.worst_why);
	return a.worst;
}

enum policy_action permit__group(const struct hosts *hs, const struct group *g, char *why, size_t why_size)
{
	return worst_action(hs, g, NULL, why, why_size);
}

/* The first verdict of the best. */
static bool take_best(const struct policy_verdict *v, void *arg)
{
	struct policy_verdict *best = arg;

	if (!best->policy || v->action < best->action)
		*best = *v;
	return v->action == POLICY_OFFLOAD;
}

static struct policy_verdict best_of(const struct policy *p, const struct policy_query *q)
{
	struct policy_verdict best = {0};

	policy__each(p, q, take_best, &best);
	return best;
}

enum policy_action permit__tool(const struct policy *p, const struct tool *t, const char **rule, char *why,
				size_t why_size)
{
	struct policy_verdict best;
	struct subject s;

	tool_subject(&s, t);
	best = best_of(p, &(struct policy_query){.tool = &s});
	*rule = best.rule;
	if (best.action == POLICY_KERNEL)
		snprintf(why, why_size, "policy keeps this tool in the kernel (%s)", best.rule);
	return best.action;
}

bool permit__process(const struct hosts *hs, const struct host *h, const char **rule, char *why, size_t why_size)
{
	struct policy_verdict best;
	struct subject s;

	subject__of_process(&s, h->pid);
	best = best_of(hs->policy, &(struct policy_query){.target = &s});
	*rule = best.rule;
	if (best.action == POLICY_OFFLOAD)
		return true;
	snprintf(why, why_size,
		 best.action == POLICY_KERNEL
			 ? "policy keeps process %d (%s) in the kernel (%s)"
			 : "policy only observes process %d (%s) (%s); else the probe could run in it",
		 h->pid, h->comm, best.rule);
	return false;
}

/* ---- grants and limits ---- */

static bool take_grant(struct asking *a, const struct policy_verdict *v)
{
	const char *rule;

	if (v->action != POLICY_OFFLOAD || !a->number)
		return false;
	a->number = policy_verdict__grants(v, a->grant, &rule);
	a->rule = rule;
	return !a->number;
}

bool permit__grants(const struct hosts *hs, const struct group *g, const struct host *h, enum policy_grant grant,
		    const char **rule)
{
	struct asking a = {.hs = hs, .g = g, .h = (struct host *)h, .take = take_grant, .grant = grant, .number = true};

	ask(&a);
	if (rule)
		*rule = a.rule;
	return a.number;
}

static bool take_limit(struct asking *a, const struct policy_verdict *v)
{
	const char *rule;
	uint64_t limit = policy_verdict__limit(v, a->limit, &rule);

	if (v->action == POLICY_OFFLOAD && limit < a->number) {
		a->number = limit;
		a->rule = rule;
	}
	return false;
}

uint64_t permit__limit(const struct hosts *hs, const struct group *g, const struct host *h, enum policy_limit limit,
		       const char **rule)
{
	struct asking a = {
		.hs = hs, .g = g, .h = (struct host *)h, .take = take_limit, .limit = limit, .number = POLICY_NO_LIMIT};

	ask(&a);
	if (rule)
		*rule = a.rule;
	return a.number;
}

static bool take_fingerprint(struct asking *a, const struct policy_verdict *v)
{
	a->number = a->number * FINGERPRINT_STEP + policy_verdict__fingerprint(v);
	return false;
}

uint64_t permit__fingerprint(const struct hosts *hs, const struct group *g)
{
	struct asking a = {.hs = hs, .g = g, .take = take_fingerprint};

	ask(&a);
	return a.number;
}

/* ---- processes ---- */

static unsigned int probes_in(const struct group *g, struct host *h)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < g->n_probes; i++)
		n += probe_reaches(g->probe[i], h) && host__maps(h, g->probe[i]->o.dev, g->probe[i]->o.ino);
	return n;
}

static bool has_too_many_probes(const struct hosts *hs, const struct group *g, struct host *h)
{
	const char *rule = NULL;
	uint64_t limit = permit__limit(hs, g, h, POLICY_PROBES_PER_TARGET, &rule), n;

	if (limit == POLICY_NO_LIMIT)
		return false;
	n = probes_in(g, h);
	for (const struct lodging *l = h->lodgings; l; l = l->next)
		n += l->group == g ? 0 : probes_in(l->group, h);
	if (n <= limit)
		return false;
	snprintf(h->why, sizeof(h->why),
		 "policy allows %llu probes in a process (%s), and process %d (%s) would have %llu",
		 (unsigned long long)limit, rule, h->pid, h->comm, (unsigned long long)n);
	return true;
}

static bool serves_tool(const struct host *h, const struct tool *t)
{
	for (const struct lodging *l = h->lodgings; l; l = l->next)
		if (l->group->tool == t)
			return true;
	return false;
}

static bool has_too_many_targets(const struct hosts *hs, const struct group *g, struct host *h)
{
	const char *rule = NULL;
	uint64_t limit = permit__limit(hs, g, h, POLICY_TARGETS_PER_TOOL, &rule), n = 0;

	if (limit == POLICY_NO_LIMIT)
		return false;
	for (const struct host *other = hs->list; other; other = other->next)
		n += other != h && serves_tool(other, g->tool);
	if (n < limit)
		return false;
	snprintf(h->why, sizeof(h->why),
		 "policy allows a tool %llu processes (%s), and process %d (%s) would be one more",
		 (unsigned long long)limit, rule, h->pid, h->comm);
	return true;
}

/* Whose memory is it that the process could write? */
static bool is_given_too_much(const struct hosts *hs, const struct group *g, struct host *h)
{
	const char *rule = NULL;

	if (!g->has_direct || h->uid == g->tool->uid || permit__grants(hs, g, h, POLICY_WRITABLE_DIRECT_MAPS, &rule))
		return false;
	snprintf(h->why, sizeof(h->why),
		 "policy lets memory-mapped arrays of a tool not be writable in processes of other users than the "
		 "tool's "
		 "(%s), and process %d (%s) is one",
		 rule, h->pid, h->comm);
	return true;
}

int permit__lodging(const struct hosts *hs, const struct group *g, struct host *h)
{
	char why[REASON_SIZE] = "";
	enum policy_action action = worst_action(hs, g, h, why, sizeof(why));

	if (action != POLICY_OFFLOAD) {
		snprintf(h->why, sizeof(h->why), "%.280s%s", why,
			 action == POLICY_OBSERVE ? "; else the probe could run in it" : "");
		return -EPERM;
	}
	if (is_given_too_much(hs, g, h) || has_too_many_probes(hs, g, h) || has_too_many_targets(hs, g, h))
		return -EPERM;
	return 0;
}
