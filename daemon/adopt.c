/* SPDX-License-Identifier: MIT */
#include "daemon/adopt.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/service.h"
#include "daemon/adopt_impl.h"
#include "daemon/build.h"
#include "daemon/escape.h"
#include "daemon/log.h"
#include "daemon/permit.h"
#include "daemon/pins.h"
#include "daemon/procfs.h"
#include "daemon/record.h"
#include "daemon/repair.h"
#include "daemon/state.h"
#include "daemon/views.h"

int adopt__fail(struct adoption *a, int err, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(a->why, a->why_size, format, ap);
	va_end(ap);
	return err;
}

/* ---- what is left ---- */

#define ATTEMPTS_NAME "adopting"
#define ATTEMPTS_MOST 3

static bool attempts_path(char *path, size_t size)
{
	const char *state = state__path();

	return state && (size_t)snprintf(path, size, "%.*s" ATTEMPTS_NAME, (int)(strlen(state) - strlen(STATE_NAME)),
					 state) < size;
}

/* How many daemons have tried to go on with it and did not come to the end; this one is another from now on. */
static unsigned int count_attempts(void)
{
	char path[PATH_MAX];
	struct stat st = {0};
	int fd = attempts_path(path, sizeof(path))
			 ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600)
			 : -1;
	bool is_counted = fd >= 0 && !fstat(fd, &st) && write(fd, ".", 1) == 1;

	if (fd >= 0)
		close(fd);
	return is_counted ? (unsigned int)st.st_size : 0;
}

static void forget_attempts(void)
{
	char path[PATH_MAX];

	if (attempts_path(path, sizeof(path)))
		unlink(path);
}

/* Why not, or NULL; empty: there is nothing. */
static const char *why_not(json_object *o)
{
	json_object *groups = record__in(o, "groups");
	const char *build = json_object_get_string(record__in(o, "build"));

	if (!record__length(groups))
		return ""; /* processes may be left: recover_state() looks at them */
	if (state__is_of_other(o) || record__number_in(o, "version") != STATE_VERSION ||
	    record__number_in(o, "records") != AGENT_RECORD_VERSION)
		return "it was of another version";
	if (!state__was_settled(o))
		return "it was killed while it changed something";
	if (!build || !build[0] || strcmp(build, record__build()))
		return "it was of another build";
	return NULL;
}

struct adoption *adopt__read(char *why, size_t why_size)
{
	json_object *o = state__path() ? json_object_from_file(state__path()) : NULL;
	const char *reason = o ? why_not(o) : "";
	struct adoption *a;

	/* Should there be something in it that ends daemons, not all of them are to end of it. */
	if (!reason && count_attempts() >= ATTEMPTS_MOST)
		reason = "several bpftimeds that went on with it were killed at that";
	if (reason)
		forget_attempts();
	a = reason ? NULL : calloc(1, sizeof(*a));
	snprintf(why, why_size, "%s", reason ? reason : a ? "" : "out of memory");
	if (!a) {
		if (o)
			json_object_put(o);
		return NULL;
	}
	a->state = o;
	a->begin = now_ns();
	return a;
}

void adopt__free(struct adoption *a)
{
	if (!a)
		return;
	forget_attempts();
	for (struct orphaned *o; (o = a->orphaned); free(o)) {
		a->orphaned = o->next;
		free(o->site);
	}
	obs_scan__clear(&a->scan);
	json_object_put(a->state);
	free(a);
}

/* ---- the parts that all share ---- */

/* Any process that carries the agent has its code. */
static int open_hosts(struct adoption *a)
{
	json_object *hosts = record__in(a->state, "hosts");
	struct hosts_origin from = {.image_ino = record__number_in(a->state, "image")};
	struct engine *e = a->e;

	adopt__fail(a, 0, "no process that carries the agent lives any more");
	for (size_t i = 0; i < record__length(hosts); i++) {
		json_object *h = record__at(hosts, i);

		from.pid = (pid_t)record__number_in(h, "pid");
		if (procfs_start_time(from.pid) != record__number_in(h, "start") ||
		    !record__read_bytes(record__in(h, "target"), &from.target, sizeof(from.target)))
			continue;
		if (!hosts__init(&e->hosts, e->policy, e->claims, &from, a->why, a->why_size))
			return 0;
		hosts__fini(&e->hosts);
	}
	return -ESRCH;
}

