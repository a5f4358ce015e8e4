/* SPDX-License-Identifier: MIT */
#include "daemon/build.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/bytecode.h"
#include "daemon/khalf.h"
#include "daemon/library.h"
#include "daemon/log.h"
#include "daemon/mapped.h"
#include "daemon/pins.h"
#include "daemon/switch.h"
#include "daemon/uprobe.h"
#include "shm-runtime/shm_map.h"

#define COMPILE_TIMEOUT_MS 20000
#define ERR_SIZE	   200
#define LINK_LEAST	   8 /* probes of a program; fewer get a perf event each */

static void explain(char reason[REASON_SIZE], const char *what, const char *name, int err, const char *detail)
{
	snprintf(reason, REASON_SIZE, "%s%s: %s", what, name, detail && detail[0] ? detail : strerror(-err));
}

/* ---- arena ---- */

int gmap__lay_out(struct gmap *m, uint64_t off, const char **why)
{
	uint32_t n_cpus = (uint32_t)libbpf_num_possible_cpus();
	uint32_t flags = m->m.flags & ~(m->is_viewed ? (uint32_t)BPF_F_MMAPABLE : 0);
	int err = shm_geo__plan(&m->geo, m->m.type, m->m.key_size, m->m.value_size, m->m.max_entries, flags, n_cpus,
				off, why);

	if (err || !m->is_viewed)
		return err;
	/* Its values begin a page. */
	off = PAGE_ROUND(m->geo.nodes_off) - (m->geo.nodes_off - m->geo.ctl_off);
	err = shm_geo__plan(&m->geo, m->m.type, m->m.key_size, m->m.value_size, m->m.max_entries, flags, n_cpus, off,
			    why);
	m->map_size = PAGE_ROUND((size_t)m->geo.node_size * m->geo.n_nodes);
	return err;
}

static int lay_out(struct group *g, uint64_t *size)
{
	uint32_t n_cpus = (uint32_t)libbpf_num_possible_cpus();
	uint64_t off = SHM_HDR_SIZE + PAGE_ROUND(sizeof(uint64_t) * n_cpus * g->n_probes);
	const char *why = NULL;

	g->n_cpus = n_cpus;
	for (unsigned int i = 0; i < g->n_maps; i++) {
		struct gmap *m = &g->map[i];
		int err;

		if (m->geo.kind == SHM_DIRECT)
			continue;
		err = gmap__lay_out(m, off, &why);
		if (err) {
			explain(g->reason, "map ", m->m.name, err, why);
			return err;
		}
		off = m->is_viewed ? m->geo.nodes_off + m->map_size : (m->geo.end_off + 63) & ~63ull;
	}
	*size = PAGE_ROUND(off);
	return 0;
}

int group__make_arena(struct group *g)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = BPF_F_MMAPABLE);
	uint64_t size;
	int err = lay_out(g, &size);

	if (err)
		return err;
	if (size > INT32_MAX) {
		snprintf(g->reason, sizeof(g->reason), "its maps need %llu MiB of shared memory",
			 (unsigned long long)size >> 20);
		return -E2BIG;
	}
	g->arena_fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "bpftimed_arena", 4, (uint32_t)size, 1, &opts);
	if (g->arena_fd < 0) {
		explain(g->reason, "shared memory", "", -errno, NULL);
		return -errno;
	}
	err = pins__add(g->arena_fd, PIN_GROUP, g->id);
	if (err) {
		explain(g->reason, "pinning shared memory", "", err, NULL);
		return err;
	}
	g->arena_size = size;
	g->arena = mapped__array(g->arena_fd, size, NULL, NULL);
	if (!g->arena) {
		explain(g->reason, "shared memory", "", -errno, NULL);
		return -errno;
	}
	*g->arena = (struct shm_group_hdr){
		.magic = SHM_MAGIC,
		.version = SHM_LAYOUT_VERSION,
		.n_cpus = g->n_cpus,
		.size = size,
		.hits_off = SHM_HDR_SIZE,
		.n_probes = g->n_probes,
	};
	for (unsigned int i = 0; i < g->n_maps; i++)
		if (g->map[i].geo.kind != SHM_DIRECT)
			shm_map_init(g->arena, &g->map[i].geo);
	return 0;
}

/* ---- code ---- */

