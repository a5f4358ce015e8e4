/* SPDX-License-Identifier: MIT */
#include "daemon/views.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/pid_ns.h"
#include "bpf/views.h"
#include "bpf/views.skel.h"
#include "daemon/fail.h"
#include "daemon/observer.h"

#define MAX_VIEWERS	 16
#define STAND_TIMEOUT_MS 50

/* From include/linux/mm.h. */
#define VM_WRITE     0x2ull
#define VM_EXEC	     0x4ull
#define VM_SHARED    0x8ull
#define VM_SOFTDIRTY 0x8000000ull

/* A process that sees the memory. */
struct viewer {
	pid_t pid;
	uint64_t mm;
	struct target *target;
	struct target_mapping map[SHM_MAX_MAPS]; /* what is to be seen, wherever it is until then */
	struct target_move move[SHM_MAX_MAPS];
	size_t n;
	struct target_stand stand;
	bool held, moved;
};

struct views {
	const struct views_opts *o;
	struct views_bpf *skel;
	struct viewer viewer[MAX_VIEWERS];
	size_t n;
};

/* ---- who sees what ---- */

static struct views_bpf *open_programs(void)
{
	struct views_bpf *skel = views_bpf__open();

	if (!skel)
		return NULL;
	skel->rodata->ns_level = pid_ns__level();
	skel->rodata->ns_inum = pid_ns__inum();
	if (views_bpf__load(skel)) {
		views_bpf__destroy(skel);
		return NULL;
	}
	return skel;
}

/* From here on mappings of this map are told of. */
static int want(struct views_bpf *skel, uint32_t id)
{
	const struct views_map *m;
	char *buf;
	ssize_t size = iterator__read(skel->progs.maps, 0, &buf);
	int ret = size < 0 ? (int)size : -ENOENT;

	for (ssize_t at = 0; at + (ssize_t)sizeof(*m) <= size; at += sizeof(*m)) {
		uint64_t address;

		m = (const void *)(buf + at);
		address = m->address;
		if (m->id == id)
			ret = bpf_map_update_elem(bpf_map__fd(skel->maps.wanted), &address, &id, BPF_ANY) ? -errno : 0;
	}
	free(buf);
	return ret;
}

/* A thread that shares no descriptors with the others is told of by itself. */
static bool is_told(const struct views_rec *rec, size_t n, const struct views_rec *r)
{
	for (size_t i = 0; i < n; i++)
		if (rec[i].mm == r->mm && rec[i].start == r->start && rec[i].tgid == r->tgid)
			return true;
	return false;
}

static uint64_t own_memory(const struct views_rec *rec, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (rec[i].tgid == getpid())
			return rec[i].mm;
	return 0;
}

/* All mappings of what is wanted but for our own; the caller frees *out. Their number, or -errno. */
static ssize_t read_all(struct views_bpf *skel, struct views_rec **out)
{
	char *buf;
	ssize_t size = iterator__read(skel->progs.views, 0, &buf);
	struct views_rec *rec = (void *)buf;
	size_t n, kept = 0;
	uint64_t own;

	*out = rec;
	if (size < 0)
		return size;
	n = (size_t)size / sizeof(*rec);
	own = own_memory(rec, n);
	for (size_t i = 0; i < n; i++)
		if (rec[i].mm != own && !is_told(rec, kept, &rec[i]))
			rec[kept++] = rec[i];
	return (ssize_t)kept;
}

/* The memory that this mapping shows, if it is to be exchanged. Targets have the whole arena mapped, too. */
static const struct view_memory *memory_of(const struct views_opts *o, const struct views_rec *r)
{
	for (size_t i = 0; i < o->n; i++) {
		const struct view_memory *m = &o->memory[i];

		if (o->in ? r->map_id == m->map_id
			  : r->map_id == o->arena_id && r->offset >= m->arena_off &&
				    r->offset + (r->end - r->start) <= m->arena_off + m->size)
			return m;
	}
	return NULL;
}

static struct viewer *viewer_of(struct views *v, const struct views_rec *r)
{
	for (size_t i = 0; i < v->n; i++)
		if (v->viewer[i].mm == r->mm)
			return &v->viewer[i];
	return NULL;
}

