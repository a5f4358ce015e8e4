/* SPDX-License-Identifier: MIT */
/* adopt_host.c: the processes that carry the agent of a daemon that was killed, made again from its record. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/counters.h"
#include "agent/service.h"
#include "daemon/adopt_impl.h"
#include "daemon/escape.h"
#include "daemon/mapped.h"
#include "daemon/pins.h"
#include "daemon/procfs.h"
#include "daemon/record.h"

/* ---- one that has ended ---- */

static int read_sites(struct adoption *a, json_object *all, struct site_record **out)
{
	size_t n = record__length(all);

	*out = calloc(n + 1, sizeof(**out));
	if (!*out)
		return adopt__fail(a, -ENOMEM, "out of memory");
	for (size_t i = 0; i < n; i++)
		if (!record__read_bytes(record__at(all, i), &(*out)[i], sizeof(**out)))
			return adopt__fail(a, -EINVAL, "its record of a place is damaged");
	return 0;
}

/* Without a kernel half its group's truth has to be the tool's own before the new program's hits reach that. */
static bool must_move(struct adoption *a, json_object *lodgings)
{
	for (size_t i = 0; i < record__length(lodgings); i++) {
		const struct group *g =
			adopt__find_group(a->e, (unsigned int)record__number_in(record__at(lodgings, i), "group"));

		if (g && g->state == GROUP_SHARED && g->has_mirrored && !g->has_khalf)
			return true;
	}
	return false;
}

static int orphan(struct adoption *a, json_object *o)
{
	struct orphaned *gone = calloc(1, sizeof(*gone));
	int err;

	if (!gone)
		return adopt__fail(a, -ENOMEM, "out of memory");
	gone->next = a->orphaned;
	a->orphaned = gone;
	gone->pid = (pid_t)record__number_in(o, "pid");
	if (!record__read_bytes(record__in(o, "target"), &gone->target, sizeof(gone->target)))
		return adopt__fail(a, -EINVAL, "its record of process %d is damaged", gone->pid);
	err = read_sites(a, record__in(o, "places"), &gone->site);
	gone->n_sites = err ? 0 : record__length(record__in(o, "places"));
	gone->start_time = record__number_in(o, "start");
	gone->places = record__in(o, "all_places");
	if (!err && must_move(a, record__in(o, "lodgings")))
		err = adopt__fail(a, -ESRCH, "process %d has ended, or executed another program", gone->pid);
	return err;
}

void adopt__settle_orphan(struct engine *e, const struct orphaned *o)
{
	int fd = pins__get(PIN_HOST, o->pid, (unsigned long long)o->start_time), sites = -1;
	struct agent_target *arena = fd < 0 ? NULL : agent_arena__map(fd, &sites);
	struct place_record r;

	for (size_t i = 0; arena && i < record__length(o->places); i++) {
		json_object *place = record__in(record__at(o->places, i), "of");
		struct group *g;

		if (!record__read_bytes(place, &r, sizeof(r)) || !r.counts || r.index >= AGENT_MAX_SITES)
			continue;
		g = adopt__find_group(e, r.counts);
		if (g && r.hit_index < g->n_probes)
			agent_settle_hits(arena, r.index, group__hits(g, r.hit_index));
	}
	agent_arena__unmap(arena);
	if (sites >= 0)
		close(sites);
	if (fd >= 0)
		close(fd);
}

/* ---- its memory ---- */

static int open_memory(struct adoption *a, struct host *h, const struct target_record *t, const struct host_record *r)
{
	struct agent_error err = {""};
	struct stat st;

	h->arena_fd = pins__get(PIN_HOST, h->pid, (unsigned long long)h->start_time);
	h->arena_id = mapped__id(h->arena_fd);
	h->sites_fd = h->arena_fd < 0 ? -1 : agent_sites__open(h->pid, t->arena);
	if (h->sites_fd < 0)
		return adopt__fail(a, -ENOENT, "the agent's memory in process %d cannot be had", h->pid);
	if (fstat(h->sites_fd, &st) || st.st_ino != r->sites_ino)
		return adopt__fail(a, -ESTALE, "process %d has exchanged memory of the agent", h->pid);
	h->arena = agent_arena__map(h->arena_fd, &h->sites_fd);
	if (!h->arena || h->arena->version != AGENT_ABI_VERSION)
		return adopt__fail(a, -ESTALE, "the agent's memory in process %d cannot be used", h->pid);
	return agent_service__serves(a->e->hosts.service, h->target, h->arena_fd, &err)
		       ? adopt__fail(a, -ENOENT, "%s", err.text)
		       : 0;
}

