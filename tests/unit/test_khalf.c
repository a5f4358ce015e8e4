/* SPDX-License-Identifier: MIT */
/*
 * The kernel half: programs as tools load them, translated, attached to a function of this test by a uprobe, hit by
 * several threads; what they counted is read from the arena.
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
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <linux/perf_event.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <cmocka.h>

#include "daemon/khalf.h"
#include "shm-runtime/shm_map.h"
#include "tests/unit/code_offset.h"
#include "vm-llvm/additive.h"

#define I(c, d, s, o, i)                                                                                               \
	{                                                                                                              \
		.code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i)                                    \
	}
#define MOV(d, s)	I(BPF_ALU64 | BPF_MOV | BPF_X, d, s, 0, 0)
#define MOVI(d, i)	I(BPF_ALU64 | BPF_MOV | BPF_K, d, 0, 0, i)
#define ADDI(d, i)	I(BPF_ALU64 | BPF_ADD | BPF_K, d, 0, 0, i)
#define LOAD(d, s, o)	I(BPF_LDX | BPF_MEM | BPF_DW, d, s, o, 0)
#define STORE(d, o, s)	I(BPF_STX | BPF_MEM | BPF_DW, d, s, o, 0)
#define STORE4(d, o, s) I(BPF_STX | BPF_MEM | BPF_W, d, s, o, 0)
#define STOREI(d, o, i) I(BPF_ST | BPF_MEM | BPF_DW, d, 0, o, i)
#define CALL(n)		I(BPF_JMP | BPF_CALL, 0, 0, 0, n)
#define JEQI(d, i, o)	I(BPF_JMP | BPF_JEQ | BPF_K, d, 0, o, i)
#define EXIT		I(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)
#define MAP(d, m)	I(BPF_LD | BPF_IMM | BPF_DW, d, BPF_PSEUDO_MAP_FD, 0, m), I(0, 0, 0, 0, 0)
#define TID_TO_KEY                                                                                                     \
	CALL(BPF_FUNC_get_current_pid_tgid), I(BPF_ALU64 | BPF_LSH | BPF_K, 0, 0, 0, 32),                              \
		I(BPF_ALU64 | BPF_RSH | BPF_K, 0, 0, 0, 32), STORE(10, -8, 0)

#define N_THREADS 8
#define CALLS	  20000

static uint32_t n_cpus;

__attribute__((noinline)) static long probed(long a)
{
	__asm__ volatile("nop" : "+r"(a));
	return a + 1;
}

struct rig {
	int arena_fd, prog, event;
	char *arena;
	size_t size;
	struct shm_geo geo[4];
	size_t n_geo;
};

static struct shm_group_hdr *hdr(struct rig *r)
{
	return (struct shm_group_hdr *)r->arena;
}

static void rig_map(struct rig *r, uint32_t type, uint32_t key, uint32_t value, uint32_t max)
{
	uint64_t off = r->n_geo ? r->geo[r->n_geo - 1].end_off : SHM_HDR_SIZE;
	const char *why;

	assert_int_equal(shm_geo__plan(&r->geo[r->n_geo++], type, key, value, max, 0, n_cpus, off, &why), 0);
}

static void rig_arena(struct rig *r)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = BPF_F_MMAPABLE);

	r->size = r->geo[r->n_geo - 1].end_off;
	r->arena_fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "arena", 4, r->size, 1, &opts);
	assert_true(r->arena_fd >= 0);
	r->arena = mmap(NULL, r->size, PROT_READ | PROT_WRITE, MAP_SHARED, r->arena_fd, 0);
	assert_true(r->arena != MAP_FAILED);
	for (size_t i = 0; i < r->n_geo; i++)
		shm_map_init(r->arena, &r->geo[i]);
}

static void rig_attach(struct rig *r)
{
	FILE *f = fopen("/sys/bus/event_source/devices/uprobe/type", "r");
	struct perf_event_attr attr = {.size = sizeof(attr)};
	unsigned int type;

	assert_non_null(f);
	assert_int_equal(fscanf(f, "%u", &type), 1);
	fclose(f);
	attr.type = type;
	attr.uprobe_path = (unsigned long)"/proc/self/exe";
	attr.probe_offset = code_offset((const void *)probed);
	r->event = (int)syscall(SYS_perf_event_open, &attr, getpid(), -1, -1, PERF_FLAG_FD_CLOEXEC);
	assert_true(r->event >= 0);
	assert_int_equal(ioctl(r->event, PERF_EVENT_IOC_SET_BPF, r->prog), 0);
	assert_int_equal(ioctl(r->event, PERF_EVENT_IOC_ENABLE, 0), 0);
}

static struct khalf_opts rig_opts(const struct rig *r, const int *direct)
{
	return (struct khalf_opts){
		.prog_type = BPF_PROG_TYPE_KPROBE,
		.license = "GPL",
		.name = "khalf",
		.arena_fd = r->arena_fd,
		.geo = r->geo,
		.n_geo = r->n_geo,
		.direct_fd = direct,
		.arrived_fd = -1,
		.arrivals_fd = -1,
	};
}

static void rig_load(struct rig *r, const struct bpf_insn *insns, size_t n, const int *direct)
{
	struct bpf_prog_info info = {0};
	uint32_t len = sizeof(info);
	char err[256] = "";
	struct khalf_opts opts = rig_opts(r, direct);

	r->prog = khalf_load(insns, n, &opts, err, sizeof(err));
	if (r->prog < 0)
		fail_msg("%s", err);
	assert_int_equal(bpf_obj_get_info_by_fd(r->prog, &info, &len), 0);
	print_message("# verified in %u steps\n", info.verified_insns);
}

static void rig_free(struct rig *r)
{
	close(r->event);
	close(r->prog);
	munmap(r->arena, r->size);
	close(r->arena_fd);
}

static void *caller(void *arg)
{
	for (long i = 0; i < CALLS; i++)
		probed(i);
	return NULL;
}

static void call_by_threads(void)
{
	pthread_t t[N_THREADS];

	for (int i = 0; i < N_THREADS; i++)
		assert_int_equal(pthread_create(&t[i], NULL, caller, NULL), 0);
	for (int i = 0; i < N_THREADS; i++)
		pthread_join(t[i], NULL);
}

static uint64_t sum_all(struct rig *r, const struct shm_geo *g)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < g->n_nodes; i++) {
		void *value;

		shm_map_node(r->arena, g, i, &value);
		for (uint32_t cpu = 0; value && cpu < g->n_cpus; cpu++)
			sum += *(uint64_t *)((char *)value + (size_t)cpu * g->value_room);
	}
	return sum;
}

/* bpftrace's @[tid] = count(), after the additive pair was recognised. */
static const struct bpf_insn count_tid[] = {
	TID_TO_KEY, MOVI(1, 1),	  STORE(10, -16, 1),	   MAP(1, 0),  MOV(2, 10), ADDI(2, -8),
	MOV(3, 10), ADDI(3, -16), CALL(VM_HELPER_MAP_ADD), MOVI(0, 0), EXIT,
};

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static void test_count(void **state)
{
	struct rig r = {0};

	rig_map(&r, BPF_MAP_TYPE_PERCPU_HASH, 8, 8, 4096);
	rig_arena(&r);
	rig_load(&r, count_tid, COUNT(count_tid), NULL);
	rig_attach(&r);
	/* Closed: nothing happens. */
	call_by_threads();
	assert_int_equal(hdr(&r)->kgate, 0);
	/* Closed, and counted: nothing else happens. */
	hdr(&r)->kgate = SHM_KGATE_COUNTS;
	call_by_threads();
	assert_int_equal(hdr(&r)->kgate, SHM_KGATE_COUNTS + N_THREADS * CALLS);
	assert_int_equal(shm_map_count(r.arena, &r.geo[0]), 0);
	hdr(&r)->kgate |= SHM_KGATE_OPEN;
	call_by_threads();
	assert_int_equal(hdr(&r)->kgate, (SHM_KGATE_OPEN | SHM_KGATE_COUNTS) + 2 * N_THREADS * CALLS);
	/* Open, and not counted. */
	hdr(&r)->kgate = SHM_KGATE_OPEN;
	shm_map_init(r.arena, &r.geo[0]);
	call_by_threads();
	assert_int_equal(hdr(&r)->kgate, SHM_KGATE_OPEN);
	assert_int_equal(shm_map_count(r.arena, &r.geo[0]), N_THREADS);
	assert_int_equal(sum_all(&r, &r.geo[0]), N_THREADS * CALLS);
	rig_free(&r);
}

