// SPDX-License-Identifier: MIT
/*
 * differ.c: the memory after each run is compared, which holds all registers and the stack as well. The kernel's map is
 * mapped here, so that it can be filled and looked at without a system call.
 */
#include "differ.h"
#include "generate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vm-llvm/bpftime-vm.h"

#define MAX_STEPS 1000000

struct differ {
	struct differ_counts counts;
	uint8_t *kernel_map;
	int map_fd; /* -1: no kernel */
	uint8_t map[GENERATED_MAP_SIZE] __attribute__((aligned(64)));
};

struct result {
	const char *who;
	struct generated_ctx ctx;
	uint8_t map[GENERATED_MAP_SIZE];
};

static int bpf(int cmd, union bpf_attr *attr)
{
	long r = syscall(SYS_bpf, cmd, attr, sizeof(*attr));

	return r < 0 ? -errno : (int)r;
}

static void open_kernel(struct differ *d)
{
	union bpf_attr attr = {.map_type = BPF_MAP_TYPE_ARRAY,
			       .key_size = 4,
			       .value_size = GENERATED_MAP_SIZE,
			       .max_entries = 1,
			       .map_flags = BPF_F_MMAPABLE};
	void *p;

	d->map_fd = bpf(BPF_MAP_CREATE, &attr);
	if (d->map_fd < 0)
		return;
	p = mmap(NULL, (size_t)getpagesize(), PROT_READ | PROT_WRITE, MAP_SHARED, d->map_fd, 0);
	if (p == MAP_FAILED) {
		close(d->map_fd);
		d->map_fd = -1;
		return;
	}
	d->kernel_map = p;
}

struct differ *differ__new(bool kernel)
{
	struct differ *d = aligned_alloc(64, (sizeof(*d) + 63) / 64 * 64);

	if (!d)
		return NULL;
	memset(d, 0, sizeof(*d));
	d->map_fd = -1;
	if (kernel)
		open_kernel(d);
	return d;
}

void differ__free(struct differ *d)
{
	if (d && d->map_fd >= 0) {
		munmap(d->kernel_map, (size_t)getpagesize());
		close(d->map_fd);
	}
	free(d);
}

const struct differ_counts *differ__counts(const struct differ *d)
{
	return &d->counts;
}

bool differ__has_kernel(const struct differ *d)
{
	return d->map_fd >= 0;
}

/* ---- the kernel ---- */

/* 0, or -errno when the verifier refuses the program. */
static int by_kernel(struct differ *d, const struct generated *g, struct result *out)
{
	struct bpf_insn insns[GENERATED_MAX_INSNS];
	union bpf_attr attr = {.prog_type = BPF_PROG_TYPE_SYSCALL, .insn_cnt = (uint32_t)g->n};
	int fd, r;

	memcpy(insns, g->insns, g->n * sizeof(*insns));
	for (size_t i = 0; i < g->n; i++)
		if (insns[i].code == (BPF_LD | BPF_IMM | BPF_DW) && insns[i].src_reg == BPF_PSEUDO_MAP_VALUE)
			insns[i].imm = d->map_fd;
	attr.insns = (uintptr_t)insns;
	attr.license = (uintptr_t) "Dual MIT/GPL";
	attr.prog_flags = BPF_F_SLEEPABLE;
	fd = bpf(BPF_PROG_LOAD, &attr);
	if (fd < 0)
		return fd;
	out->ctx = g->ctx;
	memcpy(d->kernel_map, g->map, sizeof(g->map));
	memset(&attr, 0, sizeof(attr));
	attr.test.prog_fd = (uint32_t)fd;
	attr.test.ctx_in = (uintptr_t)&out->ctx;
	attr.test.ctx_size_in = sizeof(out->ctx);
	r = bpf(BPF_PROG_TEST_RUN, &attr);
	memcpy(out->map, d->kernel_map, sizeof(out->map));
	close(fd);
	return r;
}

/* ---- our two engines ---- */

static uint64_t copy(void *user, uint64_t to, uint64_t size, uint64_t from, uint64_t r4, uint64_t r5)
{
	memmove((void *)(uintptr_t)to, (const void *)(uintptr_t)from, size);
	return 0;
}

static int resolve(void *user, const struct bpf_insn *insn, uint64_t *value)
{
	struct differ *d = user;

	*value = (uintptr_t)d->map;
	return insn->imm == GENERATED_MAP ? 0 : -ENOENT;
}

