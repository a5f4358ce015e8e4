/* SPDX-License-Identifier: MIT */
/*
 * Maps in shared memory: the kernel's own map, given the same operations, is the oracle; then threads, then a process
 * that is killed at random moments.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <cmocka.h>

#include "shm-runtime/shm_map.h"
#include "tests/unit/map_fixture.h"

static const struct shape shapes[] = {
	{"array 8", BPF_MAP_TYPE_ARRAY, 4, 8, 16, 0, 20},
	{"array 3", BPF_MAP_TYPE_ARRAY, 4, 3, 7, 0, 9},
	{"array 4096", BPF_MAP_TYPE_ARRAY, 4, 4096, 2, 0, 4},
	{"percpu array 8", BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 5, 0, 7},
	{"percpu array 20", BPF_MAP_TYPE_PERCPU_ARRAY, 4, 20, 5, 0, 7},
	{"hash 4/8", BPF_MAP_TYPE_HASH, 4, 8, 64, 0, 100},
	{"hash 8/8 of one", BPF_MAP_TYPE_HASH, 8, 8, 1, 0, 3},
	{"hash 1/1", BPF_MAP_TYPE_HASH, 1, 1, 100, 0, 120},
	{"hash 7/5", BPF_MAP_TYPE_HASH, 7, 5, 33, 0, 60},
	{"hash 12/24", BPF_MAP_TYPE_HASH, 12, 24, 128, 0, 200},
	{"hash 16/16 not preallocated", BPF_MAP_TYPE_HASH, 16, 16, 50, BPF_F_NO_PREALLOC, 80},
	{"hash 64/100", BPF_MAP_TYPE_HASH, 64, 100, 1000, 0, 1500},
	{"hash 512/4096", BPF_MAP_TYPE_HASH, 512, 4096, 10, 0, 15},
	{"percpu hash 8/8", BPF_MAP_TYPE_PERCPU_HASH, 8, 8, 64, 0, 90},
	{"percpu hash 20/12", BPF_MAP_TYPE_PERCPU_HASH, 20, 12, 40, 0, 60},
};

#define N_SHAPES (sizeof(shapes) / sizeof(shapes[0]))

static uint32_t n_cpus;

static void *arena_new(const struct shm_geo *g)
{
	void *p = mmap(NULL, g->end_off, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	assert_true(p != MAP_FAILED);
	shm_map_init(p, g);
	return p;
}

static void plan(struct shm_geo *g, const struct shape *s)
{
	const char *why = NULL;

	assert_int_equal(
		shm_geo__plan(g, s->type, s->key_size, s->value_size, s->max_entries, s->flags, n_cpus, 4096, &why), 0);
	assert_null(why);
	assert_true(g->ctl_off >= 4096 && g->end_off > g->nodes_off);
}

static size_t all_values(const struct shm_geo *g)
{
	return (size_t)g->value_room * g->n_cpus;
}

static int oracle_get(int fd, const char *key, char *values, const struct shm_geo *g)
{
	memset(values, 0, all_values(g));
	return bpf_map_lookup_elem(fd, key, values) ? -errno : 0;
}

/* What a program's update on this CPU does, said by system calls. */
static int oracle_update(int fd, const struct shape *s, const struct shm_geo *g, const char *key, const char *value,
			 uint64_t flags, uint32_t cpu)
{
	static char all[SHM_MAX_VALUE_ALL];

	if (!shm_is_percpu(g))
		return bpf_map_update_elem(fd, key, value, flags) ? -errno : 0;
	oracle_get(fd, key, all, g);
	memcpy(all + (size_t)cpu * g->value_room, value, s->value_size);
	return bpf_map_update_elem(fd, key, all, flags) ? -errno : 0;
}

static void check_same(int fd, void *arena, const struct shm_geo *g, const char *key)
{
	static char want[SHM_MAX_VALUE_ALL];
	int err = oracle_get(fd, key, want, g);

	for (uint32_t cpu = 0; cpu < g->n_cpus; cpu++) {
		char *have = shm_map_lookup(arena, g, key, cpu);

		assert_int_equal(err ? 0 : 1, have ? 1 : 0);
		if (have)
			assert_memory_equal(have, want + (size_t)cpu * g->value_room, g->value_size);
	}
}

