/* SPDX-License-Identifier: MIT */
#include "daemon/escape.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/aside.h"
#include "daemon/log.h"
#include "daemon/pins.h"
#include "daemon/record.h"
#include "daemon/repair.h"
#include "daemon/state.h"
#include "daemon/switch.h"
#include "daemon/uprobe.h"

#define BUCKETS	    1024u
#define EVENTS_MOST 16u /* of a group: closing a perf event takes the kernel a tenth of a second */

struct slot {
	uint64_t dev, ino, offset;
	unsigned int users;
	int next;     /* in the bucket, or -1 */
	bool is_held; /* by an instruction, though it may have no user */
	bool is_used; /* see escapes__put() */
};

struct escapes {
	const struct agent_image *img;
	struct repairer *repairer;
	struct slot slot[AGENT_MAX_ESCAPES];
	int n; /* no slot at this index or above was ever held */
	int bucket[BUCKETS];
	unsigned int n_closing; /* see close_aside() */
};

struct escapes *escapes__new(const struct agent_image *img, struct repairer *r)
{
	struct escapes *e = calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	e->img = img;
	e->repairer = r;
	for (unsigned int i = 0; i < BUCKETS; i++)
		e->bucket[i] = -1;
	return e;
}

void escapes__free(struct escapes *e)
{
	if (e)
		close_aside_wait(&e->n_closing);
	free(e);
}

/* ---- slots ---- */

static int *bucket_of(struct escapes *e, uint64_t ino, uint64_t offset)
{
	return &e->bucket[((ino ^ offset) * 0x9e3779b97f4a7c15ull >> 40) % BUCKETS];
}

static void unlink_slot(struct escapes *e, int slot)
{
	int *link = bucket_of(e, e->slot[slot].ino, e->slot[slot].offset);

	while (*link != slot)
		link = &e->slot[*link].next;
	*link = e->slot[slot].next;
	e->slot[slot].is_held = false;
}

/* The lowest, so that few pages have breakpoints. */
static int find_free(struct escapes *e)
{
	bool is_idle = repairer__is_idle(e->repairer);

	for (int i = 0; i < e->n; i++) {
		const struct slot *s = &e->slot[i];

		if (!s->is_held)
			return i;
		if (s->users || s->is_used || !is_idle)
			continue;
		unlink_slot(e, i);
		return i;
	}
	return e->n < AGENT_MAX_ESCAPES ? e->n++ : -ENOSPC;
}

int escapes__take(struct escapes *e, uint64_t dev, uint64_t ino, uint64_t offset)
{
	int *first = bucket_of(e, ino, offset), i;

	state__unsettle();
	for (i = *first; i >= 0; i = e->slot[i].next)
		if (e->slot[i].ino == ino && e->slot[i].offset == offset && e->slot[i].dev == dev)
			break;
	if (i < 0) {
		i = find_free(e);
		if (i < 0)
			return i;
		e->slot[i] = (struct slot){.dev = dev, .ino = ino, .offset = offset, .next = *first, .is_held = true};
		*first = i;
	}
	e->slot[i].users++;
	return i;
}

void escapes__put(struct escapes *e, int slot, bool used)
{
	if (slot < 0)
		return;
	state__unsettle();
	e->slot[slot].users--;
	e->slot[slot].is_used |= used;
}

int escapes__next(const struct escapes *e, int slot, struct escape_record *out)
{
	while (e && ++slot < e->n) {
		const struct slot *s = &e->slot[slot];

		if (!s->is_held)
			continue;
		out->dev = s->dev;
		out->ino = s->ino;
		out->offset = s->offset;
		out->slot = slot;
		out->is_used = s->is_used;
		return slot;
	}
	return -1;
}

int escapes__restore(struct escapes *e, const struct escape_record *r)
{
	int *first = bucket_of(e, r->ino, r->offset);

	if (r->slot < 0 || r->slot >= AGENT_MAX_ESCAPES || e->slot[r->slot].is_held)
		return -EINVAL;
	e->slot[r->slot] = (struct slot){.dev = r->dev,
					 .ino = r->ino,
					 .offset = r->offset,
					 .next = *first,
					 .is_held = true,
					 .is_used = r->is_used};
	*first = r->slot;
	if (e->n <= r->slot)
		e->n = r->slot + 1;
	return 0;
}

int escapes__share(struct escapes *e, int slot)
{
	if (slot >= e->n || (slot >= 0 && !e->slot[slot].is_held))
		return -EINVAL;
	if (slot >= 0)
		e->slot[slot].users++;
	return 0;
}

/* ---- what stands at them ---- */

/*
 * Who has the agent could send any thread to any slot. Where the file can be mapped by everybody, all can make such
 * hits as it is; where not, nobody is to gain that. Of a probe that is limited to a process the kernel sees to it.
 */
static bool is_public(const struct probe *p)
{
	char path[PATH_MAX + 32];
	struct stat st;
	size_t root;

	if (p->o.target >= 0)
		return true;
	root = (size_t)snprintf(path, sizeof(path), "/proc/%d/root", p->tool->pid);
	snprintf(path + root, sizeof(path) - root, "%s", p->o.path);
	if (stat(path, &st) || st.st_ino != p->o.ino || !(st.st_mode & S_IROTH))
		return false;
	for (char *slash = strrchr(path + root, '/'); slash; slash = strrchr(path + root, '/')) {
		*slash = 0;
		if (stat(path, &st) || !(st.st_mode & S_IXOTH))
			return false;
	}
	return true;
}

