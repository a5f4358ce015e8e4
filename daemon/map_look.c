/* SPDX-License-Identifier: MIT */
#include "daemon/map_look.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "bpf/look.h"
#include "bpf/look.skel.h"
#include "daemon/occupy.h"
#include "daemon/raw_call.h"
#include "shm-runtime/shm_map.h"

#define WIDEST 1024u /* bytes of an entry's values: the verifier walks their words one by one */
#define STRIDE 256u  /* nodes in one call, for which nobody else gets the processor: some tens of microseconds */
#define SHARE  256u  /* nodes that are worth another processor's while */

struct map_look {
	struct look_bpf *skel;
	struct shm_geo g;
	size_t change_size;
	char *changes; /* memory of the two maps, NULL: not mapped */
	uint8_t *same;
	bool by_nodes;		/* the kernel can */
	int ret[LOOK_LOOKERS];	/* what each looker came to, */
	size_t told[LOOK_MOST]; /* and which of `changes` they tell of */
};

static size_t round_up(size_t n, size_t to)
{
	return (n + to - 1) / to * to;
}

static size_t mapped(size_t size)
{
	return round_up(size, (size_t)sysconf(_SC_PAGESIZE));
}

static void *map_memory(const struct bpf_map *map, size_t size)
{
	void *p = mmap(NULL, mapped(size), PROT_READ | PROT_WRITE, MAP_SHARED, bpf_map__fd(map), 0);

	return p == MAP_FAILED ? NULL : p;
}

static int look_load(struct map_look *l, int tool_map_fd, int arena_fd)
{
	const struct shm_geo *g = &l->g;
	int ret;

	l->skel = look_bpf__open();
	if (!l->skel)
		return -errno;
	memcpy((void *)&l->skel->rodata->look_geo, g, sizeof(*g));
	ret = bpf_map__reuse_fd(l->skel->maps.look_arena, arena_fd);
	if (!ret)
		ret = bpf_map__reuse_fd(l->skel->maps.look_tool, tool_map_fd);
	if (!ret)
		ret = bpf_map__set_value_size(l->skel->maps.look_changes, (uint32_t)l->change_size);
	if (!ret)
		ret = bpf_map__set_value_size(l->skel->maps.look_same, (uint32_t)round_up(g->n_nodes, 8));
	if (!ret)
		ret = bpf_map__set_max_entries(l->skel->maps.look_order, shm_is_hash(g) ? g->max_entries : 1);
	if (!ret)
		ret = bpf_map__set_max_entries(l->skel->maps.look_links, shm_is_hash(g) ? g->n_nodes : 1);
	if (!ret)
		ret = bpf_program__set_autoload(l->skel->progs.look_nodes, l->by_nodes);
	if (!ret)
		ret = look_bpf__load(l->skel);
	if (ret) {
		look_bpf__destroy(l->skel);
		l->skel = NULL;
	}
	return ret;
}

int map_look__new(struct map_look **out, int tool_map_fd, int arena_fd, const struct shm_geo *g)
{
	size_t values = shm_is_percpu(g) ? (size_t)g->value_room * g->n_cpus : g->value_room;
	struct map_look *l;
	int ret;

	if (values > WIDEST)
		return -EOPNOTSUPP;
	l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->g = *g;
	l->by_nodes = true;
	l->change_size = g->key_room + values;
	ret = look_load(l, tool_map_fd, arena_fd);
	if (ret) {
		l->by_nodes = false;
		ret = look_load(l, tool_map_fd, arena_fd);
	}
	if (!ret) {
		l->changes = map_memory(l->skel->maps.look_changes, LOOK_CHANGES * l->change_size);
		l->same = map_memory(l->skel->maps.look_same, g->n_nodes);
		ret = l->changes && l->same ? 0 : -ENOMEM;
	}
	if (ret) {
		map_look__free(l);
		return ret;
	}
	*out = l;
	return 0;
}

void map_look__free(struct map_look *l)
{
	if (!l)
		return;
	if (l->changes)
		munmap(l->changes, mapped(LOOK_CHANGES * l->change_size));
	if (l->same)
		munmap(l->same, mapped(l->g.n_nodes));
	look_bpf__destroy(l->skel);
	free(l);
}

static int run(const struct bpf_program *prog, uint32_t looker)
{
	union bpf_attr attr = {.test = {
				       .prog_fd = (uint32_t)bpf_program__fd(prog),
				       .ctx_in = (uintptr_t)&looker,
				       .ctx_size_in = sizeof(looker),
			       }};

	return (int)raw_call(SYS_bpf, BPF_PROG_TEST_RUN, (long)&attr, sizeof(attr));
}

static void look_at_part(void *arg, int n)
{
	struct map_look *l = arg;
	struct look_part *part = &l->skel->bss->look_parts[n];
	uint64_t end = part->to, stride = cpus_kept() ? end : STRIDE;

	do {
		part->to = end - part->from > stride ? part->from + stride : end;
		l->ret[n] = run(l->skel->progs.look_nodes, (uint32_t)n);
		part->from = part->to;
	} while (!l->ret[n] && part->from < end);
}

static int share_for(uint64_t nodes)
{
	uint64_t n = nodes / SHARE, kept = (uint64_t)cpus_kept();

	if (n > kept)
		n = kept;
	return n < 1 ? 1 : n > LOOK_LOOKERS ? (int)LOOK_LOOKERS : (int)n;
}

/* What the lookers have seen and told. */
static int gather(struct map_look *l, int n, struct map_differences *d)
{
	const struct look_part *part = l->skel->bss->look_parts;

	*d = (struct map_differences){.same = l->same};
	for (int i = 0; i < n; i++) {
		if (l->ret[i])
			return l->ret[i];
		if (d->n + part[i].changed > LOOK_MOST)
			return -E2BIG;
		for (size_t k = 0; k < part[i].changed; k++)
			l->told[d->n++] = (size_t)i * LOOK_MOST + k;
		d->seen += part[i].seen;
	}
	return 0;
}

/* 1: the tool's map has other entries, too. */
static int look_by_nodes(struct map_look *l, void *arena, struct map_differences *d)
{
	struct look_part *part = l->skel->bss->look_parts;
	uint64_t nodes = shm_map_used(arena, &l->g);
	int n = share_for(nodes), ret;

	memset(l->same, 0, l->g.n_nodes);
	for (int i = 0; i < n; i++)
		part[i] = (struct look_part){.from = nodes * (unsigned int)i / (unsigned int)n,
					     .to = nodes * ((unsigned int)i + 1) / (unsigned int)n};
	if (!cpus_share(n, look_at_part, l))
		return -EAGAIN;
	ret = gather(l, n, d);
	return !ret && d->seen != (shm_is_hash(&l->g) ? l->skel->bss->look_entries : nodes) ? 1 : ret;
}

int map_look__now(struct map_look *l, void *arena, struct map_differences *d)
{
	int ret = 1;

	if (l->by_nodes)
		ret = look_by_nodes(l, arena, d);
	if (ret != 1)
		return ret;
	memset(l->same, 0, l->g.n_nodes);
	l->skel->bss->look_parts[0] = (struct look_part){0};
	l->ret[0] = run(l->skel->progs.look, 0);
	return gather(l, 1, d);
}

const char *map_look__key(const struct map_look *l, size_t i)
{
	return l->changes + l->told[i] * l->change_size;
}

const char *map_look__values(const struct map_look *l, size_t i)
{
	return map_look__key(l, i) + l->g.key_room;
}