static int open_viewer(struct views *v, const struct views_rec *r, char *why, size_t why_size)
{
	struct agent_error err = {""};
	struct viewer *w;
	int ret;

	if (!r->tgid)
		return fail(why, why_size, -EOPNOTSUPP,
			    "a process of another PID namespace sees the tool's memory-mapped results");
	if (v->n == MAX_VIEWERS)
		return fail(why, why_size, -EOPNOTSUPP, "more than %d processes see the tool's memory-mapped results",
			    MAX_VIEWERS);
	if (v->o->may_stop && !v->o->may_stop(v->o->arg, r->tgid, why, why_size))
		return -EPERM;
	w = &v->viewer[v->n];
	*w = (struct viewer){.pid = r->tgid, .mm = r->mm};
	ret = target__open(r->tgid, &w->target, &err);
	if (ret)
		return fail(why, why_size, ret, "the tool's memory-mapped results cannot be moved: %s", err.text);
	target__stop_anywhere(w->target, v->o->anywhere);
	v->n++;
	return 0;
}

/* Notes that this mapping is to be exchanged. */
static int add_view(struct views *v, const struct views_rec *r, const struct view_memory *m, char *why, size_t why_size)
{
	struct viewer *w = viewer_of(v, r);
	uint64_t size = r->end - r->start;
	int ret;

	if ((r->flags & (VM_SHARED | VM_WRITE | VM_EXEC)) != (VM_SHARED | VM_WRITE))
		return fail(why, why_size, -EOPNOTSUPP,
			    "process %d has mapped the tool's results in a way that is not carried", r->tgid);
	if (!w) {
		ret = open_viewer(v, r, why, why_size);
		if (ret)
			return ret;
		w = &v->viewer[v->n - 1];
	}
	if (w->pid != r->tgid)
		return fail(why, why_size, -EAGAIN, "processes %d and %d share their memory", w->pid, r->tgid);
	if (w->n == SHM_MAX_MAPS)
		return fail(why, why_size, -EOPNOTSUPP, "process %d has mapped the tool's results too often", r->tgid);
	w->map[w->n] = (struct target_mapping){
		.fd = v->o->in ? v->o->arena_fd : m->map_fd,
		.size = size,
		.prot = PROT_READ | PROT_WRITE,
		.offset = v->o->in ? r->offset + m->arena_off : r->offset - m->arena_off,
	};
	w->move[w->n++] = (struct target_move){.to = r->start, .size = size};
	return 0;
}

/* ---- preparing ---- */

static int want_all(struct views *v)
{
	int ret = v->o->in ? 0 : want(v->skel, v->o->arena_id);

	for (size_t i = 0; i < v->o->n && !ret && v->o->in; i++)
		ret = want(v->skel, v->o->memory[i].map_id);
	return ret;
}

static int find_all(struct views *v, char *why, size_t why_size)
{
	struct views_rec *rec;
	ssize_t n = read_all(v->skel, &rec);
	int ret =
		n < 0 ? fail(why, why_size, (int)n, "who sees the tool's results cannot be told: %s", strerror((int)-n))
		      : 0;

	for (ssize_t i = 0; i < n && !ret; i++) {
		const struct view_memory *m = memory_of(v->o, &rec[i]);

		if (m)
			ret = add_view(v, &rec[i], m, why, why_size);
	}
	free(rec);
	return ret;
}

static int map_all(struct views *v, char *why, size_t why_size)
{
	struct agent_error err = {""};

	for (size_t i = 0; i < v->n; i++) {
		struct viewer *w = &v->viewer[i];
		int ret = target__map(w->target, w->map, w->n, &err);

		if (ret)
			return fail(why, why_size, ret, "the tool's memory-mapped results cannot be moved: %s",
				    err.text);
		for (size_t k = 0; k < w->n; k++)
			w->move[k].from = w->map[k].addr;
	}
	return 0;
}

int views__prepare(struct views **out, const struct views_opts *opts, char *why, size_t why_size)
{
	struct views *v = calloc(1, sizeof(*v));
	int ret;

	if (!v)
		return fail(why, why_size, -ENOMEM, "out of memory");
	v->o = opts;
	v->skel = open_programs();
	ret = v->skel ? want_all(v) : -errno;
	if (ret)
		fail(why, why_size, ret, "who sees the tool's results cannot be told: %s", strerror(-ret));
	if (!ret)
		ret = find_all(v, why, why_size);
	if (!ret)
		ret = map_all(v, why, why_size);
	if (ret)
		views__free(v);
	else
		*out = v;
	return ret;
}

