// SPDX-License-Identifier: MIT
/*
 * patch.c: the one byte that moves a probe between kernel and userspace, int3 or the jump's, nobody stopped.
 *
 * Closed, the site is as the kernel made it: int3 at its first byte and at the boundaries, the file's bytes between
 * them. Nobody executes those between, because the kernel executes copies of the instructions. So arm() writes the
 * jump's bytes there and waits until no processor can still see what was there before; then open() turns the first byte
 * into a jump and close() turns it back, and these two are all that happens while threads wait. disarm() puts the
 * file's bytes back, when no processor can still be executing the jump.
 *
 * Why the file's bytes are put back at all: a fork child does not have our uprobes. The kernel takes their int3s away,
 * one by one, when the child meets them, and would leave the jump's remaining bytes among the file's. A child that is
 * born while the site is open jumps like its parent and is harmless until a uprobe at the site goes away or comes: it
 * is repaired before that, by agent_repair_child(). So a site is armed and closed for a moment only. For that moment
 * the links of hold.c see to it that the int3s stay; where there are none, the jump's remaining bytes are the file's.
 *
 * Where the jump has a step (form.c), a thread can be between its two instructions when the site is closed. It goes on
 * to the stub, and from there back to the kernel's int3. So the file's bytes come back only when nobody is on the step:
 * step.c. With the first byte int3 nobody comes there any more.
 *
 * A library can be unmapped, and it or another be mapped at the same address: what was written is gone, and the jump's
 * first byte alone would be deadly there. So nothing is written over bytes that are not those that we left, what was
 * opened is looked at once more, and a site that was seen to go is not opened again.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cpus.h"
#include "site.h"

#define FREE_WAIT_MS 500
#define FREE_TRIES   3

static int write_between(const struct site *s, const uint8_t *bytes)
{
	for (size_t i = 1; i < s->size; i++) {
		int rc;

		if (s->d.boundary_mask & (1u << i))
			continue;
		rc = target_write(s->t, s->addr + i, &bytes[i], 1);
		if (rc)
			return rc;
	}
	return 0;
}

static bool has_bytes_between(const struct site *s)
{
	for (size_t i = 1; i < s->size; i++)
		if (!(s->d.boundary_mask & (1u << i)) && s->jump[i] != s->file[i])
			return true;
	return false;
}

int site_look(const struct site *s, uint8_t *now, struct agent_error *err)
{
	int rc = target_read(s->t, s->addr, now, s->size);

	if (rc)
		return agent_fail(err, -ESRCH, "process %d ended or runs another program", s->t->pid);
	for (size_t i = 1; i < s->size; i++)
		if ((s->d.boundary_mask & (1u << i)) && now[i] != INT3)
			return agent_fail(err, -EBUSY, "the kernel's breakpoint at 0x%lx of process %d is gone",
					  s->addr + i, s->t->pid);
	return 0;
}

static bool is_behind(const struct site *s, const uint8_t *now, const uint8_t *bytes)
{
	return agent_is_behind(now, bytes, (uint32_t)s->size);
}

static int was_unmapped(struct site *s, struct agent_error *err)
{
	s->was_unmapped = true;
	return agent_fail(err, -ESTALE, "process %d has unmapped the code at 0x%lx since it was patched", s->t->pid,
			  s->addr);
}

bool patch_is_overlapped(const struct site *s)
{
	uint8_t now[JUMP_SIZE - 1];

	if (target_read(s->t, s->addr - s->n_before, now, s->n_before))
		return false;
	for (size_t i = 0; i < s->n_before; i++)
		if (now[i] != s->before[i] && now[i] != INT3)
			return true;
	return false;
}

static int not_written(const struct site *s, int rc, struct agent_error *err)
{
	return rc ? agent_fail(err, rc, "process %d cannot be written: %s", s->t->pid, strerror(-rc)) : 0;
}

/* behind: what must be there. */
static int look_at_closed(struct site *s, const uint8_t *behind, struct agent_error *err)
{
	uint8_t now[PATCH_MAX];
	int rc = site_look(s, now, err);

	if (rc)
		return rc;
	if (s->was_unmapped || !is_behind(s, now, behind))
		return was_unmapped(s, err);
	if (now[0] != INT3)
		return agent_fail(err, -EBUSY, "the site at 0x%lx of process %d has byte %02x, not int3", s->addr,
				  s->t->pid, now[0]);
	if (patch_is_overlapped(s))
		return agent_fail(err, -EBUSY, "somebody's patch overlaps the site at 0x%lx of process %d", s->addr,
				  s->t->pid);
	return 0;
}