static int compile(struct group *g, struct gprog *p, struct vm_worker *worker, char reason[REASON_SIZE])
{
	struct shm_geo geo[SHM_MAX_MAPS] = {0};
	struct vm_blob blob = {"bpftime_maps", geo, sizeof(geo)};
	struct vm_compile_opts opts = {
		.sz = sizeof(opts),
		.bitcode = library_bitcode,
		.bitcode_size = library_bitcode_size,
		.blobs = &blob,
		.n_blobs = 1,
		.atomic_rmw = 1,
	};
	char err_text[ERR_SIZE] = "";
	int err;

	for (unsigned int i = 0; i < g->n_maps; i++)
		geo[i] = g->map[i].geo;
	err = vm_worker__compile(worker, p->insns, p->n_insns, &opts, COMPILE_TIMEOUT_MS, &p->code, err_text,
				 sizeof(err_text));
	if (err) {
		explain(reason, "compiling program ", p->name, err, err_text);
		return err;
	}
	if (p->code.stack_size > AGENT_STACK_PROGRAM) {
		snprintf(err_text, sizeof(err_text), "it needs %zu bytes of the stacks of those whom it probes",
			 p->code.stack_size);
		explain(reason, "program ", p->name, -EOPNOTSUPP, err_text);
		return -EOPNOTSUPP;
	}
	log_debug("program %s: %zu bytes of code, %zu of stack", p->name, p->code.size, p->code.stack_size);
	p->plain = bytecode__reads_few_registers(p->insns, p->n_insns) &&
		   !agent_code_has_strings(p->code.bytes, p->code.size);
	p->code_fd = agent_code_memfd("bpftimed-program", p->code.bytes, p->code.size);
	if (p->code_fd < 0) {
		explain(reason, "code memory for program ", p->name, p->code_fd, NULL);
		return p->code_fd;
	}
	return 0;
}

/* ---- the kernel half's programs ---- */

static bool is_host_wide(const struct group *g, unsigned int i, const struct gprog *prog)
{
	return g->probe[i]->o.target < 0 && &g->prog[g->probe[i]->prog] == prog;
}

/*
 * One link for many probes is closed as fast as one for one, and no tool that attaches or detaches perf events
 * meanwhile has to wait. A probe that is limited to a process is left to perf events: they take those that share its
 * memory for the process, too.
 */
static bool wants_links(const struct group *g, const struct gprog *prog)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < g->n_probes; i++) {
		if (&g->prog[g->probe[i]->prog] == prog && !is_host_wide(g, i, prog))
			return false;
		n += is_host_wide(g, i, prog);
	}
	return n >= LINK_LEAST && uprobe__has_links();
}

static int load_khalf(struct group *g, struct gprog *p, const struct observer *o, char reason[REASON_SIZE])
{
	struct shm_geo geo[SHM_MAX_MAPS];
	int direct[SHM_MAX_MAPS];
	char err_text[ERR_SIZE] = "";
	struct khalf_opts opts = {
		.prog_type = p->type,
		.expected_attach_type = wants_links(g, p) ? UPROBE_LINK_TYPE : p->expected_attach_type,
		.license = p->license,
		.name = p->name,
		.arena_fd = g->arena_fd,
		.geo = geo,
		.n_geo = g->n_maps,
		.direct_fd = direct,
		.arrived_fd = -1,
		.arrivals_fd = -1,
	};

	for (unsigned int i = 0; i < g->n_maps; i++) {
		geo[i] = g->map[i].geo;
		direct[i] = g->map[i].geo.kind == SHM_DIRECT ? g->map[i].fd : -1;
	}
	/* New processes are of interest to probes that are not limited to one. */
	if (group_is_host_wide(g, p))
		observer__arrivals(o, &opts.arrived_fd, &opts.arrivals_fd);
	p->is_multi = opts.expected_attach_type == UPROBE_LINK_TYPE;
	p->khalf_fd = khalf_load(p->insns, p->n_insns, &opts, err_text, sizeof(err_text));
	if (p->khalf_fd < 0) {
		explain(reason, "the kernel half of program ", p->name, p->khalf_fd, err_text);
		return p->khalf_fd;
	}
	return 0;
}

/* Where no kernel half tells of new processes, a program that does nothing else. */
static int load_watcher(struct group *g, const struct observer *o, char reason[REASON_SIZE])
{
	char err_text[ERR_SIZE] = "";
	int arrived_fd, arrivals_fd;

	observer__arrivals(o, &arrived_fd, &arrivals_fd);
	g->watcher_fd = khalf_load_watcher(arrived_fd, arrivals_fd, err_text, sizeof(err_text));
	if (g->watcher_fd < 0) {
		explain(reason, "watching for processes", "", g->watcher_fd, err_text);
		return g->watcher_fd;
	}
	return 0;
}

int group__build(struct group *g, struct vm_worker *worker, const struct observer *o, const bool *gives_up,
		 char reason[REASON_SIZE])
{
	int err = 0;

	for (unsigned int i = 0; !err && i < g->n_progs; i++) {
		if (__atomic_load_n(gives_up, __ATOMIC_RELAXED))
			return -ECANCELED;
		err = compile(g, &g->prog[i], worker, reason);
		if (!err && g->has_khalf)
			err = load_khalf(g, &g->prog[i], o, reason);
	}
	if (!err && !g->has_khalf && group_is_host_wide(g, NULL))
		err = load_watcher(g, o, reason);
	return err;
}

/* ---- the kernel half's attachments ---- */

/* Probes of one program in one file. */
struct khalf_link {
	int fd;
	unsigned int prog;
	bool is_return;
	uint64_t dev, ino;
};

static bool is_of_link(const struct group *g, const struct probe *p, const struct khalf_link *l)
{
	return p->prog == l->prog && p->o.ino == l->ino && p->o.dev == l->dev && g->prog[p->prog].is_multi &&
	       (p->o.kind == PROBE_URETPROBE) == l->is_return;
}

