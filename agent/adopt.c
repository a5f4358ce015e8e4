// SPDX-License-Identifier: MIT
/* adopt.c: targets and sites of a daemon that was killed, made again from what it wrote down. */
#include "adopt.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "site.h"

_Static_assert(PATCH_MAX == sizeof(((struct site_record *)0)->jump), "a record has room for a jump");
_Static_assert(SITE_MAX_CODE == AGENT_RECORD_CODE, "a record has room for the code of a site");

#define NO_LINK (~0u)

void target__record(const struct target *t, struct target_record *out)
{
	*out = (struct target_record){t->image, t->arena, t->fork_page, t->shadow};
}

void site__record(const struct site *s, struct site_record *out)
{
	*out = (struct site_record){
		.addr = s->addr,
		.stub = s->stub,
		.map_addr = s->area->map.addr,
		.map_size = s->area->map.size,
		.stub_ino = s->area->ino,
		.hold_link = s->held ? s->held->id : NO_LINK,
		.covered = s->d.covered,
		.index = (uint32_t)s->index,
		.file_size = (uint32_t)s->file_size,
		.boundary_mask = s->d.boundary_mask,
		.size = (uint8_t)s->size,
		.step = (uint8_t)s->step,
		.has_return = s->has_return,
	};
	memcpy(out->file, s->file, sizeof(out->file));
	memcpy(out->jump, s->jump, sizeof(s->jump));
}

/* Does a mapping of ours begin there? ino: of its file, or 0 for any. */
static bool is_ours(pid_t pid, uint64_t addr, uint64_t ino)
{
	struct vmas maps;
	bool found = false;

	if (proc_maps(pid, &maps))
		return false;
	for (size_t i = 0; i < maps.n && !found; i++)
		found = maps.v[i].start == addr && (!ino || maps.v[i].ino == ino) &&
			(strstr(maps.v[i].path, "memfd:bpftime") || strstr(maps.v[i].path, "bpf-map"));
	vmas_clear(&maps);
	return found;
}

int target__adopt(pid_t pid, const struct target_record *r, struct target **out, struct agent_error *err)
{
	struct target *t;
	int rc = target__open(pid, &t, err);

	if (rc)
		return rc;
	t->image = r->image;
	t->arena = r->arena;
	t->fork_page = r->fork_page;
	t->shadow = r->shadow;
	if (!is_ours(pid, r->image, 0) || target_read(t, r->image, &t->image_hdr, sizeof(t->image_hdr)) ||
	    t->image_hdr.magic != AGENT_IMAGE_MAGIC) {
		target__free(t);
		return agent_fail(err, -ENOENT, "process %d does not have the agent any more", pid);
	}
	*out = t;
	return 0;
}

/* What sites have together is made again once. */
static struct stub_area *adopt_area(const struct target *t, const struct site_record *r)
{
	struct stub_area *a;

	for (const struct site *s = t->sites; s; s = s->next)
		if (s->area->map.addr == r->map_addr)
			return s->area;
	a = calloc(1, sizeof(*a));
	if (a)
		*a = (struct stub_area){.map = {.fd = -1, .addr = r->map_addr, .size = r->map_size},
					.ino = r->stub_ino};
	return a;
}

static struct hold_link *adopt_link(const struct target *t, unsigned int id, const char *pin_dir)
{
	struct hold_link *l;

	for (const struct site *s = t->sites; s; s = s->next)
		if (s->held && s->held->id == id)
			return s->held;
	l = calloc(1, sizeof(*l));
	if (!l)
		return NULL;
	l->id = id;
	l->path_fd = -1;
	snprintf(l->pin, sizeof(l->pin), "%s/hold-%d-all-%u", pin_dir, t->pid, id);
	l->link = bpf_obj_get(l->pin);
	return l;
}

static struct hold *adopt_holds(const struct target *t, const struct site_record *r, const char *pin_dir)
{
	struct hold *holds = calloc(PATCH_MAX, sizeof(*holds));

	for (unsigned int i = 0; holds && i < PATCH_MAX; i++) {
		struct hold *h = &holds[i];

		*h = (struct hold){.event = -1, .link = -1};
		if (!(r->boundary_mask & (1u << i)))
			continue;
		snprintf(h->pin, sizeof(h->pin), "%s/hold-%d-%u-%u", pin_dir, t->pid, r->index, i);
		/* The link holds the event. */
		h->event = bpf_obj_get(h->pin);
	}
	return holds;
}

int site__adopt(struct target *t, const struct site_record *r, const char *pin_dir, struct site **out,
		struct agent_error *err)
{
	struct site *s;

	if (r->size < JUMP_SIZE || r->size > PATCH_MAX || r->step >= r->size)
		return agent_fail(err, -EINVAL, "the record of the site at 0x%lx of process %d is damaged", r->addr,
				  t->pid);
	if (!is_ours(t->pid, r->map_addr, r->stub_ino))
		return agent_fail(err, -ENOENT, "the stub of the site at 0x%lx of process %d is gone", r->addr, t->pid);
	s = calloc(1, sizeof(*s));
	if (!s)
		return agent_fail(err, -ENOMEM, "out of memory");
	*s = (struct site){
		.t = t,
		.addr = r->addr,
		.stub = r->stub,
		.file_size = r->file_size,
		.d = {.covered = r->covered, .boundary_mask = r->boundary_mask},
		.size = r->size,
		.step = r->step,
		.index = (int)r->index,
		.has_return = r->has_return,
		.armed = true,
		.path_fd = -1,
		.area = adopt_area(t, r),
		.held = r->hold_link == NO_LINK ? NULL : adopt_link(t, r->hold_link, pin_dir),
		.hold = r->hold_link == NO_LINK ? adopt_holds(t, r, pin_dir) : NULL,
		.next = t->sites,
	};
	if (s->area)
		s->area->refs++;
	if (s->held)
		s->held->refs++;
	if (!s->area || (!s->held && !s->hold)) {
		free(s); /* what it shares is left to the others */
		return agent_fail(err, -ENOMEM, "out of memory");
	}
	t->sites = s;
	memcpy(s->file, r->file, sizeof(s->file));
	memcpy(s->jump, r->jump, sizeof(s->jump));
	*out = s;
	return 0;
}

int target__unmap_ours(struct target *t, const struct target_mapping *m, size_t n, struct agent_error *err)
{
	int ret = 0;

	for (size_t i = 0; i < n && !ret; i++)
		if (is_ours(t->pid, m[i].addr, 0))
			ret = target__unmap(t, &m[i], 1, err);
	return ret;
}

struct code_range target__image_range(const struct target *t)
{
	return (struct code_range){t->image, t->image + agent_image__size()};
}

int target__evict(struct target *t, int timeout_ms, struct agent_error *err)
{
	struct target_mapping parts[2] = {{.addr = t->image, .size = agent_image__size()},
					  {.addr = t->arena, .size = sizeof(struct agent_target)}};
	struct code_range image = target__image_range(t);
	int rc = target__left(t, &image, 1, timeout_ms, err);

	if (!rc)
		rc = target__unmap_ours(t, parts, 2, err);
	return rc;
}
