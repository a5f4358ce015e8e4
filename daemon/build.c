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
#include "daemon/escape.h"
#include "daemon/khalf.h"
#include "daemon/library.h"
#include "daemon/log.h"
#include "daemon/mapped.h"
#include "daemon/pid_ns.h"
#include "daemon/pins.h"
#include "daemon/switch.h"
#include "daemon/tracepoint.h"
#include "daemon/uprobe.h"
#include "shm-runtime/shm_map.h"

#define COMPILE_TIMEOUT_MS 20000
#define ERR_SIZE	   200
#define LINK_LEAST	   8 /* probes of a program; fewer get a perf event each */

static void explain(char reason[REASON_SIZE], const char *what, const char *name, int err, const char *detail)
{
	snprintf(reason, REASON_SIZE, "%s%.200s: %s", what, name, detail && detail[0] ? detail : strerror(-err));
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

uint32_t shm_daemon(void)
{
	/* Elsewhere its number in the initial namespace is not known. */
	return pid_ns__level() ? SHM_NOBODY : (uint32_t)getpid();
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
		.daemon = shm_daemon(),
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
	return g->probe[i]->o.target < 0 && !probe_is_tracepoint(g->probe[i]) && &g->prog[g->probe[i]->prog] == prog;
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
		if (!g->probe[i]->is_beside && &g->prog[g->probe[i]->prog] == prog && !is_host_wide(g, i, prog))
			return false;
		n += is_host_wide(g, i, prog);
	}
	return n >= LINK_LEAST && uprobe__has_links();
}

/* What the daemon does itself is no event that the tool would see without it: a switch need not begin anew for it. */
static bool spares_daemon(const struct group *g, const struct gprog *prog)
{
	for (unsigned int i = 0; i < g->n_probes; i++)
		if (!g->probe[i]->is_beside && &g->prog[g->probe[i]->prog] == prog &&
		    (!probe_is_tracepoint(g->probe[i]) || !tracepoint__is_of_system_calls(&g->probe[i]->o)))
			return false;
	return true;
}

