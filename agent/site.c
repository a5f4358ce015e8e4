// SPDX-License-Identifier: MIT
/*
 * site.c: plans a site: is it where the file says, can it be patched, where is its stub; arms what protects it.
 *
 * What the kernel's int3s at the boundaries are for: a thread that was past the first byte when the jump came, a return
 * address or a branch into the patch finds an int3 there, and the kernel executes the file's instruction in its place.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "site.h"

#define PAGE	     4096ul
#define PLACE_TRIES  4			     /* another thread may map something there first */
#define BRANCH_SCAN  (64ul << 10)	     /* bytes of a function that are searched for branches into the patch */
#define SAFE_THREADS (AGENT_MAX_THREADS / 2) /* more: a thread may find no slot for its returns */

#define SKIP(err, ...) (agent_fail(err, 0, __VA_ARGS__), SITE_SKIPPED)
#define FAIL(err, ...) (agent_fail(err, 0, __VA_ARGS__), SITE_FAILED)

static bool same_file(pid_t pid, const struct vma *v, const struct stat *st)
{
	char path[96];
	struct stat mapped;

	if (v->ino != st->st_ino)
		return false;
	/* The device numbers in maps are not those of stat() on every file system. */
	snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", pid, v->start, v->end);
	return !stat(path, &mapped) && mapped.st_dev == st->st_dev && mapped.st_ino == st->st_ino;
}

/* The one executable mapping of the file that holds the offset. */
static enum site_result find_mapping(struct site *s, const struct vmas *maps, const struct site_opts *o,
				     struct agent_error *err)
{
	struct stat st;
	int found = 0;

	if (stat(o->path, &st))
		return FAIL(err, "%s cannot be opened: %s", o->path, strerror(errno));
	for (size_t i = 0; i < maps->n; i++) {
		const struct vma *v = &maps->v[i];

		if (!v->exec || o->offset < v->offset || o->offset - v->offset >= v->end - v->start ||
		    !same_file(s->t->pid, v, &st))
			continue;
		if (v->write || v->shared)
			return SKIP(err, "process %d maps %s writable or shared: the kernel puts no probe there",
				    s->t->pid, o->path);
		s->addr = v->start + (o->offset - v->offset);
		if (v->end - s->addr < SITE_MAX_CODE)
			return SKIP(err, "the probe is at the very end of the code of %s", o->path);
		found++;
	}
	if (!found)
		return SKIP(err, "process %d does not have %s mapped", s->t->pid, o->path);
	if (found > 1)
		return SKIP(err, "process %d has %s mapped %d times", s->t->pid, o->path, found);
	return SITE_DONE;
}

/* The function's own bytes, from the file: memory may hold int3s. */
static uint8_t *read_function(const char *path, const struct function *f, size_t *size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint8_t *code;
	ssize_t n;

	*size = f->size < BRANCH_SCAN ? f->size : BRANCH_SCAN;
	if (fd < 0)
		return NULL;
	code = malloc(*size + 1);
	n = code ? pread(fd, code, *size, (off_t)f->offset) : -1;
	close(fd);
	if (n >= 0) {
		*size = (size_t)n;
		return code;
	}
	free(code);
	return NULL;
}

/* What the file has at the site, before it, and in the function of which it is. *func: to be freed. */
static enum site_result read_file(struct site *s, const struct site_opts *o, struct function *f, uint8_t **func,
				  size_t *func_size, struct agent_error *err)
{
	bool known = !elf_function_at(o->path, o->offset, f);
	struct function window = {.offset = o->offset, .size = SITE_MAX_CODE};
	uint8_t *code;

	*func = NULL;
	if (known && s->has_return && f->saves_context)
		return SKIP(err, "%s returns twice or on another stack: its return is probed by the kernel", f->name);
	if (known && s->has_return && f->offset != o->offset)
		return SKIP(err, "the return probe is not at the start of %s", f->name);
	code = read_function(o->path, &window, &s->file_size);
	if (!code || !s->file_size) {
		free(code);
		return FAIL(err, "the code of %s cannot be read", o->path);
	}
	memcpy(s->file, code, s->file_size);
	free(code);
	window = (struct function){.offset =
					   o->offset - (o->offset < sizeof(s->before) ? o->offset : sizeof(s->before))};
	window.size = o->offset - window.offset;
	code = read_function(o->path, &window, &s->n_before);
	if (!code)
		return FAIL(err, "the code of %s cannot be read", o->path);
	memcpy(s->before, code, s->n_before);
	free(code);
	if (!known)
		*f = (struct function){.offset = o->offset, .size = PAGE};
	if (known && f->size && f->size - (o->offset - f->offset) < s->file_size)
		s->file_size = f->size - (o->offset - f->offset);
	if (f->size)
		*func = read_function(o->path, f, func_size);
	return SITE_DONE;
}

