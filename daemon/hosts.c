/* SPDX-License-Identifier: MIT */
#include "daemon/hosts.h"

#include <bpf/bpf.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "agent/counters.h"
#include "agent/service.h"
#include "agent/clock.h"
#include "daemon/claims.h"
#include "daemon/escape.h"
#include "daemon/handlers.h"
#include "daemon/kernel_features.h"
#include "daemon/log.h"
#include "daemon/mapped.h"
#include "daemon/permit.h"
#include "daemon/pins.h"
#include "daemon/procfs.h"
#include "daemon/repair.h"
#include "daemon/state.h"

/* r0 = 0; exit: holds an int3 in place without doing anything at it. */
static int load_noop(void)
{
	const struct bpf_insn insns[] = {
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0},
		{.code = BPF_JMP | BPF_EXIT},
	};
	int fd = bpf_prog_load(BPF_PROG_TYPE_KPROBE, "bpftimed_hold", "Dual MIT/GPL", insns, 2, NULL);

	return fd < 0 ? -errno : fd;
}

static int open_agent(struct hosts *hs, struct agent_error *why)
{
	int ret = agent_image__new(&hs->image, why);

	if (!ret)
		ret = agent_service__new(&hs->service, hs->image, why);
	if (!ret && pins__dir())
		ret = agent_service__pin(hs->service, pins__dir(), why);
	return ret;
}

static int adopt_agent(struct hosts *hs, const struct hosts_origin *from, struct agent_error *why)
{
	int ret = agent_image__adopt(&hs->image, from->pid, &from->target, from->image_ino, why);

	return ret ? ret : agent_service__adopt(&hs->service, pins__dir(), why);
}

void hosts__own(struct hosts *hs)
{
	agent_service__own(hs->service);
}

int hosts__init(struct hosts *hs, const struct policy *policy, struct claims *claims, const struct hosts_origin *from,
		char *err, size_t err_size)
{
	struct agent_error why = {""};
	int ret;

	hs->is_preempted = kernel_features__preempts();
	agent_kernel_preempts_itself(hs->is_preempted);
	/* What the first look needs is not to be loaded while processors are kept. */
	if (hs->is_preempted)
		handlers__under_way();
	hs->policy = policy;
	hs->claims = claims;
	hs->noop_prog_fd = -1;
	ret = from ? adopt_agent(hs, from, &why) : open_agent(hs, &why);
	if (ret) {
		snprintf(err, err_size, "%s", why.text);
		return ret;
	}
	hs->escapes = escapes__new(hs->image, hs->repairer);
	if (!hs->escapes) {
		snprintf(err, err_size, "out of memory");
		return -ENOMEM;
	}
	agent_close_aside();
	hs->noop_prog_fd = load_noop();
	if (hs->noop_prog_fd < 0) {
		snprintf(err, err_size, "a program cannot be loaded: %s", strerror(-hs->noop_prog_fd));
		return hs->noop_prog_fd;
	}
	return 0;
}

static void free_lodging(struct lodging *l)
{
	free(l->maps);
	free(l);
}

static void put_escape(struct hosts *hs, const struct host *h, struct place *pl)
{
	escapes__put(hs->escapes, pl->escape, h->target && target__has_stragglers(h->target));
	pl->escape = -1;
}

void host__leave(struct host *h)
{
	for (struct lodging *l = h->lodgings, *next; l; l = next) {
		next = l->next;
		free_lodging(l);
	}
	if (h->target)
		target__free(h->target);
	agent_arena__unmap(h->arena);
	if (h->arena_fd >= 0)
		close(h->arena_fd);
	if (h->sites_fd >= 0)
		close(h->sites_fd);
	free(h->place);
	free(h);
}

static void host__free(struct hosts *hs, struct host *h)
{
	if (h->injected) {
		state__unsettle();
		agent_service__remove(hs->service, h->target);
	}
	for_each_used_place(pl, h) put_escape(hs, h, pl);
	claims__drop_target(hs->claims, h->pid);
	if (!h->leaving)
		pins__drop(PIN_HOST, h->pid, (unsigned long long)h->start_time);
	host__leave(h);
}

