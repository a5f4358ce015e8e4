/* SPDX-License-Identifier: MIT */
/* adopt_group.c: groups of a daemon that was killed, with their tools and probes, made again from its record. */
#include <bpf/bpf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/adopt_impl.h"
#include "daemon/build.h"
#include "daemon/escape.h"
#include "daemon/link_program.h"
#include "daemon/mapped.h"
#include "daemon/park.h"
#include "daemon/pins.h"
#include "daemon/plan.h"
#include "daemon/procfs.h"
#include "daemon/record.h"

struct group *adopt__find_group(struct engine *e, unsigned int id)
{
	for (struct group *g = e->groups; g; g = g->next)
		if (g->id == id)
			return g;
	return NULL;
}

/* ---- tools and probes ---- */

static struct tool *find_tool(struct adoption *a, json_object *o, int *err)
{
	pid_t pid = (pid_t)record__number_in(o, "tool");
	struct tool *t = engine__tool(a->e, pid);

	*err = 0;
	if (procfs_start_time(pid) != record__number_in(o, "tool_start"))
		*err = adopt__fail(a, -ESRCH, "tool %d has ended", pid);
	else if (!t)
		t = engine__add_tool(a->e, pid);
	if (!*err && !t)
		*err = adopt__fail(a, -ENOMEM, "out of memory");
	return t;
}

static void fill_probe(struct obs_probe *o, const struct probe_record *r, pid_t tool, const char *path)
{
	*o = (struct obs_probe){
		.tool = tool,
		.fd = r->fd,
		.link_fd = r->link_fd,
		.link_id = r->link_id,
		.event_id = r->event_id,
		.kind = (enum probe_kind)r->kind,
		.form = (enum attach_form)r->form,
		.prog_id = r->prog_id,
		.dev = r->dev,
		.ino = r->ino,
		.offset = r->offset,
		.ref_ctr_offset = r->ref_ctr_offset,
		.cookie = r->cookie,
		.target = r->target,
		.enabled = true,
		.n_holders = r->n_holders,
	};
	strncpy(o->path, path, sizeof(o->path) - 1);
}

static bool is_attached(const struct obs_probe *now, const struct probe *p)
{
	const struct obs_probe *o = &p->o;

	if (p->parked)
		return park__is_of(now, p) && now->enabled && now->tool == o->tool;
	return now->event_id == o->event_id && now->prog_id == o->prog_id && now->kind == o->kind &&
	       now->form == o->form && now->tool == o->tool && now->link_id == o->link_id && now->offset == o->offset &&
	       now->ino == o->ino && now->dev == o->dev && now->cookie == o->cookie && now->target == o->target &&
	       (now->enabled || probe_is_tracepoint(p));
}

/* By which descriptors may have changed. */
static bool is_still_attached(const struct adoption *a, struct probe *p)
{
	for (size_t i = 0; i < a->scan.n_probes; i++) {
		const struct obs_probe *now = &a->scan.probes[i];

		if (!is_attached(now, p))
			continue;
		p->o.fd = now->fd;
		p->o.link_fd = now->link_fd;
		p->o.n_holders = now->n_holders;
		return true;
	}
	return false;
}

static int take_pin(struct adoption *a, int fd, int *out)
{
	*out = fd;
	return fd < 0 ? adopt__fail(a, fd, "something that it had pinned is gone: %s", strerror(-fd)) : 0;
}

/* i: its number in the group. */
static int take_attachments(struct adoption *a, const struct group *g, unsigned int i, struct probe *p,
			    const struct probe_record *r)
{
	int err = 0;

	if (r->has_khalf)
		err = take_pin(a, pins__get(PIN_KHALF, g->id, i), &p->khalf_link_fd);
	if (!err && r->has_escape_link)
		err = take_pin(a, pins__get(PIN_ESCAPE, g->id, i), &p->escape_link_fd);
	if (!err && escapes__share(a->e->hosts.escapes, r->escape_taken))
		err = adopt__fail(a, -EINVAL, "its record of escape slots is damaged");
	if (err)
		return err;
	p->escape_taken = r->escape_taken;
	p->escape = r->escape;
	return 0;
}

