// SPDX-License-Identifier: MIT
/* adopt.c: targets and sites of a daemon that was killed, made again from what it wrote down. */
#include "adopt.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "site.h"

_Static_assert(PATCH_MAX == sizeof(((struct site_record *)0)->jump), "a record has room for a jump");
_Static_assert(SITE_MAX_CODE == AGENT_RECORD_CODE, "a record has room for the code of a site");
_Static_assert(sizeof(((struct site *)0)->before) == sizeof(((struct site_record *)0)->before),
	       "and what is before it");

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
		.n_before = (uint8_t)s->n_before,
		.offset = s->offset,
		.instruction = s->instruction,
		.escape = s->escape,
	};
	memcpy(out->file, s->file, sizeof(out->file));
	memcpy(out->before, s->before, sizeof(out->before));
	memcpy(out->jump, s->jump, sizeof(s->jump));
}

/* Does a mapping of ours begin there? ino: of its file, or 0 for any. */
static bool has_ours(const struct vmas *maps, uint64_t addr, uint64_t ino)
{
	for (size_t i = 0; i < maps->n; i++)
		if (maps->v[i].start == addr && (!ino || maps->v[i].ino == ino) &&
		    (strstr(maps->v[i].path, "memfd:bpftime") || strstr(maps->v[i].path, "bpf-map")))
			return true;
	return false;
}

static bool is_ours(pid_t pid, uint64_t addr, uint64_t ino)
{
	struct vmas maps;
	bool found;

	if (proc_maps(pid, &maps))
		return false;
	found = has_ours(&maps, addr, ino);
	vmas_clear(&maps);
	return found;
}