/* 1: its bytes are there, when every processor has been visited. */
static int begin_arming(struct site *s, struct agent_error *err)
{
	int rc;

	if (s->armed)
		return 0;
	rc = look_at_closed(s, s->file, err);
	if (!rc && has_bytes_between(s)) {
		rc = not_written(s, write_between(s, s->jump), err);
		return rc ? rc : 1;
	}
	s->armed = !rc;
	return rc;
}

int site__arm(struct site *s, struct agent_error *err)
{
	int rc = begin_arming(s, err);

	if (rc == 1) {
		cpus_visit();
		s->armed = true;
		rc = 0;
	}
	return rc;
}

void site__arm_all(struct site *const *s, size_t n)
{
	bool *begun = calloc(n + 1, sizeof(*begun)), any = false;
	struct agent_error ignored;

	for (size_t i = 0; begun && i < n; i++) {
		begun[i] = begin_arming(s[i], &ignored) == 1;
		any |= begun[i];
	}
	if (any)
		cpus_visit();
	for (size_t i = 0; begun && i < n; i++)
		s[i]->armed |= begun[i];
	free(begun);
}

/* 1: the file's bytes may be put back, when every processor has been visited. */
static int begin_disarming(struct site *s, struct agent_error *err)
{
	uint8_t now[PATCH_MAX];

	if (!s->armed)
		return 0;
	if (!target_read(s->t, s->addr, now, s->size) && !is_behind(s, now, s->jump)) {
		s->armed = false;
		s->was_unmapped = true;
		return 0;
	}
	if (site__is_open(s))
		return agent_fail(err, -EBUSY, "the site at 0x%lx of process %d is open", s->addr, s->t->pid);
	if (!has_bytes_between(s)) {
		s->armed = false;
		return 0;
	}
	hold_stand_in(s);
	return 1;
}

/* Who fetched the first byte while it was the jump's has executed it by now. */
static int end_disarming(struct site *s, struct agent_error *err)
{
	int rc = step_leave(s, err);

	if (rc)
		return rc;
	rc = write_between(s, s->file);
	s->armed = rc != 0;
	return not_written(s, rc, err);
}

int site__disarm(struct site *s, struct agent_error *err)
{
	int rc = begin_disarming(s, err);

	if (rc != 1)
		return rc;
	cpus_visit();
	return end_disarming(s, err);
}

void site__disarm_all(struct site *const *s, size_t n)
{
	bool *begun = calloc(n + 1, sizeof(*begun)), any = false;
	struct agent_error ignored;

	for (size_t i = 0; begun && i < n; i++) {
		begun[i] = begin_disarming(s[i], &ignored) == 1;
		any |= begun[i];
	}
	if (any)
		cpus_visit();
	for (size_t i = 0; begun && i < n; i++)
		if (begun[i])
			end_disarming(s[i], &ignored);
	free(begun);
}

int site__open(struct site *s, struct agent_error *err)
{
	const uint8_t open_byte = s->jump[0], closed_byte = INT3;
	uint8_t now[PATCH_MAX];
	int rc = site__arm(s, err);

	if (!rc)
		rc = look_at_closed(s, s->jump, err);
	if (!rc)
		rc = not_written(s, target_write(s->t, s->addr, &open_byte, 1), err);
	if (rc)
		return rc;
	rc = site_look(s, now, err);
	if (!rc && is_behind(s, now, s->jump))
		return 0;
	if (now[0] == open_byte)
		target_write(s->t, s->addr, &closed_byte, 1);
	return was_unmapped(s, err);
}

int site__close(struct site *s, struct agent_error *err)
{
	const uint8_t closed_byte = INT3;
	uint8_t now[PATCH_MAX];
	int rc;

	hold_stand_in(s);
	rc = site_look(s, now, err);
	if (rc)
		return rc;
	/* int3 already: another tool's uprobe came. The bytes between are the jump's all the same. */
	if (now[0] == INT3 && !is_behind(s, now, s->jump))
		return 0;
	if ((now[0] != s->jump[0] && now[0] != INT3) || !is_behind(s, now, s->jump))
		return agent_fail(err, -EBUSY, "the site at 0x%lx of process %d has byte %02x, not our jump", s->addr,
				  s->t->pid, now[0]);
	rc = not_written(s, target_write(s->t, s->addr, &closed_byte, 1), err);
	hold_stand_in(s);
	return rc;
}

bool site__is_open(const struct site *s)
{
	uint8_t now[PATCH_MAX];

	return !target_read(s->t, s->addr, now, s->size) && now[0] == s->jump[0] && is_behind(s, now, s->jump);
}

bool site__is_gone(const struct site *s)
{
	uint8_t now[PATCH_MAX];

	if (s->was_unmapped)
		return true;
	if (!target__alive(s->t))
		return false;
	return target_read(s->t, s->addr, now, s->size) || !is_behind(s, now, s->armed ? s->jump : s->file);
}

/* ---- the end ---- */