static int adopt_probe(struct adoption *a, struct group *g, json_object *o, unsigned int i)
{
	const char *path = json_object_get_string(record__in(o, "path"));
	json_object *parked = record__in(o, "parked");
	struct probe_record r;
	struct obs_probe was;
	struct probe *p;

	if (!path || !record__read_bytes(record__in(o, "of"), &r, sizeof(r)))
		return adopt__fail(a, -EINVAL, "its record of a probe is damaged");
	fill_probe(&was, &r, g->tool->pid, path);
	p = probe__new(g->tool, &was);
	if (!p)
		return adopt__fail(a, -ENOMEM, "out of memory");
	p->parked = parked ? parked__from_json(parked) : NULL;
	if (!group__append(a->e, g, p)) {
		parked__free(p->parked);
		free(p);
		return adopt__fail(a, -ENOMEM, "out of memory");
	}
	if ((parked != NULL) != (p->parked != NULL) || !is_still_attached(a, p))
		return adopt__fail(a, -ESTALE, "what tool %d has attached is not what it was", g->tool->pid);
	return take_attachments(a, g, i, p, &r);
}

static int adopt_probes(struct adoption *a, struct group *g, json_object *all)
{
	int err = record__length(all) ? 0 : adopt__fail(a, -EINVAL, "its record of a group is damaged");

	for (size_t i = 0; i < record__length(all) && !err; i++)
		err = adopt_probe(a, g, record__at(all, i), (unsigned int)i);
	/* The group has the newest first, and so has the engine. */
	for (unsigned int i = g->n_probes; i--;)
		engine__add_probe(a->e, g->probe[i]);
	return err;
}

/* ---- what it is made of ---- */

static bool is_same_plan(const struct group *g, const struct group_record *r, json_object *probes, size_t n_progs)
{
	bool same = g->n_progs == n_progs && g->n_user_progs == r->n_user_progs && g->has_khalf == r->has_khalf &&
		    g->has_direct == r->has_direct && g->has_mirrored == r->has_mirrored &&
		    g->has_viewed == r->has_viewed;
	struct probe_record p;

	for (unsigned int i = 0; i < g->n_probes && same; i++)
		same = record__read_bytes(record__in(record__at(probes, i), "of"), &p, sizeof(p)) &&
		       g->probe[i]->is_beside == p.is_beside && (p.is_beside || g->probe[i]->prog == p.prog);
	return same;
}

static bool is_same_map(const struct gmap *m, const struct map_record *r)
{
	return m->m.id == r->id && !memcmp(&m->geo, &r->geo, sizeof(m->geo)) && m->map_size == r->map_size &&
	       m->read_only == r->read_only && m->is_viewed == r->is_viewed;
}

/* Planned anew it comes out as it was, of the same bytecode: else what is in the arena would mean something else. */
static int plan_again(struct adoption *a, struct group *g, const struct group_record *r, json_object *o)
{
	json_object *maps = record__in(o, "all_maps");
	struct map_record m;
	uint64_t size = 0;
	int err = group__plan(g, a->e->observer);

	if (!err)
		err = group__lay_out(g, &size);
	if (err)
		return adopt__fail(a, err, "%s", g->reason);
	g->planned = true;
	if (!is_same_plan(g, r, record__in(o, "probes"), record__length(record__in(o, "programs"))) ||
	    size != r->arena_size || g->n_maps != record__length(maps))
		return adopt__fail(a, -ESTALE, "the programs of tool %d would be carried otherwise now", g->tool->pid);
	for (unsigned int i = 0; i < g->n_maps; i++) {
		if (!record__read_bytes(record__at(maps, i), &m, sizeof(m)) || !is_same_map(&g->map[i], &m))
			return adopt__fail(a, -ESTALE, "map %s of tool %d is not what it was", g->map[i].m.name,
					   g->tool->pid);
		g->map[i].waste = m.waste;
	}
	return 0;
}

static bool is_same_arena(const struct group *g, const struct shm_group_hdr *h, size_t size)
{
	return size == g->arena_size && h->magic == SHM_MAGIC && h->version == SHM_LAYOUT_VERSION &&
	       h->n_cpus == g->n_cpus && h->size == g->arena_size && h->hits_off == SHM_HDR_SIZE &&
	       h->n_probes == g->n_probes;
}

