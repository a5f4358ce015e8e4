// SPDX-License-Identifier: MIT
/*
 * stubs.c: stubs that come into a target together: close by each other where their jumps allow it, in one memfd, by one
 * stop for every TARGET_MAP_MAX pieces of memory.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "site.h"

#define PAGE	  4096ul
#define AREA_ROOM (64ul << 10) /* what an area may grow by */
#define AREA_SKIP 4096ul       /* an area that would have to be left empty for so long is not taken */
#define HIGHEST	  0x7ffffffff000ull

struct area {
	uint64_t start, used, limit; /* addresses in the target */
	uint64_t at;		     /* in the memfd */
	struct stub_area *made;
};

struct planned {
	struct site *s;
	size_t area;
	size_t size;
	uint8_t code[STUB_ROOM];
};

struct stubs {
	struct target *t;
	size_t most; /* sites that may be added */
	struct vmas maps;
	struct area *area;
	size_t n_areas;
	struct planned *planned;
	size_t n;
};

struct stubs *stubs_new(struct target *t, size_t most)
{
	struct stubs *st = calloc(1, sizeof(*st));

	if (!st)
		return NULL;
	st->t = t;
	st->most = most;
	st->area = calloc(most, sizeof(*st->area));
	st->planned = calloc(most, sizeof(*st->planned));
	if (st->area && st->planned && !proc_maps(t->pid, &st->maps))
		return st;
	stubs_free(st);
	return NULL;
}

void stubs_free(struct stubs *st)
{
	vmas_clear(&st->maps);
	free(st->area);
	free(st->planned);
	free(st);
}

static int by_start(const void *a, const void *b)
{
	const struct vma *x = a, *y = b;

	return x->start < y->start ? -1 : x->start > y->start;
}

/* What areas have and may have is taken like what the target maps. */
static int take(struct stubs *st, const struct area *a)
{
	struct vma *more = realloc(st->maps.v, (st->maps.n + 1) * sizeof(*more));

	if (!more)
		return -ENOMEM;
	st->maps.v = more;
	more[st->maps.n++] = (struct vma){.start = a->start, .end = a->limit};
	qsort(more, st->maps.n, sizeof(*more), by_start);
	return 0;
}

static uint64_t next_mapped(const struct stubs *st, uint64_t addr)
{
	for (size_t i = 0; i < st->maps.n; i++)
		if (st->maps.v[i].start >= addr)
			return st->maps.v[i].start;
	return HIGHEST;
}

static void fill_jump(struct site *s, const struct jump_form *form)
{
	int32_t rel = (int32_t)(s->stub - (s->addr + s->size));

	memcpy(s->jump, form->lead, form->n_lead);
	s->jump[form->n_lead] = JMP_REL32;
	memcpy(s->jump + form->n_lead + 1, &rel, sizeof(rel));
}

/* The stub's code, for where it is. */
static int build(struct planned *p, struct site *s, const struct jump_form *form, enum decode_result *why)
{
	memset(p->code, INT3, sizeof(p->code));
	p->size = stub_build(s, p->code, sizeof(p->code), why);
	if (!p->size)
		return -ENOSPC;
	p->s = s;
	fill_jump(s, form);
	return 0;
}

int stubs_add(struct stubs *st, struct site *s, const struct jump_form *form, bool keep, int64_t reach,
	      enum decode_result *why)
{
	struct jump_from from = {s->addr + s->size, jump_form__int3s(form, &s->d),
				 keep ? &s->file[form->n_lead + 1] : NULL, reach};
	struct planned *p = &st->planned[st->n];
	size_t after = STUB_ROOM - STUB_BEFORE;
	struct area fresh;
	int rc;

