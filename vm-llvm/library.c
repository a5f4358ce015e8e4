// SPDX-License-Identifier: MIT
/*
 * library.c: the functions of bpftime-vm.h on top of vm.h: programs as objects, options with sizes, helpers in a table.
 */
#include "bpftime-vm.h"
#include "insn.h"
#include "vm.h"
#include "worker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MAX_HELPERS	   4096
#define WORKER_TIMEOUT_MS  30000
#define SAME_PLACE(member) (offsetof(struct bpftime_vm_env, member) == offsetof(struct vm_env, member))
#define SAME_BIT(name)	   ((int)BPFTIME_VM_##name == (int)VM_FEATURE_##name)

_Static_assert(SAME_PLACE(user) && SAME_PLACE(helpers) && SAME_PLACE(tail_call) && SAME_PLACE(packet) &&
		       SAME_PLACE(tail_calls) && SAME_PLACE(fault) && SAME_PLACE(owner) &&
		       sizeof(struct bpftime_vm_env) == sizeof(struct vm_env),
	       "one layout in both headers");
_Static_assert(SAME_BIT(TAIL_CALL) && SAME_BIT(CALLX) && SAME_BIT(FUNC_ADDR) && SAME_BIT(PACKET) && SAME_BIT(KFUNC) &&
		       SAME_BIT(MAP_IDX) && SAME_BIT(BTF_ID),
	       "the same bits in both headers");
_Static_assert(sizeof(struct bpftime_vm_region) == sizeof(struct vm_region), "one layout in both headers");

struct bpftime_vm {
	struct bpf_insn *insns;
	uint8_t *kinds;
	struct vm_program program; /* the same, as the interpreter wants it */
	struct bpftime_vm_opts opts;
	/* Sorted by number: ids[i] is what table[i] does. */
	uint32_t *ids;
	bpftime_vm_helper_fn **table;
	size_t n_helpers;
	struct vm_code code;
	void *mem; /* the code, mapped */
	bpftime_vm_fn *fn;
};

const char *bpftime_vm_version(void)
{
	return BPFTIMED_VERSION;
}

/* Options of a caller that may be older or newer than we. */
static int take_opts(void *to, size_t size, const void *from, char *err, size_t err_size)
{
	const uint8_t *bytes = from;
	size_t given;

	memset(to, 0, size);
	if (!from)
		return 0;
	memcpy(&given, from, sizeof(given));
	for (size_t i = size; i < given; i++)
		if (bytes[i])
			return vm_fail(err, err_size, -E2BIG,
				       "the options have members that this version of the library does not know");
	memcpy(to, from, given < size ? given : size);
	return 0;
}

/* ---- helpers ---- */

static int by_id(const void *a, const void *b)
{
	uint32_t x = ((const struct bpftime_vm_helper *)a)->id, y = ((const struct bpftime_vm_helper *)b)->id;

	return (x > y) - (x < y);
}

static int copy_helpers(struct bpftime_vm *vm, char *err, size_t err_size)
{
	size_t n = vm->opts.n_helpers;
	struct bpftime_vm_helper *sorted;
	int r = 0;

	if (n > MAX_HELPERS)
		return vm_fail(err, err_size, -E2BIG, "more than %d helpers", MAX_HELPERS);
	sorted = calloc(n + 1, sizeof(*sorted));
	vm->ids = calloc(n + 1, sizeof(*vm->ids));
	vm->table = calloc(n + 1, sizeof(*vm->table));
	if (!sorted || !vm->ids || !vm->table) {
		free(sorted);
		return vm_fail(err, err_size, -ENOMEM, "no memory for %zu helpers", n);
	}
	if (n)
		memcpy(sorted, vm->opts.helpers, n * sizeof(*sorted));
	qsort(sorted, n, sizeof(*sorted), by_id);
	for (size_t i = 0; i < n && !r; i++) {
		if (!sorted[i].fn || (i && sorted[i].id == sorted[i - 1].id))
			r = vm_fail(err, err_size, -EINVAL, "helper %u has %s", sorted[i].id,
				    sorted[i].fn ? "two functions" : "no function");
		vm->ids[i] = sorted[i].id;
		vm->table[i] = sorted[i].fn;
	}
	vm->n_helpers = n;
	free(sorted);
	return r;
}

