/* SPDX-License-Identifier: MIT */
#include "daemon/state.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "agent/adopt.h"
#include "agent/clock.h"
#include "daemon/hosts.h"
#include "daemon/log.h"
#include "daemon/mapped.h"
#include "daemon/park.h"
#include "daemon/procfs.h"
#include "daemon/record.h"
#include "daemon/switch.h"

static char path[PATH_MAX], settled_path[PATH_MAX];
static uint64_t serial;	  /* of the file */
static bool is_settled;	  /* as far as is known: the other file may be there */
static bool tells_all;	  /* what is written now is for going on, too */
static json_object *left; /* processes that a later daemon is to let go of, or NULL */

void state__open(const char *runtime_dir)
{
	snprintf(path, sizeof(path), "%s/" STATE_NAME, runtime_dir);
	snprintf(settled_path, sizeof(settled_path), "%s/" STATE_SETTLED_NAME, runtime_dir);
	is_settled = true;
}

const char *state__path(void)
{
	return path[0] ? path : NULL;
}

static json_object *group_state(const struct group *g)
{
	json_object *o = json_object_new_object(), *maps = json_object_new_array(), *parked = json_object_new_array();

	record__add(o, "id", record__number(g->id));
	record__add(o, "tool", record__number((uint64_t)g->tool->pid));
	record__add(o, "tool_start", record__number(g->tool->start_time));
	record__add(o, "arena", record__number(mapped__id(g->arena_fd)));
	record__add(o, "kernel_half", json_object_new_boolean(g->has_khalf));
	record__add(o, "at_tracepoints", json_object_new_boolean(group_has_tracepoint(g)));
	for (unsigned int i = 0; i < g->n_maps; i++) {
		json_object *m;

		if (g->map[i].geo.kind == SHM_DIRECT)
			continue;
		m = json_object_new_object();
		record__add(m, "id", record__number(g->map[i].m.id));
		record__add(m, "geometry", record__bytes(&g->map[i].geo, sizeof(g->map[i].geo)));
		record__add(m, "viewed", record__number(g->map[i].is_viewed ? g->map[i].map_size : 0));
		record__append(maps, m);
	}
	record__add(o, "maps", maps);
	for (unsigned int i = 0; i < g->n_probes; i++)
		if (g->probe[i]->parked)
			record__append(parked, parked__json(g->probe[i]->parked));
	record__add(o, "parked", parked);
	if (tells_all)
		record__group(o, g);
	return o;
}

static json_object *lodging_state(const struct lodging *l)
{
	json_object *o = json_object_new_object(), *maps = json_object_new_array();

	for (size_t i = 0; i < l->n_maps; i++) {
		json_object *m = json_object_new_object();

		record__add(m, "address", record__number(l->maps[i].addr));
		record__add(m, "size", record__number(l->maps[i].size));
		record__add(m, "code", json_object_new_boolean(l->maps[i].prot & PROT_EXEC));
		record__add(m, "prot", record__number((uint64_t)l->maps[i].prot));
		record__append(maps, m);
	}
	record__add(o, "group", record__number(l->group->id));
	record__add(o, "mappings", maps);
	return o;
}

static json_object *host_state(const struct host *h)
{
	json_object *o = json_object_new_object(), *places = json_object_new_array(),
		    *lodgings = json_object_new_array();
	struct target_record t;

	target__record(h->target, &t);
	record__add(o, "pid", record__number((uint64_t)h->pid));
	record__add(o, "start", record__number(h->start_time));
	record__add(o, "arena", record__number(h->arena_id));
	record__add(o, "target", record__bytes(&t, sizeof(t)));
	for_each_used_place(pl, h)
	{
		struct site_record s;

		if (!pl->site)
			continue;
		site__record(pl->site, &s);
		record__append(places, record__bytes(&s, sizeof(s)));
	}
	for (const struct lodging *l = h->lodgings; l; l = l->next)
		record__append(lodgings, lodging_state(l));
	record__add(o, "places", places);
	record__add(o, "lodgings", lodgings);
	if (tells_all)
		record__host(o, h);
	return o;
}