static int restore_escapes(struct adoption *a)
{
	json_object *all = record__in(a->state, "escapes");
	struct escape_record r;

	for (size_t i = 0; i < record__length(all); i++)
		if (!record__read_bytes(record__at(all, i), &r, sizeof(r)) || escapes__restore(a->e->hosts.escapes, &r))
			return adopt__fail(a, -EINVAL, "its record of escape slots is damaged");
	return 0;
}

static int open_parts(struct adoption *a)
{
	struct engine *e = a->e;
	int err = observer__scan(e->observer, 0, &a->scan, a->why, a->why_size);

	if (!err)
		err = open_hosts(a);
	if (!err)
		err = restore_escapes(a);
	return err ? err : carriers__adopt(&e->carriers, pins__dir(), a->why, a->why_size);
}

/* ---- claims ---- */

static int claim_tool(struct adoption *a, const struct tool *t)
{
	uint32_t *id = NULL;
	size_t n = 0;
	int err;

	for (const struct probe *p = a->e->probes; p; p = p->next)
		n += p->tool == t;
	id = calloc(n + 1, sizeof(*id));
	if (!id)
		return adopt__fail(a, -ENOMEM, "out of memory");
	n = 0;
	for (const struct probe *p = a->e->probes; p; p = p->next)
		if (p->tool == t)
			id[n++] = p->o.prog_id;
	err = claims__take_tool(a->e->claims, t->pid, id, n, a->why, a->why_size);
	free(id);
	return err;
}

static int claim_all(struct adoption *a)
{
	int err = 0;

	for (const struct tool *t = a->e->tools; t && !err; t = t->next)
		err = claim_tool(a, t);
	for (const struct host *h = a->e->hosts.list; h && !err; h = h->next)
		err = claims__take_target(a->e->claims, h->pid, a->why, a->why_size);
	return err;
}

/* They are still the killed one's, and this daemon's by that, when it hands back. */
static void unclaim_all(struct engine *e)
{
	for (const struct tool *t = e->tools; t; t = t->next)
		claims__drop_tool(e->claims, t->pid);
	for (const struct host *h = e->hosts.list; h; h = h->next)
		claims__drop_target(e->claims, h->pid);
}

/* ---- all of it ---- */

static int restore(struct adoption *a)
{
	json_object *groups = record__in(a->state, "groups"), *hosts = record__in(a->state, "hosts");
	int err = open_parts(a);

	/* The newest is the first, here and there. */
	for (size_t i = record__length(groups); i-- && !err;)
		err = adopt__group(a, record__at(groups, i));
	for (size_t i = 0; i < record__length(hosts) && !err; i++)
		err = adopt__host(a, record__at(hosts, i));
	return err ? err : claim_all(a);
}

static void leave(struct engine *e)
{
	unclaim_all(e);
	adopt__leave_hosts(e);
	adopt__leave_groups(e);
	carriers__free(e->carriers);
	e->carriers = NULL;
	hosts__fini(&e->hosts);
}

int adopt__restore(struct adoption *a, struct engine *e, char *why, size_t why_size)
{
	char err[REASON_SIZE] = "";
	int ret;

	a->e = e;
	a->why = why;
	a->why_size = why_size;
	state__await_end(a->state);
	ret = restore(a);
	if (ret) {
		leave(e);
		return ret;
	}
	/* From here on it is ours, and there is no way back but that of any daemon. */
	for (struct group *g = e->groups; g; g = g->next) {
		__atomic_store_n(&g->arena->daemon, shm_daemon(), __ATOMIC_SEQ_CST);
		group__stop_counting(g);
	}
	hosts__own(&e->hosts);
	ret = carriers__own(e->carriers, pins__dir());
	if (!ret)
		ret = claims__pin(e->claims, err, sizeof(err));
	if (ret)
		log_warning("what a later bpftimed would need is not all pinned: %s", err[0] ? err : strerror(-ret));
	return 0;
}

