/* SPDX-License-Identifier: MIT */
#include "daemon/map_look.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include "bpf/look.h"
#include "bpf/look.skel.h"
#include "daemon/raw_call.h"
#include "shm-runtime/shm_map.h"

#define WIDEST 1024u /* bytes of an entry's values: the verifier walks their words one by one */

struct map_look {
	struct look_bpf *skel;
	size_t key_room, change_size, n_nodes;
	char *changes; /* memory of the two maps, NULL: not mapped */
	uint8_t *same;
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

static int look_load(struct map_look *l, int tool_map_fd, int arena_fd, const struct shm_geo *g)
{
	int ret;

	memcpy((void *)&l->skel->rodata->look_geo, g, sizeof(*g));
	ret = bpf_map__reuse_fd(l->skel->maps.look_arena, arena_fd);
	if (!ret)
		ret = bpf_map__reuse_fd(l->skel->maps.look_tool, tool_map_fd);
	if (!ret)
		ret = bpf_map__set_value_size(l->skel->maps.look_changes, (uint32_t)l->change_size);
	if (!ret)
		ret = bpf_map__set_value_size(l->skel->maps.look_same, (uint32_t)round_up(l->n_nodes, 8));
	if (!ret)
		ret = bpf_map__set_max_entries(l->skel->maps.look_order, shm_is_hash(g) ? g->max_entries : 1);
	return ret ? ret : look_bpf__load(l->skel);
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
	l->key_room = g->key_room;
	l->change_size = g->key_room + values;
	l->n_nodes = g->n_nodes;
	l->skel = look_bpf__open();
	ret = l->skel ? look_load(l, tool_map_fd, arena_fd, g) : -errno;
	if (!ret) {
		l->changes = map_memory(l->skel->maps.look_changes, LOOK_MOST * l->change_size);
		l->same = map_memory(l->skel->maps.look_same, l->n_nodes);
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
		munmap(l->changes, mapped(LOOK_MOST * l->change_size));
	if (l->same)
		munmap(l->same, mapped(l->n_nodes));
	look_bpf__destroy(l->skel);
	free(l);
}

int map_look__now(struct map_look *l, struct map_differences *d)
{
	union bpf_attr attr = {.test.prog_fd = (uint32_t)bpf_program__fd(l->skel->progs.look)};
	const struct look_bpf__bss *said = l->skel->bss;
	long ret;

	memset(l->same, 0, l->n_nodes);
	ret = raw_call(SYS_bpf, BPF_PROG_TEST_RUN, (long)&attr, sizeof(attr));
	if (ret)
		return (int)ret;
	*d = (struct map_differences){.seen = said->seen, .n = said->changed, .same = l->same};
	return d->n > LOOK_MOST ? -E2BIG : 0;
}

const char *map_look__key(const struct map_look *l, size_t i)
{
	return l->changes + i * l->change_size;
}

const char *map_look__values(const struct map_look *l, size_t i)
{
	return map_look__key(l, i) + l->key_room;
}