static int open_arena(struct adoption *a, struct group *g, const struct group_record *r)
{
	uint64_t wanted = r->shared ? SHM_KGATE_STATE : 0;
	size_t size = 0;
	int err = take_pin(a, pins__get(PIN_GROUP, g->id), &g->arena_fd);

	if (err)
		return err;
	g->arena = mapped__array(g->arena_fd, r->arena_size, &size, NULL);
	g->arena_size = r->arena_size;
	if (!g->arena)
		return adopt__fail(a, -errno, "shared memory cannot be mapped: %s", strerror(errno));
	if (!is_same_arena(g, g->arena, size))
		return adopt__fail(a, -ESTALE, "shared memory of tool %d is not as it was left", g->tool->pid);
	if ((__atomic_load_n(&g->arena->kgate, __ATOMIC_SEQ_CST) & SHM_KGATE_STATE) != wanted ||
	    __atomic_load_n(&g->arena->ugate, __ATOMIC_SEQ_CST) != (r->shared ? SHM_UGATE_OPEN : SHM_UGATE_KERNEL))
		return adopt__fail(a, -EBUSY, "the gates of tool %d are not as they were left", g->tool->pid);
	return 0;
}

static int take_khalf(struct adoption *a, struct gprog *p, int link_fd)
{
	return p->khalf_fd >= 0 ? 0 : take_pin(a, link_program(link_fd), &p->khalf_fd);
}

static int take_links(struct adoption *a, struct group *g, const struct group_record *r, json_object *links)
{
	size_t n = record__length(links);
	struct link_record l;
	int err = 0;

	g->link = calloc(n + 1, sizeof(*g->link));
	g->escape_link = calloc(r->n_escape_links + 1, sizeof(*g->escape_link));
	if (!g->link || !g->escape_link)
		return adopt__fail(a, -ENOMEM, "out of memory");
	for (size_t i = 0; i < n && !err; i++) {
		if (!record__read_bytes(record__at(links, i), &l, sizeof(l)) || l.prog >= g->n_progs)
			return adopt__fail(a, -EINVAL, "its record of a group is damaged");
		g->link[i] = (struct khalf_link){
			.replaced = l.replaced, .prog = l.prog, .is_return = l.is_return, .dev = l.dev, .ino = l.ino};
		err = take_pin(a, pins__get(PIN_KHALFS, g->id, (unsigned int)i), &g->link[i].fd);
		g->n_links += !err;
		if (!err)
			err = take_khalf(a, &g->prog[l.prog], g->link[i].fd);
	}
	for (unsigned int i = 0; i < r->n_escape_links && !err; i++) {
		err = take_pin(a, pins__get(PIN_ESCAPES, g->id, i), &g->escape_link[i]);
		g->n_escape_links += !err;
	}
	return err;
}

static int take_programs(struct adoption *a, struct group *g, json_object *progs)
{
	int err = 0;

	for (unsigned int i = 0; i < g->n_progs && !err; i++) {
		struct gprog *p = &g->prog[i];
		struct prog_record r;

		if (!record__read_bytes(record__at(progs, i), &r, sizeof(r)) || r.type != p->type)
			return adopt__fail(a, -EINVAL, "its record of a program is damaged");
		p->code.size = r.code_size;
		p->code.entry = r.entry;
		p->code.stack_size = r.stack_size;
		p->plain = r.plain;
		p->is_multi = r.is_multi;
		p->escape_is_multi = r.escape_is_multi;
		if (i >= g->n_user_progs)
			continue;
		err = gprog__adopt_code(p, g, i);
		if (err)
			adopt__fail(a, err, "the code of program %s cannot be had: %s", p->name, strerror(-err));
	}
	for (unsigned int i = 0; i < g->n_probes && !err; i++)
		if (g->has_khalf && g->probe[i]->khalf_link_fd >= 0)
			err = take_khalf(a, &g->prog[g->probe[i]->prog], g->probe[i]->khalf_link_fd);
	return err;
}

/* Does the kernel half stand wherever it is to serve? */
static int check_khalf(struct adoption *a, const struct group *g)
{
	for (unsigned int i = 0; i < g->n_probes; i++) {
		const struct probe *p = g->probe[i];

		if (p->is_beside || p->khalf_link_fd >= 0 || g->is_replaced || g->prog[p->prog].is_multi ||
		    (!g->has_khalf && p->o.target >= 0))
			continue;
		return adopt__fail(a, -ESTALE, "the kernel half of tool %d is not all attached", g->tool->pid);
	}
	return 0;
}

