// SPDX-License-Identifier: MIT
/*
 * vm_run.c: how long one program takes, for tests/bench/vm: natively by gcc and clang, by the JIT, by the interpreter,
 * and by the kernel's JIT. One line each: name and nanoseconds. All of them in turns, many short runs: medians.
 *
 *   vm_run program NAME FOLDER     FOLDER has NAME.bpf.o, NAME.gcc.so, NAME.clang.so and NAME.march.so (clang for this
 * CPU) vm_run call                    a compiled program that only returns vm_run compile WORKER          programs of
 * 100 and of 10,000 instructions, by a warm worker: milliseconds
 */
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <bpf/bpf.h>

#include "tests/bench/vm_programs/program.h"
#include "vm-llvm/elf.h"
#include "vm-llvm/vm.h"
#include "vm-llvm/worker.h"

#define ROUNDS	    41
#define ROUND_NS    1000000.0 /* of one engine in one round */
#define MAX_RUNS    1000000u
#define ERR_SIZE    512
#define WAIT_MS	    60000
#define PACKET	    64 /* bytes of the packet that the kernel runs the program on, which does not look at it */
#define MAX_ENGINES 8
#define ROW	    16

struct engine {
	const char *name;
	uint64_t (*call)(struct engine *e, uint32_t runs); /* the last result; runs it that often */
	uint64_t (*code)(uint64_t r1, uint64_t r2, struct vm_env *env);
	const struct bpf_insn *insns; /* with the address of the data */
	size_t n_insns;
	int fd;
	double took[ROUNDS];
	uint32_t runs; /* per round */
};

static void die(const char *what, const char *why)
{
	fprintf(stderr, "vm_run: %s: %s\n", what, why);
	exit(1);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static uint64_t call_code(struct engine *e, uint32_t runs)
{
	struct vm_env env = {0};
	uint64_t r = 0;

	while (runs--)
		r = e->code(0, 0, &env);
	return r;
}

static uint64_t call_interp(struct engine *e, uint32_t runs)
{
	static const struct vm_interp_opts o = {.sz = sizeof(o), .trusted = 1};
	char err[ERR_SIZE];
	uint64_t r = 0;

	while (runs--)
		if (vm_interpret(e->insns, e->n_insns, NULL, &o, &r, err, sizeof(err)))
			die("interpreter", err);
	return r;
}

static uint64_t call_kernel(struct engine *e, uint32_t runs)
{
	char packet[PACKET] = {0};
	LIBBPF_OPTS(bpf_test_run_opts, o, .data_in = packet, .data_size_in = sizeof(packet), .repeat = (int)runs);

	if (bpf_prog_test_run_opts(e->fd, &o))
		die("BPF_PROG_RUN", strerror(errno));
	return o.retval;
}

/* ---- what is measured ---- */

static void add_native(struct engine *e, const char *folder, const char *name, const char *compiler,
		       const struct bench_program **p)
{
	const struct bench_program *(*get)(void);
	char path[512];
	void *lib;

	snprintf(path, sizeof(path), "%s/%s.%s.so", folder, name, compiler);
	lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!lib)
		die(path, dlerror());
	*(void **)&get = dlsym(lib, "bench_program");
	*p = get();
	(*p)->prepare();
	e->name = compiler;
	e->call = call_code;
	*(void **)&e->code = *(void **)&(*p)->run;
}

