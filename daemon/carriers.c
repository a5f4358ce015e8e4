/* SPDX-License-Identifier: MIT */
/*
 * carriers.c: the hook at entry and exit of bpf() and one carrier for each mirrored map. See bpf/carry_hook.bpf.c and
 * bpf/carry.bpf.c for what they do.
 */
#include "daemon/khalf.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "agent/cpus.h"
#include "agent/pid_ns.h"
#include "bpf/carry.h"
#include "bpf/carry.skel.h"
#include "bpf/carry_hook.skel.h"
#include "daemon/fail.h"
#include "daemon/kernel_features.h"
#include "daemon/link_program.h"

struct carrier {
	struct carry_bpf *skel; /* NULL: the place is free */
	uint64_t map;		/* address of the tool's map in the kernel */
	bool enabled;
};

/* A way to be at the entry and at the exit of bpf(). Hook and carrier are of the same program type. */
struct form {
	/* In struct carry_hook_bpf; before: what runs before enter; again: for what exit has not met; 0: none. */
	size_t enter, exit, before, again;
	/* In struct carry_bpf; 0: it serves the exit as well. */
	size_t carrier, carrier_exit;
};

#define HOOK_PROG(p) offsetof(struct carry_hook_bpf, progs.p)
#define PROG(p)	     offsetof(struct carry_bpf, progs.p)

static const struct form forms[] = {
	[BPF_HOOK_TRACEPOINT] = {HOOK_PROG(enter_tracepoint), HOOK_PROG(exit_tracepoint), 0, 0, PROG(carry_tracepoint),
				 0},
	[BPF_HOOK_RAW_TRACEPOINT] = {HOOK_PROG(enter_raw), HOOK_PROG(exit_raw), 0, 0, PROG(carry_raw), 0},
	[BPF_HOOK_LSM] = {HOOK_PROG(enter_lsm), HOOK_PROG(exit_lsm), HOOK_PROG(touch_lsm), 0, PROG(carry_lsm),
			  PROG(carry_lsm_exit)},
	[BPF_HOOK_LSM_ALONE] = {HOOK_PROG(enter_lsm), HOOK_PROG(exit_lsm), HOOK_PROG(touch_lsm),
				HOOK_PROG(exit_lsm_again), PROG(carry_lsm_alone), PROG(carry_lsm_exit_alone)},
};

/* In the order of attaching: who is met at the entry is met at the exit, too. */
enum { LINK_EXIT, LINK_EXIT_AGAIN, LINK_ENTER, LINK_BEFORE, N_LINKS };

struct carriers {
	enum bpf_hook kind;
	struct carry_hook_bpf *hook;
	struct bpf_link *link[N_LINKS]; /* while there is a carrier: an unused hook costs nobody anything */
	int other_prog[N_LINKS];	/* what another daemon has attached there, or -1: programs of hook are */
	int outer_fd, inner_fd;		/* an array of maps: changing it waits for programs that run */
	size_t n;
	uint64_t missed; /* by carriers that have been removed */
	char *dir;	 /* where everything is pinned, or NULL */
	struct carrier carrier[CARRY_MAX];
};

/* ---- pins ---- */

/* What must outlive the daemon. An array of programs loses its entries with its last descriptor or pin. */
static const struct {
	const char *map, *pin;
} pinned[] = {
	{"carriers", "carry-programs"}, {"carriers_exit", "carry-programs-exit"}, {"carried", "carry-on"},
	{"known", "carry-known"},	{"carry_ho.bss", "carry-state"},	  {"calls", "carry-calls"},
};

#define PIN_CARRIER "carry-%u" /* place: what the carrier there remembers */

#define N(a) (sizeof(a) / sizeof((a)[0]))

static const char *const link_pin[N_LINKS] = {
	[LINK_EXIT] = "carry-link-exit",
	[LINK_EXIT_AGAIN] = "carry-link-exit-again",
	[LINK_ENTER] = "carry-link",
	[LINK_BEFORE] = "carry-link-before",
};