/* The instructions that a jump of this form would cover. */
static enum decode_result shape(struct site *s, const struct site_opts *o, const struct jump_form *form,
				const struct function *f, const uint8_t *func, size_t func_size)
{
	enum decode_result r;

	s->size = jump_form__size(form);
	s->step = form->step;
	r = decode_site(s->file, s->file_size, s->size, &s->d);
	if (!r && func)
		r = decode_branches(func, func_size, o->offset - f->offset, &s->d);
	return r;
}

/* Another place of ours so close that the two jumps would share bytes. */
static const struct site *neighbour(const struct site *s)
{
	for (const struct site *o = s->t->sites; o; o = o->next)
		if (s->addr < o->addr + o->size && o->addr < s->addr + s->size)
			return o;
	return NULL;
}

/* Memory must be what the file says, but for the kernel's int3s. */
static enum site_result compare_memory(struct site *s, bool armed, struct agent_error *err)
{
	uint8_t now[SITE_MAX_CODE];
	size_t n = s->d.covered;

	if (!armed && neighbour(s))
		return SKIP(err, "another probed instruction of process %d is so close that its jump would overlap",
			    s->t->pid);
	if (target_read(s->t, s->addr, now, n))
		return FAIL(err, "process %d ended", s->t->pid);
	for (size_t i = 0; i < n; i++) {
		bool boundary = i < s->size && (s->d.boundary_mask & (1u << i));

		if (armed && boundary && now[i] != INT3)
			return SKIP(err, "the kernel put no breakpoint at byte %zu of the site", i);
		if (now[i] != s->file[i] && now[i] != INT3)
			return SKIP(err,
				    "the code at 0x%lx of process %d is not what the file has: somebody patched it",
				    s->addr, s->t->pid);
	}
	if (patch_is_overlapped(s))
		return SKIP(err, "somebody's patch overlaps the site at 0x%lx of process %d", s->addr, s->t->pid);
	return SITE_DONE;
}

/*
 * The first form of a jump for which there is a place. Near ones before far ones: operands relative to rip must reach
 * from the stub. Where the kernel takes the int3s of holds from fork children, what is left must be the function: then
 * the jump has the function's bytes but for the first one and the int3s.
 */
static enum site_result choose_jump(struct site *s, const struct site_opts *o, struct stubs *stubs,
				    struct agent_error *err)
{
	static const int64_t reach[] = {1ll << 30, 15ll << 27};
	enum decode_result why = DECODE_OK;
	bool chosen = false, keep = !agent_holds_are_links();
	size_t func_size = 0;
	struct function f;
	uint8_t *func;
	int result = read_file(s, o, &f, &func, &func_size, err);