static void *map_code(const struct vm_code *code)
{
	void *at = mmap(NULL, code->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		die("mmap", strerror(errno));
	memcpy(at, code->bytes, code->size);
	if (mprotect(at, code->size, PROT_READ | PROT_EXEC))
		die("mprotect", strerror(errno));
	return (uint8_t *)at + code->entry;
}

static void compile(struct engine *e, const struct bpf_insn *insns, size_t n)
{
	struct vm_compile_opts o = {.sz = sizeof(o), .env_calls = 1, .verified = 1, .native = 1};
	struct vm_code code;
	char err[ERR_SIZE];

	if (vm_compile(insns, n, &o, &code, err, sizeof(err)))
		die("JIT", err);
	*(void **)&e->code = map_code(&code);
	vm_code__clear(&code);
}

/* The program with the address of its data, or the descriptor of the map that holds it. */
static struct bpf_insn *bind(const struct vm_elf_prog *p, int fd, void *data)
{
	struct bpf_insn *in = malloc(p->n_insns * sizeof(*in));

	memcpy(in, p->insns, p->n_insns * sizeof(*in));
	for (size_t i = 0; i < p->n_insns; i++) {
		if (in[i].code != (BPF_LD | BPF_IMM | BPF_DW) || in[i++].src_reg != BPF_PSEUDO_MAP_VALUE)
			continue;
		if (fd >= 0) {
			in[i - 1].imm = fd;
		} else {
			uint64_t at = (uintptr_t)data + (uint32_t)in[i].imm;

			in[i - 1].src_reg = 0;
			in[i - 1].imm = (int32_t)(uint32_t)at;
			in[i].imm = (int32_t)(at >> 32);
		}
	}
	return in;
}

static int load(const struct bpf_insn *insns, size_t n)
{
	static char log[1 << 20];
	LIBBPF_OPTS(bpf_prog_load_opts, o, .log_buf = log, .log_size = sizeof(log));
	int fd = bpf_prog_load(BPF_PROG_TYPE_SOCKET_FILTER, "bench", "Dual MIT/GPL", insns, n, &o);

	if (fd < 0) {
		o.log_level = 1;
		bpf_prog_load(BPF_PROG_TYPE_SOCKET_FILTER, "bench", "Dual MIT/GPL", insns, n, &o);
		die("the kernel refuses the program", strlen(log) > 600 ? log + strlen(log) - 600 : log);
	}
	return fd;
}

static int load_program(const struct vm_elf_prog *p, const struct bench_program *native)
{
	int map = bpf_map_create(BPF_MAP_TYPE_ARRAY, "bench_data", sizeof(uint32_t), (uint32_t)native->size, 1, NULL);
	uint32_t zero = 0;

	if (map < 0 || bpf_map_update_elem(map, &zero, native->data, 0))
		die("map", strerror(errno));
	return load(bind(p, map, NULL), p->n_insns);
}

/* ---- measuring ---- */

static double median(double *v, size_t n)
{
	for (size_t i = 1; i < n; i++)
		for (size_t k = i; k && v[k] < v[k - 1]; k--) {
			double t = v[k];

			v[k] = v[k - 1];
			v[k - 1] = t;
		}
	return v[n / 2];
}

static double once(struct engine *e, uint32_t runs)
{
	double begin = now();

	e->call(e, runs);
	return (now() - begin) / runs;
}

static void measure(struct engine *e, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		double guess;

		e[i].call(&e[i], 3);
		guess = once(&e[i], 10);
		e[i].runs = guess * MAX_RUNS < ROUND_NS ? MAX_RUNS : (uint32_t)(ROUND_NS / guess) + 1;
	}
	for (size_t round = 0; round < ROUNDS; round++)
		for (size_t i = 0; i < n; i++)
			e[i].took[round] = once(&e[i], e[i].runs);
	for (size_t i = 0; i < n; i++)
		printf("%s %.3f\n", e[i].name, median(e[i].took, ROUNDS));
}

static void program(const char *name, const char *folder)
{
	const struct bench_program *by_gcc, *other;
	const struct bpf_insn nothing[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K}, {.code = BPF_JMP | BPF_EXIT}};
	struct engine e[MAX_ENGINES] = {0};
	char path[512], err[ERR_SIZE];
	struct vm_elf *elf;
	uint64_t want;
	void *data;
	size_t n = 7;

	snprintf(path, sizeof(path), "%s/%s.bpf.o", folder, name);
	if (vm_elf__open(path, &elf, err, sizeof(err)))
		die("object file", err);
	add_native(&e[0], folder, name, "gcc", &by_gcc);
	add_native(&e[1], folder, name, "clang", &other);
	add_native(&e[2], folder, name, "march", &other);
	if (posix_memalign(&data, 64, by_gcc->size))
		die("memory", strerror(errno));
	memcpy(data, by_gcc->data, by_gcc->size);
	e[3].insns = bind(&elf->progs[0], -1, data);
	e[3].n_insns = elf->progs[0].n_insns;
	e[3].name = "jit";
	e[3].call = call_code;
	compile(&e[3], e[3].insns, e[3].n_insns);
	e[4] = e[3];
	e[4].name = "interp";
	e[4].call = call_interp;
	e[5].name = "kernel";
	e[5].call = call_kernel;
	e[5].fd = load_program(&elf->progs[0], by_gcc);
	e[6].name = "kernel_empty"; /* what running costs by itself */
	e[6].call = call_kernel;
	e[6].fd = load(nothing, 2);
	want = e[0].call(&e[0], 1);
	for (size_t i = 1; i < n - 1; i++) {
		uint64_t got = e[i].call(&e[i], 1);

		if (e[i].call == call_kernel ? (uint32_t)got != (uint32_t)want : got != want)
			die(e[i].name, "another result than by gcc");
	}
	measure(e, n);
	vm_elf__free(elf);
}