static void unlink_host(struct hosts *hs, struct host *h)
{
	for (struct host **link = &hs->list; *link; link = &(*link)->next) {
		if (*link == h) {
			*link = h->next;
			break;
		}
	}
}

bool host__has_places(const struct host *h)
{
	for_each_used_place(pl, h) return true;
	return false;
}

bool hosts__forget(struct hosts *hs, struct host *h)
{
	if (h->injected)
		state__unsettle();
	for_each_used_place(pl, h) pl->drop = true;
	h->leaving = !hosts__drop_marked(hs);
	h->leaving = h->leaving && host__has_places(h);
	if (h->leaving) {
		snprintf(h->why, sizeof(h->why), "a debugger holds a thread of process %d in the middle of a jump",
			 h->pid);
		return false;
	}
	unlink_host(hs, h);
	host__free(hs, h);
	return true;
}

void hosts__fini(struct hosts *hs)
{
	for (struct host *h = hs->list, *next; h; h = next) {
		next = h->next;
		hosts__forget(hs, h);
	}
	while (hs->list) {
		struct host *h = hs->list;

		state__leave(h);
		log_warning("process %d (%s) stays patched until the next bpftimed with this runtime folder starts: a "
			    "debugger holds a thread of it in the middle of a jump",
			    h->pid, h->comm);
		unlink_host(hs, h);
		for_each_used_place(pl, h) site__leave(pl->site);
		host__free(hs, h);
	}
	agent_closed_all();
	if (hs->service)
		agent_service__free(hs->service);
	hs->service = NULL;
	escapes__free(hs->escapes);
	hs->escapes = NULL;
	if (hs->image)
		agent_image__free(hs->image);
	hs->image = NULL;
	if (hs->noop_prog_fd >= 0)
		close(hs->noop_prog_fd);
	hs->noop_prog_fd = -1;
}

struct host *hosts__find(struct hosts *hs, pid_t pid)
{
	for (struct host *h = hs->list; h; h = h->next)
		if (h->pid == pid)
			return h;
	return NULL;
}

static void open_host(struct hosts *hs, struct host *h)
{
	struct agent_error err = {""};
	const char *rule;

	/* Whoever holds threads must not be held with them; its tracers share its memory. */
	if (h->pid == getpid() || claims__is_daemon(hs->claims, h->pid)) {
		snprintf(h->why, sizeof(h->why), "process %d (%s) belongs to a bpftimed", h->pid, h->comm);
		return;
	}
	if (!permit__process(hs, h, &rule, h->why, sizeof(h->why)))
		return;
	if (!recover_left(h->pid, h->start_time)) {
		snprintf(h->why, sizeof(h->why),
			 "a debugger holds a thread of process %d in the middle of a jump of the last bpftimed",
			 h->pid);
		return;
	}
	if (target__open(h->pid, &h->target, &err)) {
		h->target = NULL;
		snprintf(h->why, sizeof(h->why), "%s", err.text);
	}
}

struct host *hosts__get(struct hosts *hs, pid_t pid)
{
	struct host *h = hosts__find(hs, pid);
	uint64_t start = procfs_start_time(pid);

	if (h && (!start || h->start_time != start || (h->target && !target__alive(h->target)))) {
		hosts__forget(hs, h);
		h = NULL;
	}
	/* What was in the way may be gone. */
	if (h && !h->target) {
		h->why[0] = 0;
		open_host(hs, h);
	}
	if (h || !start)
		return h;
	h = calloc(1, sizeof(*h));
	if (!h)
		return NULL;
	h->pid = pid;
	h->start_time = start;
	h->arena_fd = h->sites_fd = -1;
	procfs_comm(pid, h->comm, sizeof(h->comm));
	procfs_uid(pid, &h->uid);
	open_host(hs, h);
	h->next = hs->list;
	hs->list = h;
	return h;
}

/* ---- who maps a file ---- */

