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

#include "agent/pid_ns.h"
#include "daemon/bytecode.h"
#include "daemon/escape.h"
#include "daemon/kernel_features.h"
#include "daemon/khalf.h"
#include "daemon/library.h"
#include "daemon/log.h"
#include "daemon/map_look.h"
#include "daemon/mapped.h"
#include "daemon/pins.h"
#include "daemon/replace.h"
#include "daemon/state.h"
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

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
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

int group__lay_out(struct group *g, uint64_t *size)
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
	uint32_t tgid = pid_ns__initial(getpid());

	return tgid ? tgid : SHM_NOBODY;
}

int group__make_arena(struct group *g)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = BPF_F_MMAPABLE);
	uint64_t size;
	int err = group__lay_out(g, &size);

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
	state__unsettle();
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

/* As long as the policy lets it take. */
static int compile_timeout_ms(const struct group *g)
{
	return g->compile_seconds < COMPILE_TIMEOUT_MS / 1000 ? (int)g->compile_seconds * 1000 : COMPILE_TIMEOUT_MS;
}

/* For a later daemon, and for processes that come to the group then. */
static int keep_code(const struct group *g, const struct gprog *p)
{
	int fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "bpftimed_code", 4, (uint32_t)p->code.size, 1, NULL), err = 0;
	const uint32_t zero = 0;

	if (fd < 0)
		return -errno;
	if (bpf_map_update_elem(fd, &zero, p->code.bytes, BPF_ANY))
		err = -errno;
	if (!err)
		err = pins__add(fd, PIN_CODE, g->id, (unsigned int)(p - g->prog));
	close(fd);
	return err;
}

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
	err = vm_worker__compile(worker, p->insns, p->n_insns, &opts, compile_timeout_ms(g), &p->code, err_text,
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
	err = keep_code(g, p);
	if (err)
		explain(reason, "keeping the code of program ", p->name, err, NULL);
	return err;
}