static void oracle(const struct shape *s)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = s->flags);
	int fd = bpf_map_create(s->type, NULL, s->key_size, s->value_size, s->max_entries, &opts);
	static char key[SHM_MAX_KEY], value[SHM_MAX_VALUE];
	uint64_t seed = 42, live = 0, n = 0;
	struct shm_geo g;
	void *arena, *where;

	assert_true(fd >= 0);
	plan(&g, s);
	arena = arena_new(&g);
	for (int i = 0; i < 20000; i++) {
		uint32_t op = map_rnd(&seed) % 8, cpu = shm_is_percpu(&g) ? map_rnd(&seed) % g.n_cpus : 0;
		uint64_t flags = map_rnd(&seed) % 4 ? map_rnd(&seed) % 3 : map_rnd(&seed) % 8;

		make_key(key, s, map_rnd(&seed) % s->n_keys);
		for (uint32_t b = 0; b < s->value_size; b++)
			value[b] = (char)map_rnd(&seed);
		if (flags & SHM_F_LOCK)
			flags = 3; /* system calls refuse this one before they look at the key */
		if (op < 4)
			assert_int_equal(oracle_update(fd, s, &g, key, value, flags, cpu),
					 shm_map_update(arena, &g, key, value, flags, cpu));
		else if (op < 6)
			assert_int_equal(bpf_map_delete_elem(fd, key) ? -errno : 0, shm_map_delete(arena, &g, key));
		check_same(fd, arena, &g, key);
	}
	for (uint32_t i = 0; i < s->n_keys; i++) {
		make_key(key, s, i);
		check_same(fd, arena, &g, key);
		live += shm_map_lookup(arena, &g, key, 0) != NULL;
	}
	for (uint32_t i = 0; i < g.n_nodes; i++) {
		shm_map_node(arena, &g, i, &where);
		n += where != NULL;
	}
	assert_int_equal(n, live);
	assert_int_equal(shm_map_count(arena, &g), live);
	assert_int_equal(shm_map_repair(arena, &g), 0);
	munmap(arena, g.end_off);
	close(fd);
}

static void test_oracle(void **state)
{
	for (size_t i = 0; i < N_SHAPES; i++) {
		print_message("# %s\n", shapes[i].name);
		oracle(&shapes[i]);
	}
}

static void test_refusals(void **state)
{
	static const struct shape bad[] = {
		{"type", BPF_MAP_TYPE_RINGBUF, 0, 0, 4096, 0, 0},
		{"lru", BPF_MAP_TYPE_LRU_HASH, 4, 4, 10, 0, 0},
		{"key", BPF_MAP_TYPE_HASH, 513, 8, 10, 0, 0},
		{"value", BPF_MAP_TYPE_HASH, 8, 4097, 10, 0, 0},
		{"size", BPF_MAP_TYPE_HASH, 8, 4096, 1u << 20, 0, 0},
		{"huge", BPF_MAP_TYPE_ARRAY, 4, 8, ~0u, 0, 0},
		{"mmap", BPF_MAP_TYPE_ARRAY, 4, 8, 1, BPF_F_MMAPABLE, 0},
		{"flag", BPF_MAP_TYPE_ARRAY, 4, 8, 1, BPF_F_INNER_MAP, 0},
	};
	struct shm_geo g;
	const char *why;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		why = NULL;
		assert_int_equal(shm_geo__plan(&g, bad[i].type, bad[i].key_size, bad[i].value_size, bad[i].max_entries,
					       bad[i].flags, 2, 0, &why),
				 -EOPNOTSUPP);
		assert_non_null(why);
	}
}

/* ---- threads ---- */

#define N_THREADS 8

struct job {
	pthread_t thread;
	void *arena;
	const struct shm_geo *g;
	uint64_t seed;
	int64_t inserted; /* minus deleted */
	uint32_t id;
	uint32_t torn;
};

static void *add_thread(void *arg)
{
	struct job *j = arg;

	for (int i = 0; i < 200000; i++) {
		uint64_t key = map_rnd(&j->seed) % 50;

		assert_int_equal(shm_map_add(j->arena, j->g, &key, 1, map_rnd(&j->seed) % j->g->n_cpus), 0);
	}
	return NULL;
}