/* The value is changed in place, as clang compiles (*value)++, by the kernel and by this process at once. */
static const struct bpf_insn in_place[] = {
	STOREI(10, -8, 7),
	MAP(1, 0),
	MOV(2, 10),
	ADDI(2, -8),
	CALL(BPF_FUNC_map_lookup_elem),
	JEQI(0, 0, 3),
	LOAD(1, 0, 0),
	ADDI(1, 1),
	STORE(0, 0, 1),
	MOVI(0, 0),
	EXIT,
};

static void *adder(void *arg)
{
	struct rig *r = arg;
	uint64_t key = 7;

	for (int i = 0; i < 10 * CALLS; i++)
		assert_int_equal(shm_map_add(r->arena, &r->geo[0], &key, 1, 0), 0);
	return NULL;
}

static void test_in_place(void **state)
{
	uint64_t key = 7, zero = 0;
	struct rig r = {0};
	pthread_t t;

	rig_map(&r, BPF_MAP_TYPE_HASH, 8, 8, 10);
	rig_arena(&r);
	assert_int_equal(shm_map_update(r.arena, &r.geo[0], &key, &zero, SHM_ANY, 0), 0);
	rig_load(&r, in_place, COUNT(in_place), NULL);
	hdr(&r)->kgate = SHM_KGATE_OPEN;
	rig_attach(&r);
	assert_int_equal(pthread_create(&t, NULL, adder, &r), 0);
	call_by_threads();
	pthread_join(t, NULL);
	assert_int_equal(*(uint64_t *)shm_map_lookup(r.arena, &r.geo[0], &key, 0), N_THREADS * CALLS + 10 * CALLS);
	rig_free(&r);
}