static char *pin_path(char *path, size_t size, const char *dir, const char *name)
{
	snprintf(path, size, "%s/%s", dir, name);
	return path;
}

static int pin(int fd, const char *dir, const char *name)
{
	char path[PATH_MAX];

	unlink(pin_path(path, sizeof(path), dir, name));
	return bpf_obj_pin(fd, path) ? -errno : 0;
}

static int pin_get(const char *dir, const char *name)
{
	char path[PATH_MAX];
	int fd = bpf_obj_get(pin_path(path, sizeof(path), dir, name));

	return fd < 0 ? -errno : fd;
}

static void unpin(struct carriers *c, const char *name)
{
	char path[PATH_MAX];

	if (c->dir)
		unlink(pin_path(path, sizeof(path), c->dir, name));
}

int carriers__pin(struct carriers *c, const char *dir, char *err, size_t err_size)
{
	c->dir = strdup(dir);
	for (size_t i = 0; c->dir && i < N(pinned); i++) {
		struct bpf_map *map = bpf_object__find_map_by_name(c->hook->obj, pinned[i].map);
		int ret = map ? pin(bpf_map__fd(map), dir, pinned[i].pin) : -ENOENT;

		if (ret)
			return fail(err, err_size, ret, "%s/%s cannot be pinned: %s", dir, pinned[i].pin,
				    strerror(-ret));
	}
	return c->dir ? 0 : fail(err, err_size, -ENOMEM, "no memory for the carriers");
}

/* Turns on or off what is known of this arena. */
static int turn(const char *dir, uint32_t arena_id, bool to_on)
{
	int known = pin_get(dir, "carry-known"), on = pin_get(dir, "carry-on");
	int ret = known < 0 ? known : on < 0 ? on : 0;
	uint64_t map, *at = NULL;
	struct carry_known k;

	while (!ret && !bpf_map_get_next_key(known, at, &map)) {
		at = &map;
		if (bpf_map_lookup_elem(known, &map, &k) || k.arena_id != arena_id)
			continue;
		if (!to_on)
			bpf_map_delete_elem(on, &map);
		else if (bpf_map_update_elem(on, &map, &k.place, BPF_ANY))
			ret = -errno;
	}
	if (known >= 0)
		close(known);
	if (on >= 0)
		close(on);
	return ret;
}

int carriers__rescue(const char *dir, uint32_t arena_id)
{
	return turn(dir, arena_id, true);
}

int carriers__unrescue(const char *dir, uint32_t arena_id)
{
	return turn(dir, arena_id, false);
}

int carriers__inherit(const char *dir)
{
	int fd = pin_get(dir, "carry-state"), ret;
	struct carry_hook_bpf__bss state;
	uint32_t zero = 0, own = pid_ns__initial(getpid());

	if (fd < 0)
		return fd;
	ret = bpf_map_lookup_elem(fd, &zero, &state);
	state.own_tgid = own;
	if (!ret)
		ret = bpf_map_update_elem(fd, &zero, &state, BPF_ANY);
	close(fd);
	return ret ? -errno : 0;
}

/* ---- the hook ---- */

static struct bpf_program *program(const void *skel, size_t offset)
{
	return *(struct bpf_program *const *)((const char *)skel + offset);
}

static void hook_detach(struct carriers *c)
{
	for (int i = N_LINKS - 1; i >= 0; i--) {
		unpin(c, link_pin[i]);
		bpf_link__destroy(c->link[i]);
		c->link[i] = NULL;
		if (c->other_prog[i] >= 0)
			close(c->other_prog[i]);
		c->other_prog[i] = -1;
	}
}

/* libbpf finds tracepoints only in a mounted tracefs. */
static struct bpf_link *attach_tracepoint(const struct bpf_program *prog, const char *name)
{
	int fd = tracepoint_open("syscalls", name);
	struct bpf_link *link;
	int err;

