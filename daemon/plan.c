/* SPDX-License-Identifier: MIT */
/*
 * plan.c: the decision. Everything that the runtime carries stands in a table here; whatever is not in a table stays in
 * the kernel, with the table's reason.
 */
#include "daemon/plan.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/build.h"
#include "daemon/bytecode.h"
#include "daemon/khalf.h"
#include "daemon/mapped.h"
#include "daemon/switch.h"
#include "daemon/tracepoint.h"
#include "shm-runtime/shm_map.h"
#include "vm-llvm/additive.h"
#include "vm-llvm/fold.h"

#define DIRECT_MAX_SIZE (64u << 20)

/* Helpers with a body in agent/helpers.c. */
static const uint32_t carried_helpers[] = {
	BPF_FUNC_map_lookup_elem,      BPF_FUNC_map_update_elem,     BPF_FUNC_map_delete_elem,
	BPF_FUNC_probe_read,	       BPF_FUNC_ktime_get_ns,	     BPF_FUNC_get_smp_processor_id,
	BPF_FUNC_get_current_pid_tgid, BPF_FUNC_get_current_uid_gid, BPF_FUNC_get_current_comm,
	BPF_FUNC_probe_read_str,       BPF_FUNC_probe_read_user,     BPF_FUNC_probe_read_user_str,
	BPF_FUNC_ktime_get_boot_ns,    BPF_FUNC_get_func_ip,	     BPF_FUNC_get_attach_cookie,
};

#define NAME_OF_HELPER(name) [BPF_FUNC_##name] = "bpf_" #name
static const char *const helper_names[] = {__BPF_FUNC_MAPPER(NAME_OF_HELPER)};

static const char *const map_type_names[] = {
	[BPF_MAP_TYPE_HASH] = "hash",
	[BPF_MAP_TYPE_ARRAY] = "array",
	[BPF_MAP_TYPE_PROG_ARRAY] = "program array",
	[BPF_MAP_TYPE_PERF_EVENT_ARRAY] = "perf event array",
	[BPF_MAP_TYPE_PERCPU_HASH] = "per-CPU hash",
	[BPF_MAP_TYPE_PERCPU_ARRAY] = "per-CPU array",
	[BPF_MAP_TYPE_STACK_TRACE] = "stack trace",
	[BPF_MAP_TYPE_CGROUP_ARRAY] = "cgroup array",
	[BPF_MAP_TYPE_LRU_HASH] = "LRU hash",
	[BPF_MAP_TYPE_LRU_PERCPU_HASH] = "LRU per-CPU hash",
	[BPF_MAP_TYPE_LPM_TRIE] = "longest-prefix trie",
	[BPF_MAP_TYPE_ARRAY_OF_MAPS] = "array of maps",
	[BPF_MAP_TYPE_HASH_OF_MAPS] = "hash of maps",
	[BPF_MAP_TYPE_QUEUE] = "queue",
	[BPF_MAP_TYPE_STACK] = "stack",
	[BPF_MAP_TYPE_RINGBUF] = "ring buffer",
};

const char *bpf_helper_name(uint32_t id)
{
	const char *name = id < sizeof(helper_names) / sizeof(helper_names[0]) ? helper_names[id] : NULL;

	return name ? name : "an unknown helper";
}

const char *bpf_map_type_name(uint32_t type)
{
	const char *name = type < sizeof(map_type_names) / sizeof(map_type_names[0]) ? map_type_names[type] : NULL;

	return name ? name : "unknown";
}

static int __attribute__((format(printf, 2, 3))) refuse(struct group *g, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(g->reason, sizeof(g->reason), fmt, ap);
	va_end(ap);
	return -EOPNOTSUPP;
}

/* What was asked for is not to be had now: it may be later. */
static int __attribute__((format(printf, 3, 4))) refuse_now(struct group *g, int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(g->reason, sizeof(g->reason), fmt, ap);
	va_end(ap);
	return err;
}

static bool helper_is_carried(uint32_t id)
{
	for (size_t i = 0; i < sizeof(carried_helpers) / sizeof(carried_helpers[0]); i++)
		if (carried_helpers[i] == id)
			return true;
	return false;
}

/* ---- maps ---- */

static bool is_direct(const struct obs_map *m)
{
	return m->type == BPF_MAP_TYPE_ARRAY && (m->flags & BPF_F_MMAPABLE);
}