/* Insert with a key that is aligned to 4 bytes only, look up, delete, count what went right in a map the kernel serves.
 */
static const struct bpf_insn insert_delete[] = {
	CALL(BPF_FUNC_get_current_pid_tgid),
	MOV(6, 0),
	STORE4(10, -12, 6),
	STOREI(10, -24, 42),
	STOREI(10, -32, 42),
	I(BPF_ST | BPF_MEM | BPF_W, 10, 0, -8, 5),
	I(BPF_ST | BPF_MEM | BPF_W, 10, 0, -4, 6),
	MAP(1, 0),
	MOV(2, 10),
	ADDI(2, -12),
	MOV(3, 10),
	ADDI(3, -32),
	MOVI(4, BPF_NOEXIST),
	CALL(BPF_FUNC_map_update_elem),
	I(BPF_JMP | BPF_JNE | BPF_K, 0, 0, 22, 0),
	MAP(1, 0),
	MOV(2, 10),
	ADDI(2, -12),
	CALL(BPF_FUNC_map_lookup_elem),
	JEQI(0, 0, 16),
	MAP(1, 0),
	MOV(2, 10),
	ADDI(2, -12),
	CALL(BPF_FUNC_map_delete_elem),
	I(BPF_JMP | BPF_JNE | BPF_K, 0, 0, 10, 0),
	STOREI(10, -40, 0),
	MAP(1, 1),
	MOV(2, 10),
	ADDI(2, -40),
	CALL(BPF_FUNC_map_lookup_elem),
	JEQI(0, 0, 3),
	MOVI(1, 1),
	I(BPF_STX | BPF_ATOMIC | BPF_DW, 0, 1, 0, BPF_ADD),
	I(BPF_JMP | BPF_JA, 0, 0, 0, 0),
	MOVI(0, 0),
	EXIT,
};