	for (size_t i = 0; !result && !chosen && i < 2 * JUMP_FORMS; i++) {
		const struct jump_form *form = &jump_forms[i % JUMP_FORMS];
		enum decode_result r = shape(s, o, form, &f, func, func_size);

		/* What keeps the shortest from being patched keeps the others, too. */
		if (r && !i)
			result = SKIP(err, "%s", decode_reason(r));
		if (r || !jump_form__suits(form, s->file, &s->d) || (keep && !jump_form__keeps(form, s->file, &s->d)))
			continue;
		result = compare_memory(s, false, err);
		chosen = !result && !stubs_add(stubs, s, form, keep, reach[i / JUMP_FORMS], &why);
	}
	free(func);
	if (result || chosen)
		return result;
	if (why)
		return SKIP(err, "%s", decode_reason(why));
	return keep ? SKIP(err, "the jump cannot be placed: before Linux 6.6 the kernel takes breakpoints from fork "
				"children, and no free address makes a jump of the function's own bytes")
		    : SKIP(err, "the jump cannot be placed: no free address has int3 at the bytes where instructions "
				"begin");
}

static enum site_result too_many_threads(struct target *t, struct agent_error *err)
{
	pid_t *tids;
	int n = proc_threads(t->pid, &tids);

	if (n >= 0)
		free(tids);
	return n > (int)SAFE_THREADS ? SKIP(err, "process %d has %d threads, too many for return probes", t->pid, n)
				     : SITE_DONE;
}

/* ---- many at once ---- */

struct planning {
	struct target *t;
	const struct site_opts *opts;
	struct site_plan *plan;
	size_t n;
	struct vmas maps;
	struct stubs *stubs;
};

static struct site *new_site(struct target *t, const struct site_opts *o)
{
	struct site *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->t = t;
	s->index = o->index;
	s->has_return = o->has_return;
	s->offset = o->offset;
	s->noop_prog_fd = o->noop_prog_fd;
	s->escape = o->escape <= AGENT_MAX_ESCAPES ? o->escape : 0;
	s->path_fd = -1;
	return s;
}

static enum site_result plan_one(struct planning *p, const struct site_opts *o, struct site *s, struct agent_error *err)
{
	enum site_result r = SITE_DONE;

	if (o->index < 0 || o->index >= (int)AGENT_MAX_SITES)
		return SKIP(err, "process %d has %u probed functions already", p->t->pid, AGENT_MAX_SITES);
	if (s->has_return)
		r = too_many_threads(p->t, err);
	if (!r)
		r = find_mapping(s, &p->maps, o, err);
	return r ? r : choose_jump(s, o, p->stubs, err);
}

static void drop(struct site_plan *p, enum site_result r)
{
	if (p->site)
		site__free(p->site);
	p->site = NULL;
	p->result = r;
}

static uint64_t resume_of(const struct site *s)
{
	return s->stub + (s->has_return ? STUB_RET_RESUME : STUB_RESUME);
}

static int write_escape(const struct site *s, const struct agent_escape *e, size_t from)
{
	uint64_t at = s->t->shadow - sizeof(struct agent_private) + offsetof(struct agent_private, escape) +
		      (s->escape - 1) * sizeof(*e);

	return target_write(s->t, at + from, (const char *)e + from, sizeof(*e) - from);
}

/* Where a thread goes from the site's slot. */
static int lead_escape(const struct site *s)
{
	const struct agent_escape e = {.to = resume_of(s)};

	return s->escape ? write_escape(s, &e, 0) : 0;
}

int site__set_escape(const struct site *s, bool on)
{
	const struct agent_escape e = {.on = on};

	return s->escape ? write_escape(s, &e, offsetof(struct agent_escape, on)) : 0;
}

/* Chooses jumps and stubs for all, and brings the stubs into the target. -EAGAIN: somebody mapped something there. */
static int try_plan(struct planning *p, struct agent_error *err)
{
	int rc;

	p->stubs = stubs_new(p->t, p->n);
	if (!p->stubs)
		return agent_fail(err, -ESRCH, "process %d ended", p->t->pid);
	for (size_t i = 0; i < p->n; i++) {
		struct site_plan *out = &p->plan[i];
		struct site *s = new_site(p->t, &p->opts[i]);

		*out = (struct site_plan){.site = s};
		if (s)
			out->result = plan_one(p, &p->opts[i], s, &out->err);
		else
			out->result = FAIL(&out->err, "out of memory");
		if (out->result) {
			drop(out, out->result);
			continue;
		}
		s->next = p->t->sites;
		p->t->sites = s;
	}
	rc = stubs_map(p->stubs, err);
	stubs_free(p->stubs);
	for (size_t i = 0; i < p->n && !rc; i++)
		if (p->plan[i].site && lead_escape(p->plan[i].site))
			rc = agent_fail(err, -ESRCH, "process %d ended", p->t->pid);
	for (size_t i = 0; i < p->n && rc; i++)
		if (p->plan[i].site)
			drop(&p->plan[i], SITE_FAILED);
	return rc;
}