static int plan_direct(struct group *g, struct gmap *m, unsigned int n_direct)
{
	uint64_t stride = (m->m.value_size + 7u) & ~7u;

	if (n_direct >= AGENT_MAX_DIRECT)
		return refuse(g, "the program uses more than %u memory-mapped arrays", AGENT_MAX_DIRECT);
	m->map_size = PAGE_ROUND(stride * m->m.max_entries);
	if (m->map_size > DIRECT_MAX_SIZE)
		return refuse(g, "map %s is too large to be shared (%zu bytes)", m->m.name, m->map_size);
	m->read_only = m->m.frozen;
	m->geo = (struct shm_geo){
		.kind = SHM_DIRECT,
		.key_size = m->m.key_size,
		.value_size = m->m.value_size,
		.max_entries = m->m.max_entries,
		.n_cpus = 1,
		.key_room = 8,
		.value_room = (uint32_t)stride,
		.node_size = (uint32_t)stride,
		.n_nodes = m->m.max_entries,
		.seed = n_direct,
	};
	g->has_direct |= !m->read_only;
	return 0;
}

static int plan_map(struct group *g, struct observer *o, uint32_t id)
{
	struct gmap *m = &g->map[g->n_maps];
	unsigned int n_direct = 0;
	const char *why = NULL;
	int err;

	if (g->n_maps == SHM_MAX_MAPS)
		return refuse(g, "the programs use more than %u maps", SHM_MAX_MAPS);
	*m = (struct gmap){.fd = -1, .carrier = -1};
	err = observer__map(o, id, &m->m);
	if (err)
		return refuse_now(g, err, "map %u cannot be looked at: %s", id, strerror(-err));
	m->fd = bpf_map_get_fd_by_id(id);
	if (m->fd < 0)
		return refuse_now(g, -errno, "map %s (%u) cannot be opened: %s", m->m.name, id, strerror(errno));
	g->n_maps++;
	for (unsigned int i = 0; i + 1 < g->n_maps; i++)
		n_direct += g->map[i].geo.kind == SHM_DIRECT;
	if (is_direct(&m->m))
		return plan_direct(g, m, n_direct);
	/* The real offset is given when the arena is laid out; zero proves only that the shape can be carried. */
	err = shm_geo__plan(&m->geo, m->m.type, m->m.key_size, m->m.value_size, m->m.max_entries, m->m.flags,
			    (uint32_t)libbpf_num_possible_cpus(), SHM_HDR_SIZE, &why);
	if (err)
		return refuse(g, "map %s is a %s map%s%s", m->m.name, bpf_map_type_name(m->m.type),
			      why ? ": " : ", which is not carried yet", why ? why : "");
	g->has_mirrored = true;
	return 0;
}

static int map_index(struct group *g, struct observer *o, uint32_t id, unsigned int *index)
{
	for (unsigned int i = 0; i < g->n_maps; i++) {
		if (g->map[i].m.id == id) {
			*index = i;
			return 0;
		}
	}
	*index = g->n_maps;
	return plan_map(g, o, id);
}

/* ---- programs ---- */

/* Tracepoints have no user half: what does not concern maps is the kernel's business. */
static bool has_user_half(const struct gprog *p)
{
	return p->type == BPF_PROG_TYPE_KPROBE;
}

static int plan_insns(struct group *g, struct observer *o, struct gprog *p)
{
	for (size_t i = 0; i < p->n_insns; i++) {
		struct bpf_insn *in = &p->insns[i];
		unsigned int index;
		int err;

		if (in->code == (BPF_LD | BPF_IMM | BPF_DW)) {
			if (in->src_reg == BPF_PSEUDO_MAP_FD || in->src_reg == BPF_PSEUDO_MAP_VALUE) {
				err = map_index(g, o, (uint32_t)in->imm, &index);
				if (err)
					return err;
				if (in->src_reg == BPF_PSEUDO_MAP_VALUE && g->map[index].geo.kind != SHM_DIRECT)
					return refuse(g,
						      "program %s uses the value of map %s directly, which is not "
						      "memory-mapped",
						      p->name, g->map[index].m.name);
				in->imm = (int)index;
			} else if (in->src_reg) {
				return refuse(g, "program %s uses a callback or a kernel variable", p->name);
			}
			i++;
		} else if (in->code == (BPF_JMP | BPF_CALL) && in->src_reg == 0) {
			if (has_user_half(p) && !helper_is_carried((uint32_t)in->imm))
				return refuse(g, "program %s calls %s (helper %d), which is not carried yet", p->name,
					      bpf_helper_name((uint32_t)in->imm), in->imm);
			if ((uint32_t)in->imm < GPROG_HELPERS)
				p->helpers[in->imm / 64] |= 1ull << in->imm % 64;
		} else if (in->code == (BPF_JMP | BPF_CALL) && in->src_reg != BPF_PSEUDO_CALL) {
			return refuse(g, "program %s calls a kernel function", p->name);
		}
	}
	return 0;
}