static bool lists_file(const char *maps, uint64_t dev, uint64_t ino, bool *is_empty)
{
	char line[PATH_MAX + 128];
	bool found = false;
	FILE *f;

	f = fopen(maps, "re");
	if (!f)
		return false;
	setvbuf(f, NULL, _IOFBF, 65536);
	while (!found && fgets(line, sizeof(line), f)) {
		unsigned int major_nr, minor_nr;
		unsigned long long inode;
		char perms[8];

		*is_empty = false;
		if (sscanf(line, "%*x-%*x %7s %*x %x:%x %llu", perms, &major_nr, &minor_nr, &inode) == 4)
			found = perms[2] == 'x' && inode == ino && (!dev || dev == makedev(major_nr, minor_nr));
	}
	fclose(f);
	return found;
}

/* A main thread that has ended has no memory; another thread of the process has. */
static bool thread_maps_file(pid_t pid, uint64_t dev, uint64_t ino)
{
	char path[PATH_MAX];
	bool found = false, is_empty = true;
	struct dirent *e;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	while (dir && is_empty && (e = readdir(dir))) {
		snprintf(path, sizeof(path), "/proc/%d/task/%s/maps", pid, e->d_name);
		if (e->d_name[0] != '.')
			found = lists_file(path, dev, ino, &is_empty);
	}
	if (dir)
		closedir(dir);
	return found;
}

bool host__maps_file(pid_t pid, uint64_t dev, uint64_t ino)
{
	bool is_empty = true, found;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	found = lists_file(path, dev, ino, &is_empty);
	return found || (is_empty && thread_maps_file(pid, dev, ino));
}

static uint64_t moment;

void hosts__look_anew(void)
{
	moment++;
}

bool host__maps(struct host *h, uint64_t dev, uint64_t ino)
{
	struct mapped_file *f;

	for (f = h->file; f < h->file + HOST_FILES; f++)
		if (f->moment == moment && f->dev == dev && f->ino == ino)
			return f->is_mapped;
	f = &h->file[h->next_file++ % HOST_FILES];
	*f = (struct mapped_file){moment, dev, ino, host__maps_file(h->pid, dev, ino)};
	return f->is_mapped;
}

void hosts__each_mapping(uint64_t dev, uint64_t ino, void (*cb)(pid_t pid, void *arg), void *arg)
{
	DIR *dir = opendir("/proc");
	struct dirent *e;

	if (!dir)
		return;
	while ((e = readdir(dir))) {
		pid_t pid = atoi(e->d_name);

		if (pid > 0 && host__maps_file(pid, dev, ino))
			cb(pid, arg);
	}
	closedir(dir);
}

/* ---- lodging ---- */

struct lodging *host__lodging(const struct host *h, const struct group *g)
{
	for (struct lodging *l = h->lodgings; l; l = l->next)
		if (l->group == g)
			return l;
	return NULL;
}

static int inject(struct hosts *hs, struct host *h, struct agent_error *err)
{
	int ret = claims__take_target(hs->claims, h->pid, err->text, sizeof(err->text));

	state__unsettle();
	h->claimed = ret == -EALREADY || ret == -EAGAIN;
	if (ret)
		return ret;
	hs->on_new(hs->on_new_arg, h->pid);
	h->arena_fd = agent_service__new_arena(hs->service, err);
	if (h->arena_fd < 0)
		return h->arena_fd;
	h->arena = agent_arena__map(h->arena_fd, &h->sites_fd);
	if (!h->arena) {
		ret = -errno;
		snprintf(err->text, sizeof(err->text), "the agent's shared memory cannot be mapped: %s",
			 strerror(-ret));
		return ret;
	}
	h->arena->version = AGENT_ABI_VERSION;
	h->arena_id = mapped__id(h->arena_fd);
	ret = agent_service__add(hs->service, h->target, h->arena_fd, err);
	if (!ret)
		ret = pins__add(h->arena_fd, PIN_HOST, h->pid, (unsigned long long)h->start_time);
	if (!ret)
		ret = target__inject(h->target, hs->image, h->arena_fd, h->sites_fd, err);
	if (ret) {
		pins__drop(PIN_HOST, h->pid, (unsigned long long)h->start_time);
		agent_service__remove(hs->service, h->target);
		claims__drop_target(hs->claims, h->pid);
		agent_arena__unmap(h->arena);
		close(h->arena_fd);
		close(h->sites_fd);
		h->arena = NULL;
		h->arena_fd = h->sites_fd = -1;
		return ret;
	}
	h->injected = true;
	/* From here on a kernel-side program takes it back when a task is made that shares the memory. */
	__atomic_store_n(&h->arena->alone, 1, __ATOMIC_SEQ_CST);
	if (procfs_threads(h->pid) != 1)
		__atomic_store_n(&h->arena->alone, 0, __ATOMIC_SEQ_CST);
	return 0;
}