static int take_carriers(struct adoption *a, struct group *g, json_object *maps)
{
	struct map_record r;
	int err = 0;

	for (unsigned int i = 0; i < g->n_maps && !err; i++) {
		struct gmap *m = &g->map[i];

		if (m->geo.kind == SHM_DIRECT || !record__read_bytes(record__at(maps, i), &r, sizeof(r)))
			continue;
		if (r.carrier < 0)
			return g->state == GROUP_SHARED ? adopt__fail(a, -ESTALE, "map %s has no carrier", m->m.name)
							: 0;
		err = carriers__adopt_one(a->e->carriers, r.carrier, g->state == GROUP_SHARED, pins__dir(), m->fd,
					  g->arena_fd, &m->geo, a->why, a->why_size);
		if (!err)
			m->carrier = r.carrier;
	}
	return err;
}

/* ---- a group ---- */

static void fill_group(struct group *g, const struct group_record *r)
{
	g->state = r->shared ? GROUP_SHARED : GROUP_KERNEL;
	g->permit = r->permit;
	g->is_replaced = r->is_replaced;
	g->never_replaced = r->never_replaced;
	g->is_parked = r->is_parked;
	g->is_unordered = r->is_unordered;
	g->has_domain = r->has_domain;
	g->several_users = r->several_users;
	g->domain = r->domain;
	g->since = (struct timespec){.tv_sec = r->since_sec, .tv_nsec = r->since_nsec};
	g->was_adopted = r->shared;
	g->built = true;
}

static struct group *add_group(struct engine *e, unsigned int id, struct tool *t)
{
	struct group *g = calloc(1, sizeof(*g));

	if (!g)
		return NULL;
	g->id = id;
	g->tool = t;
	g->arena_fd = g->watcher_fd = -1;
	g->next = e->groups;
	e->groups = g;
	if (e->next_group_id < id)
		e->next_group_id = id;
	return g;
}

int adopt__group(struct adoption *a, json_object *o)
{
	unsigned int id = (unsigned int)record__number_in(o, "id");
	struct group_record r;
	struct group *g;
	struct tool *t;
	int err;

	if (!record__read_bytes(record__in(o, "of"), &r, sizeof(r)))
		return adopt__fail(a, -EINVAL, "its record of a group is damaged");
	/* Of one that was being made nothing is in any process: it is made anew. */
	if (!r.built)
		return 0;
	t = find_tool(a, o, &err);
	if (err)
		return err;
	g = add_group(a->e, id, t);
	if (!g)
		return adopt__fail(a, -ENOMEM, "out of memory");
	err = adopt_probes(a, g, record__in(o, "probes"));
	if (!err)
		err = plan_again(a, g, &r, o);
	if (err)
		return err;
	fill_group(g, &r);
	err = open_arena(a, g, &r);
	if (!err)
		err = take_links(a, g, &r, record__in(o, "links"));
	if (!err)
		err = take_programs(a, g, record__in(o, "programs"));
	if (!err && g->state == GROUP_SHARED)
		err = check_khalf(a, g);
	return err ? err : take_carriers(a, g, record__in(o, "all_maps"));
}

/* ---- leaving it ---- */

static void leave_escapes(struct group *g)
{
	for (unsigned int i = 0; i < g->n_escape_links; i++)
		close(g->escape_link[i]);
	free(g->escape_link);
	for (unsigned int i = 0; i < g->n_probes; i++)
		if (g->probe[i]->escape_link_fd >= 0)
			close(g->probe[i]->escape_link_fd);
}

void adopt__leave_groups(struct engine *e)
{
	pins__keep(true);
	for (struct group *g; (g = e->groups);) {
		e->groups = g->next;
		leave_escapes(g);
		group__unbuild(g);
		group__free(g);
	}
	for (struct probe *p; (p = e->probes);) {
		e->probes = p->next;
		probes__remove(&e->at, p);
		parked__free(p->parked);
		free(p);
	}
	for (struct tool *t; (t = e->tools);) {
		e->tools = t->next;
		observer__unwatch(e->observer, t->pid);
		free(t);
	}
	pins__keep(false);
	e->next_group_id = 0;
}
