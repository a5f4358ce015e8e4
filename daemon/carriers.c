/* SPDX-License-Identifier: MIT */
/*
 * carriers.c: the hook at the entry of bpf() and one carrier for each mirrored map. See bpf/carry_hook.bpf.c and
 * bpf/carry.bpf.c for what they do.
 */
#include "daemon/khalf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "agent/cpus.h"
#include "bpf/carry.h"
#include "bpf/carry.skel.h"
#include "bpf/carry_hook.skel.h"

struct carrier {
	struct carry_bpf *skel; /* NULL: the place is free */
	uint64_t map;		/* address of the tool's map in the kernel */
	bool enabled;
};

struct carriers {
	struct carry_hook_bpf *hook;
	struct bpf_link *link; /* while there is a carrier: an unused hook costs nobody anything */
	int outer_fd, inner_fd; /* an array of maps: changing it waits for programs that run */
	size_t n;
	struct carrier carrier[CARRY_MAX];
};

__attribute__((format(printf, 4, 5))) static int fail(char *err, size_t size, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(err, size, fmt, ap);
	va_end(ap);
	return code;
}

/* Where bpf() is hooked. The one place to choose: carriers and hook must be of the same program type. */
static struct bpf_link *hook_attach(struct carriers *c)
{
	return bpf_program__attach_tracepoint(c->hook->progs.carry_enter, "syscalls", "sys_enter_bpf");
}

const char *carriers__hook(const struct carriers *c)
{
	return "tracepoint";
}

static int waiter_open(struct carriers *c)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts);

	c->inner_fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "carry_inner", 4, 4, 1, NULL);
	if (c->inner_fd < 0)
		return -errno;
	opts.inner_map_fd = (__u32)c->inner_fd;
	c->outer_fd = bpf_map_create(BPF_MAP_TYPE_ARRAY_OF_MAPS, "carry_outer", 4, 4, 1, &opts);
	return c->outer_fd < 0 ? -errno : 0;
}

/*
 * Programs that were running when this was called have ended when it returns: so the kernel promises for a change of a map of
 * maps (maybe_wait_bpf_programs() in kernel/bpf/syscall.c).
 */
static int wait_for_programs(struct carriers *c)
{
	uint32_t zero = 0;

	return bpf_map_update_elem(c->outer_fd, &zero, &c->inner_fd, BPF_ANY) ? -errno : 0;
}

int carriers__new(struct carriers **out, char *err, size_t err_size)
{
	struct carriers *c = calloc(1, sizeof(*c));
	int ret;

	if (!c)
		return fail(err, err_size, -ENOMEM, "no memory for the carriers");
	c->outer_fd = c->inner_fd = -1;
	ret = waiter_open(c);
	if (ret) {
		fail(err, err_size, ret, "cannot create a map of maps: %s", strerror(-ret));
		goto err_free;
	}
	c->hook = carry_hook_bpf__open();
	if (!c->hook) {
		ret = fail(err, err_size, -errno, "cannot open the hook on bpf(): %s", strerror(errno));
		goto err_free;
	}
	c->hook->rodata->own_tgid = (uint32_t)getpid();
	ret = carry_hook_bpf__load(c->hook);
	if (ret) {
		fail(err, err_size, ret, "cannot load the hook on bpf(): %s", strerror(-ret));
		goto err_free;
	}
	*out = c;
	return 0;

err_free:
	carriers__free(c);
	return ret;
}

void carriers__free(struct carriers *c)
{
	if (!c)
		return;
	bpf_link__destroy(c->link);
	if (c->outer_fd >= 0)
		wait_for_programs(c);
	for (size_t i = 0; i < CARRY_MAX; i++)
		carry_bpf__destroy(c->carrier[i].skel);
	carry_hook_bpf__destroy(c->hook);
	if (c->outer_fd >= 0)
		close(c->outer_fd);
	if (c->inner_fd >= 0)
		close(c->inner_fd);
	free(c);
}

/* The kernel's address of a map, its name to the hook. */
static int learn(struct carriers *c, int map_fd, uint64_t *address)
{
	struct carry_learn arg = { .fd = (unsigned int)map_fd };
	/* The kernel writes the context of such a program back to where it came from. */
	LIBBPF_OPTS(bpf_test_run_opts, opts, .ctx_in = &arg, .ctx_size_in = sizeof(arg));

	if (bpf_prog_test_run_opts(bpf_program__fd(c->hook->progs.carry_learn), &opts))
		return -errno;
	if (opts.retval || !arg.map)
		return -EBADF;
	c->hook->bss->map_f_op = arg.f_op;
	*address = arg.map;
	return 0;
}