/* In rows, so that what is counted is calls, not the loop around them. */
static uint64_t call_row(struct engine *e, uint32_t runs)
{
	uint64_t (*code)(uint64_t r1, uint64_t r2, struct vm_env * env) = e->code;
	struct vm_env env = {0};
	uint64_t r = 0;

	for (uint32_t i = 0; i < runs / ROW; i++) {
#pragma GCC unroll 16
		for (unsigned int k = 0; k < ROW; k++)
			r = code(0, 0, &env);
	}
	return r;
}

static void call_only(void)
{
	const struct bpf_insn nothing[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K}, {.code = BPF_JMP | BPF_EXIT}};
	struct engine e = {.name = "call", .call = call_row};

	compile(&e, nothing, 2);
	measure(&e, 1);
}

/* ---- how long compiling takes ---- */

/*
 * Loads, stores, arithmetic and branches in the shares that programs commonly have: a sixth of it branches, some of
 * them to the end, and stores that depend on them.
 */
static size_t synthetic(struct bpf_insn *in, size_t n)
{
	static const struct bpf_insn block[] = {
		{.code = BPF_LDX | BPF_MEM | BPF_DW, .dst_reg = 2, .src_reg = 1, .off = 8},
		{.code = BPF_ALU64 | BPF_ADD | BPF_X, .dst_reg = 0, .src_reg = 2},
		{.code = BPF_STX | BPF_MEM | BPF_DW, .dst_reg = 10, .src_reg = 0, .off = -16},
		{.code = BPF_JMP | BPF_JGT | BPF_K, .dst_reg = 2, .off = 3, .imm = 7},
		{.code = BPF_ALU64 | BPF_XOR | BPF_X, .dst_reg = 0, .src_reg = 2},
		{.code = BPF_ALU | BPF_MUL | BPF_K, .dst_reg = 0, .imm = 13},
		{.code = BPF_STX | BPF_MEM | BPF_W, .dst_reg = 1, .src_reg = 0, .off = 16},
		{.code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = 3, .src_reg = 10, .off = -16},
		{.code = BPF_ALU64 | BPF_RSH | BPF_K, .dst_reg = 0, .imm = 3},
		{.code = BPF_JMP | BPF_JEQ | BPF_X, .dst_reg = 0, .src_reg = 3, .off = 1},
		{.code = BPF_ALU64 | BPF_SUB | BPF_X, .dst_reg = 0, .src_reg = 3},
	};
	const size_t per = sizeof(block) / sizeof(block[0]);
	size_t at = 0;

	in[at++] = (struct bpf_insn){.code = BPF_ALU64 | BPF_MOV | BPF_K};
	for (int16_t k = 0; at + per < n - 1; k++) {
		memcpy(in + at, block, sizeof(block));
		in[at].off = (int16_t)(k % 100 * 8);
		in[at + 3].imm = k;
		in[at + 6].off = (int16_t)(k % 50 * 8);
		if (k % 5 == 0)
			in[at + 9].off = (int16_t)(n - (at + 9) - 2 < INT16_MAX ? n - (at + 9) - 2 : 1);
		at += per;
	}
	while (at < n - 1)
		in[at++] = (struct bpf_insn){.code = BPF_ALU64 | BPF_ADD | BPF_K, .imm = 1};
	in[at++] = (struct bpf_insn){.code = BPF_JMP | BPF_EXIT};
	return at;
}

static void compile_times(const char *path)
{
	static const size_t sizes[] = {100, 1000, 10000};
	struct vm_worker *w = vm_worker__new(path, NULL);
	struct bpf_insn *in = malloc(10000 * sizeof(*in));
	struct vm_compile_opts o = {.sz = sizeof(o), .env_calls = 1, .verified = 1, .native = 1};
	char err[ERR_SIZE];
	double took[9];

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		size_t n = synthetic(in, sizes[i]), rounds = sizes[i] > 5000 ? 3 : 9;

		for (size_t k = 0; k <= rounds; k++) {
			struct vm_code code;
			double begin = now();

			if (vm_worker__compile(w, in, n, &o, WAIT_MS, &code, err, sizeof(err)))
				die("compile worker", err);
			if (k) /* the first one makes it warm */
				took[k - 1] = (now() - begin) / 1e6;
			vm_code__clear(&code);
		}
		printf("compile_%zu %.3f\n", sizes[i], median(took, rounds));
	}
	vm_worker__free(w);
	free(in);
}

int main(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "program"))
		program(argv[2], argv[3]);
	else if (argc == 2 && !strcmp(argv[1], "call"))
		call_only();
	else if (argc == 3 && !strcmp(argv[1], "compile"))
		compile_times(argv[2]);
	else
		die("usage", "vm_run program NAME FOLDER | call | compile WORKER");
	return 0;
}