/* What the verifier also takes for granted: the value of an array that nobody can write any more. */
static bool read_frozen(void *arg, int32_t imm, uint32_t off, void *out, uint32_t size)
{
	struct observer *o = arg;
	struct obs_map m;
	uint32_t zero = 0;
	bool ok = false;
	char *value;
	int fd;

	if (observer__map(o, (uint32_t)imm, &m) || m.type != BPF_MAP_TYPE_ARRAY || !m.frozen ||
	    !(m.flags & BPF_F_RDONLY_PROG) || m.max_entries != 1 || off > m.value_size || size > m.value_size - off)
		return false;
	fd = bpf_map_get_fd_by_id((uint32_t)imm);
	value = malloc(m.value_size);
	if (fd >= 0 && value && !bpf_map_lookup_elem(fd, &zero, value)) {
		memcpy(out, value + off, size);
		ok = true;
	}
	free(value);
	if (fd >= 0)
		close(fd);
	return ok;
}

static bool is_same(const struct gprog *a, const struct gprog *b)
{
	return a->type == b->type && a->expected_attach_type == b->expected_attach_type &&
	       a->attach_btf_id == b->attach_btf_id && a->n_insns == b->n_insns && !strcmp(a->license, b->license) &&
	       !memcmp(a->insns, b->insns, a->n_insns * sizeof(*a->insns));
}

/* The last program is dropped when it is one that the group has. Returns which it is. */
static unsigned int merge_last(struct group *g)
{
	unsigned int last = g->n_progs - 1;

	for (unsigned int i = 0; i < last; i++) {
		if (!is_same(&g->prog[i], &g->prog[last]))
			continue;
		free(g->prog[last].insns);
		free(g->prog[last].own);
		g->n_progs--;
		return i;
	}
	return last;
}

static uint32_t type_of(enum probe_kind kind)
{
	switch (kind) {
	case PROBE_TRACEPOINT:
		return BPF_PROG_TYPE_TRACEPOINT;
	case PROBE_RAW_TRACEPOINT:
		return BPF_PROG_TYPE_RAW_TRACEPOINT;
	case PROBE_TP_BTF:
		return BPF_PROG_TYPE_TRACING;
	default:
		return BPF_PROG_TYPE_KPROBE;
	}
}

static int plan_prog(struct group *g, struct observer *o, uint32_t id, enum probe_kind kind, unsigned int *index)
{
	const struct obs_prog *src = observer__prog(o, id);
	struct gprog *p;
	int err;

	if (!src)
		return refuse_now(g, -errno, "program %u cannot be looked at: %s", id, strerror(errno));
	if (!src->insns)
		return refuse(g, "program %s: %s", src->name,
			      src->why_unknown ? src->why_unknown : "its bytecode is not known");
	if (src->type != type_of(kind))
		return refuse(g, "program %s is not a %s program", src->name, probe_kind__name(kind));
	if (kind == PROBE_TP_BTF && !tracepoint__is_of_kernel(src->attach_btf_obj_id))
		return refuse(g, "program %s is for a tracepoint of a module, which is not carried yet", src->name);
	if (src->sleepable)
		return refuse(g, "program %s is sleepable", src->name);
	/* There is room for one more than may be. */
	p = &g->prog[g->n_progs++];
	*p = (struct gprog){
		.type = src->type,
		/* One that was recovered does not tell. */
		.expected_attach_type = kind == PROBE_TP_BTF ? BPF_TRACE_RAW_TP : src->expected_attach_type,
		.attach_btf_id = src->attach_btf_id,
		.n_insns = src->n_insns,
		.code_fd = -1,
		.khalf_fd = -1,
	};
	snprintf(p->name, sizeof(p->name), "%s", src->name);
	p->escape_fd = -1;
	p->license = src->license;
	p->insns = malloc(src->n_insns * sizeof(*p->insns));
	if (!p->insns)
		return refuse(g, "out of memory");
	memcpy(p->insns, src->insns, src->n_insns * sizeof(*p->insns));
	/* At an escape slot it would see another address. */
	if (has_user_half(p) && !bytecode__sees_ip(src->insns, src->n_insns))
		p->own = calloc(src->n_insns, sizeof(*p->own));
	if (p->own) {
		memcpy(p->own, src->insns, src->n_insns * sizeof(*p->own));
		p->n_own = src->n_insns;
	}
	if (vm_fold_constants(p->insns, p->n_insns, read_frozen, o) < 0)
		return refuse(g, "program %s cannot be analysed", p->name);
	err = plan_insns(g, o, p);
	if (err)
		return err;
	*index = merge_last(g);
	return g->n_progs > GROUP_MAX_PROGS ? refuse(g, "more than %u programs that differ share maps", GROUP_MAX_PROGS)
					    : 0;
}