static void run_threads(void *(*fn)(void *), struct job *jobs, void *arena, const struct shm_geo *g)
{
	for (uint32_t i = 0; i < N_THREADS; i++) {
		jobs[i] = (struct job){.arena = arena, .g = g, .seed = i * 77 + 5, .id = i};
		assert_int_equal(pthread_create(&jobs[i].thread, NULL, fn, &jobs[i]), 0);
	}
	for (uint32_t i = 0; i < N_THREADS; i++)
		pthread_join(jobs[i].thread, NULL);
}

static void test_add_threads(void **state)
{
	static const struct shape s = {"adds", BPF_MAP_TYPE_PERCPU_HASH, 8, 8, 64, 0, 0};
	struct job jobs[N_THREADS];
	uint64_t sum = 0;
	struct shm_geo g;
	void *arena;

	plan(&g, &s);
	arena = arena_new(&g);
	run_threads(add_thread, jobs, arena, &g);
	for (uint64_t key = 0; key < 50; key++)
		for (uint32_t cpu = 0; cpu < g.n_cpus; cpu++)
			sum += *(uint64_t *)shm_map_lookup(arena, &g, &key, cpu);
	assert_int_equal(sum, N_THREADS * 200000ull);
	assert_int_equal(shm_map_count(arena, &g), 50);
	assert_int_equal(shm_map_repair(arena, &g), 0);
	munmap(arena, g.end_off);
}

struct wide {
	uint64_t key, x, same_x, not_x;
};

/* Inserts, replaces, deletes; values must be whole, return codes must add up. */
static void *churn_thread(void *arg)
{
	struct job *j = arg;

	for (int i = 0; i < 300000; i++) {
		uint64_t key = map_rnd(&j->seed) % 40;
		struct wide w = {key, map_rnd(&j->seed), 0, 0};
		uint32_t op = map_rnd(&j->seed) % 5;

		w.same_x = w.x;
		w.not_x = ~w.x;
		if (op == 0)
			j->inserted += shm_map_update(j->arena, j->g, &key, &w, SHM_NOEXIST, 0) == 0;
		else if (op == 1)
			j->inserted -= shm_map_delete(j->arena, j->g, &key) == 0;
		else if (op == 2)
			shm_map_update(j->arena, j->g, &key, &w, SHM_EXIST, 0);
		else
			shm_map_lookup(j->arena, j->g, &key, 0);
	}
	return NULL;
}

static void check_whole(void *arena, const struct shm_geo *g, int64_t want)
{
	uint64_t seen[64] = {0};
	int64_t n = 0;

	for (uint32_t i = 0; i < g->n_nodes; i++) {
		void *value, *key = shm_map_node(arena, g, i, &value);
		struct wide w;

		if (!key)
			continue;
		memcpy(&w, value, sizeof(w));
		assert_int_equal(*(uint64_t *)key, w.key);
		assert_int_equal(w.x, w.same_x);
		assert_int_equal(w.x, ~w.not_x);
		assert_true(w.key < 64);
		assert_int_equal(seen[w.key]++, 0);
		n++;
	}
	if (want >= 0)
		assert_int_equal(n, want);
}

static void test_churn_threads(void **state)
{
	static const struct shape s = {"churn", BPF_MAP_TYPE_HASH, 8, sizeof(struct wide), 64, 0, 0};
	struct job jobs[N_THREADS];
	int64_t n = 0;
	struct shm_geo g;
	void *arena;

	plan(&g, &s);
	/* Few buckets: long chains, much interference. */
	g.n_buckets = 4;
	arena = arena_new(&g);
	run_threads(churn_thread, jobs, arena, &g);
	for (int i = 0; i < N_THREADS; i++)
		n += jobs[i].inserted;
	check_whole(arena, &g, n);
	assert_int_equal(*(uint64_t *)shm_at(arena, g.ctl_off + SHM_CTL_COUNT), n);
	/* Deleted nodes may still hang in a chain; nothing else is missing. */
	assert_true(shm_map_repair(arena, &g) <= 64);
	check_whole(arena, &g, n);
	munmap(arena, g.end_off);
}

/* ---- entries that are taken out while threads add ---- */

