/* SPDX-License-Identifier: MIT */
/* host.c: what this kernel offers, for `bpftime doctor`; asked without an engine. */
#include <stdio.h>

#include "agent/agent.h"
#include "daemon/engine.h"
#include "daemon/kernel_features.h"

static void add_text(json_object *o, const char *key, const char *value)
{
	json_object_object_add(o, key, value ? json_object_new_string(value) : NULL);
}

json_object *engine__host(void)
{
	json_object *o = json_object_new_object();
	struct kernel_features k;
	char why[256] = "";
	bool misses;

	kernel_features__probe(&k);
	misses = kernel_features__missing(&k, why, sizeof(why)) != 0;
	add_text(o, "kernel", k.release);
	add_text(o, "lockdown", k.lockdown);
	add_text(o, "preempt", preempt_mode__name(k.preempt));
	json_object_object_add(o, "btf", json_object_new_boolean(k.has_btf));
	json_object_object_add(o, "raw_tracepoints", json_object_new_boolean(k.has_raw_tp));
	json_object_object_add(o, "uprobes", json_object_new_boolean(k.uprobe_pmu));
	add_text(o, "missing", misses ? why : NULL);
	add_text(o, "hook", misses ? NULL : bpf_hook__name(kernel_features__hook(&k)));
	add_text(o, "observing_hook", misses ? NULL : bpf_hook__name(kernel_features__observing_hook(&k)));
	json_object_object_add(o, "freplace", json_object_new_boolean(!misses && kernel_features__can_replace()));
	add_text(o, "holds", misses ? NULL : agent_holds_are_links() ? "links" : "perf events");
	return o;
}