	if (fd < 0) {
		errno = -fd;
		return NULL;
	}
	link = bpf_program__attach_perf_event(prog, fd);
	err = errno;
	if (!link)
		close(fd);
	errno = err;
	return link;
}

static struct bpf_link *attach_hook(const struct carriers *c, int link, const struct bpf_program *prog)
{
	if (c->kind == BPF_HOOK_TRACEPOINT)
		return attach_tracepoint(prog, link == LINK_EXIT ? "sys_exit_bpf" : "sys_enter_bpf");
	return bpf_program__attach(prog);
}

/* In the order of attaching; 0: there is none. */
static void hook_programs(const struct carriers *c, size_t prog[N_LINKS])
{
	prog[LINK_EXIT] = forms[c->kind].exit;
	prog[LINK_EXIT_AGAIN] = forms[c->kind].again;
	prog[LINK_ENTER] = forms[c->kind].enter;
	prog[LINK_BEFORE] = forms[c->kind].before;
}

/* The kernel runs the program that was attached last before the others. */
static int hook_attach(struct carriers *c, char *err, size_t err_size)
{
	size_t prog[N_LINKS];
	int ret = 0;

	hook_programs(c, prog);
	for (int i = 0; i < N_LINKS && !ret; i++) {
		if (!prog[i])
			continue;
		c->link[i] = attach_hook(c, i, program(c->hook, prog[i]));
		if (!c->link[i]) {
			ret = fail(err, err_size, -errno, "cannot attach the hook on bpf() (%s): %s",
				   bpf_hook__name(c->kind), strerror(errno));
			break;
		}
		ret = c->dir ? pin(bpf_link__fd(c->link[i]), c->dir, link_pin[i]) : 0;
		if (ret)
			fail(err, err_size, ret, "%s/%s cannot be pinned: %s", c->dir, link_pin[i], strerror(-ret));
	}
	if (ret)
		hook_detach(c);
	return ret;
}

static uint64_t skipped(const struct carriers *c, int link, size_t prog)
{
	int fd = c->other_prog[link] >= 0 ? c->other_prog[link] : bpf_program__fd(program(c->hook, prog));
	struct bpf_prog_info info = {0};
	uint32_t len = sizeof(info);

	return bpf_obj_get_info_by_fd(fd, &info, &len) ? 0 : info.recursion_misses;
}

uint64_t carriers__missed(const struct carriers *c)
{
	uint64_t n = c->missed + *(volatile uint64_t *)&c->hook->bss->unmet;

	for (size_t i = 0; i < CARRY_MAX; i++)
		if (c->carrier[i].skel)
			n += *(volatile uint64_t *)&c->carrier[i].skel->bss->missed;
	n += skipped(c, LINK_ENTER, forms[c->kind].enter);
	/* What one of two at the exit has skipped the other one has met; else the call is unmet. */
	return forms[c->kind].again ? n : n + skipped(c, LINK_EXIT, forms[c->kind].exit);
}

/* Other processes find the carrier by this, see carriers__rescue(). */
static int tell(struct carriers *c, const struct carrier *k, uint32_t place, int arena_fd)
{
	struct bpf_map_info info = {0};
	uint32_t len = sizeof(info);
	struct carry_known known = {.place = place};

	if (bpf_obj_get_info_by_fd(arena_fd, &info, &len))
		return -errno;
	known.arena_id = info.id;
	return bpf_map_update_elem(bpf_map__fd(c->hook->maps.known), &k->map, &known, BPF_ANY) ? -errno : 0;
}