enum { TAKEN_KEYS = 512, OWN_KEYS = 256, TAKES_A_TURN = 256, TAKEN_MS = 4000, DELETE_EACH = 8192 };

/* What is added to a key is a multiple of this: what lands under another key shows. */
static uint64_t unit(uint64_t key)
{
	return 1009 + 2 * key;
}

struct taking {
	void *arena;
	const struct shm_geo *g;
	int stop;
	uint64_t turn[N_THREADS];		     /* operations that each thread has ended */
	uint64_t added[TAKEN_KEYS], out[TAKEN_KEYS]; /* in units */
	uint32_t n_started, mixed, recycled;
};

/* Keys from OWN_KEYS on are deleted now and then, and what was in them is lost. */
static void *taken_add(void *arg)
{
	struct taking *t = arg;
	uint32_t me = __atomic_fetch_add(&t->n_started, 1, __ATOMIC_RELAXED);
	uint64_t seed = me * 31 + 7, mine[TAKEN_KEYS] = {0};

	for (uint64_t n = 0; !__atomic_load_n(&t->stop, __ATOMIC_RELAXED); n++) {
		/* Few keys at a time, which everybody meets, and others later. */
		uint64_t key = (n / 16384 * 8 + map_rnd(&seed) % 16) % TAKEN_KEYS;

		if (key >= OWN_KEYS && map_rnd(&seed) % DELETE_EACH == 0)
			shm_map_delete(t->arena, t->g, &key);
		else if (shm_map_add(t->arena, t->g, &key, unit(key), map_rnd(&seed) % t->g->n_cpus) == 0)
			mine[key]++;
		__atomic_fetch_add(&t->turn[me], 1, __ATOMIC_SEQ_CST);
	}
	__atomic_store_n(&t->turn[me], ~0ull, __ATOMIC_SEQ_CST);
	for (uint32_t i = 0; i < TAKEN_KEYS; i++)
		__atomic_fetch_add(&t->added[i], mine[i], __ATOMIC_RELAXED);
	return NULL;
}

/* As a carrier does it. */
static void take_out(struct taking *t, uint64_t key)
{
	uint64_t off = shm_take_begin(t->arena, t->g, &key), sum = 0;

	if (!off)
		return;
	for (uint32_t at = 0; at < all_values(t->g); at += 8)
		sum += shm_swap((char *)t->arena + off + t->g->value_off + at, 0);
	shm_take_end(t->arena, t->g, off);
	t->out[key] += sum / unit(key);
	t->mixed += sum % unit(key) != 0;
}

/* Everybody has ended what he had begun. */
static void wait_for_all(struct taking *t)
{
	for (uint32_t i = 0; i < N_THREADS; i++) {
		uint64_t was = __atomic_load_n(&t->turn[i], __ATOMIC_SEQ_CST);

		while (was != ~0ull && __atomic_load_n(&t->turn[i], __ATOMIC_SEQ_CST) == was)
			sched_yield();
	}
}

static void recycle(struct taking *t)
{
	uint64_t first = shm_map_collect(t->arena, t->g, 0);

	wait_for_all(t);
	for (uint64_t i = first; i; i = shm_read(shm_at(t->arena, shm_node_off(t->g, i))) & SHM_INDEX_MASK)
		t->recycled++;
	shm_map_release(t->arena, t->g, first);
}

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void test_taken(void **state)
{
	static const struct shape s = {"taken", BPF_MAP_TYPE_PERCPU_HASH, 8, 8, 24, 0, 0};
	struct taking *t = calloc(1, sizeof(*t));
	pthread_t thread[N_THREADS];
	uint64_t until = now_ms() + TAKEN_MS, seed = 5, total = 0;
	struct shm_geo g;

	plan(&g, &s);
	/* Few buckets: chains of live, empty and deleted nodes. */
	g.n_buckets = 4;
	t->g = &g;
	t->arena = arena_new(&g);
	for (int i = 0; i < N_THREADS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, taken_add, t), 0);
	while (now_ms() < until) {
		for (int i = 0; i < TAKES_A_TURN; i++)
			take_out(t, map_rnd(&seed) % TAKEN_KEYS);
		recycle(t);
	}
	t->stop = 1;
	for (int i = 0; i < N_THREADS; i++)
		pthread_join(thread[i], NULL);
	/* Twice: what arrived late while the map was full finds room now. */
	for (uint64_t key = 0; key < TAKEN_KEYS; key++)
		take_out(t, key);
	shm_map_settle(t->arena, &g);
	for (uint64_t key = 0; key < TAKEN_KEYS; key++) {
		take_out(t, key);
		if (key < OWN_KEYS)
			assert_int_equal(t->out[key], t->added[key]);
		else
			assert_true(t->out[key] <= t->added[key]);
		total += t->out[key];
	}
	assert_int_equal(t->mixed, 0);
	assert_int_equal(shm_map_count(t->arena, &g), 0);
	assert_int_equal(shm_read(shm_at(t->arena, g.ctl_off + SHM_CTL_COUNT)), 0);
	assert_int_equal(shm_read(shm_at(t->arena, g.ctl_off + SHM_CTL_HASTY)), 0);
	recycle(t);
	assert_int_equal(shm_map_repair(t->arena, &g), 0);
	print_message("# %lu additions taken out, %u nodes used again\n", (unsigned long)total, t->recycled);
	munmap(t->arena, g.end_off);
	free(t);
}