static bpftime_vm_helper_fn *find_helper(const struct bpftime_vm *vm, uint32_t id)
{
	size_t lo = 0, hi = vm->n_helpers;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (vm->ids[mid] == id)
			return vm->table[mid];
		if (vm->ids[mid] < id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

/* ---- programs ---- */

static int no_resolve(void *user, const struct bpf_insn *insn, uint64_t *value)
{
	return -EOPNOTSUPP;
}

static int fill(struct bpftime_vm *vm, const struct bpf_insn *insns, size_t n_insns, char *err, size_t err_size)
{
	int r = copy_helpers(vm, err, err_size);

	if (r)
		return r;
	r = vm_validate_features(insns, n_insns, vm->opts.features, err, err_size);
	if (r)
		return r;
	vm->insns = malloc(n_insns * sizeof(*insns));
	if (!vm->insns)
		return vm_fail(err, err_size, -ENOMEM, "no memory for a program of %zu instructions", n_insns);
	memcpy(vm->insns, insns, n_insns * sizeof(*insns));
	r = vm_resolve(vm->insns, n_insns, vm->opts.resolve ? vm->opts.resolve : no_resolve, vm->opts.user, err,
		       err_size);
	if (r)
		return r;
	vm->kinds = vm_kinds(vm->insns, n_insns);
	if (!vm->kinds)
		return vm_fail(err, err_size, -ENOMEM, "no memory for a program of %zu instructions", n_insns);
	vm->program = (struct vm_program){.insns = vm->insns, .n_insns = n_insns, .kinds = vm->kinds};
	return 0;
}

int bpftime_vm__new(struct bpftime_vm **out, const struct bpf_insn *insns, size_t n_insns,
		    const struct bpftime_vm_opts *opts, char *err, size_t err_size)
{
	struct bpftime_vm *vm = calloc(1, sizeof(*vm));
	int r;

	*out = NULL;
	if (!vm)
		return vm_fail(err, err_size, -ENOMEM, "no memory for a program");
	r = take_opts(&vm->opts, sizeof(vm->opts), opts, err, err_size);
	if (!r)
		r = fill(vm, insns, n_insns, err, err_size);
	if (r) {
		bpftime_vm__free(vm);
		return r;
	}
	*out = vm;
	return 0;
}

void bpftime_vm__free(struct bpftime_vm *vm)
{
	if (!vm)
		return;
	if (vm->mem)
		vm_code__unmap(&vm->code, vm->mem);
	vm_code__clear(&vm->code);
	free(vm->table);
	free(vm->ids);
	free(vm->kinds);
	free(vm->insns);
	free(vm);
}

int bpftime_vm_validate(const struct bpf_insn *insns, size_t n_insns, uint32_t features, char *err, size_t err_size)
{
	return vm_validate_features(insns, n_insns, features, err, err_size);
}

const struct bpf_insn *bpftime_vm__insns(const struct bpftime_vm *vm, size_t *n)
{
	*n = vm->program.n_insns;
	return vm->insns;
}

/* ---- the interpreter ---- */

struct run {
	const struct bpftime_vm *vm;
	struct bpftime_vm_run_opts opts;
};

static uint64_t run_helper(void *env, uint32_t id, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	const struct run *run = env;

	return find_helper(run->vm, id)(run->vm->opts.user, r1, r2, r3, r4, r5);
}

static int run_has_helper(void *env, uint32_t id)
{
	const struct run *run = env;

	return find_helper(run->vm, id) != NULL;
}

static int run_allowed(void *env, uint64_t addr, uint32_t size, int write)
{
	const struct run *run = env;

	return run->opts.allowed && run->opts.allowed(run->vm->opts.user, addr, size, write);
}

static const struct vm_program *run_tail_call(void *env, uint64_t ctx, uint64_t map, uint32_t index)
{
	struct run *run = env;
	const struct bpftime_vm *next = NULL;

	if (run->vm->opts.tail_call)
		next = run->vm->opts.tail_call(run->vm->opts.user, ctx, map, index);
	return next ? &next->program : NULL;
}

static int64_t run_packet(void *env, uint64_t ctx, uint32_t offset, uint32_t size)
{
	const struct run *run = env;

	return run->vm->opts.packet ? run->vm->opts.packet(run->vm->opts.user, ctx, offset, size) : -1;
}

int bpftime_vm__interpret(const struct bpftime_vm *vm, void *mem, size_t mem_size,
			  const struct bpftime_vm_run_opts *opts, uint64_t *r0, char *err, size_t err_size)
{
	struct run run = {.vm = vm};
	int r = take_opts(&run.opts, sizeof(run.opts), opts, err, err_size);
	struct vm_interp_opts o = {
		.sz = sizeof(o),
		.helper = run_helper,
		.has_helper = run_has_helper,
		.env = &run,
		.max_steps = run.opts.max_steps,
		.r2 = mem_size,
		.features = vm->opts.features,
		.trusted = 1,
		.kinds = vm->kinds,
		.memory = {(uintptr_t)mem, mem_size, 1},
		.check_memory = !run.opts.unchecked,
		.regions = (const struct vm_region *)run.opts.regions,
		.n_regions = run.opts.n_regions,
		.allowed = run_allowed,
		.tail_call = run_tail_call,
		.packet = run_packet,
	};

	return r ? r : vm_interpret(vm->insns, vm->program.n_insns, mem, &o, r0, err, err_size);
}

/* ---- native code ---- */

static int64_t no_packet(void *user, uint64_t ctx, uint32_t offset, uint32_t size)
{
	return -1;
}

/* The two programs share env, so what it says must hold for both. */
static bool same_helpers(const struct bpftime_vm *a, const struct bpftime_vm *b)
{
	return a->n_helpers == b->n_helpers && a->opts.user == b->opts.user &&
	       !memcmp(a->ids, b->ids, a->n_helpers * sizeof(*a->ids)) &&
	       !memcmp(a->table, b->table, a->n_helpers * sizeof(*a->table));
}

static uint64_t (*call_tail_call(struct vm_env *env, uint64_t ctx, uint64_t map,
				 uint32_t index))(uint64_t r1, uint64_t r2, struct vm_env *env)
{
	const struct bpftime_vm *vm = env->owner, *next = NULL;

	if (vm->opts.tail_call)
		next = vm->opts.tail_call(env->user, ctx, map, index);
	if (!next || !same_helpers(vm, next))
		return NULL;
	return (uint64_t(*)(uint64_t, uint64_t, struct vm_env *))next->fn;
}

static int compile_in_worker(struct bpftime_vm *vm, const struct vm_compile_opts *o,
			     const struct bpftime_vm_compile_opts *opts, char *err, size_t err_size)
{
	struct vm_worker *w = vm_worker__new(opts->worker, NULL);
	int r;

	if (!w)
		return vm_fail(err, err_size, -ENOMEM, "no memory for a worker");
	r = vm_worker__compile(w, vm->insns, vm->program.n_insns, o,
			       opts->timeout_ms > 0 ? opts->timeout_ms : WORKER_TIMEOUT_MS, &vm->code, err, err_size);
	vm_worker__free(w);
	return r;
}

int bpftime_vm__compile(struct bpftime_vm *vm, const struct bpftime_vm_compile_opts *given, char *err, size_t err_size)
{
	struct bpftime_vm_compile_opts opts;
	int r = take_opts(&opts, sizeof(opts), given, err, err_size);
	struct vm_compile_opts o = {
		.sz = sizeof(o),
		.bitcode = opts.bitcode,
		.bitcode_size = opts.bitcode_size,
		.env_calls = 1,
		.verified = opts.verified,
		.native = !opts.portable,
		.features = vm->opts.features,
		.helper_ids = vm->ids,
		.n_helper_ids = vm->n_helpers,
	};

	if (r)
		return r;
	if (vm->fn)
		return vm_fail(err, err_size, -EEXIST, "the program is compiled already");
	if (opts.worker)
		r = compile_in_worker(vm, &o, &opts, err, err_size);
	else
		r = vm_compile(vm->insns, vm->program.n_insns, &o, &vm->code, err, err_size);
	if (r)
		return r;
	vm->fn = (bpftime_vm_fn *)(uintptr_t)vm_code__map(&vm->code, &vm->mem);
	if (vm->fn)
		return 0;
	r = vm_fail(err, err_size, -errno, "%zu bytes of code cannot be mapped: %s", vm->code.size, strerror(errno));
	vm->mem = NULL;
	vm_code__clear(&vm->code);
	return r;
}

bpftime_vm_fn *bpftime_vm__function(const struct bpftime_vm *vm)
{
	return vm->fn;
}

void bpftime_vm__env(const struct bpftime_vm *vm, struct bpftime_vm_env *env)
{
	*env = (struct bpftime_vm_env){
		.user = vm->opts.user,
		.helpers = vm->table,
		.tail_call = (void *)(uintptr_t)call_tail_call,
		.packet = vm->opts.packet ? vm->opts.packet : no_packet,
		.owner = vm,
	};
}

int bpftime_vm__call(const struct bpftime_vm *vm, void *mem, size_t mem_size, uint64_t *r0)
{
	struct bpftime_vm_env env;

	if (!vm->fn)
		return -ENOENT;
	bpftime_vm__env(vm, &env);
	*r0 = vm->fn((uintptr_t)mem, mem_size, &env);
	return env.fault ? -EFAULT : 0;
}

const void *bpftime_vm__code(const struct bpftime_vm *vm, size_t *size, size_t *entry)
{
	*size = vm->code.size;
	*entry = vm->code.entry;
	return vm->code.bytes;
}