static int by_interpreter(struct differ *d, const struct bpftime_vm *vm, const struct generated *g, struct result *out,
			  char *err, size_t err_size)
{
	const struct bpftime_vm_region map = {(uintptr_t)d->map, sizeof(d->map), 1};
	const struct bpftime_vm_run_opts opts = {
		.sz = sizeof(opts), .max_steps = MAX_STEPS, .regions = &map, .n_regions = 1};
	uint64_t r0 = 0;
	int r;

	out->ctx = g->ctx;
	memcpy(d->map, g->map, sizeof(d->map));
	r = bpftime_vm__interpret(vm, &out->ctx, sizeof(out->ctx), &opts, &r0, err, err_size);
	memcpy(out->map, d->map, sizeof(out->map));
	return r;
}

/* All ways to compile get their programs. */
static int by_native_code(struct differ *d, struct bpftime_vm *vm, const struct generated *g, uint64_t seed,
			  struct result *out, char *err, size_t err_size)
{
	const struct bpftime_vm_compile_opts opts = {
		.sz = sizeof(opts), .verified = g->kernel && seed % 2, .portable = seed % 16 == 5};
	int r = bpftime_vm__compile(vm, &opts, err, err_size);
	uint64_t r0;

	if (r)
		return r;
	out->ctx = g->ctx;
	memcpy(d->map, g->map, sizeof(d->map));
	r = bpftime_vm__call(vm, &out->ctx, sizeof(out->ctx), &r0);
	memcpy(out->map, d->map, sizeof(out->map));
	return r;
}

/* ---- the three ---- */

static void print_program(const struct generated *g)
{
	for (size_t i = 0; i < g->n; i++) {
		const uint8_t *b = (const uint8_t *)(g->insns + i);

		fprintf(stderr, "%4zu: %02x %02x %02x %02x %02x %02x %02x %02x\n", i, b[0], b[1], b[2], b[3], b[4],
			b[5], b[6], b[7]);
	}
}

static bool same(const struct generated *g, uint64_t seed, const struct result *a, const struct result *b)
{
	const uint64_t *x = (const uint64_t *)&a->ctx, *y = (const uint64_t *)&b->ctx;

	if (!memcmp(&a->ctx, &b->ctx, sizeof(a->ctx)) && !memcmp(a->map, b->map, sizeof(a->map)))
		return true;
	fprintf(stderr, "seed %llu: %s and %s differ\n", (unsigned long long)seed, a->who, b->who);
	for (size_t i = 0; i < sizeof(a->ctx) / 8; i++)
		if (x[i] != y[i])
			fprintf(stderr, "context + %zu: %#llx and %#llx\n", i * 8, (unsigned long long)x[i],
				(unsigned long long)y[i]);
	for (size_t i = 0; i < sizeof(a->map); i++)
		if (a->map[i] != b->map[i])
			fprintf(stderr, "map + %zu: %#x and %#x\n", i, a->map[i], b->map[i]);
	print_program(g);
	return false;
}

bool differ__run(struct differ *d, uint64_t seed)
{
	static const struct bpftime_vm_helper helpers[] = {{GENERATED_COPY, copy}};
	const struct bpftime_vm_opts opts = {
		.sz = sizeof(opts), .helpers = helpers, .n_helpers = 1, .user = d, .resolve = resolve};
	struct result interpreter = {.who = "the interpreter"}, native = {.who = "native code"},
		      kernel = {.who = "the kernel"};
	struct bpftime_vm *vm = NULL;
	char err[256] = "";
	struct generated g;
	bool ok;

	generate(&g, seed);
	ok = !bpftime_vm__new(&vm, g.insns, g.n, &opts, err, sizeof(err)) &&
	     !by_interpreter(d, vm, &g, &interpreter, err, sizeof(err)) &&
	     !by_native_code(d, vm, &g, seed, &native, err, sizeof(err));
	bpftime_vm__free(vm);
	if (!ok) {
		fprintf(stderr, "seed %llu: %s\n", (unsigned long long)seed, err);
		print_program(&g);
		return false;
	}
	d->counts.programs++;
	d->counts.instructions += g.n;
	ok = same(&g, seed, &interpreter, &native);
	if (d->map_fd >= 0 && g.kernel && !by_kernel(d, &g, &kernel)) {
		d->counts.kernel++;
		ok &= same(&g, seed, &interpreter, &kernel);
	}
	return ok;
}