/* ---- the moment ---- */

static bool is_known(struct views *v, const struct views_rec *r)
{
	const struct viewer *w = viewer_of(v, r);

	for (size_t i = 0; w && i < w->n; i++)
		if (w->move[i].to == r->start && w->move[i].size == r->end - r->start)
			return true;
	return false;
}

/* Everything that is seen is known, and what is known is still there. */
static int check_all(struct views *v)
{
	struct views_rec *rec;
	ssize_t n = read_all(v->skel, &rec);
	size_t found = 0, known = 0;
	int ret = n < 0 ? (int)n : 0;

	for (size_t i = 0; i < v->n; i++)
		known += v->viewer[i].n;
	for (ssize_t i = 0; i < n && !ret; i++) {
		if (!memory_of(v->o, &rec[i]))
			continue;
		if (is_known(v, &rec[i]))
			found++;
		else
			ret = -EAGAIN;
	}
	free(rec);
	return ret ? ret : found == known ? 0 : -EAGAIN;
}

int views__hold(struct views *v, char *why, size_t why_size)
{
	struct agent_error err = {""};
	int ret = 0;

	for (size_t i = 0; i < v->n && !ret; i++) {
		struct viewer *w = &v->viewer[i];

		if (!target__alive(w->target)) {
			w->n = 0;
			continue;
		}
		w->stand = (struct target_stand){
			.move = w->move,
			.n_moves = w->n,
			.word = (const uint64_t *)&v->o->arena->kgate,
			.mask = SHM_KGATE_OPEN,
			.moved_when = v->o->in ? SHM_KGATE_OPEN : 0,
		};
		target__stop_anywhere(w->target, v->o->anywhere);
		ret = target__stand(w->target, &w->stand, STAND_TIMEOUT_MS, &err);
		w->held = !ret;
		if (ret && !target__alive(w->target)) {
			ret = 0;
			w->n = 0;
		}
		if (ret)
			fail(why, why_size, ret, "the tool's memory-mapped results cannot be moved now: %s", err.text);
	}
	if (!ret) {
		ret = check_all(v);
		if (ret)
			fail(why, why_size, ret, "the tool's memory-mapped results have just been mapped anew");
	}
	if (ret)
		views__let_go(v, err.text, sizeof(err.text));
	return ret;
}

bool views__are_crowded(const struct views *v)
{
	for (size_t i = 0; i < v->n; i++)
		if (v->viewer[i].held && v->viewer[i].stand.crowded)
			return true;
	return false;
}

int views__let_go(struct views *v, char *why, size_t why_size)
{
	uint64_t open = __atomic_load_n(&v->o->arena->kgate, __ATOMIC_SEQ_CST) & SHM_KGATE_OPEN;
	int ret = 0;

	for (size_t i = 0; i < v->n; i++) {
		struct viewer *w = &v->viewer[i];
		struct agent_error err = {""};
		int one;

		if (!w->held)
			continue;
		w->held = false;
		w->moved = open == w->stand.moved_when;
		one = target__go_on(w->target, &err);
		if (one && target__alive(w->target))
			ret = fail(why, why_size, one, "%s", err.text);
	}
	return ret;
}

void views__free(struct views *v)
{
	struct agent_error err;

	if (!v)
		return;
	for (size_t i = 0; i < v->n; i++) {
		struct viewer *w = &v->viewer[i];

		if (w->map[0].addr && !w->moved && target__alive(w->target))
			target__unmap(w->target, w->map, w->n, &err);
		target__free(w->target);
	}
	views_bpf__destroy(v->skel);
	free(v);
}

bool views__has_stranger(uint32_t map_id, pid_t *pid)
{
	struct views_bpf *skel = open_programs();
	struct views_rec *rec = NULL;
	ssize_t n = skel && !want(skel, map_id) ? read_all(skel, &rec) : 0;

	if (n > 0)
		*pid = rec[0].tgid;
	free(rec);
	views_bpf__destroy(skel);
	return n > 0;
}
