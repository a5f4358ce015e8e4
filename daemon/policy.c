/* SPDX-License-Identifier: MIT */
/*
 * policy.c: answers from a policy.
 *
 * Rules are asked one after another; the first that matches decides. A rule of the lists "tools" and "targets" is half
 * a rule: "kernel" decides, "offload" settles one half only, and asking goes on for the other.
 *
 * Where not everything is known that rules ask for (a probe that is not limited to a process may fire in any), a rule
 * may match or not. Then both are followed: policy__each() names every verdict that is possible.
 */
#include "daemon/policy.h"

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/policy_impl.h"

#define DELETED_SUFFIX	 " (deleted)"	       /* what the kernel appends to the name of an unlinked file */
#define FINGERPRINT_INIT 0xcbf29ce484222325ull /* FNV-1a, 64 bits */
#define FINGERPRINT_MUL	 0x100000001b3ull

const char *const policy_action_names[] = {"offload", "observe", "kernel", NULL};

const char *const policy_grant_names[] = {
	[POLICY_STOP_TOOLS] = "stop_tools",
	[POLICY_SHARE_ACROSS_USERS] = "share_across_users",
	[POLICY_WRITABLE_CODE] = "writable_code",
	[POLICY_WRITABLE_DIRECT_MAPS] = "writable_direct_maps",
	[POLICY_READ_TARGET_MEMORY] = "read_target_memory",
	[POLICY_WRITE_TARGET_MEMORY] = "write_target_memory",
	[POLICY_CHANGE_RETURN_VALUES] = "change_return_values",
};

const char *const policy_limit_names[] = {
	[POLICY_SHARED_MEMORY_MIB] = "shared_memory_mib",
	[POLICY_SHARED_MEMORY_PER_TOOL_MIB] = "shared_memory_per_tool_mib",
	[POLICY_PROBES_PER_TARGET] = "probes_per_target",
	[POLICY_TARGETS_PER_TOOL] = "targets_per_tool",
	[POLICY_TARGET_STOP_MS] = "target_stop_ms",
	[POLICY_COMPILE_SECONDS] = "compile_seconds",
};

/* ---- does a rule match? ---- */

enum answer { NO, MAYBE, YES };

static enum answer both(enum answer a, enum answer b)
{
	return a < b ? a : b;
}

static bool fits(const char *pattern, const char *text)
{
	return !pattern || (text && fnmatch(pattern, text, 0) == 0);
}

/* A package upgrade unlinks an executable under a running process: it is the same program still. */
static bool exe_fits(const char *pattern, const char *exe)
{
	size_t len = strlen(exe), suffix = strlen(DELETED_SUFFIX);
	char kept[PATH_MAX];

	if (fits(pattern, exe))
		return true;
	if (len <= suffix || len - suffix >= sizeof(kept) || strcmp(exe + len - suffix, DELETED_SUFFIX) != 0)
		return false;
	snprintf(kept, sizeof(kept), "%.*s", (int)(len - suffix), exe);
	return fits(pattern, kept);
}

static bool control_group_fits(const struct policy_match *m, struct subject *s)
{
	char name[SUBJECT_NAME_SIZE];

	return (!m->cgroup || fits(m->cgroup, subject__cgroup(s))) &&
	       (!m->unit || fits(m->unit, subject__unit(s, name))) &&
	       (!m->container || fits(m->container, subject__container(s, name)));
}

static bool pid_ns_fits(const struct policy_match *m, const struct subject *s)
{
	uint32_t ns = m->has_pid_ns ? subject__pid_ns(s) : 0;

	return !m->has_pid_ns || (ns && (ns == m->pid_ns) != m->is_other_pid_ns);
}

/* The hash last: it takes long. */
static enum answer process_matches(const struct policy_match *m, struct subject *s)
{
	const char *hash;

	if (!s)
		return MAYBE;
	if ((m->exe && (!s->exe[0] || !exe_fits(m->exe, s->exe))) || !fits(m->comm, s->comm) ||
	    (m->has_uid && (!s->has_uid || s->uid != m->uid)) || !pid_ns_fits(m, s) || !control_group_fits(m, s))
		return NO;
	hash = m->sha256 ? subject__sha256(s) : NULL;
	return !m->sha256 || (hash && !strcmp(m->sha256, hash)) ? YES : NO;
}

