/* SPDX-License-Identifier: MIT */
/*
 * map_copy.c: whole maps between the kernel and the arena, by the daemon, while nobody else writes. In batches where
 * the kernel has them for the type (hash 5.6, array 5.6, per-CPU array 5.13), else key by key.
 */
#include "daemon/khalf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <bpf/bpf.h>

#include "shm-runtime/shm_map.h"

#define BATCH_BYTES (4u << 20)
#define BATCH_LEAST 64u
#define BATCH_MOST  65536u

/* One copying under way. */
struct copy {
	int fd;
	void *arena;
	const struct shm_geo *g;
	size_t stride; /* of an entry's values as system calls take them */
	uint32_t room; /* entries that keys and values have room for */
	char *keys, *values;
	char *err;
	size_t err_size;
};

__attribute__((format(printf, 3, 4))) static int fail(struct copy *c, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(c->err, c->err_size, fmt, ap);
	va_end(ap);
	return code;
}

static int copy_open(struct copy *c)
{
	uint32_t room;

	c->stride = shm_is_percpu(c->g) ? (size_t)c->g->value_room * c->g->n_cpus : c->g->value_size;
	room = (uint32_t)(BATCH_BYTES / (c->stride + c->g->key_size));
	room = room < BATCH_LEAST ? BATCH_LEAST : room > BATCH_MOST ? BATCH_MOST : room;
	/* A batch must hold the fullest bucket of a hash, else the kernel says ENOSPC; room for a key more to go on
	 * from. */
	c->room = room;
	c->keys = calloc(room + 2, c->g->key_size);
	c->values = calloc(room, c->stride);
	return c->keys && c->values ? 0 : fail(c, -ENOMEM, "no memory to copy a map");
}

static void copy_close(struct copy *c)
{
	free(c->keys);
	free(c->values);
}

/* ---- kernel to arena ---- */

static int put_entry(struct copy *c, const char *key, const char *values)
{
	const struct shm_geo *g = c->g;
	long ret = shm_map_update(c->arena, g, key, values, SHM_ANY, 0);

	for (uint32_t cpu = 1; cpu < g->n_cpus && !ret; cpu++)
		ret = shm_map_update(c->arena, g, key, values + (size_t)cpu * g->value_room, SHM_ANY, cpu);
	return ret ? fail(c, (int)ret, "an entry does not fit into shared memory: %s", strerror((int)-ret)) : 0;
}

/* 0: all is in; 1: the kernel has no batches for this map. */
static int in_by_batches(struct copy *c)
{
	LIBBPF_OPTS(bpf_map_batch_opts, opts);
	uint64_t at[SHM_MAX_KEY / 8] = {0}, next[SHM_MAX_KEY / 8] = {0};
	void *from = NULL;

	for (;;) {
		uint32_t n = c->room;
		int err = bpf_map_lookup_batch(c->fd, from, next, c->keys, c->values, &n, &opts) ? errno : 0;

		if (err && err != ENOENT) {
			if (!from && (err == ENOTSUP || err == EINVAL || err == 524 || err == ENOSPC))
				return 1;
			return fail(c, -err, "cannot read the tool's map: %s", strerror(err));
		}
		for (uint32_t i = 0; i < n; i++) {
			int ret = put_entry(c, c->keys + (size_t)i * c->g->key_size, c->values + i * c->stride);

			if (ret)
				return ret;
		}
		if (err == ENOENT)
			return 0;
		memcpy(at, next, sizeof(at));
		from = at;
	}
}

static int in_by_keys(struct copy *c)
{
	char *key = c->keys, *next = c->keys + c->g->key_size;
	const char *from = NULL;

	while (bpf_map_get_next_key(c->fd, from, next) == 0) {
		if (bpf_map_lookup_elem(c->fd, next, c->values) == 0) {
			int ret = put_entry(c, next, c->values);

			if (ret)
				return ret;
		}
		memcpy(key, next, c->g->key_size);
		from = key;
	}
	return errno == ENOENT ? 0 : fail(c, -errno, "cannot read the tool's map: %s", strerror(errno));
}

int map_copy_in(int tool_map_fd, void *arena, const struct shm_geo *g, char *err, size_t err_size)
{
	struct copy c = {.fd = tool_map_fd, .arena = arena, .g = g, .err = err, .err_size = err_size};
	int ret = copy_open(&c);

	if (!ret) {
		shm_map_init(arena, g);
		ret = in_by_batches(&c);
		if (ret == 1) {
			shm_map_init(arena, g);
			ret = in_by_keys(&c);
		}
	}
	copy_close(&c);
	return ret;
}

/* ---- arena to kernel ---- */

/* Deletes what the arena does not hold. */
static int drop_stale(struct copy *c)
{
	char *key = c->keys, *next = c->keys + c->g->key_size;
	const char *from = NULL;
	int more;

	if (!shm_is_hash(c->g))
		return 0;
	more = bpf_map_get_next_key(c->fd, from, key);
	while (more == 0) {
		/* The next one first: behind a deleted key the kernel begins again at the beginning. */
		more = bpf_map_get_next_key(c->fd, key, next);
		if (!shm_map_lookup(c->arena, c->g, key, 0) && bpf_map_delete_elem(c->fd, key) && errno != ENOENT)
			return fail(c, -errno, "cannot delete from the tool's map: %s", strerror(errno));
		memcpy(key, next, c->g->key_size);
	}
	return 0;
}

static int flush(struct copy *c, uint32_t n)
{
	LIBBPF_OPTS(bpf_map_batch_opts, opts);
	uint32_t done = n;

	if (n == 0 || bpf_map_update_batch(c->fd, c->keys, c->values, &done, &opts) == 0)
		return 0;
	for (uint32_t i = 0; i < n; i++)
		if (bpf_map_update_elem(c->fd, c->keys + (size_t)i * c->g->key_size, c->values + i * c->stride,
					BPF_ANY))
			return fail(c, -errno, "cannot write the tool's map: %s", strerror(errno));
	return 0;
}

static int out_all(struct copy *c)
{
	const struct shm_geo *g = c->g;
	uint32_t n = 0;

	for (uint32_t i = 0; i < g->n_nodes; i++) {
		void *value, *key = shm_map_node(c->arena, g, i, &value);
		char *to = c->values + n * c->stride;
		int ret;

		if (!value)
			continue;
		memcpy(c->keys + (size_t)n * g->key_size, key ? key : &i, g->key_size);
		memcpy(to, value, c->stride);
		if (++n < c->room)
			continue;
		ret = flush(c, n);
		if (ret)
			return ret;
		n = 0;
	}
	return flush(c, n);
}

int map_copy_out(void *arena, const struct shm_geo *g, int tool_map_fd, char *err, size_t err_size)
{
	struct copy c = {.fd = tool_map_fd, .arena = arena, .g = g, .err = err, .err_size = err_size};
	int ret = copy_open(&c);

	if (!ret) {
		/* Now that nobody works on the map any more, all has arrived. */
		shm_map_settle(arena, g);
		ret = drop_stale(&c);
	}
	if (!ret)
		ret = out_all(&c);
	copy_close(&c);
	return ret;
}
