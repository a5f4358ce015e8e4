/* SPDX-License-Identifier: MIT */
#include "status.h"

#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "utf8.h"

#define LOCKDOWN_FILE "/sys/kernel/security/lockdown"

static const char *const state_names[] = {
	[STATUS_UNKNOWN] = "unknown",	  [STATUS_KERNEL] = "kernel",	    [STATUS_PARTLY] = "partly",
	[STATUS_OFFLOADED] = "offloaded", [STATUS_UNDECIDED] = "undecided",
};

const char *status_state__name(enum status_state state)
{
	return state_names[state];
}

enum status_state status_state__by_name(const char *name)
{
	for (int i = STATUS_KERNEL; i <= STATUS_OFFLOADED; i++)
		if (name && strcmp(name, state_names[i]) == 0)
			return i;
	return STATUS_UNKNOWN;
}

enum status_state status_tool__state(const struct status_tool *tool)
{
	size_t user = 0, could = 0;

	for (size_t i = 0; i < tool->n_probes; i++) {
		user += tool->probes[i].userspace;
		could += !tool->probes[i].is_tracepoint;
	}
	if (user == 0)
		return STATUS_KERNEL;
	return user == could ? STATUS_OFFLOADED : STATUS_PARTLY;
}

static json_object *text(const char *s)
{
	char out[3 * 4096 + 1];

	return s ? json_object_new_string_len(out, (int)utf8_clean(s, out, sizeof(out))) : NULL;
}

static json_object *seconds(double since)
{
	char shown[32];

	if (since < 0)
		return NULL;
	snprintf(shown, sizeof(shown), "%.3f", since);
	return json_object_new_double_s(since, shown);
}

static json_object *probe_json(const struct status_probe *p, bool explain)
{
	json_object *o = json_object_new_object(), *targets = json_object_new_array(), *refused;

	json_object_object_add(o, "kind", text(p->kind));
	json_object_object_add(o, "path", text(p->path));
	json_object_object_add(o, "offset", p->is_tracepoint ? NULL : json_object_new_uint64(p->offset));
	json_object_object_add(o, "symbol", text(p->symbol));
	json_object_object_add(o, "program", text(p->program));
	json_object_object_add(o, "state", text(p->userspace ? "userspace" : "kernel"));
	json_object_object_add(o, "reason", text(p->reason));
	json_object_object_add(o, "hits", json_object_new_uint64(p->hits));
	for (size_t i = 0; i < p->n_targets; i++)
		json_object_array_add(targets, json_object_new_int(p->targets[i]));
	json_object_object_add(o, "targets", targets);
	if (!explain)
		return o;

	json_object_object_add(o, "since", seconds(p->since));
	json_object_object_add(o, "switched_by", text(p->switched));
	json_object_object_add(o, "adopted", json_object_new_boolean(p->adopted));
	refused = json_object_new_array();
	for (size_t i = 0; i < p->n_refused; i++) {
		json_object *r = json_object_new_object();

		json_object_object_add(r, "pid", json_object_new_int(p->refused[i].pid));
		json_object_object_add(r, "reason", text(p->refused[i].reason));
		json_object_array_add(refused, r);
	}
	json_object_object_add(o, "refused", refused);
	return o;
}

json_object *status_tool__json(const struct status_tool *tool, bool explain)
{
	json_object *o = json_object_new_object(), *probes = json_object_new_array();

	json_object_object_add(o, "pid", json_object_new_int(tool->pid));
	json_object_object_add(o, "comm", text(tool->comm));
	json_object_object_add(o, "state", text(status_state__name(status_tool__state(tool))));
	if (explain)
		json_object_object_add(o, "since", seconds(tool->since));
	for (size_t i = 0; i < tool->n_probes; i++)
		json_object_array_add(probes, probe_json(&tool->probes[i], explain));
	json_object_object_add(o, "probes", probes);
	return o;
}

/* The kernel shows "none [integrity] confidentiality": the word in brackets holds. No such file: nothing is locked. */
static void read_lockdown(char *out, size_t size)
{
	char line[128] = "", *from, *to;
	FILE *f = fopen(LOCKDOWN_FILE, "re");

	if (f && !fgets(line, sizeof(line), f))
		line[0] = 0;
	if (f)
		fclose(f);
	from = strchr(line, '[');
	to = from ? strchr(from, ']') : NULL;
	if (to)
		snprintf(out, size, "%.*s", (int)(to - from - 1), from + 1);
	else
		snprintf(out, size, "none");
}

json_object *status_daemon__json(const struct status_daemon *d)
{
	json_object *o = json_object_new_object(), *policy = json_object_new_object();
	char lockdown[32];
	struct utsname u;

	read_lockdown(lockdown, sizeof(lockdown));
	json_object_object_add(o, "version", text(BPFTIMED_VERSION));
	json_object_object_add(o, "hook", text(d->hook));
	json_object_object_add(o, "switch", text(d->way));
	json_object_object_add(o, "holds", text(d->holds));
	json_object_object_add(o, "kernel", text(uname(&u) == 0 ? u.release : "unknown"));
	json_object_object_add(o, "lockdown", text(d->lockdown ? d->lockdown : lockdown));
	json_object_object_add(o, "tools", json_object_new_uint64(d->tools));
	json_object_object_add(o, "tools_carried", json_object_new_uint64(d->tools_carried));
	json_object_object_add(o, "probes_userspace", json_object_new_uint64(d->probes_userspace));
	json_object_object_add(o, "probes_kernel", json_object_new_uint64(d->probes_kernel));
	json_object_object_add(o, "targets", json_object_new_uint64(d->targets));
	json_object_object_add(o, "last", text(d->last));
	json_object_object_add(policy, "files", json_object_new_uint64(d->policy_files));
	json_object_object_add(policy, "rules", json_object_new_uint64(d->policy_rules));
	json_object_object_add(policy, "error", text(d->policy_error));
	json_object_object_add(o, "policy", policy);
	return o;
}
