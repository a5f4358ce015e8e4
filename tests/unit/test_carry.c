/* SPDX-License-Identifier: MIT */
/*
 * Carriers: a tool's map whose truth is in an arena, read and changed by another process through its descriptor. A
 * plain map of the kernel that gets the same operations is the oracle for values and return codes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <cmocka.h>

#include "daemon/khalf.h"
#include "daemon/map_look.h"
#include "daemon/occupy.h"
#include "shm-runtime/shm_map.h"
#include "tests/unit/map_fixture.h"

static const struct shape shapes[] = {
	{"hash 8/8", BPF_MAP_TYPE_HASH, 8, 8, 64, 0, 90},
	{"hash 4/4, not preallocated", BPF_MAP_TYPE_HASH, 4, 4, 64, BPF_F_NO_PREALLOC, 90},
	{"hash 20/37", BPF_MAP_TYPE_HASH, 20, 37, 30, 0, 40},
	{"hash 512/4096", BPF_MAP_TYPE_HASH, 512, 4096, 5, 0, 8},
	{"percpu hash 8/8", BPF_MAP_TYPE_PERCPU_HASH, 8, 8, 64, 0, 90},
	{"percpu hash 16/20", BPF_MAP_TYPE_PERCPU_HASH, 16, 20, 20, 0, 30},
	{"array 8", BPF_MAP_TYPE_ARRAY, 4, 8, 16, 0, 20},
	{"array 5", BPF_MAP_TYPE_ARRAY, 4, 5, 3, 0, 4},
	{"percpu array 8", BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 1, 0, 2},
	{"percpu array 12", BPF_MAP_TYPE_PERCPU_ARRAY, 4, 12, 6, 0, 8},
};

/* BPF_F_CPU and BPF_F_ALL_CPUS of Linux 7 */
#define FOR_CPU (1ull << 3)
#define FOR_ALL (1ull << 4)

#define N_SHAPES (sizeof(shapes) / sizeof(shapes[0]))

static uint32_t n_cpus;
static struct carriers *carriers;

/* In the process that plays the tool, where cmocka's longjmp leads nowhere. */
#define CHECK(what)                                                                                                    \
	do {                                                                                                           \
		if (!(what)) {                                                                                         \
			printf("# %s:%d: %s: %s\n", __FILE__, __LINE__, shape_name, #what);                            \
			fflush(stdout);                                                                                \
			_exit(1);                                                                                      \
		}                                                                                                      \
	} while (0)

struct world {
	const struct shape *s;
	struct shm_geo g;
	int tool, oracle, arena_fd, handle;
	char *arena;
	size_t size, stride;
	uint64_t seed;
};

static uint32_t rnd(struct world *w)
{
	return map_rnd(&w->seed);
}

static void world_open(struct world *w, const struct shape *s)
{
	LIBBPF_OPTS(bpf_map_create_opts, mmapable, .map_flags = BPF_F_MMAPABLE);
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = s->flags);
	struct bpf_map_info info = {0};
	uint32_t len = sizeof(info);
	char err[256] = "";
	const char *why;

	memset(w, 0, sizeof(*w));
	w->s = s;
	w->seed = 7;
	assert_int_equal(shm_geo__plan(&w->g, s->type, s->key_size, s->value_size, s->max_entries, s->flags, n_cpus,
				       SHM_HDR_SIZE, &why),
			 0);
	w->size = w->g.end_off;
	w->stride = shm_is_percpu(&w->g) ? (size_t)w->g.value_room * w->g.n_cpus : s->value_size;
	w->tool = bpf_map_create(s->type, "tool", s->key_size, s->value_size, s->max_entries, &opts);
	w->oracle = bpf_map_create(s->type, "oracle", s->key_size, s->value_size, s->max_entries, &opts);
	w->arena_fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "arena", 4, w->size, 1, &mmapable);
	assert_true(w->tool >= 0 && w->oracle >= 0 && w->arena_fd >= 0);
	w->arena = mmap(NULL, w->size, PROT_READ | PROT_WRITE, MAP_SHARED, w->arena_fd, 0);
	assert_true(w->arena != MAP_FAILED);
	((struct shm_group_hdr *)w->arena)->kgate = SHM_KGATE_CARRIED;
	shm_map_init(w->arena, &w->g);
	assert_int_equal(bpf_obj_get_info_by_fd(w->tool, &info, &len), 0);
	w->handle = carriers__add(carriers, w->tool, info.id, w->arena_fd, &w->g, err, sizeof(err));
	if (w->handle < 0)
		fail_msg("%s: %s", s->name, err);
	assert_int_equal(carriers__enable(carriers, w->handle, true), 0);
}

static void world_close(struct world *w)
{
	assert_int_equal(carriers__remove(carriers, w->handle), 0);
	munmap(w->arena, w->size);
	close(w->tool);
	close(w->oracle);
	close(w->arena_fd);
}

static void make_values(struct world *w, char *values)
{
	memset(values, 0, w->stride);
	for (uint32_t cpu = 0; cpu < w->g.n_cpus; cpu++)
		for (uint32_t b = 0; b < w->s->value_size; b++)
			values[(size_t)cpu * w->g.value_room + b] = (char)rnd(w);
}

/* As programs in targets do it. */
static long arena_set(struct world *w, const char *key, const char *values, uint64_t flags)
{
	long ret = shm_map_update(w->arena, &w->g, key, values, flags, 0);

	for (uint32_t cpu = 1; cpu < w->g.n_cpus && !ret; cpu++)
		ret = shm_map_update(w->arena, &w->g, key, values + (size_t)cpu * w->g.value_room, SHM_ANY, cpu);
	return ret;
}

static int code(int ret)
{
	return ret ? -errno : 0;
}