int target__adopt(pid_t pid, const struct target_record *r, struct target **out, struct agent_error *err)
{
	struct target *t;
	int rc = target_open_unchecked(pid, &t, err);

	/* Whoever was found fit for the agent is, also while somebody has stopped him or traces him. */
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

/* The mapped file in which the site is, as O_PATH, or -1. */
static int open_file_at(pid_t pid, const struct vmas *maps, uint64_t addr)
{
	char path[96];

	for (size_t i = 0; i < maps->n; i++) {
		if (addr < maps->v[i].start || addr >= maps->v[i].end)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", pid, maps->v[i].start, maps->v[i].end);
		return open(path, O_PATH | O_CLOEXEC);
	}
	return -1;
}

struct adopting {
	struct target *t;
	struct vmas maps;
	const char *pin_dir;
	int noop_prog_fd;
};

static struct hold_link *new_link(const struct adopting *a, const struct site_record *r)
{
	struct hold_link *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->id = r->hold_link;
	l->path_fd = open_file_at(a->t->pid, &a->maps, r->addr);
	snprintf(l->pin, sizeof(l->pin), "%s/hold-%d-all-%u", a->pin_dir, a->t->pid, l->id);
	l->link = bpf_obj_get(l->pin);
	return l;
}

static struct hold_link *adopt_link(const struct adopting *a, const struct site_record *r)
{
	struct hold_link *l = NULL;
	uint32_t *bucket;

	for (const struct site *s = a->t->sites; s && !l; s = s->next)
		if (s->held && s->held->id == r->hold_link)
			l = s->held;
	if (!l)
		l = new_link(a, r);
	bucket = l ? realloc(l->at.bucket, (l->at.n + 1) * sizeof(*bucket)) : NULL;
	if (bucket) {
		l->at.bucket = bucket;
		bucket[l->at.n++] = r->instruction;
	}
	return l;
}

static struct hold *adopt_holds(const struct adopting *a, const struct site_record *r)
{
	struct hold *holds = calloc(PATCH_MAX, sizeof(*holds));

	for (unsigned int i = 0; holds && i < PATCH_MAX; i++) {
		struct hold *h = &holds[i];

		*h = (struct hold){.event = -1, .link = -1};
		if (!(r->boundary_mask & (1u << i)))
			continue;
		snprintf(h->pin, sizeof(h->pin), "%s/hold-%d-%u-%u", a->pin_dir, a->t->pid, r->index, i);
		/* The link holds the event. */
		h->event = bpf_obj_get(h->pin);
	}
	return holds;
}

static int adopt_one(const struct adopting *a, const struct site_record *r, struct site **out, struct agent_error *err)
{
	struct target *t = a->t;
	struct site *s;

	*out = NULL;
	if (r->size < JUMP_SIZE || r->size > PATCH_MAX || r->step >= r->size || r->n_before > sizeof(r->before))
		return agent_fail(err, -EINVAL, "the record of the site at 0x%lx of process %d is damaged", r->addr,
				  t->pid);
	if (!has_ours(&a->maps, r->map_addr, r->stub_ino))
		return agent_fail(err, -ENOENT, "the stub of the site at 0x%lx of process %d is gone", r->addr, t->pid);
	s = calloc(1, sizeof(*s));
	if (!s)
		return agent_fail(err, -ENOMEM, "out of memory");
	*s = (struct site){
		.t = t,
		.addr = r->addr,
		.stub = r->stub,
		.file_size = r->file_size,
		.n_before = r->n_before,
		.d = {.covered = r->covered, .boundary_mask = r->boundary_mask},
		.size = r->size,
		.step = r->step,
		.offset = r->offset,
		.instruction = r->instruction,
		.noop_prog_fd = a->noop_prog_fd,
		.index = (int)r->index,
		.escape = r->escape <= AGENT_MAX_ESCAPES ? r->escape : 0,
		.has_return = r->has_return,
		.armed = true,
		.path_fd = -1,
		.area = adopt_area(t, r),
		.held = r->hold_link == NO_LINK ? NULL : adopt_link(a, r),
		.hold = r->hold_link == NO_LINK ? adopt_holds(a, r) : NULL,
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
	if (s->held && t->n_hold_links <= s->held->id)
		t->n_hold_links = s->held->id + 1;
	if (s->hold)
		s->path_fd = open_file_at(t->pid, &a->maps, s->addr);
	instruction_use(s->instruction);
	s->is_used = true;
	t->sites = s;
	memcpy(s->file, r->file, sizeof(s->file));
	memcpy(s->before, r->before, sizeof(s->before));
	memcpy(s->jump, r->jump, sizeof(s->jump));
	*out = s;
	return 0;
}

int site__adopt_all(struct target *t, const struct site_record *r, size_t n, const char *pin_dir, int noop_prog_fd,
		    struct site **out, struct agent_error *err)
{
	struct adopting a = {.t = t, .pin_dir = pin_dir, .noop_prog_fd = noop_prog_fd};
	int ret = proc_maps(t->pid, &a.maps);

	memset(out, 0, n * sizeof(struct site *));
	if (ret)
		return agent_fail(err, ret, "the memory map of process %d cannot be read: %s", t->pid, strerror(-ret));
	for (size_t i = 0; i < n; i++) {
		int one = adopt_one(&a, &r[i], &out[i], err);

		ret = ret ? ret : one;
	}
	vmas_clear(&a.maps);
	return ret;
}

int site__adopt(struct target *t, const struct site_record *r, const char *pin_dir, int noop_prog_fd, struct site **out,
		struct agent_error *err)
{
	return site__adopt_all(t, r, 1, pin_dir, noop_prog_fd, out, err);
}

static void let_end(pid_t parent, const char *pin, const uint32_t *bucket, size_t n)
{
	const struct instructions at = {.bucket = (uint32_t *)bucket, .n = n};
	int fd = bpf_obj_get(pin);

	unlink(pin);
	if (fd >= 0)
		uprobes_end(parent, fd, -1, &at, true);
}

void orphans__let_end(pid_t parent, const struct site_record *r, size_t n, const char *pin_dir)
{
	uint32_t *bucket = calloc(n + 1, sizeof(*bucket));
	char pin[256];

	/* One link may hold many. */
	for (size_t i = 0; bucket && i < n; i++)
		bucket[i] = r[i].instruction;
	for (size_t i = 0; bucket && i < n; i++) {
		snprintf(pin, sizeof(pin), "%s/hold-%d-all-%u", pin_dir, parent, r[i].hold_link);
		if (r[i].hold_link != NO_LINK)
			let_end(parent, pin, bucket, n);
		for (unsigned int k = 0; r[i].hold_link == NO_LINK && k < PATCH_MAX; k++) {
			snprintf(pin, sizeof(pin), "%s/hold-%d-%u-%u", pin_dir, parent, r[i].index, k);
			if (r[i].boundary_mask & (1u << k))
				let_end(parent, pin, &bucket[i], 1);
		}
	}
	free(bucket);
}

/* ---- going on ---- */

static bool has_all_holds(const struct site *s)
{
	bool all = !s->held || (s->held->link >= 0 && s->held->at.n);

	for (unsigned int i = 0; s->hold && i < PATCH_MAX; i++)
		all &= !(s->d.boundary_mask & (1u << i)) || s->hold[i].event >= 0;
	return all;
}

int site__go_on(struct site *s, bool is_open, struct agent_error *err)
{
	uint8_t now[PATCH_MAX];
	int rc;

	if (!has_all_holds(s))
		return agent_fail(err, -ENOENT, "a uprobe that holds the site at 0x%lx of process %d is gone", s->addr,
				  s->t->pid);
	rc = site_look(s, now, err);
	if (rc)
		return rc;
	/* The kernel writes its int3 over the first byte of an open one when another tool attaches there. */
	if (!agent_is_behind(now, is_open ? s->jump : s->file, (uint32_t)s->size) ||
	    (now[0] != INT3 && (!is_open || now[0] != s->jump[0])))
		return agent_fail(err, -EBUSY, "the site at 0x%lx of process %d is not as it was left", s->addr,
				  s->t->pid);
	s->armed = is_open;
	return 0;
}

static int open_mapping(pid_t pid, uint64_t addr, size_t size)
{
	char path[96];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", pid, addr, addr + size);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int agent_image__adopt(struct agent_image **out, pid_t pid, const struct target_record *r, uint64_t ino,
		       struct agent_error *err)
{
	int fd = open_mapping(pid, r->image, agent_image__size());

	if (fd < 0)
		return agent_fail(err, fd, "the agent's code cannot be had from process %d: %s", pid, strerror(-fd));
	return agent_image__of(out, fd, ino, err);
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