static void test_insert_delete(void **state)
{
	int direct[2] = {-1, -1};
	uint64_t value = 0;
	uint32_t zero = 0;
	struct rig r = {0};

	rig_map(&r, BPF_MAP_TYPE_HASH, 12, 16, 64);
	r.geo[1].kind = SHM_DIRECT;
	rig_arena(&r);
	r.n_geo = 2;
	direct[1] = bpf_map_create(BPF_MAP_TYPE_ARRAY, "tool", 4, 8, 1, NULL);
	assert_true(direct[1] >= 0);
	rig_load(&r, insert_delete, COUNT(insert_delete), direct);
	hdr(&r)->kgate = SHM_KGATE_OPEN;
	rig_attach(&r);
	call_by_threads();
	assert_int_equal(bpf_map_lookup_elem(direct[1], &zero, &value), 0);
	assert_int_equal(value, N_THREADS * CALLS);
	assert_int_equal(shm_map_count(r.arena, &r.geo[0]), 0);
	close(direct[1]);
	rig_free(&r);
}

static void test_array(void **state)
{
	static const struct bpf_insn prog[] = {
		I(BPF_ST | BPF_MEM | BPF_W, 10, 0, -4, 3),
		STOREI(10, -16, 1),
		MAP(1, 0),
		MOV(2, 10),
		ADDI(2, -4),
		MOV(3, 10),
		ADDI(3, -16),
		CALL(VM_HELPER_MAP_ADD),
		EXIT,
	};
	struct rig r = {0};

	rig_map(&r, BPF_MAP_TYPE_PERCPU_ARRAY, 4, 8, 4);
	rig_arena(&r);
	rig_load(&r, prog, COUNT(prog), NULL);
	hdr(&r)->kgate = SHM_KGATE_OPEN;
	rig_attach(&r);
	call_by_threads();
	assert_int_equal(sum_all(&r, &r.geo[0]), N_THREADS * CALLS);
	rig_free(&r);
}

static void test_refusals(void **state)
{
	static const struct bpf_insn address[] = {
		I(BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_VALUE, 0, 0),
		I(0, 0, 0, 0, 0),
		MOVI(0, 0),
		EXIT,
	};
	static const struct bpf_insn callback[] = {
		I(BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_FUNC, 0, 2),
		I(0, 0, 0, 0, 0),
		MOVI(0, 0),
		EXIT,
	};
	static const struct bpf_insn peek[] = {
		MAP(1, 0), MOV(2, 10), ADDI(2, -8), CALL(BPF_FUNC_map_peek_elem), EXIT,
	};
	static const struct bpf_insn uninitialised[] = {
		MOV(0, 9),
		EXIT,
	};
	static const struct {
		const struct bpf_insn *insns;
		size_t n;
		int want;
		const char *says;
	} bad[] = {
		{address, COUNT(address), -EOPNOTSUPP, "address"},
		{callback, COUNT(callback), -EOPNOTSUPP, "address of a kind"},
		{peek, COUNT(peek), -EOPNOTSUPP, "bpf_map_peek_elem"},
		{uninitialised, COUNT(uninitialised), -EACCES, "R9 !read_ok"},
	};
	struct rig r = {.event = -1, .prog = -1};

	rig_map(&r, BPF_MAP_TYPE_HASH, 8, 8, 10);
	rig_arena(&r);
	for (size_t i = 0; i < COUNT(bad); i++) {
		struct khalf_opts opts = rig_opts(&r, NULL);
		char err[256] = "";
		int ret = khalf_load(bad[i].insns, bad[i].n, &opts, err, sizeof(err));

		assert_int_equal(ret, bad[i].want);
		if (!strstr(err, bad[i].says))
			fail_msg("\"%s\" does not say \"%s\"", err, bad[i].says);
	}
	rig_free(&r);
}