/* ---- killed ---- */

static void count_all_nodes(void *arena, const struct shm_geo *g)
{
	uint64_t n = 0, live = shm_map_count(arena, g);

	while (shm_node_take(arena, g))
		n++;
	assert_int_equal(n + live, g->n_nodes - 1);
}

static void test_killed(void **state)
{
	static const struct shape s = {"killed", BPF_MAP_TYPE_HASH, 8, sizeof(struct wide), 64, 0, 0};
	struct job job = {.seed = 99};
	struct shm_geo g;
	void *arena;

	plan(&g, &s);
	g.n_buckets = 4;
	arena = arena_new(&g);
	for (int round = 0; round < 300; round++) {
		struct timespec pause = {.tv_nsec = 200000 + map_rnd(&job.seed) % 1500000};
		pid_t pid = fork();

		assert_true(pid >= 0);
		if (pid == 0) {
			struct job mine = {.arena = arena, .g = &g, .seed = round};

			for (;;)
				churn_thread(&mine);
		}
		nanosleep(&pause, NULL);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		check_whole(arena, &g, -1);
		if (round % 10 == 9) {
			uint64_t live = shm_map_count(arena, &g);

			assert_true(shm_map_repair(arena, &g) >= 0);
			assert_int_equal(shm_map_count(arena, &g), live);
			assert_int_equal(*(uint64_t *)shm_at(arena, g.ctl_off + SHM_CTL_COUNT), live);
		}
	}
	count_all_nodes(arena, &g);
	munmap(arena, g.end_off);
}

/* A hostile target writes anything anywhere: nobody crashes, nobody hangs. */
static void test_garbage(void **state)
{
	static const struct shape s = {"garbage", BPF_MAP_TYPE_HASH, 8, 8, 64, 0, 0};
	uint64_t seed = 3;
	struct shm_geo g;
	void *arena;

	plan(&g, &s);
	arena = arena_new(&g);
	for (int round = 0; round < 40; round++) {
		for (uint64_t at = g.ctl_off; at < g.end_off; at += 8)
			*(uint64_t *)shm_at(arena, at) = map_rnd(&seed) % (round % 2 ? g.n_nodes : 1u << 30);
		for (int i = 0; i < 50; i++) {
			uint64_t key = map_rnd(&seed) % 80;

			shm_map_update(arena, &g, &key, &key, 0, 0);
			shm_map_add(arena, &g, &key, 1, 0);
			shm_map_lookup(arena, &g, &key, 0);
			shm_map_delete(arena, &g, &key);
		}
		shm_map_repair(arena, &g);
		count_all_nodes(arena, &g);
		shm_map_init(arena, &g);
		assert_int_equal(shm_map_count(arena, &g), 0);
	}
	munmap(arena, g.end_off);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_refusals),      cmocka_unit_test(test_oracle), cmocka_unit_test(test_add_threads),
		cmocka_unit_test(test_churn_threads), cmocka_unit_test(test_taken),  cmocka_unit_test(test_killed),
		cmocka_unit_test(test_garbage),
	};

	n_cpus = (uint32_t)libbpf_num_possible_cpus();
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