/* Most probes of a tool often have one program. */
static int plan_prog_of(struct group *g, struct observer *o, unsigned int i)
{
	struct probe *p = g->probe[i];

	if (!i || g->probe[i - 1]->o.prog_id != p->o.prog_id || g->probe[i - 1]->is_beside)
		return plan_prog(g, o, p->o.prog_id, p->o.kind, &p->prog);
	p->prog = g->probe[i - 1]->prog;
	return 0;
}

/*
 * Per-CPU maps may only be added to; that is made exact by atomic adds in both halves. The same rewriting serves plain
 * maps with eight-byte values: a lookup and an update of old + c by preempted threads would lose more than the kernel
 * ever does.
 */
static int plan_additive(struct group *g)
{
	struct vm_map_info info[SHM_MAX_MAPS];
	bool only[SHM_MAX_MAPS];

	for (unsigned int i = 0; i < g->n_maps; i++) {
		const struct gmap *m = &g->map[i];

		info[i] = (struct vm_map_info){
			.value_size = m->m.value_size,
			.key_size = m->m.key_size,
			.per_cpu = m->geo.kind == SHM_PERCPU_ARRAY || m->geo.kind == SHM_PERCPU_HASH,
		};
		only[i] = m->geo.kind != SHM_DIRECT && m->m.value_size == 8;
	}
	for (unsigned int k = 0; k < g->n_progs; k++) {
		struct gprog *p = &g->prog[k];
		enum vm_map_use use[SHM_MAX_MAPS] = {0};
		int err = vm_additive_rewrite(p->insns, p->n_insns, info, g->n_maps, only, use);

		if (err < 0)
			return refuse(g, "program %s cannot be analysed: %s", p->name, strerror(-err));
		for (unsigned int i = 0; i < g->n_maps; i++)
			if (info[i].per_cpu && use[i] == VM_MAP_OTHER)
				return refuse(g, "program %s uses the per-CPU map %s in a way that is not an addition",
					      p->name, g->map[i].m.name);
	}
	return 0;
}

/* ---- attachments ---- */

static const struct {
	enum attach_form form;
	const char *why;
} refused_forms[] = {
	{ATTACH_MULTI_LINK, "attached by a uprobe_multi link, which is not carried yet"},
	{ATTACH_OTHER, "attached in a way that is not carried yet"},
};

static int plan_probe(struct group *g, const struct probe *p)
{
	for (size_t i = 0; i < sizeof(refused_forms) / sizeof(refused_forms[0]); i++)
		if (refused_forms[i].form == p->o.form)
			return refuse(g, "%s is %s", p->symbol[0] ? p->symbol : p->o.path, refused_forms[i].why);
	if (p->o.kind == PROBE_OTHER)
		return refuse(g, "a program of the group is attached to something that is not a uprobe or tracepoint");
	if (p->o.ref_ctr_offset)
		return refuse(g, "%s has a USDT semaphore, which is not carried yet", p->symbol);
	return 0;
}

