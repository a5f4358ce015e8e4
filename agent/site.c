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

static enum site_result decode(struct site *s, const struct site_opts *o, struct agent_error *err)
{
	struct function f;
	bool known = !elf_function_at(o->path, o->offset, &f);
	struct function window = {.offset = o->offset, .size = SITE_MAX_CODE};
	enum decode_result r;
	uint8_t *code;
	size_t size;

	if (known && s->has_return && f.saves_context)
		return SKIP(err, "%s returns twice or on another stack: its return is probed by the kernel", f.name);
	if (known && s->has_return && f.offset != o->offset)
		return SKIP(err, "the return probe is not at the start of %s", f.name);
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
	size = s->file_size;
	if (known && f.size && f.size - (o->offset - f.offset) < size)
		size = f.size - (o->offset - f.offset);
	r = decode_site(s->file, size, &s->d);
	if (!r && !known)
		f = (struct function){.offset = o->offset, .size = PAGE};
	if (!r && f.size) {
		code = read_function(o->path, &f, &size);
		if (code)
			r = decode_branches(code, size, o->offset - f.offset, &s->d);
		free(code);
	}
	return r ? SKIP(err, "%s", decode_reason(r)) : SITE_DONE;
}

/* Memory must be what the file says, but for the kernel's int3s. */
static enum site_result compare_memory(struct site *s, bool armed, struct agent_error *err)
{
	uint8_t now[SITE_MAX_CODE];
	size_t n = s->d.covered;

	if (target_read(s->t, s->addr, now, n))
		return FAIL(err, "process %d ended", s->t->pid);
	for (size_t i = 0; i < n; i++) {
		bool boundary = i < PATCH_SIZE && (s->d.boundary_mask & (1u << i));

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

static enum site_result map_stub(struct site *s, struct agent_error *err)
{
	uint8_t page[2 * PAGE];
	enum decode_result why;
	struct vmas maps;
	struct stat st;
	int rc;

	for (int tries = 0; tries < PLACE_TRIES; tries++) {
		size_t size, skip;

		rc = proc_maps(s->t->pid, &maps);
		if (rc)
			return FAIL(err, "process %d ended", s->t->pid);
		rc = place_stub(&maps, s->t->start_brk, s->addr, s->d.boundary_mask, STUB_BEFORE,
				STUB_ROOM - STUB_BEFORE, &s->stub);
		vmas_clear(&maps);
		if (rc)
			return SKIP(err, "the jump cannot be placed: no free address has int3 at the bytes where "
					 "instructions begin");
		memset(page, INT3, sizeof(page));
		skip = (s->stub - STUB_BEFORE) & (PAGE - 1);
		size = stub_build(s, page + skip, sizeof(page) - skip, &why);
		if (!size)
			return SKIP(err, "%s", decode_reason(why));
		s->map.addr = s->stub - STUB_BEFORE - skip;
		s->map.size = (skip + STUB_ROOM + PAGE - 1) & ~(PAGE - 1);
		s->map.prot = PROT_READ | PROT_EXEC;
		s->map.fd = agent_code_memfd("bpftime-stub", page, s->map.size);
		if (s->map.fd < 0)
			return FAIL(err, "a stub cannot be put into memory: %s", strerror(-s->map.fd));
		fstat(s->map.fd, &st);
		s->stub_ino = st.st_ino;
		rc = target__map(s->t, &s->map, 1, err);
		close(s->map.fd);
		if (!rc)
			return SITE_DONE;
		s->map.addr = 0;
		if (rc != -EEXIST)
			return SITE_FAILED;
	}
	return SITE_FAILED;
}

static void fill_jump(struct site *s)
{
	int32_t rel = (int32_t)(s->stub - (s->addr + PATCH_SIZE));

	s->jump[0] = JMP_REL32;
	memcpy(s->jump + 1, &rel, sizeof(rel));
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
	for (int i = 0; i < PATCH_SIZE; i++)
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
		r = decode(s, opts, err);
	if (!r)
		r = compare_memory(s, false, err);
	if (!r)
		r = map_stub(s, err);
	if (!r)
		fill_jump(s);
	for (unsigned int i = 0; !r && i < PATCH_SIZE; i++)
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
	return as;
}