const char *carriers__hook(const struct carriers *c)
{
	return bpf_hook__name(c->kind);
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

/* So the kernel promises for a change of a map of maps (maybe_wait_bpf_programs() in kernel/bpf/syscall.c). */
int carriers__wait_for_programs(struct carriers *c)
{
	uint32_t zero = 0;

	return bpf_map_update_elem(c->outer_fd, &zero, &c->inner_fd, BPF_ANY) ? -errno : 0;
}

static int hook_load(struct carriers *c)
{
	const struct form *form = &forms[c->kind];
	struct bpf_program *p;

	bpf_object__for_each_program(p, c->hook->obj) bpf_program__set_autoload(
		p, p == program(c->hook, form->enter) || p == program(c->hook, form->exit) ||
			   (form->before && p == program(c->hook, form->before)) ||
			   (form->again && p == program(c->hook, form->again)) || p == c->hook->progs.carry_learn);
	c->hook->rodata->n_cpus = (uint32_t)libbpf_num_possible_cpus();
	return carry_hook_bpf__load(c->hook);
}

static int own(struct carriers *c)
{
	uint32_t tgid = pid_ns__initial(getpid());

	c->hook->bss->own_tgid = tgid;
	return tgid ? 0 : -ESRCH;
}

static int reuse_pin(struct bpf_map *map, const char *dir, const char *name)
{
	int fd = pin_get(dir, name), ret = fd < 0 ? fd : bpf_map__reuse_fd(map, fd);

	if (fd >= 0)
		close(fd);
	return ret;
}

/* The program of a link, which is to be another daemon's form of this one of ours; or -errno. */
static int program_of(const struct bpf_link *link, const struct bpf_program *ours)
{
	int fd = link_program(bpf_link__fd(link));
	struct bpf_prog_info prog = {0};
	uint32_t len = sizeof(prog);

	if (fd < 0)
		return fd;
	if (!bpf_obj_get_info_by_fd(fd, &prog, &len) &&
	    !strncmp(prog.name, bpf_program__name(ours), sizeof(prog.name) - 1))
		return fd;
	close(fd);
	return -ESTALE;
}

/*
 * Before the hook is loaded: the maps, and what is attached, are another daemon's, which is gone. Its programs and
 * carriers go on; ours are for what is attached later.
 */
static int hook_adopt(struct carriers *c, const char *dir)
{
	size_t prog[N_LINKS];
	char path[PATH_MAX];
	int ret = 0;

	hook_programs(c, prog);
	for (size_t i = 0; i < N(pinned) && !ret; i++) {
		struct bpf_map *map = bpf_object__find_map_by_name(c->hook->obj, pinned[i].map);

		ret = map ? reuse_pin(map, dir, pinned[i].pin) : -ENOENT;
	}
	for (int i = 0; i < N_LINKS && !ret; i++) {
		if (access(pin_path(path, sizeof(path), dir, link_pin[i]), F_OK))
			continue;
		c->link[i] = bpf_link__open(path);
		c->other_prog[i] = !c->link[i] ? -errno
				   : prog[i]   ? program_of(c->link[i], program(c->hook, prog[i]))
					       : -ESTALE;
		ret = c->other_prog[i] < 0 ? c->other_prog[i] : 0;
	}
	return ret;
}

int carriers__new(struct carriers **out, char *err, size_t err_size)
{
	struct kernel_features k;

	kernel_features__probe(&k);
	return carriers__new_with(out, kernel_features__hook(&k), err, err_size);
}

/* from: the folder in which another daemon has pinned what is gone on with, or NULL. */
static int make(struct carriers **out, enum bpf_hook hook, const char *from, char *err, size_t err_size)
{
	struct carriers *c = calloc(1, sizeof(*c));
	int ret;

	if (!c)
		return fail(err, err_size, -ENOMEM, "no memory for the carriers");
	c->kind = hook;
	c->outer_fd = c->inner_fd = -1;
	for (int i = 0; i < N_LINKS; i++)
		c->other_prog[i] = -1;
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
	ret = from ? hook_adopt(c, from) : 0;
	if (!ret)
		ret = hook_load(c);
	if (ret) {
		fail(err, err_size, ret, "cannot load the hook on bpf() (%s): %s", bpf_hook__name(hook),
		     strerror(-ret));
		goto err_free;
	}
	if (!from && own(c)) {
		ret = fail(err, err_size, -ESRCH, "cannot tell the daemon's number in the initial PID namespace");
		goto err_free;
	}
	*out = c;
	return 0;

err_free:
	carriers__free(c);
	return ret;
}

int carriers__new_with(struct carriers **out, enum bpf_hook hook, char *err, size_t err_size)
{
	return make(out, hook, NULL, err, err_size);
}

int carriers__adopt(struct carriers **out, const char *dir, char *err, size_t err_size)
{
	struct kernel_features k;

	kernel_features__probe(&k);
	return make(out, kernel_features__hook(&k), dir, err, err_size);
}

int carriers__own(struct carriers *c, const char *dir)
{
	c->dir = strdup(dir);
	return c->dir ? own(c) : -ENOMEM;
}

void carriers__free(struct carriers *c)
{
	if (!c)
		return;
	hook_detach(c);
	for (size_t i = 0; i < N(pinned); i++)
		unpin(c, pinned[i].pin);
	free(c->dir);
	if (c->outer_fd >= 0)
		carriers__wait_for_programs(c);
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
	struct carry_learn arg = {.fd = (unsigned int)map_fd};
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

/* from: as of make(): what is in place goes on, on its memory. */
static int carrier_load(struct carriers *c, struct carrier *k, uint32_t place, int tool_map_fd, int arena_fd,
			const struct shm_geo *g, const char *from)
{
	const struct form *form = &forms[c->kind];
	char name[32];
	struct carry_bpf *skel = carry_bpf__open();
	struct bpf_program *p;
	int ret;

	if (!skel)
		return -errno;
	bpf_object__for_each_program(p, skel->obj) bpf_program__set_autoload(
		p, p == skel->progs.carry_seal ||
			   (!from && (p == program(skel, form->carrier) ||
				      (form->carrier_exit && p == program(skel, form->carrier_exit)))));
	memcpy((void *)&skel->rodata->carry_geo, g, sizeof(*g));
	*(uint32_t *)&skel->rodata->carry_place = place;
	ret = bpf_map__reuse_fd(skel->maps.carry_arena, arena_fd);
	if (!ret)
		ret = bpf_map__reuse_fd(skel->maps.carry_tool, tool_map_fd);
	if (!ret)
		ret = bpf_map__reuse_fd(skel->maps.carry_calls, bpf_map__fd(c->hook->maps.calls));
	snprintf(name, sizeof(name), PIN_CARRIER, place);
	if (!ret && from)
		ret = reuse_pin(skel->maps.bss, from, name);
	if (!ret)
		ret = carry_bpf__load(skel);
	if (!ret && !from && c->dir)
		ret = pin(bpf_map__fd(skel->maps.bss), c->dir, name);
	if (ret) {
		carry_bpf__destroy(skel);
		return ret;
	}
	k->skel = skel;
	return 0;
}

static int carrier_place(struct carriers *c, const struct carrier *k, uint32_t place)
{
	const struct form *form = &forms[c->kind];
	int fd = bpf_program__fd(program(k->skel, form->carrier));

	if (bpf_map_update_elem(bpf_map__fd(c->hook->maps.carriers), &place, &fd, BPF_ANY))
		return -errno;
	if (!form->carrier_exit)
		return 0;
	fd = bpf_program__fd(program(k->skel, form->carrier_exit));
	return bpf_map_update_elem(bpf_map__fd(c->hook->maps.carriers_exit), &place, &fd, BPF_ANY) ? -errno : 0;
}

static void carrier_unplace(struct carriers *c, uint32_t place)
{
	bpf_map_delete_elem(bpf_map__fd(c->hook->maps.carriers), &place);
	bpf_map_delete_elem(bpf_map__fd(c->hook->maps.carriers_exit), &place);
}

static bool is_mirrored(const struct shm_geo *g)
{
	return g->kind >= SHM_ARRAY && g->kind <= SHM_PERCPU_HASH;
}

int carriers__add(struct carriers *c, int tool_map_fd, uint32_t tool_map_id, int arena_fd, const struct shm_geo *g,
		  char *err, size_t err_size)
{
	struct carrier k = {0};
	uint32_t place = 0;
	char name[32];
	int ret;

	if (carriers__missed(c))
		return fail(err, err_size, -EOPNOTSUPP, CARRIERS_MISSED, carriers__missed(c));
	while (place < CARRY_MAX && c->carrier[place].skel)
		place++;
	if (place == CARRY_MAX)
		return fail(err, err_size, -ENOSPC, "map %u: already %u maps are mirrored", tool_map_id, CARRY_MAX);
	if (!is_mirrored(g))
		return fail(err, err_size, -EINVAL, "map %u is not one that is mirrored", tool_map_id);
	ret = learn(c, tool_map_fd, &k.map);
	if (ret)
		return fail(err, err_size, ret, "map %u: cannot find it in the kernel: %s", tool_map_id,
			    strerror(-ret));
	ret = carrier_load(c, &k, place, tool_map_fd, arena_fd, g, NULL);
	if (ret)
		return fail(err, err_size, ret, "map %u: the kernel refused its carrier: %s", tool_map_id,
			    strerror(-ret));
	if (!c->link[LINK_ENTER]) {
		ret = hook_attach(c, err, err_size);
		if (ret)
			goto err_skel;
	}
	ret = carrier_place(c, &k, place);
	if (ret) {
		fail(err, err_size, ret, "map %u: cannot put its carrier in place: %s", tool_map_id, strerror(-ret));
		goto err_place;
	}
	ret = tell(c, &k, place, arena_fd);
	if (ret) {
		fail(err, err_size, ret, "map %u: its carrier cannot be noted: %s", tool_map_id, strerror(-ret));
		goto err_place;
	}
	c->carrier[place] = k;
	c->n++;
	return (int)place;

err_place:
	carrier_unplace(c, place);
	if (c->n == 0)
		hook_detach(c);
err_skel:
	snprintf(name, sizeof(name), PIN_CARRIER, place);
	unpin(c, name);
	carry_bpf__destroy(k.skel);
	return ret;
}

/* Is there a carrier in this place, of this map and arena, turned on or off? */
static bool is_in_place(const struct carriers *c, const struct carrier *k, uint32_t place, uint32_t arena_id)
{
	const struct form *form = &forms[c->kind];
	uint32_t id = 0, on = 0;
	struct carry_known known;

	if (bpf_map_lookup_elem(bpf_map__fd(c->hook->maps.known), &k->map, &known) || known.place != place ||
	    known.arena_id != arena_id || bpf_map_lookup_elem(bpf_map__fd(c->hook->maps.carriers), &place, &id))
		return false;
	if (form->carrier_exit && bpf_map_lookup_elem(bpf_map__fd(c->hook->maps.carriers_exit), &place, &id))
		return false;
	return bpf_map_lookup_elem(bpf_map__fd(c->hook->maps.carried), &k->map, &on) ? !k->enabled
										     : k->enabled && on == place;
}

int carriers__adopt_one(struct carriers *c, int handle, bool is_enabled, const char *dir, int tool_map_fd, int arena_fd,
			const struct shm_geo *g, char *err, size_t err_size)
{
	struct carrier k = {.enabled = is_enabled};
	struct bpf_map_info info = {0};
	uint32_t len = sizeof(info);
	int ret = -ESTALE;

	if (handle < 0 || handle >= CARRY_MAX || c->carrier[handle].skel || !c->link[LINK_ENTER] || !is_mirrored(g))
		return fail(err, err_size, ret, "there is no carrier in place %d", handle);
	if (!learn(c, tool_map_fd, &k.map) && !bpf_obj_get_info_by_fd(arena_fd, &info, &len) &&
	    is_in_place(c, &k, (uint32_t)handle, info.id))
		ret = carrier_load(c, &k, (uint32_t)handle, tool_map_fd, arena_fd, g, dir);
	if (!ret && k.skel->bss->sealed) {
		carry_bpf__destroy(k.skel);
		ret = -EBUSY;
	}
	if (ret)
		return fail(err, err_size, ret, "the carrier in place %d is not as it was left: %s", handle,
			    strerror(-ret));
	c->carrier[handle] = k;
	c->n++;
	return 0;
}

/* Is a call under way that has passed this carrier at its entry, and has not yet at its exit? */
static bool calls_any(struct carriers *c, uint32_t place)
{
	int calls = bpf_map__fd(c->hook->maps.calls);
	uint64_t caller, *at = NULL;
	struct carry_call call;

	for (; !bpf_map_get_next_key(calls, at, &caller); at = &caller)
		if (!bpf_map_lookup_elem(calls, &caller, &call) && call.place == place)
			return true;
	return false;
}

/* A call that sleeps in a page fault can take longer; nobody waits for that. */
static void calls_wait(struct carriers *c, uint32_t place)
{
	static const struct timespec a_moment = {.tv_nsec = 100000};

	for (int i = 0; i < 200 && calls_any(c, place); i++)
		nanosleep(&a_moment, NULL);
}

/* Nobody will meet them any more: who has this place next is not to. */
static void calls_forget(struct carriers *c, uint32_t place)
{
	int calls = bpf_map__fd(c->hook->maps.calls);
	uint64_t caller, next, *at = NULL;
	struct carry_call call;
	bool more = !bpf_map_get_next_key(calls, at, &caller);

	while (more) {
		more = !bpf_map_get_next_key(calls, &caller, &next);
		if (!bpf_map_lookup_elem(calls, &caller, &call) && call.place == place)
			bpf_map_delete_elem(calls, &caller);
		caller = next;
	}
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
	/* The hook is not preempted, see kernel_features__hook(): no processor that we have been on is still in it. */
	if (!on) {
		cpus_visit();
		calls_wait(c, place);
	}
	return 0;
}

struct carrier_changes carriers__changes(const struct carriers *c, int handle)
{
	const struct carry_bpf__bss *bss = c->carrier[handle].skel->bss;

	return (struct carrier_changes){
		.begun = __atomic_load_n(&bss->begun, __ATOMIC_SEQ_CST),
		.ended = __atomic_load_n(&bss->ended, __ATOMIC_SEQ_CST),
	};
}

int carriers__seal(struct carriers *c, int handle, bool turns)
{
	uint64_t args[] = {turns};
	LIBBPF_OPTS(bpf_test_run_opts, opts, .ctx_in = args, .ctx_size_in = sizeof(args));

	if (bpf_prog_test_run_opts(bpf_program__fd(c->carrier[handle].skel->progs.carry_seal), &opts))
		return -errno;
	return opts.retval ? -EAGAIN : 0;
}

void carriers__unseal(struct carriers *c, int handle)
{
	struct carry_bpf__bss *bss = c->carrier[handle].skel->bss;

	__atomic_store_n(&bss->sealed, 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&bss->holder, 0, __ATOMIC_SEQ_CST);
}

int carriers__remove(struct carriers *c, int handle)
{
	uint32_t place = (uint32_t)handle;
	struct carrier *k;
	char name[32];
	int ret;

	if (handle < 0 || handle >= CARRY_MAX || !c->carrier[handle].skel)
		return -ENOENT;
	k = &c->carrier[handle];
	bpf_map_delete_elem(bpf_map__fd(c->hook->maps.known), &k->map);
	bpf_map_delete_elem(bpf_map__fd(c->hook->maps.carried), &k->map);
	calls_wait(c, place);
	carrier_unplace(c, place);
	if (--c->n == 0)
		hook_detach(c);
	ret = carriers__wait_for_programs(c);
	calls_forget(c, place);
	c->missed += k->skel->bss->missed;
	snprintf(name, sizeof(name), PIN_CARRIER, place);
	unpin(c, name);
	carry_bpf__destroy(k->skel);
	*k = (struct carrier){0};
	return ret;
}