/* Both maps hold the same entries, seen by going through the first. Returns how many. */
static uint32_t compare_all(struct world *w, const char *shape_name)
{
	static char key[SHM_MAX_KEY], a[SHM_MAX_VALUE_ALL], b[SHM_MAX_VALUE_ALL];
	uint32_t n = 0, n_oracle = 0;
	void *from = NULL;

	while (bpf_map_get_next_key(w->tool, from, key) == 0) {
		memset(a, 0, w->stride);
		memset(b, 0, w->stride);
		CHECK(bpf_map_lookup_elem(w->tool, key, a) == 0);
		CHECK(bpf_map_lookup_elem(w->oracle, key, b) == 0);
		CHECK(memcmp(a, b, w->stride) == 0);
		from = key;
		n++;
	}
	for (from = NULL; bpf_map_get_next_key(w->oracle, from, key) == 0; from = key)
		n_oracle++;
	CHECK(n == n_oracle);
	return n;
}

static void compare_batch(struct world *w, const char *shape_name, bool move)
{
	LIBBPF_OPTS(bpf_map_batch_opts, opts);
	uint32_t room = w->s->max_entries + 10, n[2] = {room, room}, found = 0;
	char *keys[2], *values[2];
	uint64_t at[64];
	int ret[2], maps[2] = {w->tool, w->oracle};

	for (int m = 0; m < 2; m++) {
		keys[m] = calloc(room, w->s->key_size);
		values[m] = calloc(room, w->stride);
		if (move)
			ret[m] = code(
				bpf_map_lookup_and_delete_batch(maps[m], NULL, at, keys[m], values[m], &n[m], &opts));
		else
			ret[m] = code(bpf_map_lookup_batch(maps[m], NULL, at, keys[m], values[m], &n[m], &opts));
	}
	CHECK(ret[0] == ret[1]);
	if (ret[0] == 0 || ret[0] == -ENOENT) {
		CHECK(n[0] == n[1]);
		for (uint32_t i = 0; i < n[0]; i++)
			for (uint32_t j = 0; j < n[1]; j++)
				if (!memcmp(keys[0] + (size_t)i * w->s->key_size, keys[1] + (size_t)j * w->s->key_size,
					    w->s->key_size)) {
					CHECK(!memcmp(values[0] + i * w->stride, values[1] + j * w->stride, w->stride));
					found++;
				}
		CHECK(found == n[0]);
	}
	for (int m = 0; m < 2; m++) {
		free(keys[m]);
		free(values[m]);
	}
}

/* One value, for one CPU or for all: Linux 7 accepts this for maps by CPU, others refuse it. */
static uint64_t one_value(struct world *w, const char *key)
{
	static char values[SHM_MAX_VALUE_ALL];
	uint64_t cpu = rnd(w) % (w->g.n_cpus + 1), mode = rnd(w) % 4 % 3;

	if (rnd(w) % 2)
		return FOR_ALL | mode;
	/* What a new entry has for the others the kernel leaves open. */
	if (bpf_map_lookup_elem(w->oracle, key, values))
		mode = BPF_EXIST;
	return cpu << 32 | FOR_CPU | mode;
}

static void batch_change(struct world *w, const char *shape_name, bool update)
{
	LIBBPF_OPTS(bpf_map_batch_opts, opts, .elem_flags = update && rnd(w) % 4 == 0 ? FOR_ALL : 0);
	uint32_t n = 1 + rnd(w) % 6, n_a = n, n_b = n;
	char *keys = calloc(n, w->s->key_size), *values = calloc(n, w->stride);
	int a, b;

	for (uint32_t i = 0; i < n; i++) {
		make_key(keys + (size_t)i * w->s->key_size, w->s, rnd(w) % w->s->n_keys);
		make_values(w, values + i * w->stride);
	}
	if (update) {
		a = code(bpf_map_update_batch(w->tool, keys, values, &n_a, &opts));
		b = code(bpf_map_update_batch(w->oracle, keys, values, &n_b, &opts));
	} else {
		a = code(bpf_map_delete_batch(w->tool, keys, &n_a, &opts));
		b = code(bpf_map_delete_batch(w->oracle, keys, &n_b, &opts));
	}
	CHECK(a == b);
	CHECK(n_a == n_b);
	free(keys);
	free(values);
}

static void one_operation(struct world *w, const char *shape_name)
{
	static char key[SHM_MAX_KEY], values[SHM_MAX_VALUE_ALL], a[SHM_MAX_VALUE_ALL], b[SHM_MAX_VALUE_ALL];
	uint64_t flags = rnd(w) % 5;
	uint32_t op = rnd(w) % 40;

	if (flags == 4)
		flags = rnd(w) % 9;
	make_key(key, w->s, rnd(w) % w->s->n_keys);
	make_values(w, values);
	memset(a, 0, w->stride);
	memset(b, 0, w->stride);
	if (op < 10) {
		if (flags & SHM_F_LOCK)
			flags = 3;
		/* The kernel refuses other flags before it looks at the key, but for some of system calls since
		 * Linux 7. */
		CHECK(arena_set(w, key, values, flags) ==
		      (flags > BPF_EXIST ? -EINVAL : code(bpf_map_update_elem(w->oracle, key, values, flags))));
	} else if (op < 14) {
		CHECK(shm_map_delete(w->arena, &w->g, key) == code(bpf_map_delete_elem(w->oracle, key)));
	} else if (op < 22) {
		CHECK(code(bpf_map_lookup_elem(w->tool, key, a)) == code(bpf_map_lookup_elem(w->oracle, key, b)));
		CHECK(memcmp(a, b, w->stride) == 0);
	} else if (op < 28) {
		if (op == 27 || flags > 7)
			flags = one_value(w, key);
		CHECK(code(bpf_map_update_elem(w->tool, key, values, flags)) ==
		      code(bpf_map_update_elem(w->oracle, key, values, flags)));
	} else if (op < 32) {
		CHECK(code(bpf_map_delete_elem(w->tool, key)) == code(bpf_map_delete_elem(w->oracle, key)));
	} else if (op < 34) {
		CHECK(code(bpf_map_lookup_and_delete_elem(w->tool, key, a)) ==
		      code(bpf_map_lookup_and_delete_elem(w->oracle, key, b)));
		CHECK(memcmp(a, b, w->stride) == 0);
	} else if (op < 36) {
		batch_change(w, shape_name, op == 34);
	} else if (op == 36) {
		compare_batch(w, shape_name, false);
	} else if (op == 37 && rnd(w) % 4 == 0) {
		compare_batch(w, shape_name, true);
	} else {
		compare_all(w, shape_name);
	}
}