static bool has_link(const struct group *g, const struct probe *p)
{
	for (unsigned int i = 0; i < g->n_links; i++)
		if (is_of_link(g, p, &g->link[i]))
			return true;
	return false;
}

static int attach_link(struct group *g, const struct probe *first, struct khalf_link *l)
{
	uint64_t *offsets = calloc(g->n_probes, sizeof(*offsets)), *cookies = calloc(g->n_probes, sizeof(*cookies));
	struct uprobe_opts opts = {
		.path = first->o.path,
		.root_pid = first->tool->pid,
		.ino = first->o.ino,
		.is_return = l->is_return,
		.prog_fd = g->prog[l->prog].khalf_fd,
	};
	uint32_t n = 0;

	for (unsigned int i = 0; offsets && cookies && i < g->n_probes; i++) {
		if (!is_of_link(g, g->probe[i], l))
			continue;
		offsets[n] = g->probe[i]->o.offset;
		cookies[n++] = g->probe[i]->o.cookie;
	}
	l->fd = n ? uprobe__attach_many(&opts, offsets, cookies, n) : -ENOMEM;
	free(offsets);
	free(cookies);
	return l->fd < 0 ? l->fd : 0;
}

static int add_link(struct group *g, const struct probe *p)
{
	struct khalf_link *more = realloc(g->link, (g->n_links + 1) * sizeof(*more)), *l;
	int err;

	if (!more)
		return -ENOMEM;
	g->link = more;
	l = &more[g->n_links];
	*l = (struct khalf_link){
		.fd = -1, .prog = p->prog, .is_return = p->o.kind == PROBE_URETPROBE, .dev = p->o.dev, .ino = p->o.ino};
	err = attach_link(g, p, l);
	if (!err)
		err = pins__add(l->fd, PIN_KHALFS, g->id, g->n_links);
	if (err && l->fd >= 0)
		close(l->fd);
	g->n_links += !err;
	return err;
}

static int attach_links(struct group *g)
{
	for (unsigned int i = 0; i < g->n_probes; i++) {
		const struct probe *p = g->probe[i];
		int err;

		if (!g->prog[p->prog].is_multi || has_link(g, p))
			continue;
		err = add_link(g, p);
		if (err) {
			explain(g->reason, "the kernel half cannot be attached to ", p->symbol, err, NULL);
			return err;
		}
	}
	return 0;
}

int group__attach_khalf(struct group *g)
{
	int ret = attach_links(g);

	if (ret)
		return ret;
	for (unsigned int i = 0; i < g->n_probes; i++) {
		struct probe *p = g->probe[i];
		struct uprobe_opts opts = {
			.path = p->o.path,
			.root_pid = p->tool->pid,
			.ino = p->o.ino,
			.offset = p->o.offset,
			.is_return = p->o.kind == PROBE_URETPROBE,
			.pid = p->o.target,
			.cookie = p->o.cookie,
			.prog_fd = g->watcher_fd,
		};
		int err;

		if (p->khalf_link_fd >= 0 || (!g->has_khalf && p->o.target >= 0) || g->prog[p->prog].is_multi)
			continue;
		if (g->has_khalf)
			opts.prog_fd = g->prog[p->prog].khalf_fd;
		err = uprobe__attach(&opts, &p->khalf_fd, &p->khalf_link_fd);
		if (!err && g->has_khalf)
			err = pins__add(p->khalf_link_fd, PIN_KHALF, g->id, i);
		if (err) {
			explain(g->reason, "the kernel half cannot be attached to ", p->symbol, err, NULL);
			return err;
		}
	}
	return 0;
}

void group__detach_khalf(struct group *g)
{
	for (unsigned int i = 0; i < g->n_links; i++) {
		pins__drop(PIN_KHALFS, g->id, i);
		close(g->link[i].fd);
	}
	free(g->link);
	g->link = NULL;
	g->n_links = 0;
	for (unsigned int i = 0; i < g->n_probes; i++) {
		pins__drop(PIN_KHALF, g->id, i);
		uprobe__detach(&g->probe[i]->khalf_fd, &g->probe[i]->khalf_link_fd);
	}
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void group__unbuild(struct group *g)
{
	group__detach_khalf(g);
	for (unsigned int i = 0; i < g->n_progs; i++) {
		struct gprog *p = &g->prog[i];

		vm_code__clear(&p->code);
		free(p->insns);
		close_fd(&p->code_fd);
		close_fd(&p->khalf_fd);
	}
	g->n_progs = 0;
	for (unsigned int i = 0; i < g->n_maps; i++)
		close_fd(&g->map[i].fd);
	g->n_maps = 0;
	mapped__end(g->arena, g->arena_size);
	g->arena = NULL;
	close_fd(&g->watcher_fd);
	pins__drop(PIN_GROUP, g->id);
	close_fd(&g->arena_fd);
	g->planned = g->built = false;
	g->has_khalf = g->has_direct = g->has_mirrored = g->has_viewed = false;
}