/* A fork child that still has the places does not follow them to where it has nothing. */
static void tell_generation(struct host *h)
{
	target__tell_generation(h->target, __atomic_load_n(&h->arena->generation, __ATOMIC_SEQ_CST));
}

void lodging__fill(struct lodging *l)
{
	const struct group *g = l->group;
	size_t n = 0;

	l->arena = l->maps[n++].addr;
	for (unsigned int i = 0; i < g->n_user_progs; i++)
		l->code[i] = l->maps[n++].addr + g->prog[i].code.entry;
	for (unsigned int i = 0; i < g->n_maps; i++)
		if (g->map[i].geo.kind == SHM_DIRECT)
			l->direct[g->map[i].geo.seed] = l->maps[n++].addr;
}

static int map_all(struct host *h, struct lodging *l, struct agent_error *err)
{
	struct group *g = l->group;
	size_t n = 0;
	int ret;

	l->maps = calloc(1 + g->n_user_progs + g->n_maps, sizeof(*l->maps));
	if (!l->maps)
		return -ENOMEM;
	l->maps[n++] = (struct target_mapping){.fd = g->arena_fd,
					       .size = g->arena_size,
					       .prot = PROT_READ,
					       .writable_from = SHM_HDR_SIZE,
					       .writable_size = g->arena_size - SHM_HDR_SIZE};
	for (unsigned int i = 0; i < g->n_user_progs; i++)
		l->maps[n++] = (struct target_mapping){.fd = g->prog[i].code_fd,
						       .size = PAGE_ROUND(g->prog[i].code.size),
						       .prot = PROT_READ | PROT_EXEC};
	for (unsigned int i = 0; i < g->n_maps; i++)
		if (g->map[i].geo.kind == SHM_DIRECT)
			l->maps[n++] =
				(struct target_mapping){.fd = g->map[i].fd,
							.size = g->map[i].map_size,
							.prot = PROT_READ | (g->map[i].read_only ? 0 : PROT_WRITE)};
	ret = target__map(h->target, l->maps, n, err);
	if (ret)
		return ret;
	l->n_maps = n;
	lodging__fill(l);
	return 0;
}

int host__lodge(struct hosts *hs, struct host *h, struct group *g, char *why, size_t why_size)
{
	struct agent_error err = {""};
	struct lodging *l;
	int ret = 0;

	if (host__lodging(h, g))
		return 0;
	if (!h->target || h->leaving) {
		snprintf(why, why_size, "%s", h->why);
		return -EOPNOTSUPP;
	}
	state__unsettle();
	if (!h->injected)
		ret = inject(hs, h, &err);
	if (ret) {
		snprintf(why, why_size, "%s", err.text);
		return ret;
	}
	l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->group = g;
	ret = map_all(h, l, &err);
	if (ret) {
		snprintf(why, why_size, "%s", err.text[0] ? err.text : strerror(-ret));
		free_lodging(l);
		return ret;
	}
	l->next = h->lodgings;
	h->lodgings = l;
	__atomic_fetch_add(&h->arena->generation, 1, __ATOMIC_SEQ_CST);
	tell_generation(h);
	return 0;
}

void host__unlodge(struct host *h, struct group *g)
{
	for (struct lodging **link = &h->lodgings; *link; link = &(*link)->next) {
		struct lodging *l = *link;
		struct agent_error err;

		if (l->group != g)
			continue;
		state__unsettle();
		for_each_used_place(pl, h) if (pl->counts == g) host__settle_hits(h, pl);
		*link = l->next;
		if (h->target && target__alive(h->target)) {
			__atomic_fetch_add(&h->arena->generation, 1, __ATOMIC_SEQ_CST);
			target__unmap(h->target, l->maps, l->n_maps, &err);
			tell_generation(h);
		}
		free_lodging(l);
		return;
	}
}