/* ---- places ---- */

static int read_place(struct adoption *a, struct host *h, json_object *o)
{
	const char *why = json_object_get_string(record__in(o, "why"));
	struct place_record r;
	struct place *pl;

	if (!record__read_bytes(record__in(o, "of"), &r, sizeof(r)) || r.index >= h->n_places)
		return adopt__fail(a, -EINVAL, "its record of a place is damaged");
	pl = &h->place[r.index];
	*pl = (struct place){
		.used = true,
		.ino = r.ino,
		.offset = r.offset,
		.has_return = r.has_return,
		.escape = r.escape,
		.open = r.open,
		.hit_index = r.hit_index,
		.gone = r.gone,
		.counts = r.counts ? adopt__find_group(a->e, r.counts) : NULL,
	};
	if (why)
		strncpy(pl->why, why, sizeof(pl->why) - 1);
	if (r.counts && !pl->counts)
		return adopt__fail(a, -EINVAL, "its record of a place is damaged");
	return escapes__share(a->e->hosts.escapes, r.escape)
		       ? adopt__fail(a, -EINVAL, "its record of escape slots is damaged")
		       : 0;
}

/* Is its descriptor, too, as it was left? */
static bool is_as_left(const struct host *h, const struct place *pl)
{
	const struct agent_site *s = &h->arena->site[pl - h->place];
	bool serves = __atomic_load_n(&s->mode, __ATOMIC_SEQ_CST) != AGENT_SITE_BOUNCE;

	return s->site == site__address(pl->site) && serves == pl->open && (!pl->open || s->n_actions);
}

static int go_on(struct adoption *a, struct host *h, struct site **site, const struct site_record *r, size_t n)
{
	struct agent_error err;

	for (size_t i = 0; i < n; i++) {
		struct place *pl = r[i].index < h->n_places ? &h->place[r[i].index] : NULL;

		if (!pl || !pl->used || pl->site || pl->gone)
			return adopt__fail(a, -ESTALE, "a place of process %d is not as it was left", h->pid);
		pl->site = site[i];
		if (site__go_on(pl->site, pl->open, &err))
			return adopt__fail(a, -ESTALE, "%s", err.text);
		if (!is_as_left(h, pl))
			return adopt__fail(a, -ESTALE, "a place of process %d is not as it was left", h->pid);
	}
	return 0;
}

/* Those that are not their place's are the target's all the same: adopt__leave_hosts(). */
static int adopt_sites(struct adoption *a, struct host *h, json_object *all)
{
	size_t n = record__length(all);
	struct site **site = calloc(n + 1, sizeof(*site));
	struct agent_error why = {""};
	struct site_record *r = NULL;
	int err = site ? read_sites(a, all, &r) : adopt__fail(a, -ENOMEM, "out of memory");

	if (!err && site__adopt_all(h->target, r, n, pins__dir(), a->e->hosts.noop_prog_fd, site, &why))
		err = adopt__fail(a, -ESTALE, "%s", why.text);
	if (!err)
		err = go_on(a, h, site, r, n);
	for (size_t i = 0; site && err && i < n; i++)
		if (site[i])
			site__leave(site[i]);
	for (unsigned int i = 0; err && i < h->n_places; i++)
		h->place[i].site = NULL;
	free(site);
	free(r);
	return err;
}