static void in_another_process(void (*fn)(struct world *), struct world *w)
{
	pid_t pid;
	int status;

	fflush(stdout);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		fn(w);
		fflush(stdout);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void play_tool(struct world *w)
{
	const char *shape_name = w->s->name;

	for (int i = 0; i < 4000; i++)
		one_operation(w, shape_name);
	compare_all(w, shape_name);
}

static void test_oracle(void **state)
{
	for (size_t i = 0; i < N_SHAPES; i++) {
		struct timespec a, b;
		struct world w;

		clock_gettime(CLOCK_MONOTONIC, &a);
		world_open(&w, &shapes[i]);
		clock_gettime(CLOCK_MONOTONIC, &b);
		print_message("# %s: in place after %ld ms\n", shapes[i].name,
			      (b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000);
		in_another_process(play_tool, &w);
		world_close(&w);
	}
}

/* A tool that prints and deletes as it goes, and one that starts with a key that is not there. */
static void iterate_and_delete(struct world *w)
{
	const char *shape_name = "iteration";
	uint64_t key = ~0ull, next, value, n = 0;

	for (uint64_t i = 0; i < 1000; i++)
		CHECK(shm_map_update(w->arena, &w->g, &i, &i, SHM_ANY, 0) == 0);
	while (bpf_map_get_next_key(w->tool, &key, &next) == 0) {
		CHECK(bpf_map_lookup_elem(w->tool, &next, &value) == 0);
		CHECK(value == next);
		CHECK(bpf_map_delete_elem(w->tool, &next) == 0);
		key = next;
		if (++n == 500) {
			key = 5000;
			CHECK(shm_map_update(w->arena, &w->g, &key, &key, SHM_ANY, 0) == 0);
			key = next;
		}
	}
	CHECK(n == 1001);
	CHECK(shm_map_count(w->arena, &w->g) == 0);
}

static void test_iterate(void **state)
{
	static const struct shape s = {"hash", BPF_MAP_TYPE_HASH, 8, 8, 4096, 0, 0};
	struct world w;

	world_open(&w, &s);
	in_another_process(iterate_and_delete, &w);
	world_close(&w);
}

static void dump(struct world *w)
{
	struct bpf_map_info info = {0};
	uint32_t len = sizeof(info), n = 0;
	const char *shape_name = "bpftool";
	char line[256];
	FILE *f;

	for (uint64_t i = 0; i < 10; i++)
		CHECK(shm_map_update(w->arena, &w->g, &i, &i, SHM_ANY, 0) == 0);
	CHECK(bpf_obj_get_info_by_fd(w->tool, &info, &len) == 0);
	snprintf(line, sizeof(line), "bpftool map dump id %u", info.id);
	f = popen(line, "r");
	CHECK(f);
	while (fgets(line, sizeof(line), f))
		if (!strncmp(line, "Found 10 elements", 17))
			n++;
	CHECK(pclose(f) == 0);
	CHECK(n == 1);
}

static void test_bpftool(void **state)
{
	static const struct shape s = {"hash", BPF_MAP_TYPE_HASH, 8, 8, 64, 0, 0};
	struct world w;

	world_open(&w, &s);
	in_another_process(dump, &w);
	world_close(&w);
}

/* A descriptor that may only read changes nothing, nor does a map that is frozen. */
static void no_rights(struct world *w)
{
	LIBBPF_OPTS(bpf_get_fd_by_id_opts, opts);
	struct bpf_map_info info = {0};
	const char *shape_name = "rights";
	uint32_t len = sizeof(info);
	uint64_t key = 1, value = 5;
	union bpf_attr attr = {0};
	int fd;

	CHECK(bpf_obj_get_info_by_fd(w->tool, &info, &len) == 0);
	attr.map_id = info.id;
	attr.open_flags = BPF_F_RDONLY;
	fd = (int)syscall(321, BPF_MAP_GET_FD_BY_ID, &attr, sizeof(attr));
	CHECK(fd >= 0);
	CHECK(shm_map_update(w->arena, &w->g, &key, &value, SHM_ANY, 0) == 0);
	CHECK(code(bpf_map_delete_elem(fd, &key)) == -EPERM);
	value = 6;
	CHECK(code(bpf_map_update_elem(fd, &key, &value, 0)) == -EPERM);
	CHECK(bpf_map_lookup_elem(fd, &key, &value) == 0);
	CHECK(value == 5);
	CHECK(bpf_map_freeze(w->tool) == 0);
	CHECK(code(bpf_map_delete_elem(w->tool, &key)) == -EPERM);
	CHECK(shm_map_lookup(w->arena, &w->g, &key, 0));
}

static void test_rights(void **state)
{
	static const struct shape s = {"hash", BPF_MAP_TYPE_HASH, 8, 8, 64, 0, 0};
	struct world w;

	world_open(&w, &s);
	in_another_process(no_rights, &w);
	world_close(&w);
}

/* Several readers while the arena counts: no reader ever sees less than it saw before. */
static void *count_up(void *arg)
{
	struct world *w = arg;
	uint64_t key = 3;

	for (int i = 0; i < 2000000; i++)
		shm_map_add(w->arena, &w->g, &key, 1, 0);
	return NULL;
}

static void *read_again(void *arg)
{
	const char *shape_name = "readers";
	struct world *w = arg;
	uint64_t key = 3, now = 0, before = 0;

	for (int i = 0; i < 20000; i++) {
		CHECK(bpf_map_lookup_elem(w->tool, &key, &now) == 0);
		CHECK(now >= before);
		before = now;
	}
	return NULL;
}

static void readers(struct world *w)
{
	const char *shape_name = "readers";
	pthread_t t[4];
	uint64_t key = 3, now = 0;

	CHECK(shm_map_add(w->arena, &w->g, &key, 1, 0) == 0);
	for (int i = 0; i < 4; i++)
		CHECK(pthread_create(&t[i], NULL, i ? read_again : count_up, w) == 0);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	CHECK(bpf_map_lookup_elem(w->tool, &key, &now) == 0);
	CHECK(now == 2000001);
}

/* ---- keys and values in pages that nobody has touched ---- */

/* The same bytes in a fresh mapping of a file: the kernel faults them in, a program at the entry of bpf() cannot. */
static void *untouched(const void *bytes, size_t size)
{
	const char *shape_name = "untouched";
	int fd = memfd_create("untouched", MFD_CLOEXEC);
	void *at;

	CHECK(fd >= 0);
	CHECK(write(fd, bytes, size) == (ssize_t)size);
	at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	CHECK(at != MAP_FAILED);
	close(fd);
	return at;
}

enum { UNTOUCHED_KEY = 1, UNTOUCHED_VALUE = 2 };

static void untouched_batch(struct world *w, const char *shape_name, bool update)
{
	LIBBPF_OPTS(bpf_map_batch_opts, opts);
	/* Several pages, so that the first elements can be read and the others cannot. */
	uint32_t n = 1 + rnd(w) % w->s->max_entries, n_a = n, n_b = n;
	char *keys = calloc(n, w->s->key_size), *values = calloc(n, w->stride), *a_keys, *a_values;
	int a, b;

	for (uint32_t i = 0; i < n; i++) {
		make_key(keys + (size_t)i * w->s->key_size, w->s, rnd(w) % w->s->n_keys);
		make_values(w, values + i * w->stride);
	}
	a_keys = untouched(keys, (size_t)n * w->s->key_size);
	a_values = untouched(values, n * w->stride);
	if (rnd(w) % 2)
		CHECK(*(volatile char *)a_keys == keys[0]);
	if (update) {
		a = code(bpf_map_update_batch(w->tool, a_keys, a_values, &n_a, &opts));
		b = code(bpf_map_update_batch(w->oracle, keys, values, &n_b, &opts));
	} else {
		a = code(bpf_map_delete_batch(w->tool, a_keys, &n_a, &opts));
		b = code(bpf_map_delete_batch(w->oracle, keys, &n_b, &opts));
	}
	CHECK(a == b);
	CHECK(n_a == n_b);
	munmap(a_keys, (size_t)n * w->s->key_size);
	munmap(a_values, n * w->stride);
	free(keys);
	free(values);
}

static void untouched_operation(struct world *w, const char *shape_name)
{
	static char key[SHM_MAX_KEY], values[SHM_MAX_VALUE_ALL], b[SHM_MAX_VALUE_ALL], key_b[SHM_MAX_KEY];
	uint32_t op = rnd(w) % 20, where = 1 + rnd(w) % 3;
	uint64_t flags = rnd(w) % 3;
	char *a_key, *a_values;
	int ret;

	make_key(key, w->s, rnd(w) % w->s->n_keys);
	make_values(w, values);
	memset(b, 0, w->stride);
	a_key = where & UNTOUCHED_KEY ? untouched(key, w->s->key_size) : key;
	a_values = where & UNTOUCHED_VALUE ? untouched(values, w->stride) : values;
	if (op < 4) {
		CHECK(arena_set(w, key, values, flags) == code(bpf_map_update_elem(w->oracle, key, values, flags)));
	} else if (op < 9) {
		CHECK(code(bpf_map_update_elem(w->tool, a_key, a_values, flags)) ==
		      code(bpf_map_update_elem(w->oracle, key, values, flags)));
	} else if (op < 11) {
		CHECK(code(bpf_map_delete_elem(w->tool, a_key)) == code(bpf_map_delete_elem(w->oracle, key)));
	} else if (op < 13) {
		ret = code(bpf_map_lookup_and_delete_elem(w->oracle, key, b));
		CHECK(code(bpf_map_lookup_and_delete_elem(w->tool, a_key, a_values)) == ret);
		for (uint32_t cpu = 0; !ret && cpu < w->g.n_cpus; cpu++)
			CHECK(memcmp(a_values + (size_t)cpu * w->g.value_room, b + (size_t)cpu * w->g.value_room,
				     w->s->value_size) == 0);
	} else if (op < 15) {
		ret = code(bpf_map_lookup_elem(w->oracle, key, b));
		CHECK(code(bpf_map_lookup_elem(w->tool, a_key, a_values)) == ret);
		CHECK(ret || memcmp(a_values, b, w->stride) == 0);
	} else if (op == 15) {
		/* A key of zeroes in memory that was never written. */
		memset(key_b, 0, w->s->key_size);
		if (where & UNTOUCHED_KEY)
			munmap(a_key, w->s->key_size);
		a_key = mmap(NULL, w->s->key_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		where |= UNTOUCHED_KEY;
		CHECK(a_key != MAP_FAILED);
		CHECK(code(bpf_map_update_elem(w->tool, a_key, a_values, flags)) ==
		      code(bpf_map_update_elem(w->oracle, key_b, values, flags)));
	} else if (op == 16) {
		/* The kernel's order of keys is its own, but whether there is a next one can be compared at the end. */
		CHECK(code(bpf_map_get_next_key(w->tool, NULL, key_b)) ==
		      code(bpf_map_get_next_key(w->oracle, NULL, key_b)));
		ret = code(bpf_map_get_next_key(w->tool, a_key, key_b));
		CHECK(ret == 0 || ret == -ENOENT);
	} else if (op < 19) {
		untouched_batch(w, shape_name, op == 17);
	} else {
		compare_all(w, shape_name);
	}
	if (where & UNTOUCHED_KEY)
		munmap(a_key, w->s->key_size);
	if (where & UNTOUCHED_VALUE)
		munmap(a_values, w->stride);
}

static void play_untouched(struct world *w)
{
	for (int i = 0; i < 1500; i++)
		untouched_operation(w, w->s->name);
	compare_all(w, w->s->name);
}

static void test_untouched(void **state)
{
	for (size_t i = 0; i < N_SHAPES; i++) {
		struct world w;

		world_open(&w, &shapes[i]);
		in_another_process(play_untouched, &w);
		world_close(&w);
	}
}

/* ---- batches in several calls ---- */

/*
 * Goes through both maps, which have the same order of buckets, in steps. Between the steps programs go on: in what the
 * next calls hand out, and the last one leaves behind, both must agree.
 */
static void steps(struct world *w, const char *shape_name, bool move)
{
	static char key[SHM_MAX_KEY], value[SHM_MAX_VALUE_ALL];
	LIBBPF_OPTS(bpf_map_batch_opts, opts);
	uint32_t room = 1 + rnd(w) % 12, n[2], at[2] = {0}, next[2] = {0}, found;
	char *keys[2], *values[2];
	int ret[2] = {0}, maps[2] = {w->tool, w->oracle};
	bool first = true;

	for (int m = 0; m < 2; m++) {
		keys[m] = calloc(room + 1, w->s->key_size);
		values[m] = calloc(room + 1, w->stride);
	}
	do {
		for (int m = 0; m < 2; m++) {
			void *from = first ? NULL : &at[m];

			n[m] = room;
			ret[m] = code(
				move ? bpf_map_lookup_and_delete_batch(maps[m], from, &next[m], keys[m], values[m],
								       &n[m], &opts)
				     : bpf_map_lookup_batch(maps[m], from, &next[m], keys[m], values[m], &n[m], &opts));
			at[m] = next[m];
		}
		CHECK(ret[0] == ret[1]);
		CHECK(n[0] == n[1]);
		CHECK(at[0] == at[1]);
		found = 0;
		for (uint32_t i = 0; i < n[0] * n[1] && ret[0] != -ENOSPC; i++) {
			uint32_t a = i / n[1], b = i % n[1];

			if (memcmp(keys[0] + (size_t)a * w->s->key_size, keys[1] + (size_t)b * w->s->key_size,
				   w->s->key_size))
				continue;
			CHECK(!memcmp(values[0] + a * w->stride, values[1] + b * w->stride, w->stride));
			found++;
		}
		CHECK(ret[0] == -ENOSPC || found == n[0]);
		first = false;
		make_key(key, w->s, rnd(w) % w->s->n_keys);
		make_values(w, value);
		CHECK(arena_set(w, key, value, 0) == code(bpf_map_update_elem(w->oracle, key, value, 0)));
		if (rnd(w) % 4 == 0)
			compare_all(w, shape_name);
	} while (ret[0] == 0);
	CHECK(ret[0] == -ENOENT || ret[0] == -ENOSPC);
	for (int m = 0; m < 2; m++) {
		free(keys[m]);
		free(values[m]);
	}
}

static void play_steps(struct world *w)
{
	static char key[SHM_MAX_KEY], value[SHM_MAX_VALUE_ALL];

	for (int i = 0; i < 60; i++) {
		for (uint32_t k = 0; k < w->s->max_entries; k++) {
			make_key(key, w->s, rnd(w) % w->s->n_keys);
			make_values(w, value);
			if (arena_set(w, key, value, 0) == 0)
				bpf_map_update_elem(w->oracle, key, value, 0);
		}
		steps(w, w->s->name, i % 3);
		compare_all(w, w->s->name);
	}
}

static void test_steps(void **state)
{
	static const struct shape stepped[] = {
		{"hash 8/8, one order", BPF_MAP_TYPE_HASH, 8, 8, 64, BPF_F_ZERO_SEED, 90},
		{"hash 12/5, one order", BPF_MAP_TYPE_HASH, 12, 5, 33, BPF_F_ZERO_SEED | BPF_F_NO_PREALLOC, 40},
		{"percpu hash 8/8, one order", BPF_MAP_TYPE_PERCPU_HASH, 8, 8, 64, BPF_F_ZERO_SEED, 90},
		{"percpu hash 16/20, one order", BPF_MAP_TYPE_PERCPU_HASH, 16, 20, 20, BPF_F_ZERO_SEED, 30},
	};

	for (size_t i = 0; i < sizeof(stepped) / sizeof(stepped[0]); i++) {
		struct world w;

		world_open(&w, &stepped[i]);
		in_another_process(play_steps, &w);
		world_close(&w);
	}
}

/* ---- everybody at once ---- */

enum { CROWD = 4, CROWD_KEYS = 16, CROWD_SECONDS = 3, OWN_KEY = 1000 };

enum crowd_writer { WRITES_OWN_KEYS, MOVES_OUT, MOVES_OUT_UNTOUCHED, DRAINS, DRAINS_IN_STEPS };

struct crowd {
	struct world *w;
	enum crowd_writer writer;
	bool in_place; /* by pointers that were looked up, not by shm_map_add() */
	bool stop;
	uint64_t counted[CROWD_KEYS], moved[CROWD_KEYS];
	uint32_t n_threads;
};

static uint64_t sum_of(const struct world *w, const char *values)
{
	uint64_t sum = 0, one;

	for (uint32_t cpu = 0; cpu < w->g.n_cpus; cpu++) {
		memcpy(&one, values + (size_t)cpu * w->g.value_room, sizeof(one));
		sum += one;
	}
	return sum;
}

/* As a program in C does it: look up, else insert zero, then add. */
static bool add_in_place(const struct world *w, const uint64_t *key, uint32_t cpu)
{
	static const uint64_t zero;
	uint64_t *at = shm_map_lookup(w->arena, &w->g, key, cpu);

	if (!at) {
		shm_map_update(w->arena, &w->g, key, &zero, SHM_NOEXIST, cpu);
		at = shm_map_lookup(w->arena, &w->g, key, cpu);
	}
	if (at)
		__atomic_fetch_add(at, 1, __ATOMIC_SEQ_CST);
	return at;
}

static void *crowd_count(void *arg)
{
	const char *shape_name = "crowd";
	struct crowd *c = arg;
	uint32_t cpu = __atomic_fetch_add(&c->n_threads, 1, __ATOMIC_RELAXED) % c->w->g.n_cpus;
	uint64_t mine[CROWD_KEYS] = {0};

	for (uint64_t key = 0; !__atomic_load_n(&c->stop, __ATOMIC_RELAXED); key = (key + 1) % CROWD_KEYS) {
		if (c->in_place) {
			mine[key] += add_in_place(c->w, &key, cpu);
			continue;
		}
		CHECK(shm_map_add(c->w->arena, &c->w->g, &key, 1, cpu) == 0);
		mine[key]++;
	}
	for (int i = 0; i < CROWD_KEYS; i++)
		__atomic_fetch_add(&c->counted[i], mine[i], __ATOMIC_RELAXED);
	return NULL;
}

/* Where nobody takes anything out, a reader never sees less than before. */
static void *crowd_read(void *arg)
{
	static _Thread_local char values[SHM_MAX_VALUE_ALL];
	const char *shape_name = "crowd";
	struct crowd *c = arg;
	uint64_t before[CROWD_KEYS] = {0};

	for (uint64_t key = 0; !__atomic_load_n(&c->stop, __ATOMIC_RELAXED); key = (key + 1) % CROWD_KEYS) {
		int ret = code(bpf_map_lookup_elem(c->w->tool, &key, values));

		CHECK(ret == 0 || ret == -ENOENT);
		if (ret || c->writer != WRITES_OWN_KEYS)
			continue;
		CHECK(sum_of(c->w, values) >= before[key]);
		before[key] = sum_of(c->w, values);
	}
	return NULL;
}

/* Return codes and values are those of somebody who is alone with his keys. */
static void write_own_keys(struct crowd *c, uint64_t round)
{
	static char values[SHM_MAX_VALUE_ALL], seen[SHM_MAX_VALUE_ALL];
	const char *shape_name = "crowd";
	uint64_t key = OWN_KEY + round % 8;
	int tool = c->w->tool;

	make_values(c->w, values);
	CHECK(code(bpf_map_update_elem(tool, &key, values, BPF_EXIST)) == -ENOENT);
	CHECK(code(bpf_map_update_elem(tool, &key, values, BPF_NOEXIST)) == 0);
	CHECK(code(bpf_map_update_elem(tool, &key, values, BPF_NOEXIST)) == -EEXIST);
	CHECK(code(bpf_map_lookup_elem(tool, &key, seen)) == 0);
	CHECK(memcmp(values, seen, c->w->stride) == 0);
	make_values(c->w, values);
	CHECK(code(bpf_map_update_elem(tool, &key, values, BPF_EXIST)) == 0);
	if (round % 2) {
		CHECK(code(bpf_map_lookup_and_delete_elem(tool, &key, seen)) == 0);
		CHECK(memcmp(values, seen, c->w->stride) == 0);
	} else {
		CHECK(code(bpf_map_delete_elem(tool, &key)) == 0);
	}
	CHECK(code(bpf_map_delete_elem(tool, &key)) == -ENOENT);
	CHECK(code(bpf_map_lookup_elem(tool, &key, seen)) == -ENOENT);
}

static void move_out_one(struct crowd *c, uint64_t key)
{
	static char values[SHM_MAX_VALUE_ALL];
	const char *shape_name = "crowd";
	void *at = c->writer == MOVES_OUT ? &key : untouched(&key, sizeof(key));
	int ret = code(bpf_map_lookup_and_delete_elem(c->w->tool, at, values));

	CHECK(ret == 0 || ret == -ENOENT);
	if (ret == 0)
		c->moved[key] += sum_of(c->w, values);
	if (at != &key)
		munmap(at, sizeof(key));
}

static void move_out_all(struct crowd *c)
{
	static char values[2 * CROWD_KEYS * 1024];
	LIBBPF_OPTS(bpf_map_batch_opts, opts);
	uint32_t room = c->writer == DRAINS ? 2 * CROWD_KEYS : 3, at = 0, n;
	uint64_t keys[2 * CROWD_KEYS];
	const char *shape_name = "crowd";
	void *from = NULL;
	int ret;

	do {
		n = room;
		ret = code(bpf_map_lookup_and_delete_batch(c->w->tool, from, &at, keys, values, &n, &opts));
		if (ret == -ENOSPC) {
			room = 2 * CROWD_KEYS;
			ret = 0;
			continue;
		}
		CHECK(ret == 0 || ret == -ENOENT);
		for (uint32_t i = 0; i < n; i++) {
			CHECK(keys[i] < CROWD_KEYS);
			c->moved[keys[i]] += sum_of(c->w, values + i * c->w->stride);
		}
		from = &at;
	} while (ret == 0);
}

static void crowd_write(struct crowd *c)
{
	struct timespec begin, now;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (uint64_t round = 0;; round++) {
		if (c->writer == WRITES_OWN_KEYS)
			write_own_keys(c, round);
		else if (c->writer == MOVES_OUT || c->writer == MOVES_OUT_UNTOUCHED)
			move_out_one(c, round % CROWD_KEYS);
		else
			move_out_all(c);
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (now.tv_sec - begin.tv_sec >= CROWD_SECONDS)
			return;
	}
}

static void crowd(struct world *w, enum crowd_writer writer, bool in_place, const char *shape_name)
{
	static char values[SHM_MAX_VALUE_ALL];
	struct crowd *c = calloc(1, sizeof(*c));
	pthread_t t[CROWD + 2];
	uint64_t moved = 0, counted = 0;
	bool exact = true;

	c->w = w;
	c->writer = writer;
	c->in_place = in_place;
	/* What an earlier crowd has left is there to be moved out, too. */
	for (uint64_t key = 0; key < CROWD_KEYS; key++)
		if (bpf_map_lookup_elem(w->tool, &key, values) == 0)
			c->counted[key] = sum_of(w, values);
	for (int i = 0; i < CROWD + 2; i++)
		CHECK(pthread_create(&t[i], NULL, i < CROWD ? crowd_count : crowd_read, c) == 0);
	crowd_write(c);
	__atomic_store_n(&c->stop, true, __ATOMIC_RELAXED);
	for (int i = 0; i < CROWD + 2; i++)
		pthread_join(t[i], NULL);
	for (uint64_t key = 0; key < CROWD_KEYS; key++) {
		uint64_t left = 0;

		if (bpf_map_lookup_elem(w->tool, &key, values) == 0)
			left = sum_of(w, values);
		moved += c->moved[key];
		counted += c->counted[key];
		if (c->moved[key] + left == c->counted[key])
			continue;
		printf("# %s: key %lu: %lu moved out, %lu left, %lu counted\n", shape_name, (unsigned long)key,
		       (unsigned long)c->moved[key], (unsigned long)left, (unsigned long)c->counted[key]);
		exact = false;
	}
	CHECK(exact);
	printf("# %s: %lu counted, %lu of them moved out\n", shape_name, (unsigned long)counted, (unsigned long)moved);
	free(c);
}

static void crowd_own(struct world *w)
{
	crowd(w, WRITES_OWN_KEYS, false, "updates, deletes");
}

static void crowd_moves(struct world *w)
{
	crowd(w, MOVES_OUT, false, "lookup and delete");
	crowd(w, MOVES_OUT_UNTOUCHED, false, "lookup and delete, untouched");
	crowd(w, MOVES_OUT, true, "lookup and delete, in place");
}

static void crowd_drains(struct world *w)
{
	crowd(w, DRAINS, false, "batch");
	crowd(w, DRAINS_IN_STEPS, false, "batch in steps");
	crowd(w, DRAINS, true, "batch, in place");
}

static void test_crowd(void **state)
{
	static const struct shape s[] = {
		{"hash", BPF_MAP_TYPE_HASH, 8, 8, 64, 0, 0},
		{"percpu hash", BPF_MAP_TYPE_PERCPU_HASH, 8, 8, 64, 0, 0},
	};
	static const struct {
		void (*play)(struct world *);
		int shape;
	} plays[] = {{crowd_own, 0}, {crowd_own, 1}, {crowd_moves, 1}, {crowd_drains, 1}};

	for (size_t i = 0; i < sizeof(plays) / sizeof(plays[0]); i++) {
		struct world w;

		world_open(&w, &s[plays[i].shape]);
		in_another_process(plays[i].play, &w);
		world_close(&w);
	}
}

static int change(int map, bool sets, const void *key, const void *values)
{
	return code(sets ? bpf_map_update_elem(map, key, values, 0) : bpf_map_delete_elem(map, key));
}

enum how { READ, LOOKED_AT, OCCUPIED };

static int copied(const struct map_copy *copy, int (*one_way)(const struct map_copy *, char *, size_t), enum how how)
{
	char err[256] = "";
	int ret, occupied = how == OCCUPIED ? cpus_occupy(CPUS_LONG_MS) : -1;

	ret = one_way(copy, err, sizeof(err));
	if (!occupied)
		cpus_release();
	if (how == OCCUPIED)
		assert_int_equal(occupied, 0);
	if (ret)
		printf("# %s\n", err);
	return ret;
}

static int copy_in_again(const struct map_copy *copy, char *err, size_t err_size)
{
	return map_copy_in(copy, true, err, err_size);
}

/* In, once more when it has changed, out, and the map is the tool's own again. */
static void copy_in_and_out(const struct shape *s, enum how how)
{
	static char key[SHM_MAX_KEY], values[SHM_MAX_VALUE_ALL];
	struct map_look *look = NULL;
	struct map_copy copy;
	char err[256] = "";
	struct world w;

	world_open(&w, s);
	if (how != READ)
		assert_int_equal(map_look__new(&look, w.tool, w.arena_fd, &w.g),
				 s->value_size > 1024 ? -EOPNOTSUPP : 0);
	copy = (struct map_copy){.fd = w.tool, .arena = w.arena, .g = &w.g, .look = look};
	for (uint32_t k = 0; k < s->max_entries; k++) {
		make_key(key, s, k);
		make_values(&w, values);
		assert_int_equal(bpf_map_update_elem(w.tool, key, values, 0), 0);
		assert_int_equal(bpf_map_update_elem(w.oracle, key, values, 0), 0);
	}
	assert_int_equal(map_copy_in(&copy, false, err, sizeof(err)), 0);
	assert_int_equal(shm_map_count(w.arena, &w.g), s->max_entries);
	for (uint32_t n = 0; n < 20; n++) {
		bool sets = rnd(&w) % 2;

		make_key(key, s, rnd(&w) % s->n_keys);
		make_values(&w, values);
		assert_int_equal(change(w.tool, sets, key, values), change(w.oracle, sets, key, values));
	}
	assert_int_equal(copied(&copy, copy_in_again, how), 0);
	for (uint32_t n = 0; n < 200; n++) {
		make_key(key, s, rnd(&w) % s->n_keys);
		make_values(&w, values);
		if (rnd(&w) % 2)
			assert_int_equal(arena_set(&w, key, values, 0),
					 code(bpf_map_update_elem(w.oracle, key, values, 0)));
		else
			assert_int_equal(shm_map_delete(w.arena, &w.g, key), code(bpf_map_delete_elem(w.oracle, key)));
	}
	assert_int_equal(copied(&copy, map_copy_out, how), 0);
	map_look__free(look);
	assert_int_equal(carriers__remove(carriers, w.handle), 0);
	assert_int_equal(carriers__remove(carriers, w.handle), -ENOENT);
	compare_all(&w, s->name);
	munmap(w.arena, w.size);
	close(w.tool);
	close(w.oracle);
	close(w.arena_fd);
}

static void test_copy(void **state)
{
	for (size_t i = 0; i < N_SHAPES; i++)
		for (enum how how = READ; how <= OCCUPIED; how++)
			copy_in_and_out(&shapes[i], how);
}

/* So many entries that they are looked at in parts. */
static void test_copy_many(void **state)
{
	static const struct shape many[] = {
		{"hash 8/8", BPF_MAP_TYPE_HASH, 8, 8, 9000, 0, 9100},
		{"percpu hash 8/8", BPF_MAP_TYPE_PERCPU_HASH, 8, 8, 9000, 0, 9100},
		{"array 8", BPF_MAP_TYPE_ARRAY, 4, 8, 9000, 0, 9000},
	};

	for (size_t i = 0; i < sizeof(many) / sizeof(many[0]); i++)
		for (enum how how = READ; how <= OCCUPIED; how++)
			copy_in_and_out(&many[i], how);
}

/* A page of a file that nobody has touched yet: the kernel's own read waits for it, that of most programs fails. */
static char *not_resident(const void *what, size_t size)
{
	char path[] = "/tmp/test_carry.XXXXXX";
	int fd = mkstemp(path);
	char *page;

	if (fd < 0)
		return NULL;
	unlink(path);
	if (write(fd, what, size) != (ssize_t)size || ftruncate(fd, 4096))
		return NULL;
	page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	return page == MAP_FAILED ? NULL : page;
}

static void read_not_resident(struct world *w)
{
	const char *shape_name = "key not resident";
	uint64_t key = 7, value = 0;
	char *far;

	CHECK(shm_map_add(w->arena, &w->g, &key, 5, 0) == 0);
	CHECK((far = not_resident(&key, sizeof(key))));
	CHECK(bpf_map_lookup_elem(w->tool, far, &value) == 0);
	CHECK(value == 5);
}

static void change_not_resident(struct world *w)
{
	const char *shape_name = "change not resident";
	uint64_t key = 8, value = 6;
	char *far_key, *far_value;
	uint64_t *at;

	CHECK((far_key = not_resident(&key, sizeof(key))) && (far_value = not_resident(&value, sizeof(value))));
	CHECK(bpf_map_update_elem(w->tool, far_key, far_value, 0) == 0);
	at = shm_map_lookup(w->arena, &w->g, &key, 0);
	CHECK(at && *at == 6);
	CHECK((far_key = not_resident(&key, sizeof(key))));
	CHECK(bpf_map_delete_elem(w->tool, far_key) == 0);
	CHECK(!shm_map_lookup(w->arena, &w->g, &key, 0));
}

static void test_not_resident(void **state)
{
	static const struct shape s = {"hash", BPF_MAP_TYPE_HASH, 8, 8, 64, 0, 0};
	struct world w;

	world_open(&w, &s);
	in_another_process(read_not_resident, &w);
	in_another_process(change_not_resident, &w);
	world_close(&w);
}

static void test_readers(void **state)
{
	static const struct shape s = {"hash", BPF_MAP_TYPE_HASH, 8, 8, 64, 0, 0};
	struct world w;

	world_open(&w, &s);
	in_another_process(readers, &w);
	world_close(&w);
}

/* ---- each at each hook that this kernel has ---- */

/* Why this hook is not tried here, or NULL. */
static const char *refusal(enum bpf_hook hook)
{
	struct kernel_features k;
	static char err[256];

	kernel_features__probe(&k);
	if (hook != kernel_features__hook(&k)) {
		/* Where programs can be preempted only one is exact: kernel_features__hook(). */
		if (k.preempt != PREEMPT_MODE_NONE && k.preempt != PREEMPT_MODE_VOLUNTARY)
			return "not exact where programs are preempted";
		if (hook == BPF_HOOK_LSM_ALONE)
			return "for kernels that preempt programs";
	}
	if (hook != BPF_HOOK_LSM && hook != BPF_HOOK_LSM_ALONE)
		return NULL;
	/* The others are there on every kernel that can be used; to fail to load them is to fail. */
	if (carriers__new_with(&carriers, hook, err, sizeof(err)))
		return err;
	carriers__free(carriers);
	carriers = NULL;
	return NULL;
}

static int setup(void **state)
{
	const enum bpf_hook *hook = *state;
	char err[256] = "";

	if (!carriers__new_with(&carriers, *hook, err, sizeof(err)))
		return 0;
	print_message("# %s\n", err);
	return -1;
}

static int teardown(void **state)
{
	uint64_t missed = carriers__missed(carriers);

	carriers__free(carriers);
	carriers = NULL;
	return missed ? -1 : 0;
}

#define TEST(f)                                                                                                        \
	{                                                                                                              \
#f, f                                                                                                  \
	}

static const struct {
	const char *name;
	CMUnitTestFunction fn;
} tests[] = {
	TEST(test_oracle),	 TEST(test_iterate),   TEST(test_bpftool),   TEST(test_rights),
	TEST(test_not_resident), TEST(test_untouched), TEST(test_steps),     TEST(test_crowd),
	TEST(test_readers),	 TEST(test_copy),      TEST(test_copy_many),
};

static enum bpf_hook hooks[] = {BPF_HOOK_TRACEPOINT, BPF_HOOK_RAW_TRACEPOINT, BPF_HOOK_LSM, BPF_HOOK_LSM_ALONE};

#define N(a) (sizeof(a) / sizeof((a)[0]))

int main(void)
{
	static char names[N(tests) * N(hooks)][64];
	static struct CMUnitTest all[N(tests) * N(hooks)];
	bool has_bpftool = system("bpftool version >/dev/null 2>&1") == 0;
	size_t n = 0;

	n_cpus = (uint32_t)libbpf_num_possible_cpus();
	if (!getenv("V"))
		libbpf_set_print(NULL);
	if (!has_bpftool)
		printf("# SKIP test_bpftool: bpftool is not installed\n");
	for (size_t h = 0; h < N(hooks); h++) {
		const char *why = refusal(hooks[h]);

		if (why)
			printf("# SKIP %s: %s\n", bpf_hook__name(hooks[h]), why);
		for (size_t i = 0; !why && i < N(tests); i++) {
			if (tests[i].fn == test_bpftool && !has_bpftool)
				continue;
			snprintf(names[n], sizeof(names[n]), "%s (%s%s)", tests[i].name, bpf_hook__name(hooks[h]),
				 hooks[h] == BPF_HOOK_LSM_ALONE ? ", not preempted" : "");
			all[n] = (struct CMUnitTest){names[n], tests[i].fn, setup, teardown, &hooks[h]};
			n++;
		}
	}
	fflush(stdout);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	if (getenv("CARRY_ONLY"))
		cmocka_set_test_filter(getenv("CARRY_ONLY"));
	return _cmocka_run_group_tests("carry", all, n, NULL, NULL);
}