static void forget(struct site *s)
{
	for (struct site **link = &s->t->sites; *link; link = &(*link)->next) {
		if (*link == s) {
			*link = s->next;
			break;
		}
	}
	if (s->path_fd >= 0)
		close(s->path_fd);
}

void site__leave(struct site *s)
{
	struct stub_area *area = s->area ? stub_area_put(s) : NULL;

	forget(s);
	for (int i = 0; s->hold && i < PATCH_MAX; i++)
		s->hold[i].pin[0] = 0;
	if (s->held)
		s->held->pin[0] = 0;
	hold_drop_all(s);
	free(area);
	free(s);
}

static bool is_held(const struct site *s)
{
	bool held = s->held != NULL;

	for (int i = 0; s->hold && i < PATCH_MAX; i++)
		held |= s->hold[i].event >= 0;
	return held && s->area && target__alive(s->t);
}

/* The file's bytes are back. false: somebody does not leave the step. */
static bool retire(struct site *s)
{
	struct agent_error ignored;
	int n_tries = s->is_stuck ? 1 : FREE_TRIES;

	if (site__is_open(s))
		site__close(s, &ignored);
	for (int tries = 0; tries < n_tries; tries++)
		if (!site__disarm(s, &ignored) || !target__alive(s->t))
			return true;
	return false;
}

/* A thread that is still inside, or returns there, keeps the stubs where they are. */
static void unmap_areas(struct target *t, struct stub_area **area, size_t n)
{
	struct code_range *range = malloc((n + 1) * sizeof(*range));
	struct target_mapping m[TARGET_MAP_MAX];
	uint64_t first = t->image + t->image_hdr.escapes;
	bool is_left = range && !target__alive(t);
	struct agent_error ignored;

	for (size_t i = 0; range && i < n; i++)
		range[i] = (struct code_range){area[i]->map.addr, area[i]->map.addr + area[i]->map.size};
	/* From a slot it would go there. */
	if (range)
		range[n] = (struct code_range){first, first + AGENT_MAX_ESCAPES * AGENT_ESCAPE_SIZE};
	if (range && target__alive(t))
		is_left = !target__left(t, range, n + 1, FREE_WAIT_MS, &ignored);
	t->has_stragglers |= !is_left;
	if (is_left && target__alive(t)) {
		for (size_t i = 0; i < n;) {
			size_t k = 0;

			while (i < n && k < TARGET_MAP_MAX)
				m[k++] = area[i++]->map;
			target__unmap(t, m, k, &ignored);
		}
	}
	for (size_t i = 0; i < n; i++)
		free(area[i]);
	free(range);
}

bool target__has_stragglers(const struct target *t)
{
	return t->has_stragglers && target__alive(t);
}

/* All of them are of one target, and can be forgotten. */
static void release(struct site **s, size_t n)
{
	struct stub_area **area = malloc(n * sizeof(*area));
	struct target *t = s[0]->t;
	size_t n_areas = 0;

	for (size_t i = 0; i < n; i++) {
		struct stub_area *a = s[i]->area ? stub_area_put(s[i]) : NULL;

		forget(s[i]);
		hold_drop_all(s[i]);
		free(s[i]);
		if (a && area)
			area[n_areas++] = a;
	}
	if (n_areas)
		unmap_areas(t, area, n_areas);
	free(area);
}

static int by_target(const void *a, const void *b)
{
	const struct target *x = (*(struct site *const *)a)->t, *y = (*(struct site *const *)b)->t;

	return x < y ? -1 : x > y;
}

/*
 * Somebody does not leave the step: the jump's bytes stay, and with them the uprobes that make them harmless.
 */
size_t site__free_all(struct site **s, size_t n)
{
	struct site **held = calloc(n + 1, sizeof(*held)), **go = calloc(n + 1, sizeof(*go));
	size_t n_held = 0, n_go = 0;

	for (size_t i = 0; held && go && i < n; i++) {
		bool was_held = s[i] && is_held(s[i]);

		if (!s[i])
			continue;
		s[i]->is_stuck = was_held && !retire(s[i]);
		if (was_held)
			held[n_held++] = s[i];
		if (!s[i]->is_stuck)
			go[n_go++] = s[i];
	}
	if (n_held)
		children_repair(held, n_held);
	for (size_t i = 0; i < n; i++)
		if (s[i] && !s[i]->is_stuck)
			s[i] = NULL;
	qsort(go, n_go, sizeof(*go), by_target);
	for (size_t first = 0, next; first < n_go; first = next) {
		for (next = first + 1; next < n_go && go[next]->t == go[first]->t;)
			next++;
		release(go + first, next - first);
	}
	free(held);
	free(go);
	return n - n_go;
}

int site__free(struct site *s)
{
	return site__free_all(&s, 1) ? -EBUSY : 0;
}