static void skip_all(struct planning *p, enum site_result r, const struct agent_error *err)
{
	for (size_t i = 0; i < p->n; i++) {
		p->plan[i] = (struct site_plan){.result = r, .err = *err};
	}
}

/* All sites of one file at once. */
static void hold_all(struct planning *p)
{
	struct site **s = calloc(p->n, sizeof(*s));
	size_t *of = calloc(p->n, sizeof(*of));

	for (size_t i = 0; i < p->n; i++) {
		struct agent_error err = {""};
		size_t n = 0;

		if (!p->plan[i].site || p->plan[i].site->held || p->plan[i].site->hold)
			continue;
		for (size_t k = i; s && of && k < p->n; k++) {
			if (!p->plan[k].site || p->plan[k].site->held || strcmp(p->opts[k].path, p->opts[i].path))
				continue;
			s[n] = p->plan[k].site;
			of[n++] = k;
		}
		if (n)
			hold_sites(s, n, &p->opts[i], &err);
		for (size_t k = 0; k < n; k++) {
			struct site_plan *out = &p->plan[of[k]];
			enum site_result r = SITE_SKIPPED;

			if (out->site->held || out->site->hold)
				r = compare_memory(out->site, true, &out->err);
			else
				out->err = err;
			if (r)
				drop(out, r);
		}
	}
	free(s);
	free(of);
}

void site__plan_all(struct target *t, const struct site_opts *opts, size_t n, struct site_plan *out)
{
	struct planning p = {.t = t, .opts = opts, .plan = out, .n = n};
	struct agent_error err = {""};
	int rc = -EAGAIN;

	if (!t->image) {
		agent_fail(&err, 0, "process %d does not have the agent", t->pid);
		skip_all(&p, SITE_FAILED, &err);
		return;
	}
	for (int tries = 0; rc == -EAGAIN && tries < PLACE_TRIES; tries++) {
		if (proc_maps(t->pid, &p.maps))
			rc = agent_fail(&err, -ESRCH, "process %d ended", t->pid);
		else
			rc = try_plan(&p, &err);
		vmas_clear(&p.maps);
	}
	if (rc)
		skip_all(&p, SITE_FAILED, &err);
	else
		hold_all(&p);
}

enum site_result site__plan(struct target *t, const struct site_opts *opts, struct site **out, struct agent_error *err)
{
	struct site_plan plan;

	site__plan_all(t, opts, 1, &plan);
	*out = plan.site;
	if (plan.result)
		*err = plan.err;
	return plan.result;
}

uint64_t site__address(const struct site *s)
{
	return s->addr;
}

bool site__is_stub_code(const struct site *s, uint64_t address)
{
	uint64_t own = s->has_return ? STUB_RET_RESUME : STUB_RESUME;

	return s->area && address >= s->stub - STUB_BEFORE && address < s->stub + own;
}

struct agent_site *site__fill_addresses(const struct site *s, struct agent_target *arena)
{
	struct agent_site *as = &arena->site[s->index];

	if (arena->n_sites <= (uint32_t)s->index)
		arena->n_sites = (uint32_t)s->index + 1;
	as->site = s->addr;
	as->resume = resume_of(s);
	as->call_resume = s->has_return ? s->stub + STUB_RETURNED : 0;
	as->has_return = s->has_return;
	as->fork_page = s->t->fork_page;
	as->shadow = s->t->shadow;
	as->jump_size = (uint32_t)s->size;
	memcpy(as->jump, s->jump, s->size);
	return as;
}
