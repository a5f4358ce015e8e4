// SPDX-License-Identifier: MIT
/*
 * children.c: fork children of a target. They inherit the jumps, but not the uprobes that protect them: they get the
 * file's bytes back.
 *
 * May be called from more than one thread: a child is repaired by one at a time, and found in order by the others.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "adopt.h"
#include "site.h"

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

/* A child that shares the mm (vfork) is not meant: only in a copy has the fork page been wiped. */
static bool is_copy(const struct target *child, const struct site *s)
{
	uint32_t word;

	return !target_read(child, s->t->fork_page, &word, sizeof(word)) && !word;
}

/* Does the process map the site's stub? maps are sorted by address. */
static bool has_stub(const struct vmas *maps, const struct site *s)
{
	size_t lo = 0, hi = maps->n;

	while (s->area && lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (maps->v[mid].start == s->area->map.addr)
			return maps->v[mid].ino == s->area->ino;
		if (maps->v[mid].start < s->area->map.addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return false;
}

struct repair {
	const struct site *const *sites;
	size_t n;
	struct agent_error *err;
};

/* Has the child the parent's jump, closed or open? Then every thread leaves it. 1, 0 or -errno. */
static int is_to_repair(const struct target *child, const struct site *s, struct stopped *stopped, size_t n)
{
	uint8_t now[PATCH_MAX];
	int rc = 0;

	if (target_read(child, s->addr, now, s->size))
		return 0;
	if ((now[0] != s->jump[0] && now[0] != INT3) || !agent_is_behind(now, s->jump, (uint32_t)s->size))
		return 0;
	for (size_t i = 0; i < n && !rc; i++)
		rc = step_leave_stopped(child, s, &stopped[i]);
	return rc ? rc : 1;
}

/* An int3 is right for the kernel in any case, but costs each time: it is the parent's. */
static void put_back(const struct target *child, const struct site *s)
{
	const uint8_t byte = INT3;

	for (size_t i = 0; i < s->size; i++)
		target_write(child, s->addr + i, s->d.boundary_mask & (1u << i) ? &byte : &s->file[i], 1);
}

static int repair_stopped(struct target *child, struct stopped *stopped, size_t n, const struct repair *r)
{
	const struct site **patched = malloc(r->n * sizeof(*patched));
	size_t n_patched = 0;
	struct vmas maps;
	int ret = 0;

	if (!patched)
		return -ENOMEM;
	if (!n || proc_maps(child->pid, &maps)) {
		free(patched);
		return 0;
	}
	for (size_t i = 0; i < r->n; i++) {
		int rc = 0;

		if (has_stub(&maps, r->sites[i]) && is_copy(child, r->sites[i]))
			rc = is_to_repair(child, r->sites[i], stopped, n);
		if (rc > 0)
			patched[n_patched++] = r->sites[i];
		else if (rc)
			ret = agent_fail(r->err, rc, "a thread of process %d does not leave the jump at 0x%lx",
					 child->pid, r->sites[i]->addr);
	}
	if (n_patched)
		n_patched = pages_give_up(child, &stopped[0], &maps, patched, n_patched);
	for (size_t i = 0; i < n_patched; i++)
		put_back(child, patched[i]);
	vmas_clear(&maps);
	free(patched);
	return ret;
}

static int repair_in_tracer(struct target *child, void *arg)
{
	struct repair *r = arg;
	struct stopped *stopped = NULL;
	size_t n = 0, before;
	int rc = 0;

	/* All threads of the child, and those that they start meanwhile. */
	do {
		pid_t *tids;
		int n_tids = proc_threads(child->pid, &tids);

		before = n;
		for (int i = 0; i < n_tids && !rc; i++) {
			struct stopped *more;
			bool known = false;

			for (size_t k = 0; k < n; k++)
				known |= stopped[k].tid == tids[i];
			if (known)
				continue;
			more = realloc(stopped, (n + 1) * sizeof(*stopped));
			if (!more) {
				rc = -ENOMEM;
				break;
			}
			stopped = more;
			do
				rc = thread_stop(child, tids[i], 200, &stopped[n], r->err);
			while (rc == -EAGAIN);
			if (rc == -ESRCH)
				rc = 0;
			else if (!rc)
				n++;
		}
		if (n_tids >= 0)
			free(tids);
	} while (!rc && n != before);
	if (!rc)
		rc = repair_stopped(child, stopped, n, r);
	for (size_t i = 0; i < n; i++)
		thread_resume(child, &stopped[i]);
	free(stopped);
	return rc;
}

/*
 * Threads of the child wait for the int3; for the rest they have to be stopped. It may be written at any time where it
 * stays: the kernel takes one that only perf events of the parent want away when the child meets it.
 */
static void close_quickly(const struct target *child, const struct vmas *maps, const struct repair *r)
{
	const uint8_t byte = INT3;
	uint8_t now[PATCH_MAX];

	for (size_t i = 0; i < r->n; i++) {
		const struct site *s = r->sites[i];

		if (has_stub(maps, s) && is_copy(child, s) && !target_read(child, s->addr, now, s->size) &&
		    now[0] == s->jump[0] && agent_is_behind(now, s->jump, (uint32_t)s->size))
			target_write(child, s->addr, &byte, 1);
	}
}

int agent_repair_child(pid_t child, const struct site *const *sites, size_t n_sites, struct agent_error *err)
{
	struct repair r = {sites, n_sites, err};
	bool any = false;
	struct target *t;
	struct vmas maps;
	int rc;

	if (proc_maps(child, &maps))
		return 0;
	for (size_t i = 0; i < n_sites && !any; i++)
		any = has_stub(&maps, sites[i]);
	if (!any) {
		vmas_clear(&maps);
		return 0;
	}
	rc = target__open(child, &t, err);
	if (rc) {
		vmas_clear(&maps);
		return rc == -ESRCH ? 0 : rc;
	}
	if (agent_holds_are_links())
		close_quickly(t, &maps, &r);
	vmas_clear(&maps);
	pthread_mutex_lock(&one_at_a_time);
	for (int tries = 0; tries < 5; tries++) {
		rc = tracer_run(t, repair_in_tracer, &r);
		if (rc != -ETIMEDOUT)
			break;
	}
	target__free(t);
	pthread_mutex_unlock(&one_at_a_time);
	return rc;
}

/* Of those whose stubs the process maps: the sites, but its own. Returns how many. */
static size_t inherited(pid_t pid, struct site *const *s, size_t n, const struct site **out)
{
	struct vmas maps;
	bool any = false;
	size_t found = 0;

	if (proc_maps(pid, &maps))
		return 0;
	for (size_t i = 0; i < maps.n && !any; i++)
		any = strstr(maps.v[i].path, "memfd:bpftime-stub") != NULL;
	for (size_t i = 0; any && i < n; i++)
		if (s[i]->t->pid != pid && has_stub(&maps, s[i]))
			out[found++] = s[i];
	vmas_clear(&maps);
	return found;
}

void children_repair(struct site *const *s, size_t n)
{
	const struct site **of_child = n ? malloc(n * sizeof(*of_child)) : NULL;
	struct agent_error ignored;
	struct dirent *e;
	DIR *d = of_child ? opendir("/proc") : NULL;

	while (d && (e = readdir(d))) {
		pid_t pid = isdigit((unsigned char)e->d_name[0]) ? atoi(e->d_name) : 0;
		size_t found = pid ? inherited(pid, s, n, of_child) : 0;

		if (found)
			agent_repair_child(pid, of_child, found, &ignored);
	}
	if (d)
		closedir(d);
	free(of_child);
}

/* ---- what is known of a parent ---- */

struct fork_sites {
	struct target parent; /* as far as a repair looks at it */
	size_t n;
	struct site_record record[];
};

static struct fork_sites *new_fork_sites(pid_t parent, uint64_t fork_page, size_t n)
{
	struct fork_sites *f = calloc(1, sizeof(*f) + n * sizeof(f->record[0]));

	if (!f)
		return NULL;
	f->parent = (struct target){.pid = parent, .fork_page = fork_page};
	f->n = n;
	return f;
}

struct fork_sites *fork_sites__new(const struct target *t, struct site *const *s, size_t n)
{
	struct fork_sites *f = new_fork_sites(t->pid, t->fork_page, n);

	for (size_t i = 0; f && i < n; i++)
		site__record(s[i], &f->record[i]);
	return f;
}

void fork_sites__free(struct fork_sites *f)
{
	free(f);
}

static void from_record(struct site *s, struct stub_area *area, struct target *parent, const struct site_record *r)
{
	*area = (struct stub_area){.map = {.addr = r->map_addr, .size = r->map_size}, .ino = r->stub_ino};
	*s = (struct site){
		.t = parent,
		.addr = r->addr,
		.size = r->size,
		.stub = r->stub,
		.area = area,
		.d = {.boundary_mask = r->boundary_mask},
		.step = r->step,
	};
	memcpy(s->file, r->file, sizeof(s->file));
	memcpy(s->jump, r->jump, sizeof(s->jump));
}

int fork_sites__repair(struct fork_sites *f, pid_t child, struct agent_error *err)
{
	struct site *s = calloc(f->n, sizeof(*s));
	struct stub_area *area = calloc(f->n, sizeof(*area));
	const struct site **list = calloc(f->n, sizeof(*list));
	int rc = -ENOMEM;

	for (size_t i = 0; s && area && list && i < f->n; i++) {
		from_record(&s[i], &area[i], &f->parent, &f->record[i]);
		list[i] = &s[i];
	}
	if (s && area && list)
		rc = agent_repair_child(child, list, f->n, err);
	free(s);
	free(area);
	free(list);
	return rc;
}

/* ---- of processes that ended while nobody was told ---- */

int orphans__repair(pid_t parent, const struct target_record *t, const struct site_record *r, size_t n,
		    struct agent_error *err)
{
	struct fork_sites *f = new_fork_sites(parent, t->fork_page, n);
	DIR *d = f ? opendir("/proc") : NULL;
	struct dirent *e;
	int ret = d ? 0 : agent_fail(err, -ENOMEM, "out of memory");

	if (f)
		memcpy(f->record, r, n * sizeof(*r));
	while (d && !ret && (e = readdir(d))) {
		pid_t pid = isdigit((unsigned char)e->d_name[0]) ? atoi(e->d_name) : 0;

		if (pid)
			ret = fork_sites__repair(f, pid, err);
	}
	if (d)
		closedir(d);
	fork_sites__free(f);
	return ret;
}

void children__repair(struct site *const *s, size_t n)
{
	children_repair(s, n);
}