static int adopt_places(struct adoption *a, struct host *h, const struct host_record *r, json_object *o)
{
	json_object *all = record__in(o, "all_places");
	int err = 0;

	if (r->n_places > AGENT_MAX_SITES)
		return adopt__fail(a, -EINVAL, "its record of process %d is damaged", h->pid);
	h->place = calloc(r->n_places + 1, sizeof(*h->place));
	if (!h->place)
		return adopt__fail(a, -ENOMEM, "out of memory");
	h->n_places = r->n_places;
	for (size_t i = 0; i < record__length(all) && !err; i++)
		err = read_place(a, h, record__at(all, i));
	return err ? err : adopt_sites(a, h, record__in(o, "places"));
}

/* ---- lodgings ---- */

static unsigned int n_direct(const struct group *g)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < g->n_maps; i++)
		n += g->map[i].geo.kind == SHM_DIRECT;
	return n;
}

static int adopt_lodging(struct adoption *a, struct host *h, json_object *o)
{
	struct group *g = adopt__find_group(a->e, (unsigned int)record__number_in(o, "group"));
	json_object *maps = record__in(o, "mappings");
	struct lodging *l;

	if (!g || record__length(maps) != 1 + g->n_user_progs + n_direct(g))
		return adopt__fail(a, -EINVAL, "its record of what process %d holds is damaged", h->pid);
	l = calloc(1, sizeof(*l));
	if (!l)
		return adopt__fail(a, -ENOMEM, "out of memory");
	l->next = h->lodgings;
	h->lodgings = l;
	l->group = g;
	l->n_maps = record__length(maps);
	l->maps = calloc(l->n_maps, sizeof(*l->maps));
	if (!l->maps)
		return adopt__fail(a, -ENOMEM, "out of memory");
	for (size_t i = 0; i < l->n_maps; i++)
		l->maps[i] = (struct target_mapping){.fd = -1,
						     .addr = record__number_in(record__at(maps, i), "address"),
						     .size = record__number_in(record__at(maps, i), "size"),
						     .prot = (int)record__number_in(record__at(maps, i), "prot")};
	lodging__fill(l);
	return 0;
}

/* ---- a host ---- */

static struct host *add_host(struct hosts *hs, json_object *o, const struct host_record *r)
{
	struct host *h = calloc(1, sizeof(*h));

	if (!h)
		return NULL;
	h->pid = (pid_t)record__number_in(o, "pid");
	h->start_time = record__number_in(o, "start");
	h->uid = r->uid;
	memcpy(h->comm, r->comm, sizeof(h->comm));
	h->arena_fd = h->sites_fd = -1;
	h->injected = true;
	h->next = hs->list;
	hs->list = h;
	return h;
}

int adopt__host(struct adoption *a, json_object *o)
{
	json_object *lodgings = record__in(o, "lodgings");
	struct agent_error why = {""};
	struct target_record t;
	struct host_record r;
	struct host *h;
	int err;

	if (!record__read_bytes(record__in(o, "target"), &t, sizeof(t)) ||
	    !record__read_bytes(record__in(o, "of"), &r, sizeof(r)))
		return adopt__fail(a, -EINVAL, "its record of a process is damaged");
	if (procfs_start_time((pid_t)record__number_in(o, "pid")) != record__number_in(o, "start"))
		return orphan(a, o);
	h = add_host(&a->e->hosts, o, &r);
	if (!h)
		return adopt__fail(a, -ENOMEM, "out of memory");
	err = target__adopt(h->pid, &t, &h->target, &why);
	if (err) {
		h->target = NULL;
		a->e->hosts.list = h->next;
		free(h);
		return err == -ENOENT || err == -ESRCH ? orphan(a, o) : adopt__fail(a, err, "%s", why.text);
	}
	err = open_memory(a, h, &t, &r);
	if (!err)
		err = adopt_places(a, h, &r, o);
	for (size_t i = 0; i < record__length(lodgings) && !err; i++)
		err = adopt_lodging(a, h, record__at(lodgings, i));
	return err;
}

/* ---- leaving them ---- */

void adopt__leave_hosts(struct engine *e)
{
	for (struct host *h; (h = e->hosts.list);) {
		e->hosts.list = h->next;
		for_each_used_place(pl, h) if (pl->site) site__leave(pl->site);
		host__leave(h);
	}
}