static enum answer probe_matches(const struct policy_probe_match *m, const struct policy_probe *probe)
{
	if (!probe)
		return MAYBE;
	if ((!fits(m->file, probe->file) && !fits(m->file, probe->real_file)) || !fits(m->symbol, probe->symbol))
		return NO;
	if (m->kind && !probe->kind)
		return MAYBE;
	return !m->kind || !strcmp(m->kind, probe->kind) ? YES : NO;
}

static enum answer rule_matches(const struct policy_rule *r, const struct policy_query *q)
{
	enum answer a = YES;

	if (r->has_probe)
		a = both(a, probe_matches(&r->probe, q->probe));
	if (r->has_tool && a != NO)
		a = both(a, process_matches(&r->tool, q->tool));
	if (r->has_target && a != NO)
		a = both(a, process_matches(&r->target, q->target));
	return a;
}

/* ---- decisions ---- */

bool policy__each(const struct policy *p, const struct policy_query *q,
		  bool (*cb)(const struct policy_verdict *v, void *arg), void *arg)
{
	enum answer settled[POLICY_N_LISTS] = {[POLICY_RULES] = YES}; /* may be offloaded, as far as that half goes */
	struct policy_verdict v = {.policy = p};

	for (size_t i = 0; i < p->n_rules; i++) {
		const struct policy_rule *r = &p->rules[i];
		enum answer matches = settled[r->list] == YES && r->list != POLICY_RULES ? NO : rule_matches(r, q);

		if (matches == NO)
			continue;
		v.action = r->action;
		v.rule = r->place;
		v.terms = &r->terms;
		if (r->list != POLICY_RULES && r->action == POLICY_OFFLOAD) {
			settled[r->list] = matches;
			matches = both(settled[POLICY_TOOLS], settled[POLICY_TARGETS]);
		}
		v.unsure = matches == MAYBE ? r->json : NULL;
		if (matches != NO && cb(&v, arg))
			return true;
		if (matches == YES)
			return false;
	}
	v.action = p->fallback;
	v.rule = p->fallback_place ? p->fallback_place : POLICY_THE_DEFAULT;
	v.terms = NULL;
	v.unsure = NULL;
	return cb(&v, arg);
}

static bool take_first(const struct policy_verdict *v, void *arg)
{
	*(struct policy_verdict *)arg = *v;
	return true;
}

struct policy_verdict policy__decide(const struct policy *p, const struct policy_query *q)
{
	struct policy_verdict v;

	policy__each(p, q, take_first, &v);
	return v;
}

/* ---- terms ---- */

static const char *place_or_default(const char *place)
{
	return place ? place : POLICY_THE_DEFAULT;
}

/* The rule's, or the policy's. */
#define TERMS_WITH(v, place_of) ((v)->terms && (v)->terms->place_of ? (v)->terms : &(v)->policy->terms)

bool policy_verdict__grants(const struct policy_verdict *v, enum policy_grant grant, const char **why)
{
	const struct policy_terms *t = TERMS_WITH(v, grant[grant].place);

	if (why)
		*why = place_or_default(t->grant[grant].place);
	return t->grant[grant].on;
}

bool policy_verdict__grants_helper(const struct policy_verdict *v, const char *helper, const char **why)
{
	const struct policy_terms *t = TERMS_WITH(v, helpers_place);

	if (why)
		*why = place_or_default(t->helpers_place);
	for (size_t i = 0; i < t->n_helpers; i++)
		if (fnmatch(t->helpers[i], helper, 0) == 0)
			return true;
	return !t->helpers_place;
}

uint64_t policy_verdict__limit(const struct policy_verdict *v, enum policy_limit limit, const char **why)
{
	const struct policy_terms *t = TERMS_WITH(v, limit[limit].place);

	if (why)
		*why = place_or_default(t->limit[limit].place);
	return t->limit[limit].place ? t->limit[limit].value : POLICY_NO_LIMIT;
}

uint64_t policy__limit(const struct policy *p, enum policy_limit limit, const char **why)
{
	const struct policy_verdict v = {.policy = p};

	return policy_verdict__limit(&v, limit, why);
}

static uint64_t mix(uint64_t sum, const void *data, size_t size)
{
	for (size_t i = 0; i < size; i++)
		sum = (sum ^ ((const unsigned char *)data)[i]) * FINGERPRINT_MUL;
	return sum;
}