size_t host__code_ranges(const struct host *h, struct code_range *ranges, size_t max)
{
	size_t n = 0;

	for (const struct lodging *l = h->lodgings; l; l = l->next)
		for (unsigned int i = 0; i < l->group->n_user_progs && n < max; i++)
			ranges[n++] =
				(struct code_range){l->maps[1 + i].addr, l->maps[1 + i].addr + l->maps[1 + i].size};
	return n;
}

/* ---- places ---- */

struct place *host__find_place(struct host *h, uint64_t ino, uint64_t offset)
{
	for_each_used_place(pl, h) if (pl->ino == ino && pl->offset == offset) return pl;
	return NULL;
}

static struct place *free_place(struct host *h)
{
	unsigned int room = h->n_places ? 2 * h->n_places : 4;
	struct place *grown;

	for (struct place *pl = h->place; pl < h->place + h->n_places; pl++)
		if (!pl->used)
			return pl;
	if (room > AGENT_MAX_SITES)
		return NULL;
	grown = realloc(h->place, room * sizeof(*grown));
	if (!grown)
		return NULL;
	memset(grown + h->n_places, 0, (room - h->n_places) * sizeof(*grown));
	h->place = grown;
	grown += h->n_places;
	h->n_places = room;
	return grown;
}

struct place *host__place(struct host *h, const struct probe *p, bool has_return)
{
	struct place *pl = host__find_place(h, p->o.ino, p->o.offset);

	if (pl)
		return pl;
	pl = free_place(h);
	if (!pl)
		return NULL;
	state__unsettle();
	*pl = (struct place){
		.used = true,
		.ino = p->o.ino,
		.offset = p->o.offset,
		.has_return = has_return,
		.escape = -1,
		.plan_for = p,
	};
	return pl;
}

static void plan(struct hosts *hs, struct host *h, struct place **pl, size_t n)
{
	struct site_opts *opts = calloc(n, sizeof(*opts));
	struct site_plan *out = calloc(n, sizeof(*out));
	char *path = calloc(n, PATH_MAX + 32);

	for (size_t i = 0; opts && out && path && i < n; i++) {
		const struct probe *p = pl[i]->plan_for;
		char *at = path + i * (PATH_MAX + 32);

		pl[i]->escape = escapes__take(hs->escapes, p->o.dev, p->o.ino, p->o.offset);
		snprintf(at, PATH_MAX + 32, "/proc/%d/root%s", p->tool->pid, p->o.path);
		opts[i] = (struct site_opts){
			.sz = sizeof(*opts),
			.path = at,
			.offset = p->o.offset,
			.symbol = p->symbol[0] ? p->symbol : NULL,
			.has_return = pl[i]->has_return,
			.noop_prog_fd = hs->noop_prog_fd,
			.pin_dir = pins__dir(),
			.index = (int)(pl[i] - h->place),
			.escape = pl[i]->escape < 0 ? 0 : (unsigned int)pl[i]->escape + 1,
		};
	}
	if (opts && out && path)
		site__plan_all(h->target, opts, n, out);
	for (size_t i = 0; i < n; i++) {
		pl[i]->plan_for = NULL;
		pl[i]->site = out ? out[i].site : NULL;
		if (pl[i]->site)
			site__fill_addresses(pl[i]->site, h->arena)->mode = AGENT_SITE_BOUNCE;
		else
			snprintf(pl[i]->why, sizeof(pl[i]->why), "%s", out ? out[i].err.text : "out of memory");
		if (!pl[i]->site)
			put_escape(hs, h, pl[i]);
	}
	free(opts);
	free(out);
	free(path);
}

int host__tell_repairer(struct hosts *hs, struct host *h)
{
	struct site **site = calloc(h->n_places + 1, sizeof(struct site *));
	size_t n = 0;
	int err;

	if (!site || !h->target) {
		free(site);
		return -ENOMEM;
	}
	for_each_used_place(pl, h) if (pl->site) site[n++] = pl->site;
	err = repairer__set(hs->repairer, h->target, site, n);
	free(site);
	return err;
}