static int run_raw(const struct rig *r)
{
	LIBBPF_OPTS(bpf_test_run_opts, run);

	assert_int_equal(bpf_prog_test_run_opts(r->prog, &run), 0);
	return (int)run.retval;
}

/* At a tracepoint: closed it counts, open it works too, and need not count; the daemon's own hits are served and not
 * counted, on demand. */
static void test_tracepoint(void **state)
{
	const struct bpf_insn insns[] = {
		STOREI(10, -8, 0),
		MAP(1, 0),
		MOV(2, 10),
		ADDI(2, -8),
		CALL(BPF_FUNC_map_lookup_elem),
		JEQI(0, 0, 3),
		LOAD(1, 0, 0),
		ADDI(1, 1),
		STORE(0, 0, 1),
		MOVI(0, 7),
		EXIT,
	};

	for (int spares = 0; spares < 2; spares++) {
		struct rig r = {.event = -1, .prog = -1};
		struct khalf_opts opts;
		char err[256] = "";
		uint64_t key = 0; /* of four bytes, but the functions read whole words */
		uint64_t *value;

		rig_map(&r, BPF_MAP_TYPE_ARRAY, 4, 8, 1);
		rig_arena(&r);
		opts = rig_opts(&r, NULL);
		opts.prog_type = BPF_PROG_TYPE_RAW_TRACEPOINT;
		opts.spares_daemon = opts.has_own_stack = spares;
		r.prog = khalf_load(insns, COUNT(insns), &opts, err, sizeof(err));
		if (r.prog < 0)
			fail_msg("%s", err);
		hdr(&r)->daemon = SHM_NOBODY;
		hdr(&r)->kgate = SHM_KGATE_COUNTS;
		value = shm_map_lookup(r.arena, &r.geo[0], &key, 0);
		assert_int_equal(run_raw(&r), 0);
		assert_int_equal(hdr(&r)->kgate, SHM_KGATE_COUNTS | 1);
		assert_int_equal(*value, 0);
		hdr(&r)->kgate |= SHM_KGATE_OPEN;
		run_raw(&r);
		assert_true(hdr(&r)->kgate == (SHM_KGATE_OPEN | SHM_KGATE_COUNTS | 2));
		assert_int_equal(*value, 1);
		hdr(&r)->daemon = (uint32_t)getpid();
		run_raw(&r);
		assert_true(hdr(&r)->kgate == (SHM_KGATE_OPEN | SHM_KGATE_COUNTS | (spares ? 2 : 3)));
		assert_int_equal(*value, 2);
		hdr(&r)->kgate &= ~SHM_KGATE_OPEN;
		run_raw(&r);
		assert_int_equal(hdr(&r)->kgate, SHM_KGATE_COUNTS | (spares ? 2 : 4));
		assert_int_equal(*value, 2);
		hdr(&r)->daemon = SHM_NOBODY;
		hdr(&r)->kgate = SHM_KGATE_OPEN;
		run_raw(&r);
		assert_true(hdr(&r)->kgate == SHM_KGATE_OPEN);
		assert_int_equal(*value, 3);
		rig_free(&r);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_refusals),      cmocka_unit_test(test_count),
		cmocka_unit_test(test_array),	      cmocka_unit_test(test_in_place),
		cmocka_unit_test(test_insert_delete), cmocka_unit_test(test_tracepoint),
	};

	n_cpus = (uint32_t)libbpf_num_possible_cpus();
	libbpf_set_print(NULL);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