uint64_t policy_verdict__fingerprint(const struct policy_verdict *v)
{
	const struct policy_terms *t = TERMS_WITH(v, helpers_place);
	uint64_t sum = mix(FINGERPRINT_INIT, &v->action, sizeof(v->action));

	for (int i = 0; i < POLICY_N_GRANTS; i++) {
		bool on = policy_verdict__grants(v, i, NULL);

		sum = mix(sum, &on, sizeof(on));
	}
	for (int i = 0; i < POLICY_N_LIMITS; i++) {
		uint64_t limit = policy_verdict__limit(v, i, NULL);

		sum = mix(sum, &limit, sizeof(limit));
	}
	for (size_t i = 0; i < t->n_helpers; i++)
		sum = mix(sum, t->helpers[i], strlen(t->helpers[i]) + 1);
	if (v->unsure) {
		const char *text = json_object_to_json_string_ext(v->unsure, JSON_C_TO_STRING_PLAIN);

		sum = mix(sum, text, strlen(text));
	}
	return mix(sum, t->helpers_place ? "some" : "all", 3);
}

bool policy__asks_for_probes(const struct policy *p)
{
	return p->asks_for_probes;
}

size_t policy__files(const struct policy *p)
{
	size_t n = 0;

	for (size_t i = 0; i < p->files.n; i++)
		n += p->files.file[i].state == POLICY_FILE_READ;
	return n;
}

size_t policy__rules(const struct policy *p)
{
	return p->n_rules;
}

/* ---- as JSON ---- */

static json_object *files_json(const struct policy *p)
{
	static const char *const names[] = {
		[POLICY_FILE_READ] = "read",
		[POLICY_FILE_REPLACED] = "replaced",
		[POLICY_FILE_MASK] = "mask",
	};
	json_object *list = json_object_new_array();

	for (size_t i = 0; i < p->files.n; i++) {
		json_object *o = json_object_new_object();

		json_object_object_add(o, "path", json_object_new_string(p->files.file[i].path));
		json_object_object_add(o, "state", json_object_new_string(names[p->files.file[i].state]));
		json_object_array_add(list, o);
	}
	return list;
}

static json_object *rules_json(const struct policy *p)
{
	static const char *const names[] = {"rules", "tools", "targets"};
	json_object *list = json_object_new_array();

	for (size_t i = 0; i < p->n_rules; i++) {
		json_object *o = json_object_new_object();

		json_object_object_add(o, "place", json_object_new_string(p->rules[i].place));
		json_object_object_add(o, "list", json_object_new_string(names[p->rules[i].list]));
		json_object_object_add(o, "rule", json_object_get(p->rules[i].json));
		json_object_array_add(list, o);
	}
	return list;
}

static json_object *value_json(json_object *value, const char *place)
{
	json_object *o = json_object_new_object();

	json_object_object_add(o, "value", value);
	json_object_object_add(o, "place", json_object_new_string(place_or_default(place)));
	return o;
}

static json_object *settings_json(const struct policy_terms *t)
{
	json_object *o = json_object_new_object(), *helpers = json_object_new_array();

	for (size_t i = 0; i < t->n_helpers; i++)
		json_object_array_add(helpers, json_object_new_string(t->helpers[i]));
	if (!t->helpers_place)
		json_object_array_add(helpers, json_object_new_string("*"));
	for (int i = 0; i < POLICY_N_GRANTS; i++)
		json_object_object_add(o, policy_grant_names[i],
				       value_json(json_object_new_boolean(t->grant[i].on), t->grant[i].place));
	json_object_object_add(o, "helpers", value_json(helpers, t->helpers_place));
	return o;
}

static json_object *limits_json(const struct policy_terms *t)
{
	json_object *o = json_object_new_object();

	for (int i = 0; i < POLICY_N_LIMITS; i++)
		json_object_object_add(o, policy_limit_names[i],
				       value_json(t->limit[i].place ? json_object_new_uint64(t->limit[i].value) : NULL,
						  t->limit[i].place));
	return o;
}

json_object *policy__json(const struct policy *p)
{
	json_object *o = json_object_new_object();

	json_object_object_add(o, "files", files_json(p));
	json_object_object_add(o, "rules", rules_json(p));
	json_object_object_add(o, "default",
			       value_json(json_object_new_string(policy_action_names[p->fallback]), p->fallback_place));
	json_object_object_add(o, "settings", settings_json(&p->terms));
	json_object_object_add(o, "limits", limits_json(&p->terms));
	return o;
}