static int carrier_load(struct carrier *k, int tool_map_fd, int arena_fd, const struct shm_geo *g)
{
	struct carry_bpf *skel = carry_bpf__open();
	int ret;

	if (!skel)
		return -errno;
	memcpy((void *)&skel->rodata->carry_geo, g, sizeof(*g));
	ret = bpf_map__reuse_fd(skel->maps.carry_arena, arena_fd);
	if (!ret)
		ret = bpf_map__reuse_fd(skel->maps.carry_tool, tool_map_fd);
	if (!ret)
		ret = carry_bpf__load(skel);
	if (ret) {
		carry_bpf__destroy(skel);
		return ret;
	}
	k->skel = skel;
	return 0;
}

static bool is_mirrored(const struct shm_geo *g)
{
	return g->kind >= SHM_ARRAY && g->kind <= SHM_PERCPU_HASH;
}

int carriers__add(struct carriers *c, int tool_map_fd, uint32_t tool_map_id, int arena_fd, const struct shm_geo *g,
		  char *err, size_t err_size)
{
	int places = bpf_map__fd(c->hook->maps.carriers);
	struct carrier k = { 0 };
	uint32_t place = 0;
	int ret, prog_fd;

	while (place < CARRY_MAX && c->carrier[place].skel)
		place++;
	if (place == CARRY_MAX)
		return fail(err, err_size, -ENOSPC, "map %u: already %u maps are mirrored", tool_map_id, CARRY_MAX);
	if (!is_mirrored(g))
		return fail(err, err_size, -EINVAL, "map %u is not one that is mirrored", tool_map_id);
	ret = learn(c, tool_map_fd, &k.map);
	if (ret)
		return fail(err, err_size, ret, "map %u: cannot find it in the kernel: %s", tool_map_id, strerror(-ret));
	ret = carrier_load(&k, tool_map_fd, arena_fd, g);
	if (ret)
		return fail(err, err_size, ret, "map %u: the kernel refused its carrier: %s", tool_map_id, strerror(-ret));
	if (!c->link) {
		c->link = hook_attach(c);
		if (!c->link) {
			ret = fail(err, err_size, -errno, "cannot attach the hook on bpf(): %s", strerror(errno));
			goto err_skel;
		}
	}
	prog_fd = bpf_program__fd(k.skel->progs.carry);
	if (bpf_map_update_elem(places, &place, &prog_fd, BPF_ANY)) {
		ret = fail(err, err_size, -errno, "map %u: cannot put its carrier in place: %s", tool_map_id,
			   strerror(errno));
		goto err_place;
	}
	c->carrier[place] = k;
	c->n++;
	return (int)place;

err_place:
	bpf_map_delete_elem(places, &place);
	if (c->n == 0) {
		bpf_link__destroy(c->link);
		c->link = NULL;
	}
err_skel:
	carry_bpf__destroy(k.skel);
	return ret;
}

int carriers__enable(struct carriers *c, int handle, bool on)
{
	int carried = bpf_map__fd(c->hook->maps.carried);
	uint32_t place = (uint32_t)handle;
	struct carrier *k;

	if (handle < 0 || handle >= CARRY_MAX || !c->carrier[handle].skel)
		return -ENOENT;
	k = &c->carrier[handle];
	if (k->enabled == on)
		return 0;
	if (on ? bpf_map_update_elem(carried, &k->map, &place, BPF_ANY) : bpf_map_delete_elem(carried, &k->map))
		return -errno;
	k->enabled = on;
	/* The hook runs on system call tracepoints, with preemption off: no processor that we have been on is still in it. */
	if (!on)
		cpus_visit();
	return 0;
}

int carriers__remove(struct carriers *c, int handle)
{
	uint32_t place = (uint32_t)handle;
	struct carrier *k;
	int ret;

	if (handle < 0 || handle >= CARRY_MAX || !c->carrier[handle].skel)
		return -ENOENT;
	k = &c->carrier[handle];
	bpf_map_delete_elem(bpf_map__fd(c->hook->maps.carried), &k->map);
	bpf_map_delete_elem(bpf_map__fd(c->hook->maps.carriers), &place);
	if (--c->n == 0) {
		bpf_link__destroy(c->link);
		c->link = NULL;
	}
	ret = wait_for_programs(c);
	carry_bpf__destroy(k->skel);
	*k = (struct carrier){ 0 };
	return ret;
}