/* ---- what has happened meanwhile ---- */

/* Forks are known from now on; what was forked before, and while this looks, it finds. */
static void repair_children(struct adoption *a)
{
	struct engine *e = a->e;
	struct agent_error err;

	for (struct host *h = e->hosts.list; h; h = h->next) {
		observer__watch(e->observer, h->pid);
		host__tell_repairer(&e->hosts, h);
	}
	for (int pass = 0; pass < 2; pass++)
		for (struct host *h = e->hosts.list; h; h = h->next)
			host__repair_children(h);
	for (const struct orphaned *o = a->orphaned; o; o = o->next)
		if (o->n_sites && orphans__repair(o->pid, &o->target, o->site, o->n_sites, &err))
			log_warning("process %d has ended, and a child of it keeps inherited patches: %s", o->pid,
				    err.text);
	for (const struct orphaned *o = a->orphaned; o; o = o->next)
		orphans__let_end(o->pid, o->site, o->n_sites, pins__dir());
	for (const struct orphaned *o = a->orphaned; o; o = o->next)
		adopt__settle_orphan(e, o);
}

/* What is pinned of groups that were being made, and of processes that have ended. */
static bool is_of_something(const struct engine *e, const char *name)
{
	unsigned long long start;
	unsigned int group;
	int pid;

	if (sscanf(name, "group-%u-", &group) == 1)
		return adopt__find_group((struct engine *)e, group) != NULL;
	if (sscanf(name, "host-%d-%llu-", &pid, &start) == 2 || sscanf(name, "hold-%d-", &pid) == 1)
		return hosts__find((struct hosts *)&e->hosts, pid) != NULL;
	return true;
}

static void drop_stale(const char *name, void *arg)
{
	if (!is_of_something(arg, name))
		pins__drop("%s", name);
}

static void forget_ended(struct engine *e)
{
	size_t n = 0;
	struct target **all;

	for (const struct host *h = e->hosts.list; h; h = h->next)
		n++;
	all = calloc(n + 1, sizeof(*all));
	if (!all)
		return;
	n = 0;
	for (const struct host *h = e->hosts.list; h; h = h->next)
		all[n++] = h->target;
	agent_service__retain(e->hosts.service, all, n);
	free(all);
	pins__each(drop_stale, e);
}

/* Processes that have ended since they were looked at here. */
static void look_at_hosts(struct engine *e)
{
	for (struct host *h = e->hosts.list, *next; h; h = next) {
		next = h->next;
		if (!target__alive(h->target))
			converge__host_gone(e, h->pid);
	}
}

/* What it said when the group was taken over does not hold any more: it is handed back, and taken over anew. */
static void ask_policy(struct engine *e, struct group *g)
{
	uint64_t was = g->permit;

	hosts__look_anew();
	if (obey__group(e, g) || g->permit != was) {
		state__unsettle();
		g->permit = was;
		g->outdated_since = now_ns();
	}
	g->reason[0] = 0;
}

static void look_at_views(struct engine *e)
{
	for (struct group *g = e->groups; g; g = g->next)
		for (unsigned int i = 0; i < g->n_maps; i++)
			if (g->map[i].is_viewed)
				converge__mapped(e, 0, g->map[i].m.id);
}

void adopt__catch_up(struct adoption *a, struct engine *e)
{
	double seconds = (double)(now_ns() - a->begin) / 1e9;
	size_t n = 0;

	repair_children(a);
	forget_ended(e);
	look_at_hosts(e);
	for (struct host *h = e->hosts.list; h; h = h->next)
		n++;
	for (struct group *g = e->groups; g; g = g->next)
		if (g->was_adopted)
			tell__group(e, DECISION_ADOPT, REASON_NONE, g, "the bpftimed that carried it was killed",
				    seconds);
	log_info("after the last bpftimed was killed: %zu process(es) go on as they are", n);
	for (struct group *g = e->groups; g; g = g->next)
		ask_policy(e, g);
	look_at_views(e);
	observer__await_arrival(e->observer, 0);
	converge__everything(e);
	converge__policy(e);
}