int gprog__adopt_code(struct gprog *p, const struct group *g, unsigned int i)
{
	int fd = pins__get(PIN_CODE, g->id, i), err = fd < 0 ? fd : 0;
	const uint32_t zero = 0;

	p->code.bytes = calloc(1, p->code.size + 8);
	if (!p->code.bytes)
		err = -ENOMEM;
	if (!err && bpf_map_lookup_elem(fd, &zero, p->code.bytes))
		err = -errno;
	if (fd >= 0)
		close(fd);
	p->code_fd = err ? -1 : agent_code_memfd("bpftimed-program", p->code.bytes, p->code.size);
	return err ? err : p->code_fd < 0 ? p->code_fd : 0;
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

/* What all forms of a kernel half have in common. The arrays have room for SHM_MAX_MAPS. */
static struct khalf_opts khalf_opts_of(const struct group *g, const struct gprog *p, struct shm_geo *geo, int *direct)
{
	for (unsigned int i = 0; i < g->n_maps; i++) {
		geo[i] = g->map[i].geo;
		direct[i] = g->map[i].geo.kind == SHM_DIRECT ? g->map[i].fd : -1;
	}
	return (struct khalf_opts){
		.prog_type = p->type,
		.expected_attach_type = p->expected_attach_type,
		.has_own_stack = p->type == BPF_PROG_TYPE_KPROBE && kernel_features__preempts(),
		.license = p->license,
		.name = p->name,
		.arena_fd = g->arena_fd,
		.geo = geo,
		.n_geo = g->n_maps,
		.direct_fd = direct,
		.arrived_fd = -1,
		.arrivals_fd = -1,
	};
}

static int load_khalf(struct group *g, struct gprog *p, const struct observer *o, char reason[REASON_SIZE])
{
	struct shm_geo geo[SHM_MAX_MAPS];
	int direct[SHM_MAX_MAPS];
	char err_text[ERR_SIZE] = "";
	struct khalf_opts opts = khalf_opts_of(g, p, geo, direct);

	p->is_multi = p->type == BPF_PROG_TYPE_KPROBE && wants_links(g, p);
	if (p->is_multi)
		opts.expected_attach_type = UPROBE_LINK_TYPE;
	opts.attach_btf_id = p->attach_btf_id;
	opts.spares_daemon = spares_daemon(g, p);
	/* New processes are of interest to probes that are not limited to one. */
	if (group_is_host_wide(g, p))
		observer__arrivals(o, &opts.arrived_fd, &opts.arrivals_fd);
	p->khalf_fd = khalf_load(p->insns, p->n_insns, &opts, err_text, sizeof(err_text));
	if (p->khalf_fd < 0) {
		explain(reason, "the kernel half of program ", p->name, p->khalf_fd, err_text);
		return p->khalf_fd;
	}
	return 0;
}

/* ---- the tool's own instructions ---- */

struct own {
	struct bpf_insn *insns; /* with descriptors of its maps */
	size_t n;
	int *fds;
	size_t n_fds;
};

static int open_maps(struct own *own)
{
	for (size_t i = 0; i + 1 < own->n; i++) {
		struct bpf_insn *in = &own->insns[i];
		int fd;

		if (in->code != (BPF_LD | BPF_IMM | BPF_DW))
			continue;
		if (insn__names_map(in)) {
			fd = bpf_map_get_fd_by_id((uint32_t)in->imm);
			if (fd < 0)
				return -errno;
			own->fds[own->n_fds++] = in->imm = fd;
		}
		i++;
	}
	return 0;
}

static void own_close(struct own *own)
{
	for (size_t i = 0; i < own->n_fds; i++)
		close(own->fds[i]);
	free(own->fds);
	free(own->insns);
	*own = (struct own){0};
}

static int own_open(struct own *own, const struct gprog *p)
{
	int err = -ENOMEM;

	*own = (struct own){.n = p->n_own, .fds = calloc(p->n_own + 1, sizeof(*own->fds))};
	own->insns = p->own ? calloc(p->n_own, sizeof(*own->insns)) : NULL;
	if (own->insns && own->fds) {
		memcpy(own->insns, p->own, p->n_own * sizeof(*own->insns));
		err = open_maps(own);
	}
	if (err)
		own_close(own);
	return err;
}

/* ---- in the place of the tool's programs ---- */

#define REPLACE_ENV "BPFTIME_REPLACE"

static const struct probe *first_of(const struct group *g, const struct gprog *prog)
{
	for (unsigned int i = 0; i < g->n_probes; i++)
		if (!g->probe[i]->is_beside && &g->prog[g->probe[i]->prog] == prog)
			return g->probe[i];
	return NULL;
}

/* All of its programs, or none: one gate turns for all. At uprobe_multi links bpf_get_attach_cookie() is another
 * helper. */
static bool may_replace(const struct group *g)
{
	const char *wanted = getenv(REPLACE_ENV);

	if (!g->has_khalf || g->never_replaced || (wanted && !strcmp(wanted, "never")))
		return false;
	for (unsigned int i = 0; i < g->n_probes; i++) {
		const struct obs_probe *o = &g->probe[i]->o;

		if (!probe_kind__is_uprobe(o->kind) || (o->form != ATTACH_PERF_EVENT && o->form != ATTACH_PERF_LINK))
			return false;
	}
	for (unsigned int i = 0; i < g->n_progs; i++)
		if (!g->prog[i].own)
			return false;
	return kernel_features__can_replace();
}

/* The same program serves wherever the tool has loaded it. */
static int load_replacing(struct group *g, struct gprog *p, const struct observer *o)
{
	struct shm_geo geo[SHM_MAX_MAPS];
	int direct[SHM_MAX_MAPS];
	char err_text[ERR_SIZE] = "";
	struct khalf_opts opts = khalf_opts_of(g, p, geo, direct);
	const struct probe *first = first_of(g, p);
	struct khalf_replaced old = {.prog_fd = -1, .btf_fd = -1};
	struct own own = {0};
	int ret = first ? replace__open(&old, first->o.prog_id) : -ENOENT;

	if (!ret)
		ret = own_open(&own, p);
	if (!ret) {
		opts.closed = own.insns;
		opts.n_closed = own.n;
		opts.replaces = &old;
		/* Programs of that type always have one; and tail calls, by which others get it, are not for them. */
		opts.has_own_stack = false;
		opts.name = KHALF_BOTH;
		if (group_is_host_wide(g, p))
			observer__arrivals(o, &opts.arrived_fd, &opts.arrivals_fd);
		ret = khalf_load(p->insns, p->n_insns, &opts, err_text, sizeof(err_text));
	}
	own_close(&own);
	replace__close(&old);
	if (ret < 0)
		log_debug("program %s cannot be replaced: %s", p->name, err_text[0] ? err_text : strerror(-ret));
	p->khalf_fd = ret < 0 ? -1 : ret;
	return ret < 0 ? ret : 0;
}

/* ---- what stands at escape slots ---- */

/* The kernel half where it is open, else the tool's own program: see escape.h. */
static int load_both(const struct group *g, const struct gprog *p, const struct own *own, uint32_t attach_type,
		     char *err, size_t err_size)
{
	LIBBPF_OPTS(bpf_prog_load_opts, load, .expected_attach_type = attach_type);
	struct shm_geo geo[SHM_MAX_MAPS];
	int direct[SHM_MAX_MAPS], fd;
	struct khalf_opts opts = khalf_opts_of(g, p, geo, direct);

	if (!g->has_khalf) {
		fd = bpf_prog_load((enum bpf_prog_type)p->type, KHALF_BOTH, p->license, own->insns, own->n, &load);
		return fd < 0 ? -errno : fd;
	}
	opts.expected_attach_type = attach_type;
	opts.name = KHALF_BOTH;
	opts.closed = own->insns;
	opts.n_closed = own->n;
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
	char err_text[ERR_SIZE] = "";
	struct own own;
	int fd = -ENOENT;

	/* The tool's own program alone does not know the arena. */
	if (p->own && (g->has_khalf || !g->has_mirrored)) {
		p->escape_is_multi = uprobe__has_links() && !is_limited(g, p);
		fd = own_open(&own, p);
		if (!fd) {
			fd = load_both(g, p, &own, p->escape_is_multi ? UPROBE_LINK_TYPE : p->expected_attach_type,
				       err_text, sizeof(err_text));
			own_close(&own);
		}
		if (fd < 0)
			log_debug("program %s has no escape: %s", p->name, err_text[0] ? err_text : strerror(-fd));
	}
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

static bool is_given_up(const bool *gives_up)
{
	return __atomic_load_n(gives_up, __ATOMIC_RELAXED);
}

static bool replace_all(struct group *g, const struct observer *o, const bool *gives_up)
{
	bool all = may_replace(g);

	for (unsigned int i = 0; i < g->n_progs && all; i++)
		all = !is_given_up(gives_up) && !load_replacing(g, &g->prog[i], o);
	for (unsigned int i = 0; i < g->n_progs && !all; i++)
		close_fd(&g->prog[i].khalf_fd);
	return all;
}

int group__build(struct group *g, struct vm_worker *worker, const struct observer *o, const bool *gives_up,
		 char reason[REASON_SIZE])
{
	int err = 0;

	g->is_replaced = replace_all(g, o, gives_up);
	for (unsigned int i = 0; !err && i < g->n_progs; i++) {
		if (is_given_up(gives_up))
			return -ECANCELED;
		if (i < g->n_user_progs)
			err = compile(g, &g->prog[i], worker, reason);
		if (!err && g->has_khalf && !g->is_replaced)
			err = load_khalf(g, &g->prog[i], o, reason);
		if (!err && i < g->n_user_progs)
			load_escape(g, &g->prog[i]);
	}
	if (!err && !g->has_khalf && group_is_host_wide(g, NULL))
		err = load_watcher(g, o, reason);
	return err;
}

/* ---- the kernel half's attachments ---- */

static bool is_of_link(const struct group *g, const struct probe *p, const struct khalf_link *l)
{
	return !l->replaced && !p->is_beside && p->prog == l->prog && p->o.ino == l->ino && p->o.dev == l->dev &&
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

/* Room for one more, which counts when it is kept. */
static struct khalf_link *next_link(struct group *g)
{
	struct khalf_link *more = realloc(g->link, (g->n_links + 1) * sizeof(*more));

	if (!more)
		return NULL;
	g->link = more;
	return &more[g->n_links];
}

static int keep_link(struct group *g)
{
	struct khalf_link *l = &g->link[g->n_links];
	int err = pins__add(l->fd, PIN_KHALFS, g->id, g->n_links);

	if (err)
		close(l->fd);
	g->n_links += !err;
	return err;
}

static int add_link(struct group *g, const struct probe *p)
{
	struct khalf_link *l = next_link(g);
	int err;

	if (!l)
		return -ENOMEM;
	*l = (struct khalf_link){
		.fd = -1, .prog = p->prog, .is_return = p->o.kind == PROBE_URETPROBE, .dev = p->o.dev, .ino = p->o.ino};
	err = attach_link(g, p, l);
	return err ? err : keep_link(g);
}

static bool is_replaced(const struct group *g, uint32_t prog_id)
{
	for (unsigned int i = 0; i < g->n_links; i++)
		if (g->link[i].replaced == prog_id)
			return true;
	return false;
}

static int add_replacement(struct group *g, const struct probe *p)
{
	struct khalf_replaced old;
	struct khalf_link *l = next_link(g);
	int err = l ? replace__open(&old, p->o.prog_id) : -ENOMEM;

	if (err)
		return err;
	*l = (struct khalf_link){.prog = p->prog, .replaced = p->o.prog_id};
	l->fd = replace__attach(g->prog[p->prog].khalf_fd, &old);
	replace__close(&old);
	return l->fd < 0 ? l->fd : keep_link(g);
}

/* Where it cannot be, the group is built anew without. */
static int replace_programs(struct group *g)
{
	int err = 0;

	for (unsigned int i = 0; i < g->n_probes && !err; i++) {
		const struct probe *p = g->probe[i];

		if (is_replaced(g, p->o.prog_id))
			continue;
		err = add_replacement(g, p);
		if (err)
			explain(g->reason, "its program cannot be replaced at ", p->symbol, err, NULL);
	}
	if (!err)
		return 0;
	g->never_replaced = true;
	g->built = false;
	return -EAGAIN;
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
	int ret = g->is_replaced ? replace_programs(g) : attach_links(g);

	if (ret || g->is_replaced)
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
		if (!err)
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

void group__unbuild(struct group *g)
{
	if (g->arena)
		state__unsettle();
	group__detach_khalf(g);
	for (unsigned int i = 0; i < g->n_progs; i++) {
		struct gprog *p = &g->prog[i];

		pins__drop(PIN_CODE, g->id, i);
		vm_code__clear(&p->code);
		free(p->insns);
		free(p->own);
		close_fd(&p->escape_fd);
		close_fd(&p->code_fd);
		close_fd(&p->khalf_fd);
	}
	g->n_progs = g->n_user_progs = 0;
	for (unsigned int i = 0; i < g->n_maps; i++) {
		map_look__free(g->map[i].look);
		g->map[i].look = NULL;
		close_fd(&g->map[i].fd);
	}
	g->n_maps = 0;
	mapped__end(g->arena, g->arena_size);
	g->arena = NULL;
	close_fd(&g->watcher_fd);
	pins__drop(PIN_GROUP, g->id);
	close_fd(&g->arena_fd);
	g->planned = g->built = false;
	g->has_khalf = g->has_direct = g->has_mirrored = g->has_viewed = g->is_replaced = false;
}