static bool may_escape(const struct group *g, const struct probe *p, unsigned int n_events)
{
	if (probe_is_tracepoint(p) || g->prog[p->prog].escape_fd < 0)
		return false;
	return (g->prog[p->prog].escape_is_multi || n_events <= EVENTS_MOST) && is_public(p);
}

/* Those that would have a perf event each. */
static unsigned int count_events(const struct group *g)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < g->n_probes; i++)
		n += !probe_is_tracepoint(g->probe[i]) && !g->prog[g->probe[i]->prog].escape_is_multi;
	return n;
}

static void image_path(const struct escapes *e, char *path, size_t size)
{
	snprintf(path, size, "/proc/self/fd/%d", agent_image__fd(e->img));
}

/* Another one of the program and kind is in the link, too. */
static bool is_of_link(const struct group *g, const struct probe *p, const struct probe *first)
{
	return p->escape_taken >= 0 && p->escape < 0 && p->prog == first->prog && p->o.kind == first->o.kind &&
	       g->prog[p->prog].escape_is_multi;
}

static int keep_link(struct group *g, int fd)
{
	int *more = realloc(g->escape_link, (g->n_escape_links + 1) * sizeof(*more));
	int err = more ? pins__add(fd, PIN_ESCAPES, g->id, g->n_escape_links) : -ENOMEM;

	if (more)
		g->escape_link = more;
	if (!err)
		more[g->n_escape_links++] = fd;
	return err;
}

/* Of every process: one link for all probes of a program. */
static int attach_link(struct escapes *e, struct group *g, const struct probe *first)
{
	uint64_t *offsets = calloc(g->n_probes, sizeof(*offsets)), *cookies = calloc(g->n_probes, sizeof(*cookies));
	struct uprobe_opts opts = {
		.root_pid = getpid(),
		.is_return = first->o.kind == PROBE_URETPROBE,
		.prog_fd = g->prog[first->prog].escape_fd,
	};
	int fd = -ENOMEM, err;
	char path[64];
	uint32_t n = 0;

	image_path(e, path, sizeof(path));
	opts.path = path;
	for (unsigned int i = g->n_probes; offsets && cookies && i--;) {
		const struct probe *p = g->probe[i];

		if (!is_of_link(g, p, first))
			continue;
		offsets[n] = agent_image__escape_offset(e->img, (unsigned int)p->escape_taken);
		cookies[n++] = p->o.cookie;
	}
	if (n)
		fd = uprobe__attach_many(&opts, offsets, cookies, n);
	free(offsets);
	free(cookies);
	err = fd < 0 ? fd : keep_link(g, fd);
	if (err && fd >= 0)
		close(fd);
	for (unsigned int i = 0; !err && i < g->n_probes; i++)
		if (g->probe[i] != first && is_of_link(g, g->probe[i], first))
			g->probe[i]->escape = g->probe[i]->escape_taken;
	return err;
}

/* Of one process: as the tool's own probe. */
static int attach_one(struct escapes *e, const struct group *g, struct probe *p)
{
	struct uprobe_opts opts = {
		.root_pid = getpid(),
		.offset = agent_image__escape_offset(e->img, (unsigned int)p->escape_taken),
		.is_return = p->o.kind == PROBE_URETPROBE,
		.pid = p->o.target,
		.cookie = p->o.cookie,
		.prog_fd = g->prog[p->prog].escape_fd,
	};
	char path[64];
	int err;

	image_path(e, path, sizeof(path));
	opts.path = path;
	err = uprobe__attach(&opts, &p->escape_event_fd, &p->escape_link_fd);
	if (!err)
		err = pins__add(p->escape_link_fd, PIN_ESCAPE, g->id, p->hit_index);
	if (err)
		uprobe__detach(&p->escape_event_fd, &p->escape_link_fd);
	return err;
}

void escapes__attach(struct escapes *e, struct group *g)
{
	unsigned int n_events = count_events(g);

	/* The kernel takes a probe's int3s away only when the descriptor is closed. */
	close_aside_wait(&e->n_closing);
	for (unsigned int i = 0; i < g->n_probes; i++) {
		struct probe *p = g->probe[i];

		if (p->escape_taken < 0 && may_escape(g, p, n_events))
			p->escape_taken = escapes__take(e, p->o.dev, p->o.ino, p->o.offset);
	}
	/* The oldest first: the kernel runs the newest first. */
	for (unsigned int i = g->n_probes; i--;) {
		struct probe *p = g->probe[i];
		int err;

		if (p->escape_taken < 0 || p->escape >= 0)
			continue;
		err = g->prog[p->prog].escape_is_multi ? attach_link(e, g, p) : attach_one(e, g, p);
		if (err)
			log_debug("group %u: %s has no escape: %d", g->id, p->symbol, err);
		else
			p->escape = p->escape_taken;
	}
}

/* ---- the end ---- */

void escapes__detach(struct escapes *e, struct group *g)
{
	for (unsigned int i = 0; i < g->n_escape_links; i++)
		pins__drop(PIN_ESCAPES, g->id, i);
	close_aside(&e->n_closing, g->escape_link, g->n_escape_links);
	free(g->escape_link);
	g->escape_link = NULL;
	g->n_escape_links = 0;
	for (unsigned int i = 0; i < g->n_probes; i++) {
		struct probe *p = g->probe[i];
		int fds[2] = {p->escape_link_fd, p->escape_event_fd};

		pins__drop(PIN_ESCAPE, g->id, p->hit_index);
		if (p->escape_link_fd >= 0)
			close_aside(&e->n_closing, fds, 2);
		escapes__put(e, p->escape_taken, false);
		p->escape = p->escape_taken = p->escape_link_fd = p->escape_event_fd = -1;
	}
}