void host__repair_children(struct host *h)
{
	struct site **site = calloc(h->n_places + 1, sizeof(struct site *));
	size_t n = 0;

	for_each_used_place(pl, h) if (site && pl->site) site[n++] = pl->site;
	if (n)
		children__repair(site, n);
	free(site);
}

void host__plan(struct hosts *hs, struct host *h)
{
	struct place **fresh = calloc(h->n_places + 1, sizeof(struct place *));
	size_t n = 0;

	for_each_used_place(pl, h) if (fresh && pl->plan_for) fresh[n++] = pl;
	if (n)
		plan(hs, h, fresh, n);
	/* Nobody would repair its children. */
	if (n && host__tell_repairer(hs, h)) {
		for (size_t i = 0; i < n; i++)
			fresh[i]->drop = true;
		hosts__drop_marked(hs);
	}
	free(fresh);
}

#define CHILDREN_US 200000 /* as long as a child waits */

void hosts__await_children(struct hosts *hs, const struct group *g)
{
	int64_t since = clock_us(), deadline = since + CHILDREN_US;
	bool some = false;

	for (unsigned int i = 0; i < g->n_probes; i++)
		some |= g->probe[i]->escape >= 0;
	for (struct host *h = hs->list; h && some; h = h->next)
		while (host__lodging(h, g) && agent_may_fork_since(h->pid, since) && clock_us() < deadline)
			usleep(500);
	if (some)
		repairer__catch_up(hs->repairer, deadline);
}

uint64_t host__counted_hits(const struct host *h, const struct place *p, const struct group *g, unsigned int hit_index)
{
	if (p->counts != g || p->hit_index != hit_index || !h->arena)
		return 0;
	return agent_counted_hits(h->arena, (uint32_t)(p - h->place));
}

void host__settle_hits(struct host *h, struct place *p)
{
	uint64_t nowhere = 0, *home = &nowhere;

	if (!h->arena)
		return;
	state__unsettle();
	if (p->counts && host__lodging(h, p->counts))
		home = group__hits(p->counts, p->hit_index);
	agent_settle_hits(h->arena, (uint32_t)(p - h->place), home);
	p->counts = NULL;
}

static bool is_marked(const struct place *pl)
{
	return pl->drop && pl->site;
}

/* Those that could be given up have lost their site. */
static bool free_marked(struct hosts *hs, size_t n)
{
	struct site **site = calloc(n + 1, sizeof(struct site *));
	size_t i = 0, stuck;

	if (!site)
		return false;
	for (struct host *h = hs->list; h; h = h->next)
		for_each_used_place(pl, h) if (is_marked(pl)) site[i++] = pl->site;
	stuck = site__free_all(site, n);
	i = 0;
	for (struct host *h = hs->list; h; h = h->next)
		for_each_used_place(pl, h) if (is_marked(pl)) pl->site = site[i++];
	free(site);
	return !stuck;
}

static void tell_stuck(const struct host *h, struct place *pl)
{
	if (!pl->stuck)
		log_warning("process %d (%s): the jump at 0x%lx stays for now: a debugger holds a thread in the middle "
			    "of it",
			    h->pid, h->comm, site__address(pl->site));
	pl->stuck = true;
	pl->drop = false;
}

static void forget_dropped(struct hosts *hs, struct host *h)
{
	bool some = false;

	for_each_used_place(pl, h) if (pl->drop)
	{
		some = true;
		if (pl->site)
			tell_stuck(h, pl);
		else {
			put_escape(hs, h, pl);
			memset(pl, 0, sizeof(*pl));
		}
	}
	if (some)
		host__tell_repairer(hs, h);
}

bool hosts__drop_marked(struct hosts *hs)
{
	bool all = true;
	size_t n = 0;

	for (struct host *h = hs->list; h; h = h->next)
		for_each_used_place(pl, h) if (pl->drop)
		{
			state__unsettle();
			host__settle_hits(h, pl);
			n += is_marked(pl);
		}
	if (n)
		all = free_marked(hs, n);
	for (struct host *h = hs->list; h; h = h->next)
		forget_dropped(hs, h);
	return all;
}