static int load_khalf(struct group *g, struct gprog *p, const struct observer *o, char reason[REASON_SIZE])
{
	struct shm_geo geo[SHM_MAX_MAPS];
	int direct[SHM_MAX_MAPS];
	char err_text[ERR_SIZE] = "";
	struct khalf_opts opts = {
		.prog_type = p->type,
		.expected_attach_type = wants_links(g, p) ? UPROBE_LINK_TYPE : p->expected_attach_type,
		.attach_btf_id = p->attach_btf_id,
		.spares_daemon = spares_daemon(g, p),
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
	p->is_multi = p->type == BPF_PROG_TYPE_KPROBE && opts.expected_attach_type == UPROBE_LINK_TYPE;
	p->khalf_fd = khalf_load(p->insns, p->n_insns, &opts, err_text, sizeof(err_text));
	if (p->khalf_fd < 0) {
		explain(reason, "the kernel half of program ", p->name, p->khalf_fd, err_text);
		return p->khalf_fd;
	}
	return 0;
}

/* ---- what stands at escape slots ---- */

/* The tool's instructions, with descriptors of its maps, which are appended to fds. */
static int open_maps(struct bpf_insn *insns, size_t n, int *fds, size_t *n_fds)
{
	for (size_t i = 0; i + 1 < n; i++) {
		int fd;

		if (insns[i].code != (BPF_LD | BPF_IMM | BPF_DW))
			continue;
		if (insn__names_map(&insns[i])) {
			fd = bpf_map_get_fd_by_id((uint32_t)insns[i].imm);
			if (fd < 0)
				return -errno;
			fds[(*n_fds)++] = insns[i].imm = fd;
		}
		i++;
	}
	return 0;
}

/* The kernel half where it is open, else the tool's own program: see escape.h. */
static int load_both(const struct group *g, const struct gprog *p, const struct bpf_insn *own, uint32_t attach_type,
		     char *err, size_t err_size)
{
	LIBBPF_OPTS(bpf_prog_load_opts, load, .expected_attach_type = attach_type);
	struct shm_geo geo[SHM_MAX_MAPS];
	int direct[SHM_MAX_MAPS], fd;
	const struct khalf_opts opts = {
		.prog_type = p->type,
		.expected_attach_type = attach_type,
		.license = p->license,
		.name = ESCAPE_PROGRAM,
		.arena_fd = g->arena_fd,
		.geo = geo,
		.n_geo = g->n_maps,
		.direct_fd = direct,
		.closed = own,
		.n_closed = p->n_own,
		.arrived_fd = -1,
		.arrivals_fd = -1,
	};

	if (!g->has_khalf) {
		fd = bpf_prog_load((enum bpf_prog_type)p->type, ESCAPE_PROGRAM, p->license, own, p->n_own, &load);
		return fd < 0 ? -errno : fd;
	}
	for (unsigned int i = 0; i < g->n_maps; i++) {
		geo[i] = g->map[i].geo;
		direct[i] = g->map[i].geo.kind == SHM_DIRECT ? g->map[i].fd : -1;
	}
	return khalf_load(p->insns, p->n_insns, &opts, err, err_size);
}

static bool is_limited(const struct group *g, const struct gprog *prog)
{
	for (unsigned int i = 0; i < g->n_probes; i++)
		if (&g->prog[g->probe[i]->prog] == prog && g->probe[i]->o.target >= 0)
			return true;
	return false;
}

/* Where it cannot be, its probes have no escape. */
static void load_escape(const struct group *g, struct gprog *p)
{
	struct bpf_insn *own = p->own ? calloc(p->n_own, sizeof(*own)) : NULL;
	int *fds = calloc(p->n_own + 1, sizeof(*fds));
	char err_text[ERR_SIZE] = "";
	size_t n_fds = 0;
	int fd = -ENOMEM;

	/* The tool's own program alone does not know the arena. */
	if (own && fds && (g->has_khalf || !g->has_mirrored)) {
		memcpy(own, p->own, p->n_own * sizeof(*own));
		p->escape_is_multi = uprobe__has_links() && !is_limited(g, p);
		fd = open_maps(own, p->n_own, fds, &n_fds);
		if (!fd)
			fd = load_both(g, p, own, p->escape_is_multi ? UPROBE_LINK_TYPE : p->expected_attach_type,
				       err_text, sizeof(err_text));
		if (fd < 0)
			log_debug("program %s has no escape: %s", p->name, err_text[0] ? err_text : strerror(-fd));
	}
	for (size_t i = 0; i < n_fds; i++)
		close(fds[i]);
	free(fds);
	free(own);
	p->escape_fd = fd < 0 ? -1 : fd;
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
		if (i < g->n_user_progs)
			err = compile(g, &g->prog[i], worker, reason);
		if (!err && g->has_khalf)
			err = load_khalf(g, &g->prog[i], o, reason);
		if (!err && i < g->n_user_progs)
			load_escape(g, &g->prog[i]);
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
	return !p->is_beside && p->prog == l->prog && p->o.ino == l->ino && p->o.dev == l->dev &&
	       g->prog[p->prog].is_multi && (p->o.kind == PROBE_URETPROBE) == l->is_return;
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

		if (p->is_beside || !g->prog[p->prog].is_multi || has_link(g, p))
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

		if (p->khalf_link_fd >= 0 || p->is_beside || (!g->has_khalf && p->o.target >= 0) ||
		    g->prog[p->prog].is_multi)
			continue;
		if (g->has_khalf)
			opts.prog_fd = g->prog[p->prog].khalf_fd;
		if (probe_is_tracepoint(p))
			err = tracepoint__attach(&p->o, opts.prog_fd, &p->khalf_fd, &p->khalf_link_fd);
		else
			err = uprobe__attach(&opts, &p->khalf_fd, &p->khalf_link_fd);
		if (!err && g->has_khalf)
			err = pins__add(p->khalf_link_fd, PIN_KHALF, g->id, i);
		if (err) {
			explain(g->reason, "the kernel half cannot be attached to ",
				probe_is_tracepoint(p) ? p->o.path : p->symbol, err, NULL);
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
		free(p->own);
		close_fd(&p->escape_fd);
		close_fd(&p->code_fd);
		close_fd(&p->khalf_fd);
	}
	g->n_progs = g->n_user_progs = 0;
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
