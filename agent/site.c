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
#define STUB_ROOM    (STUB_BEFORE + STUB_RET_RESUME + DECODE_MAX_CODE)
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

	if (neighbour(s))
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

static void fill_jump(struct site *s, const struct jump_form *form)
{
	int32_t rel = (int32_t)(s->stub - (s->addr + s->size));

	memcpy(s->jump, form->lead, form->n_lead);
	s->jump[form->n_lead] = JMP_REL32;
	memcpy(s->jump + form->n_lead + 1, &rel, sizeof(rel));
}

/* 0: the stub is in the target. -ENOSPC: no stub can be where this jump leads, *why. -EAGAIN: again. */
static int map_stub(struct site *s, const struct jump_form *form, int64_t reach, enum decode_result *why,
		    struct agent_error *err)
{
	struct jump_from from = {s->addr + s->size, jump_form__int3s(form, &s->d), reach};
	uint8_t page[2 * PAGE];
	struct vmas maps;
	size_t size, skip;
	struct stat st;
	int rc = proc_maps(s->t->pid, &maps);

	if (rc)
		return agent_fail(err, -ESRCH, "process %d ended", s->t->pid);
	rc = place_stub(&maps, s->t->start_brk, &from, STUB_BEFORE, STUB_ROOM - STUB_BEFORE, &s->stub);
	vmas_clear(&maps);
	if (rc)
		return -ENOSPC;
	memset(page, INT3, sizeof(page));
	skip = (s->stub - STUB_BEFORE) & (PAGE - 1);
	size = stub_build(s, page + skip, sizeof(page) - skip, why);
	if (!size)
		return -ENOSPC;
	s->map.addr = s->stub - STUB_BEFORE - skip;
	s->map.size = (skip + STUB_ROOM + PAGE - 1) & ~(PAGE - 1);
	s->map.prot = PROT_READ | PROT_EXEC;
	s->map.fd = agent_code_memfd("bpftime-stub", page, s->map.size);
	if (s->map.fd < 0)
		return agent_fail(err, s->map.fd, "a stub cannot be put into memory: %s", strerror(-s->map.fd));
	fstat(s->map.fd, &st);
	s->stub_ino = st.st_ino;
	rc = target__map(s->t, &s->map, 1, err);
	close(s->map.fd);
	if (rc)
		s->map.addr = 0;
	else
		fill_jump(s, form);
	return rc == -EEXIST ? -EAGAIN : rc;
}

/*
 * The first form of a jump for which there is a place. Near ones before far ones: operands relative to rip must reach
 * from the stub.
 */
static enum site_result choose_jump(struct site *s, const struct site_opts *o, struct agent_error *err)
{
	static const int64_t reach[] = {1ll << 30, 15ll << 27};
	enum decode_result why = DECODE_OK;
	size_t func_size = 0;
	struct function f;
	uint8_t *func;
	int result = read_file(s, o, &f, &func, &func_size, err);

	for (size_t i = 0; !result && !s->map.addr && i < 2 * JUMP_FORMS; i++) {
		const struct jump_form *form = &jump_forms[i % JUMP_FORMS];
		enum decode_result r = shape(s, o, form, &f, func, func_size);
		int rc = -EAGAIN;

		/* What keeps the shortest from being patched keeps the others, too. */
		if (r && !i)
			result = SKIP(err, "%s", decode_reason(r));
		if (r || !jump_form__suits(form, s->file, &s->d))
			continue;
		for (int tries = 0; rc == -EAGAIN && tries < PLACE_TRIES; tries++)
			rc = map_stub(s, form, reach[i / JUMP_FORMS], &why, err);
		if (rc && rc != -ENOSPC)
			result = SITE_FAILED;
	}
	free(func);
	if (result || s->map.addr)
		return result;
	return why ? SKIP(err, "%s", decode_reason(why))
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

enum site_result site__plan(struct target *t, const struct site_opts *opts, struct site **out, struct agent_error *err)
{
	struct site *s = calloc(1, sizeof(*s));
	enum site_result r;
	struct vmas maps;

	*out = NULL;
	if (!s)
		return FAIL(err, "out of memory");
	s->t = t;
	s->index = opts->index;
	s->has_return = opts->has_return;
	s->offset = opts->offset;
	s->noop_prog_fd = opts->noop_prog_fd;
	s->path_fd = open(opts->path, O_PATH | O_CLOEXEC);
	for (int i = 0; i < PATCH_MAX; i++)
		s->hold[i] = (struct hold){.event = -1, .link = -1};
	r = t->image ? SITE_DONE : FAIL(err, "process %d does not have the agent", t->pid);
	if (!r && (opts->index < 0 || opts->index >= (int)AGENT_MAX_SITES))
		r = SKIP(err, "process %d has %u probed functions already", t->pid, AGENT_MAX_SITES);
	if (!r && s->has_return)
		r = too_many_threads(t, err);
	if (!r && proc_maps(t->pid, &maps))
		r = FAIL(err, "process %d ended", t->pid);
	else if (!r) {
		r = find_mapping(s, &maps, opts, err);
		vmas_clear(&maps);
	}
	if (!r)
		r = choose_jump(s, opts, err);
	if (!r)
		r = compare_memory(s, false, err);
	for (unsigned int i = 0; !r && i < s->size; i++)
		if ((s->d.boundary_mask & (1u << i)) && hold_arm(&s->hold[i], opts, t->pid, i, err))
			r = SITE_SKIPPED;
	if (!r)
		r = compare_memory(s, true, err);
	if (r) {
		site__free(s);
		return r;
	}
	s->next = t->sites;
	t->sites = s;
	*out = s;
	return SITE_DONE;
}

uint64_t site__address(const struct site *s)
{
	return s->addr;
}

struct agent_site *site__fill_addresses(const struct site *s, struct agent_target *arena)
{
	struct agent_site *as = &arena->site[s->index];

	as->site = s->addr;
	as->resume = s->stub + (s->has_return ? STUB_RET_RESUME : STUB_RESUME);
	as->call_resume = s->has_return ? s->stub + STUB_RETURNED : 0;
	as->has_return = s->has_return;
	as->fork_page = s->t->fork_page;
	as->shadow = s->t->shadow;
	as->jump_size = (uint32_t)s->size;
	memcpy(as->jump, s->jump, s->size);
	return as;
}
