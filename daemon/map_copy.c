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
#include <sys/syscall.h>

#include <linux/bpf.h>

#include "daemon/map_look.h"
#include "daemon/raw_call.h"
#include "shm-runtime/shm_map.h"

#define BATCH_BYTES (4u << 20)
#define BATCH_LEAST 64u
#define BATCH_MOST  256u /* in some tens of microseconds: the kernel does not stop for other tasks meanwhile */

/* One copying under way. */
struct copy {
	int fd;
	void *arena;
	const struct shm_geo *g;
	struct map_look *look; /* or NULL */
	size_t stride;	       /* of an entry's values as system calls take them */
	uint32_t room;	       /* entries that keys and values have room for */
	char *keys, *values;
	uint8_t *same; /* by node: the kernel has the entry as it is here */
	uint64_t seen; /* entries that the kernel has */
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

/*
 * Between two looks at the kernel half's gate nothing may hit the probes, and they may be on functions of the C
 * library: then this process hits them, too. So memory is kept from one try to the next, and system calls are made
 * without it.
 */
static struct kept {
	char *memory;
	size_t size;
} kept_keys, kept_values, kept_same;

static char *buffer(struct kept *k, size_t size)
{
	if (k->size < size) {
		free(k->memory);
		k->memory = malloc(size);
		k->size = k->memory ? size : 0;
	}
	return k->memory;
}

/* 0 or -errno. */
static int bpf(long cmd, union bpf_attr *attr)
{
	long ret = raw_call(SYS_bpf, cmd, (long)attr, sizeof(*attr));

	return (int)(ret < 0 ? ret : 0);
}

static uint64_t address(const void *p)
{
	return (uint64_t)(uintptr_t)p;
}

static int next_key(int fd, const void *key, void *next)
{
	union bpf_attr attr = {.map_fd = (uint32_t)fd, .key = address(key), .next_key = address(next)};

	return bpf(BPF_MAP_GET_NEXT_KEY, &attr);
}

static int element(long cmd, int fd, const void *key, const void *value)
{
	union bpf_attr attr = {.map_fd = (uint32_t)fd, .key = address(key), .value = address(value)};

	return bpf(cmd, &attr);
}

static int batch(long cmd, struct copy *c, const void *from, void *next, uint32_t *n)
{
	union bpf_attr attr = {.batch = {.in_batch = address(from),
					 .out_batch = address(next),
					 .keys = address(c->keys),
					 .values = address(c->values),
					 .count = *n,
					 .map_fd = (uint32_t)c->fd}};
	int err = bpf(cmd, &attr);

	*n = attr.batch.count;
	return err;
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
	c->keys = buffer(&kept_keys, (size_t)(room + 2) * c->g->key_size);
	c->values = buffer(&kept_values, room * c->stride);
	return c->keys && c->values ? 0 : fail(c, -ENOMEM, "no memory to copy a map");
}

/* 0; 1: the kernel has no batches for this map; or -errno. each() may delete the entry. */
static int each_batch(struct copy *c, int (*each)(struct copy *c, const char *key, const char *values))
{
	uint64_t at[SHM_MAX_KEY / 8] = {0}, next[SHM_MAX_KEY / 8] = {0};
	void *from = NULL;

	for (;;) {
		uint32_t n = c->room;
		int err = -batch(BPF_MAP_LOOKUP_BATCH, c, from, next, &n);

		if (err && err != ENOENT) {
			if (!from && (err == ENOTSUP || err == EINVAL || err == 524 || err == ENOSPC))
				return 1;
			return fail(c, -err, "cannot read the tool's map: %s", strerror(err));
		}
		for (uint32_t i = 0; i < n; i++) {
			int ret = each(c, c->keys + (size_t)i * c->g->key_size, c->values + i * c->stride);

			if (ret)
				return ret;
		}
		if (err == ENOENT)
			return 0;
		memcpy(at, next, sizeof(at));
		from = at;
	}
}

/* Only those entries that are not the same here. 1: the map must be gone through; else 0 or what went wrong. */
static int each_difference(struct copy *c, int (*each)(struct copy *c, const char *key, const char *values))
{
	struct map_differences d;
	int ret = c->look ? map_look__now(c->look, c->arena, &d) : 1;

	if (ret)
		return ret == -EAGAIN ? fail(c, ret, "the processors are needed for something else") : 1;
	c->same = d.same;
	for (size_t i = 0; i < d.n && !ret; i++)
		ret = each(c, map_look__key(c->look, i), map_look__values(c->look, i));
	c->seen = d.seen;
	return ret;
}

/* ---- kernel to arena ---- */

static int put_entry(struct copy *c, const char *key, const char *values)
{
	const struct shm_geo *g = c->g;
	const char *value = shm_map_lookup(c->arena, g, key, 0);
	long ret = 0;

	c->seen++;
	if (value && !memcmp(value, values, c->stride))
		return 0;
	for (uint32_t cpu = 0; cpu < g->n_cpus && !ret; cpu++)
		ret = shm_map_update(c->arena, g, key, values + (size_t)cpu * g->value_room, SHM_ANY, cpu);
	return ret ? fail(c, (int)ret, "an entry does not fit into shared memory: %s", strerror((int)-ret)) : 0;
}

static int in_by_keys(struct copy *c)
{
	char *key = c->keys, *next = c->keys + c->g->key_size;
	const char *from = NULL;
	int err;

	while ((err = next_key(c->fd, from, next)) == 0) {
		if (element(BPF_MAP_LOOKUP_ELEM, c->fd, next, c->values) == 0) {
			int ret = put_entry(c, next, c->values);

			if (ret)
				return ret;
		}
		memcpy(key, next, c->g->key_size);
		from = key;
	}
	return err == -ENOENT ? 0 : fail(c, err, "cannot read the tool's map: %s", strerror(-err));
}

/* Upon what the arena holds. -ESTALE: that is more than the kernel has. */
static int in_all(struct copy *c)
{
	int ret = each_difference(c, put_entry);

	if (ret == 1) {
		c->seen = 0;
		ret = each_batch(c, put_entry);
	}
	if (ret == 1) {
		c->seen = 0;
		ret = in_by_keys(c);
	}
	return !ret && shm_is_hash(c->g) && shm_map_claimed(c->arena, c->g) != c->seen ? -ESTALE : ret;
}

int map_copy_in(const struct map_copy *m, bool again, char *err, size_t err_size)
{
	struct copy c = {.fd = m->fd, .arena = m->arena, .g = m->g, .err = err, .err_size = err_size};
	int ret = copy_open(&c);

	if (ret)
		return ret;
	shm_work_begin(m->g);
	c.look = again ? m->look : NULL;
	ret = again ? in_all(&c) : -ESTALE;
	if (ret) {
		c.look = NULL;
		shm_map_init(m->arena, m->g);
		ret = in_all(&c);
	}
	shm_work_end();
	return ret == -ESTALE ? fail(&c, -EAGAIN, "the tool's map changes") : ret;
}

/* ---- arena to kernel ---- */

static int delete_stale(struct copy *c, const char *key)
{
	int err = element(BPF_MAP_DELETE_ELEM, c->fd, key, NULL);

	return err && err != -ENOENT ? fail(c, err, "cannot delete from the tool's map: %s", strerror(-err)) : 0;
}

/* The kernel has this entry: it goes, or stays, or is written over when all have been looked at. */
static int compare(struct copy *c, const char *key, const char *values)
{
	const struct shm_geo *g = c->g;
	const char *value = shm_map_lookup(c->arena, g, key, 0);

	if (!value)
		return shm_is_hash(g) ? delete_stale(c, key) : 0;
	if (!memcmp(value, values, c->stride))
		c->same[((uint64_t)(value - (const char *)c->arena) - g->nodes_off) / g->node_size] = 1;
	return 0;
}

/* Deletes what the arena does not hold. */
static int drop_stale(struct copy *c)
{
	char *key = c->keys, *next = c->keys + c->g->key_size;
	const char *from = NULL;
	int more;

	if (!shm_is_hash(c->g))
		return 0;
	more = next_key(c->fd, from, key);
	while (more == 0) {
		int err = 0;

		/* The next one first: behind a deleted key the kernel begins again at the beginning. */
		more = next_key(c->fd, key, next);
		if (!shm_map_lookup(c->arena, c->g, key, 0))
			err = delete_stale(c, key);
		if (err)
			return err;
		memcpy(key, next, c->g->key_size);
	}
	return 0;
}

static int flush(struct copy *c, uint32_t n)
{
	uint32_t done = n;
	int err = 0;

	if (n == 0 || batch(BPF_MAP_UPDATE_BATCH, c, NULL, NULL, &done) == 0)
		return 0;
	for (uint32_t i = 0; i < n && !err; i++)
		err = element(BPF_MAP_UPDATE_ELEM, c->fd, c->keys + (size_t)i * c->g->key_size,
			      c->values + i * c->stride);
	return err ? fail(c, err, "cannot write the tool's map: %s", strerror(-err)) : 0;
}

static int out_all(struct copy *c)
{
	const struct shm_geo *g = c->g;
	uint32_t n = 0;

	for (uint32_t i = 0; i < g->n_nodes; i++) {
		void *value, *key = c->same[i] ? NULL : shm_map_node(c->arena, g, i, &value);
		char *to = c->values + n * c->stride;
		int ret;

		if (c->same[i] || !value)
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

/* What the kernel has is looked at: what the arena has not goes, c->same tells what need not be written. */
static int out_looked(struct copy *c)
{
	int ret = each_difference(c, compare);

	if (ret == 1) {
		c->same = (uint8_t *)buffer(&kept_same, c->g->n_nodes);
		if (!c->same)
			return fail(c, -ENOMEM, "no memory to copy a map");
		memset(c->same, 0, c->g->n_nodes);
		ret = each_batch(c, compare);
	}
	if (!ret)
		return 0;
	memset(c->same, 0, c->g->n_nodes);
	return drop_stale(c);
}

int map_copy_out(const struct map_copy *m, char *err, size_t err_size)
{
	struct copy c = {.fd = m->fd, .arena = m->arena, .g = m->g, .look = m->look, .err = err, .err_size = err_size};
	int ret = copy_open(&c);

	shm_work_begin(m->g);
	if (!ret) {
		/* Now that nobody works on the map any more, all has arrived. */
		shm_map_settle(m->arena, m->g);
		ret = out_looked(&c);
	}
	if (!ret)
		ret = out_all(&c);
	shm_work_end();
	return ret;
}