	if (st->n == st->most)
		return -ENOSPC;
	for (size_t i = 0; i < st->n_areas; i++) {
		struct area *a = &st->area[i];

		if (place_stub_between(a->used, a->limit, &from, STUB_BEFORE, after, &s->stub) ||
		    s->stub - STUB_BEFORE - a->used > AREA_SKIP || build(p, s, form, why))
			continue;
		a->used = s->stub + after;
		p->area = i;
		st->n++;
		return 0;
	}
	rc = place_stub(&st->maps, st->t->start_brk, &from, STUB_BEFORE, after, &s->stub);
	if (!rc)
		rc = build(p, s, form, why);
	if (rc)
		return rc;
	fresh = (struct area){.start = (s->stub - STUB_BEFORE) & ~(PAGE - 1), .used = s->stub + after};
	fresh.limit = (fresh.used + PAGE - 1) & ~(PAGE - 1);
	if (st->most > 1) {
		uint64_t end = next_mapped(st, fresh.limit);

		fresh.limit = end - fresh.limit > AREA_ROOM ? fresh.limit + AREA_ROOM : end;
	}
	rc = take(st, &fresh);
	if (rc)
		return rc;
	p->area = st->n_areas;
	st->area[st->n_areas++] = fresh;
	st->n++;
	return 0;
}

/* ---- into the target ---- */

static size_t area_size(const struct area *a)
{
	return ((a->used + PAGE - 1) & ~(PAGE - 1)) - a->start;
}

static int make_memfd(struct stubs *st, uint64_t *ino)
{
	struct stat info;
	size_t size = 0;
	uint8_t *pages;
	int fd;

	for (size_t i = 0; i < st->n_areas; i++) {
		st->area[i].at = size;
		size += area_size(&st->area[i]);
	}
	pages = malloc(size);
	if (!pages)
		return -ENOMEM;
	memset(pages, INT3, size);
	for (size_t i = 0; i < st->n; i++) {
		const struct planned *p = &st->planned[i];
		const struct area *a = &st->area[p->area];

		memcpy(pages + a->at + (p->s->stub - STUB_BEFORE - a->start), p->code, p->size);
	}
	fd = agent_code_memfd("bpftime-stub", pages, size);
	free(pages);
	if (fd >= 0) {
		fstat(fd, &info);
		*ino = info.st_ino;
	}
	return fd;
}

static void give_up(struct stubs *st)
{
	struct agent_error ignored;

	for (size_t i = 0; i < st->n_areas; i++) {
		struct stub_area *made = st->area[i].made;

		if (made && made->map.addr)
			target__unmap(st->t, &made->map, 1, &ignored);
		free(made);
		st->area[i].made = NULL;
	}
}

static int map_areas(struct stubs *st, int fd, uint64_t ino, struct agent_error *err)
{
	struct target_mapping m[TARGET_MAP_MAX];
	int rc = 0;

	for (size_t i = 0; i < st->n_areas && !rc; i++) {
		st->area[i].made = calloc(1, sizeof(*st->area[i].made));
		rc = st->area[i].made ? 0 : -ENOMEM;
	}
	for (size_t first = 0; first < st->n_areas && !rc; first += TARGET_MAP_MAX) {
		size_t n = st->n_areas - first < TARGET_MAP_MAX ? st->n_areas - first : TARGET_MAP_MAX;

		for (size_t i = 0; i < n; i++) {
			const struct area *a = &st->area[first + i];

			m[i] = (struct target_mapping){.fd = fd,
						       .addr = a->start,
						       .size = area_size(a),
						       .prot = PROT_READ | PROT_EXEC,
						       .offset = a->at};
		}
		rc = target__map(st->t, m, n, err);
		for (size_t i = 0; i < n && !rc; i++) {
			m[i].fd = -1;
			*st->area[first + i].made = (struct stub_area){.map = m[i], .ino = ino};
		}
	}
	return rc;
}

int stubs_map(struct stubs *st, struct agent_error *err)
{
	uint64_t ino = 0;
	int fd, rc;

	if (!st->n)
		return 0;
	fd = make_memfd(st, &ino);
	if (fd < 0)
		return agent_fail(err, fd, "a stub cannot be put into memory: %s", strerror(-fd));
	rc = map_areas(st, fd, ino, err);
	close(fd);
	if (rc) {
		give_up(st);
		return rc == -EEXIST ? -EAGAIN : rc;
	}
	for (size_t i = 0; i < st->n; i++) {
		st->planned[i].s->area = st->area[st->planned[i].area].made;
		st->planned[i].s->area->refs++;
	}
	return 0;
}

struct stub_area *stub_area_put(struct site *s)
{
	struct stub_area *a = s->area;

	s->area = NULL;
	return a && !--a->refs ? a : NULL;
}