int state__save(const struct group *groups, const struct hosts *hosts)
{
	json_object *o, *gs, *hs;
	char temporary[PATH_MAX + 8];
	int err = 0;

	if (!path[0])
		return 0;
	state__unsettle();
	record__begin();
	o = json_object_new_object();
	gs = json_object_new_array();
	hs = json_object_new_array();
	for (const struct group *g = groups; g; g = g->next)
		if (g->arena)
			record__append(gs, group_state(g));
	for (const struct host *h = hosts ? hosts->list : NULL; h; h = h->next)
		if (h->injected)
			record__append(hs, host_state(h));
	for (size_t i = 0; state__has_left() && i < json_object_array_length(left); i++)
		record__append(hs, json_object_get(json_object_array_get_idx(left, i)));
	record__add(o, "version", record__number(STATE_VERSION));
	record__add(o, "program", json_object_new_string(BPFTIMED_VERSION));
	record__add(o, "records", record__number(AGENT_RECORD_VERSION));
	record__add(o, "daemon", record__number((uint64_t)getpid()));
	record__add(o, "daemon_start", record__number(procfs_start_time(getpid())));
	record__add(o, "serial", record__number(++serial));
	record__add(o, "groups", gs);
	record__add(o, "hosts", hs);
	if (tells_all)
		record__whole(o, hosts);
	snprintf(temporary, sizeof(temporary), "%s.new", path);
	if (!record__is_whole())
		errno = ENOMEM;
	if (!record__is_whole() || json_object_to_file_ext(temporary, o, JSON_C_TO_STRING_PLAIN) ||
	    chmod(temporary, 0600) || rename(temporary, path)) {
		err = errno ? -errno : -EIO;
		log_warning("%s cannot be written: %s", path, strerror(-err));
	}
	json_object_put(o);
	return err;
}

/* ---- is it all? ---- */

void state__unsettle(void)
{
	if (!is_settled || !path[0])
		return;
	unlink(settled_path);
	is_settled = false;
}

bool state__is_settled(void)
{
	return is_settled || !path[0];
}

/* More would keep the daemon busy for a good part of a second: when it is killed they are handed back. */
#define PLACES_MOST 32768u

static bool has_unsettled(const struct group *groups, const struct hosts *hosts)
{
	unsigned int n = 0;

	for (const struct host *h = hosts->list; h; h = h->next) {
		if (h->leaving)
			return true;
		for_each_used_place(pl, h) if (pl->stuck || pl->plan_for || ++n > PLACES_MOST) return true;
	}
	for (const struct group *g = groups; g; g = g->next)
		if (g->state == GROUP_GONE || g->domain_over || g->outdated_since)
			return true;
	return state__has_left();
}

static int write_settled(void)
{
	char temporary[PATH_MAX + 8];
	FILE *f;
	bool is_whole;

	snprintf(temporary, sizeof(temporary), "%s.new", settled_path);
	f = fopen(temporary, "we");
	if (!f)
		return -errno;
	is_whole = !fchmod(fileno(f), 0600) && fprintf(f, "%d %" PRIu64 "\n", getpid(), serial) > 0;
	is_whole = !fclose(f) && is_whole;
	return is_whole && !rename(temporary, settled_path) ? 0 : -EIO;
}

int state__settle(const struct group *groups, const struct hosts *hosts)
{
	int err;

	if (state__is_settled())
		return 0;
	if (has_unsettled(groups, hosts))
		return -EBUSY;
	tells_all = true;
	err = state__save(groups, hosts);
	tells_all = false;
	if (!err)
		err = write_settled();
	is_settled = !err;
	return err;
}

bool state__was_settled(json_object *state)
{
	FILE *f = fopen(settled_path, "re");
	uint64_t number = 0;
	int daemon = 0, n = 0;

	if (f) {
		n = fscanf(f, "%d %" SCNu64, &daemon, &number);
		fclose(f);
	}
	return n == 2 && (uint64_t)daemon == record__number_in(state, "daemon") &&
	       number == record__number_in(state, "serial");
}

bool state__is_of_other(json_object *state)
{
	const char *program = json_object_get_string(json_object_object_get(state, "program"));

	return !program || strcmp(program, BPFTIMED_VERSION);
}

#define END_TIMEOUT_US 10000000

void state__await_end(json_object *state)
{
	pid_t pid = (pid_t)record__number_in(state, "daemon");
	uint64_t start = record__number_in(state, "daemon_start");
	const struct timespec step = {.tv_nsec = 5000000};
	int64_t deadline = clock_us() + END_TIMEOUT_US;

	while (pid > 0 && start && pid != getpid() && procfs_start_time(pid) == start && clock_us() < deadline)
		nanosleep(&step, NULL);
}

void state__remove(void)
{
	state__unsettle();
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