static int by_id(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

/* A program that we do not know to be in the group may write the same maps from the kernel. */
static int find_stranger(struct group *g, const uint32_t *known)
{
	uint32_t id = 0;

	while (!bpf_prog_get_next_id(id, &id)) {
		struct bpf_prog_info info = {0};
		uint32_t ids[64], len = sizeof(info);
		int fd, err;

		if (bsearch(&id, known, g->n_probes, sizeof(id), by_id))
			continue;
		fd = bpf_prog_get_fd_by_id(id);
		if (fd < 0 && errno == ENOENT)
			continue;
		if (fd < 0)
			return refuse_now(g, -errno, "whether program %u uses its maps, too, cannot be seen: %s", id,
					  strerror(errno));
		info.map_ids = (uintptr_t)ids;
		info.nr_map_ids = sizeof(ids) / sizeof(ids[0]);
		err = bpf_obj_get_info_by_fd(fd, &info, &len);
		close(fd);
		/* It goes on for a moment when its group has been unbuilt, or its bpftimed has ended. */
		if (err || !strcmp(info.name, KHALF_BOTH))
			continue;
		for (uint32_t k = 0; k < info.nr_map_ids && k < 64; k++)
			for (unsigned int i = 0; i < g->n_maps; i++)
				if (g->map[i].m.id == ids[k] && g->map[i].geo.kind != SHM_DIRECT &&
				    g->map[i].carrier < 0)
					return refuse(g,
						      "map %s is also used by program %s (%u), which is not known to "
						      "be attached "
						      "to a uprobe or tracepoint of the same tool",
						      g->map[i].m.name, info.name, id);
	}
	return 0;
}

int group__check_strangers(struct group *g)
{
	uint32_t *known = calloc(g->n_probes, sizeof(*known));
	int err;

	if (!known)
		return refuse_now(g, -ENOMEM, "out of memory");
	for (unsigned int i = 0; i < g->n_probes; i++)
		known[i] = g->probe[i]->o.prog_id;
	qsort(known, g->n_probes, sizeof(*known), by_id);
	err = find_stranger(g, known);
	free(known);
	return err;
}

/*
 * Directly mapped memory is written by the tool's own program too, so no kernel half can stand beside it: hits that
 * reach the kernel are the tool's program's. That is exact for memory that is only direct; mirrored maps beside it need
 * every hit to come from processes that are held still during the switch, that is, from the one the probe is limited
 * to. Where there is none the memory is mirrored, too, and the tool sees the arena in its place: views.h.
 */
static bool needs_views(const struct group *g)
{
	return g->has_direct && g->has_mirrored && (group_is_host_wide(g, NULL) || group_has_tracepoint(g));
}

static int plan_views(struct group *g)
{
	if (!needs_views(g))
		return 0;
	for (unsigned int i = 0; i < g->n_maps; i++) {
		struct gmap *m = &g->map[i];
		const char *why = NULL;

		if (m->geo.kind != SHM_DIRECT || m->read_only)
			continue;
		m->is_viewed = true;
		if (gmap__lay_out(m, SHM_HDR_SIZE, &why))
			return refuse(g,
				      "%s is probed in every process and the programs use both memory-mapped and other "
				      "maps, of which %s cannot be moved: %s",
				      g->probe[0]->symbol, m->m.name, why);
	}
	g->has_viewed = true;
	g->has_direct = false;
	return 0;
}

/* ---- tracepoints ---- */

/* Does it use a map that moves? Memory that everybody uses as it is does not. */
static bool uses_moving_map(const struct group *g, const struct obs_prog *prog)
{
	bool views = needs_views(g);

	for (size_t k = 0; prog && k < prog->n_maps; k++)
		for (unsigned int i = 0; i < g->n_maps; i++)
			if (g->map[i].m.id == prog->map_ids[k] &&
			    (g->map[i].geo.kind != SHM_DIRECT || (views && !g->map[i].read_only)))
				return true;
	return false;
}

static int plan_tracepoint(struct group *g, struct observer *o, unsigned int i)
{
	struct probe *p = g->probe[i];
	const char *why = tracepoint__why_not(&p->o);
	int err = plan_probe(g, p);

	if (err)
		return err;
	if (why)
		return refuse(g, "its maps are also used at tracepoint %s, where %s", p->o.path, why);
	err = plan_prog_of(g, o, i);
	p->is_beside = err != 0;
	return err;
}

/*
 * They are not held during a switch. Where one uses a map that moves, the kernel half stands at it, too, and its other
 * maps move with the rest, which may concern more of them.
 */
static int plan_tracepoints(struct group *g, struct observer *o)
{
	bool more = true;

	while (more) {
		more = false;
		for (unsigned int i = 0; i < g->n_probes; i++) {
			const struct probe *p = g->probe[i];
			int err;

			if (!p->is_beside || !uses_moving_map(g, observer__prog(o, p->o.prog_id)))
				continue;
			err = plan_tracepoint(g, o, i);
			if (err)
				return err;
			more = true;
		}
	}
	return 0;
}

int group__plan(struct group *g, struct observer *o)
{
	int err;

	g->reason[0] = 0;
	for (unsigned int i = 0; i < g->n_probes; i++) {
		g->probe[i]->is_beside = probe_is_tracepoint(g->probe[i]);
		if (g->probe[i]->is_beside)
			continue;
		err = plan_probe(g, g->probe[i]);
		if (!err)
			err = plan_prog_of(g, o, i);
		if (err)
			return err;
	}
	g->n_user_progs = g->n_progs;
	if (!g->n_user_progs)
		return refuse(g, "more than %u probes share maps", GROUP_MAX_PROBES);
	err = plan_tracepoints(g, o);
	if (!err)
		err = plan_additive(g);
	if (!err)
		err = plan_views(g);
	if (!err)
		g->has_khalf = g->has_mirrored && !g->has_direct;
	return err;
}
