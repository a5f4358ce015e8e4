/* SPDX-License-Identifier: MIT */
/*
 * fake/engine.c: an engine that touches nothing, for tests of the daemon's shell and of bpftime: its tools are those of
 * the JSON file named by FAKE_TOOLS (an array as in `bpftime ps --json`), read again at every question. It looks at the
 * file's time every few milliseconds and reports a change, as the engine does when a tool changes.
 */
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "daemon/engine.h"
#include "daemon/openmetrics.h"

#define LOOK_USEC 5000

struct engine {
	struct engine_opts opts;
	const struct policy *policy;
	char *policy_error;
	sd_event_source *timer;
	struct timespec seen;
};

static json_object *read_tools(void)
{
	json_object *o = getenv("FAKE_TOOLS") ? json_object_from_file(getenv("FAKE_TOOLS")) : NULL;

	return o ? o : json_object_new_array();
}

static int on_timer(sd_event_source *source, uint64_t usec, void *arg)
{
	struct engine *e = arg;
	struct stat st;

	if (getenv("FAKE_TOOLS") && stat(getenv("FAKE_TOOLS"), &st) == 0 &&
	    memcmp(&st.st_mtim, &e->seen, sizeof(e->seen)) != 0) {
		e->seen = st.st_mtim;
		e->opts.changed(e->opts.changed_arg);
	}
	sd_event_source_set_time_relative(source, LOOK_USEC);
	return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
}

int engine__new(struct engine **out, sd_event *event, const struct policy *policy, const struct engine_opts *opts,
		char *err, size_t err_size)
{
	struct engine *e = calloc(1, sizeof(*e));

	if (getenv("FAKE_FAILS")) {
		snprintf(err, err_size, "%s", getenv("FAKE_FAILS"));
		free(e);
		return -EOPNOTSUPP;
	}
	e->opts = *opts;
	e->policy = policy;
	*out = e;
	return sd_event_add_time_relative(event, &e->timer, CLOCK_MONOTONIC, LOOK_USEC, 0, on_timer, e);
}

void engine__free(struct engine *e)
{
	if (e) {
		sd_event_source_disable_unref(e->timer);
		free(e->policy_error);
	}
	free(e);
}

void engine__before(const char *runtime_dir)
{
}

int engine__recover(const char *runtime_dir, char *err, size_t err_size)
{
	return 0;
}

int engine__handback_all(struct engine *e)
{
	return 0;
}

int engine__set_policy(struct engine *e, const struct policy *policy)
{
	e->policy = policy;
	engine__keep_policy(e, NULL);
	return 0;
}

void engine__keep_policy(struct engine *e, const char *why)
{
	free(e->policy_error);
	e->policy_error = why ? strdup(why) : NULL;
}

json_object *engine__status(struct engine *e)
{
	json_object *tools = read_tools();
	struct status_daemon d = {
		.hook = "none (test)",
		.way = "none (test)",
		.tools = json_object_array_length(tools),
		.policy_files = policy__files(e->policy),
		.policy_rules = policy__rules(e->policy),
		.policy_error = e->policy_error,
	};

	json_object_put(tools);
	return status_daemon__json(&d);
}

json_object *engine__ps(struct engine *e)
{
	return read_tools();
}

json_object *engine__top(struct engine *e, double seconds)
{
	json_object *o = json_object_new_object();

	json_object_object_add(o, "tools", read_tools());
	return o;
}

json_object *engine__host(void)
{
	return json_object_new_object();
}

void engine__metrics(struct engine *e, FILE *out)
{
	json_object *tools = read_tools();

	om_family(out, "bpftime_tools", OM_GAUGE, NULL, "Processes that have probes.");
	om_count(out, "bpftime_tools", OM_GAUGE, NULL, 0, json_object_array_length(tools));
	json_object_put(tools);
}

static json_object *find(pid_t tool)
{
	json_object *tools = read_tools(), *found = NULL;

	for (size_t i = 0; i < json_object_array_length(tools); i++) {
		json_object *o = json_object_array_get_idx(tools, i);

		if (json_object_get_int(json_object_object_get(o, "pid")) == tool)
			found = json_object_get(o);
	}
	json_object_put(tools);
	return found;
}

json_object *engine__explain(struct engine *e, pid_t tool, char *err, size_t err_size)
{
	json_object *o = find(tool);

	if (!o)
		snprintf(err, err_size, "process %d has no probes that bpftimed knows", tool);
	return o;
}

enum status_state engine__tool_state(struct engine *e, pid_t tool)
{
	json_object *o = find(tool);
	enum status_state state = status_state__by_name(json_object_get_string(json_object_object_get(o, "state")));

	json_object_put(o);
	return state;
}

int engine__handback(struct engine *e, pid_t tool, char *err, size_t err_size)
{
	json_object *o = engine__explain(e, tool, err, err_size);

	json_object_put(o);
	return o ? 0 : -ESRCH;
}

int engine__takeover(struct engine *e, pid_t tool, char *err, size_t err_size)
{
	return engine__handback(e, tool, err, err_size);
}
