/* SPDX-License-Identifier: MIT */
#include "daemon/state.h"

#include <errno.h>
#include <json-c/json.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/adopt.h"
#include "daemon/hosts.h"
#include "daemon/log.h"
#include "daemon/park.h"
#include "daemon/procfs.h"
#include "daemon/switch.h"

static char path[PATH_MAX];
static json_object *left; /* processes that a later daemon is to let go of, or NULL */

void state__open(const char *runtime_dir)
{
	snprintf(path, sizeof(path), "%s/" STATE_NAME, runtime_dir);
}

const char *state__path(void)
{
	return path[0] ? path : NULL;
}

/* One that lacks something would be worse than none: the next bpftimed would take it for the whole. */
static bool incomplete;

static void add(json_object *o, const char *key, json_object *value)
{
	if (o && value && !json_object_object_add(o, key, value))
		return;
	incomplete = true;
	json_object_put(value);
}

static void append(json_object *array, json_object *value)
{
	if (array && value && !json_object_array_add(array, value))
		return;
	incomplete = true;
	json_object_put(value);
}

static json_object *number(uint64_t n)
{
	return json_object_new_uint64(n);
}

static json_object *bytes(const void *data, size_t size)
{
	static const char digits[] = "0123456789abcdef";
	char text[2 * 512 + 1];
	size_t n = 0;

	for (size_t i = 0; i < size && n + 2 < sizeof(text); i++) {
		text[n++] = digits[((const uint8_t *)data)[i] >> 4];
		text[n++] = digits[((const uint8_t *)data)[i] & 15];
	}
	return json_object_new_string_len(text, (int)n);
}

static json_object *group_state(const struct group *g)
{
	json_object *o = json_object_new_object(), *maps = json_object_new_array(), *parked = json_object_new_array();

	add(o, "id", number(g->id));
	add(o, "tool", number((uint64_t)g->tool->pid));
	add(o, "tool_start", number(g->tool->start_time));
	add(o, "kernel_half", json_object_new_boolean(g->has_khalf));
	add(o, "at_tracepoints", json_object_new_boolean(group_has_tracepoint(g)));
	for (unsigned int i = 0; i < g->n_maps; i++) {
		json_object *m;

		if (g->map[i].geo.kind == SHM_DIRECT)
			continue;
		m = json_object_new_object();
		add(m, "id", number(g->map[i].m.id));
		add(m, "geometry", bytes(&g->map[i].geo, sizeof(g->map[i].geo)));
		add(m, "viewed", number(g->map[i].is_viewed ? g->map[i].map_size : 0));
		append(maps, m);
	}
	add(o, "maps", maps);
	for (unsigned int i = 0; i < g->n_probes; i++)
		if (g->probe[i]->parked)
			append(parked, parked__json(g->probe[i]->parked));
	add(o, "parked", parked);
	return o;
}

static json_object *lodging_state(const struct lodging *l)
{
	json_object *o = json_object_new_object(), *maps = json_object_new_array();

	for (size_t i = 0; i < l->n_maps; i++) {
		json_object *m = json_object_new_object();

		add(m, "address", number(l->maps[i].addr));
		add(m, "size", number(l->maps[i].size));
		add(m, "code", json_object_new_boolean(l->maps[i].prot & PROT_EXEC));
		append(maps, m);
	}
	add(o, "group", number(l->group->id));
	add(o, "mappings", maps);
	return o;
}

static json_object *host_state(const struct host *h)
{
	json_object *o = json_object_new_object(), *places = json_object_new_array(),
		    *lodgings = json_object_new_array();
	struct target_record t;

	target__record(h->target, &t);
	add(o, "pid", number((uint64_t)h->pid));
	add(o, "start", number(h->start_time));
	add(o, "target", bytes(&t, sizeof(t)));
	for_each_used_place(pl, h)
	{
		struct site_record s;

		if (!pl->site)
			continue;
		site__record(pl->site, &s);
		append(places, bytes(&s, sizeof(s)));
	}
	for (const struct lodging *l = h->lodgings; l; l = l->next)
		append(lodgings, lodging_state(l));
	add(o, "places", places);
	add(o, "lodgings", lodgings);
	return o;
}

int state__save(const struct group *groups, const struct hosts *hosts)
{
	json_object *o, *gs, *hs;
	char temporary[PATH_MAX + 8];
	int err = 0;

	if (!path[0])
		return 0;
	incomplete = false;
	o = json_object_new_object();
	gs = json_object_new_array();
	hs = json_object_new_array();
	for (const struct group *g = groups; g; g = g->next)
		if (g->arena)
			append(gs, group_state(g));
	for (const struct host *h = hosts ? hosts->list : NULL; h; h = h->next)
		if (h->injected)
			append(hs, host_state(h));
	for (size_t i = 0; state__has_left() && i < json_object_array_length(left); i++)
		append(hs, json_object_get(json_object_array_get_idx(left, i)));
	add(o, "version", number(STATE_VERSION));
	add(o, "program", json_object_new_string(BPFTIMED_VERSION));
	add(o, "records", number(AGENT_RECORD_VERSION));
	add(o, "daemon", number((uint64_t)getpid()));
	add(o, "daemon_start", number(procfs_start_time(getpid())));
	add(o, "groups", gs);
	add(o, "hosts", hs);
	snprintf(temporary, sizeof(temporary), "%s.new", path);
	if (incomplete)
		errno = ENOMEM;
	if (incomplete || json_object_to_file_ext(temporary, o, JSON_C_TO_STRING_PLAIN) || chmod(temporary, 0600) ||
	    rename(temporary, path)) {
		err = errno ? -errno : -EIO;
		log_warning("%s cannot be written: %s", path, strerror(-err));
	}
	json_object_put(o);
	return err;
}

bool state__is_of_other(json_object *state)
{
	const char *program = json_object_get_string(json_object_object_get(state, "program"));

	return !program || strcmp(program, BPFTIMED_VERSION);
}

void state__remove(void)
{
	if (state__has_left())
		state__save(NULL, NULL);
	else if (path[0])
		unlink(path);
}

/* ---- what is left ---- */

bool state__has_left(void)
{
	return left && json_object_array_length(left);
}

void state__leave_again(json_object *host)
{
	if (!left)
		left = json_object_new_array();
	json_object_array_add(left, host);
}

void state__leave(const struct host *h)
{
	state__leave_again(host_state(h));
}

static bool is_process(json_object *host, pid_t pid, uint64_t start_time)
{
	return json_object_get_int(json_object_object_get(host, "pid")) == pid &&
	       (!start_time || json_object_get_uint64(json_object_object_get(host, "start")) == start_time);
}

json_object *state__take_left(pid_t pid, uint64_t start_time)
{
	for (size_t i = 0; state__has_left() && i < json_object_array_length(left); i++) {
		json_object *host = json_object_array_get_idx(left, i);

		if (!is_process(host, pid, start_time))
			continue;
		json_object_get(host);
		json_object_array_del_idx(left, i, 1);
		return host;
	}
	return NULL;
}

bool state__needs_pin(const char *name)
{
	int pid;

	if (park__needs_pin(name))
		return true;
	if (sscanf(name, "hold-%d-", &pid) != 1 && sscanf(name, "host-%d-", &pid) != 1)
		return false;
	for (size_t i = 0; state__has_left() && i < json_object_array_length(left); i++)
		if (is_process(json_object_array_get_idx(left, i), pid, 0))
			return true;
	return false;
}
