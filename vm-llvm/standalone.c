// SPDX-License-Identifier: MIT
#include "standalone.h"
#include "disasm.h"
#include "insn.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MAX_BYTES     (1ull << 30) /* of one map */
#define COMM_SIZE     16	   /* TASK_COMM_LEN */
#define FNV_OFFSET    0xcbf29ce484222325ull
#define FNV_PRIME     0x100000001b3ull
#define NS_PER_SECOND 1000000000ull
#define PRINTK_ARGS   3 /* as many as bpf_trace_printk() takes */

struct entry {
	struct entry *next;
	uint8_t bytes[]; /* the key, then the value at value_at */
};

struct map {
	const struct vm_elf_map *def; /* NULL: no map */
	uint8_t *values;	      /* of arrays and data */
	size_t stride;		      /* bytes from one value to the next */
	struct entry **buckets;	      /* of hashes */
	size_t n_buckets;
	uint32_t count;
	size_t value_at;
};

struct vm_standalone {
	const struct vm_elf *elf;
	struct map *maps;
};

/* ---- maps ---- */

static bool is_array(uint32_t type)
{
	return type == BPF_MAP_TYPE_ARRAY || type == BPF_MAP_TYPE_PERCPU_ARRAY;
}

static bool is_hash(uint32_t type)
{
	return type == BPF_MAP_TYPE_HASH || type == BPF_MAP_TYPE_PERCPU_HASH || type == BPF_MAP_TYPE_LRU_HASH ||
	       type == BPF_MAP_TYPE_LRU_PERCPU_HASH;
}

static size_t align8(size_t n)
{
	return (n + 7) & ~(size_t)7;
}

/* False: no memory. Maps of other types, or of impossible sizes, stay without storage; bind() refuses them. */
static bool map_init(struct map *m, const struct vm_elf_map *def)
{
	m->def = def;
	m->stride = align8(def->value_size);
	m->value_at = align8(def->key_size);
	if (!def->value_size || !def->max_entries || m->stride * (uint64_t)def->max_entries > MAX_BYTES)
		return true;
	if (is_array(def->type) && def->key_size == sizeof(uint32_t)) {
		m->values = calloc(def->max_entries, m->stride);
		if (m->values && def->data)
			memcpy(m->values, def->data, def->value_size);
		return m->values;
	}
	if (is_hash(def->type) && def->key_size) {
		m->n_buckets = def->max_entries;
		m->buckets = calloc(m->n_buckets, sizeof(*m->buckets));
		return m->buckets;
	}
	return true;
}

struct vm_standalone *vm_standalone__new(const struct vm_elf *elf)
{
	struct vm_standalone *s = calloc(1, sizeof(*s));
	bool ok = s;

	if (ok) {
		s->elf = elf;
		s->maps = calloc(elf->n_maps + 1, sizeof(*s->maps));
		ok = s->maps;
	}
	for (size_t i = 0; ok && i < elf->n_maps; i++)
		ok = map_init(&s->maps[i], &elf->maps[i]);
	if (!ok) {
		vm_standalone__free(s);
		return NULL;
	}
	return s;
}

void vm_standalone__free(struct vm_standalone *s)
{
	if (!s)
		return;
	for (size_t i = 0; s->maps && i < s->elf->n_maps; i++) {
		struct map *m = &s->maps[i];

		for (size_t b = 0; m->buckets && b < m->n_buckets; b++)
			for (struct entry *e = m->buckets[b], *next; e; e = next) {
				next = e->next;
				free(e);
			}
		free(m->buckets);
		free(m->values);
	}
	free(s->maps);
	free(s);
}

/* Where the entry of this key hangs, or would. */
static struct entry **find(struct map *m, const void *key)
{
	const uint8_t *k = key;
	uint64_t hash = FNV_OFFSET;
	struct entry **at;

	for (uint32_t i = 0; i < m->def->key_size; i++)
		hash = (hash ^ k[i]) * FNV_PRIME;
	for (at = &m->buckets[(hash ^ hash >> 32) % m->n_buckets]; *at; at = &(*at)->next)
		if (!memcmp((*at)->bytes, key, m->def->key_size))
			break;
	return at;
}

static void *map_lookup(struct map *m, const void *key)
{
	struct entry *e;
	uint32_t i;

	if (m->buckets) {
		e = *find(m, key);
		return e ? e->bytes + m->value_at : NULL;
	}
	memcpy(&i, key, sizeof(i));
	return i < m->def->max_entries ? m->values + i * m->stride : NULL;
}

static int64_t map_update(struct map *m, const void *key, const void *value, uint64_t flags)
{
	void *old = map_lookup(m, key);
	struct entry **at, *e;

	if (flags > BPF_EXIST)
		return -EINVAL;
	if (old && flags == BPF_NOEXIST)
		return -EEXIST;
	if (!old && !m->buckets)
		return -E2BIG;
	if (!old && flags == BPF_EXIST)
		return -ENOENT;
	if (old) {
		memcpy(old, value, m->def->value_size);
		return 0;
	}
	if (m->count == m->def->max_entries)
		return -E2BIG;
	e = calloc(1, sizeof(*e) + m->value_at + m->stride);
	if (!e)
		return -ENOMEM;
	memcpy(e->bytes, key, m->def->key_size);
	memcpy(e->bytes + m->value_at, value, m->def->value_size);
	at = find(m, key);
	e->next = *at;
	*at = e;
	m->count++;
	return 0;
}

/* What programs still point into stays readable in the kernel; here it is gone. */
static int64_t map_delete(struct map *m, const void *key)
{
	struct entry **at, *e;

	if (!m->buckets)
		return -EINVAL;
	at = find(m, key);
	e = *at;
	if (!e)
		return -ENOENT;
	*at = e->next;
	free(e);
	m->count--;
	return 0;
}

/* ---- helpers ---- */

static void *pointer(uint64_t r)
{
	return (void *)(uintptr_t)r;
}

/* What programs hold for a map is its address; anything else is no map. */
static struct map *map_of(void *user, uint64_t r)
{
	struct vm_standalone *s = user;
	uint64_t off = r - (uintptr_t)s->maps;

	return off / sizeof(struct map) < s->elf->n_maps && off % sizeof(struct map) == 0 ? pointer(r) : NULL;
}

static uint64_t help_lookup(void *user, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	struct map *m = map_of(user, r1);

	return m && r2 ? (uintptr_t)map_lookup(m, pointer(r2)) : 0;
}

static uint64_t help_update(void *user, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	struct map *m = map_of(user, r1);

	return (uint64_t)(m && r2 && r3 ? map_update(m, pointer(r2), pointer(r3), r4) : -EINVAL);
}

static uint64_t help_delete(void *user, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	struct map *m = map_of(user, r1);

	return (uint64_t)(m && r2 ? map_delete(m, pointer(r2)) : -EINVAL);
}

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * NS_PER_SECOND + (uint64_t)t.tv_nsec;
}

static uint64_t help_ktime(void *user, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	return clock_ns(CLOCK_MONOTONIC);
}

static uint64_t help_boot_ns(void *user, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	return clock_ns(CLOCK_BOOTTIME);
}

/* One conversion of trace_printk's format, from behind its '%'. Returns where the format goes on. */
static const char *print_one(const char *at, const char *end, uint64_t arg, bool *used)
{
	int wide = 0;

	*used = true;
	while (at < end && (strchr("-+ #0123456789", *at)))
		at++;
	while (at < end && *at == 'l') {
		wide++;
		at++;
	}
	switch (at < end ? *at : 0) {
	case 'd':
	case 'i':
		fprintf(stderr, "%" PRId64, wide ? (int64_t)arg : (int32_t)arg);
		break;
	case 'u':
		fprintf(stderr, "%" PRIu64, wide ? arg : (uint32_t)arg);
		break;
	case 'x':
	case 'X':
		fprintf(stderr, "%" PRIx64, wide ? arg : (uint32_t)arg);
		break;
	case 'p':
		fprintf(stderr, "0x%" PRIx64, arg);
		break;
	case 'c':
		fputc((int)arg, stderr);
		break;
	case 's':
		fputs(arg ? pointer(arg) : "(null)", stderr);
		break;
	case '%':
		fputc('%', stderr);
		*used = false;
		break;
	default:
		*used = false;
		return at;
	}
	return at + 1;
}

static uint64_t help_printk(void *user, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	const uint64_t args[PRINTK_ARGS] = {r3, r4, r5};
	const char *at = pointer(r1), *end = at + (uint32_t)r2;
	unsigned int n = 0;
	bool used;

	if (!at)
		return (uint64_t)-EINVAL;
	while (at < end && *at) {
		if (*at != '%') {
			fputc(*at++, stderr);
			continue;
		}
		at = print_one(at + 1, end, n < PRINTK_ARGS ? args[n] : 0, &used);
		n += used;
	}
	if (at == pointer(r1) || at[-1] != '\n')
		fputc('\n', stderr); /* as in the kernel's trace_pipe: a line each */
	return (uint32_t)r2;
}

static uint64_t help_random(void *user, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	return (uint32_t)random() << 16 ^ (uint32_t)random();
}

static uint64_t help_cpu(void *user, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	return (uint32_t)sched_getcpu();
}

static uint64_t help_pid(void *user, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	return (uint64_t)getpid() << 32 | (uint32_t)syscall(SYS_gettid);
}

static uint64_t help_uid(void *user, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	return (uint64_t)getgid() << 32 | getuid();
}

static uint64_t help_comm(void *user, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	char comm[COMM_SIZE] = "";

	if (!r1 || !r2)
		return (uint64_t)-EINVAL;
	prctl(PR_GET_NAME, comm);
	memset(pointer(r1), 0, (uint32_t)r2);
	memcpy(pointer(r1), comm, (uint32_t)r2 < sizeof(comm) ? (uint32_t)r2 - 1 : sizeof(comm));
	return 0;
}

static uint64_t help_strncmp(void *user, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	return r1 && r3 ? (uint64_t)strncmp(pointer(r1), pointer(r3), (uint32_t)r2) : (uint64_t)-EINVAL;
}

/* Two tables in one order: a row in both for each helper. */
static const uint32_t helper_ids[] = {
	BPF_FUNC_map_lookup_elem,      BPF_FUNC_map_update_elem,      BPF_FUNC_map_delete_elem,
	BPF_FUNC_ktime_get_ns,	       BPF_FUNC_trace_printk,	      BPF_FUNC_get_prandom_u32,
	BPF_FUNC_get_smp_processor_id, BPF_FUNC_get_current_pid_tgid, BPF_FUNC_get_current_uid_gid,
	BPF_FUNC_get_current_comm,     BPF_FUNC_ktime_get_boot_ns,    BPF_FUNC_strncmp,
};
static vm_standalone_helper *const helper_functions[] = {
	help_lookup, help_update, help_delete, help_ktime, help_printk,	 help_random,
	help_cpu,    help_pid,	  help_uid,    help_comm,  help_boot_ns, help_strncmp,
};
#define N_HELPERS (sizeof(helper_ids) / sizeof(helper_ids[0]))
_Static_assert(N_HELPERS == sizeof(helper_functions) / sizeof(helper_functions[0]), "one function for each helper");

size_t vm_standalone__helpers(const uint32_t **ids, vm_standalone_helper *const **functions)
{
	*ids = helper_ids;
	*functions = helper_functions;
	return N_HELPERS;
}

static vm_standalone_helper *helper(uint32_t id)
{
	for (size_t i = 0; i < N_HELPERS; i++)
		if (helper_ids[i] == id)
			return helper_functions[i];
	return NULL;
}

uint64_t vm_standalone__call(void *env, uint32_t id, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	vm_standalone_helper *fn = helper(id);

	return fn ? fn(env, r1, r2, r3, r4, r5) : (uint64_t)-EINVAL;
}

static bool within(const void *start, size_t length, uint64_t addr, uint32_t size)
{
	uint64_t off = addr - (uintptr_t)start;

	return off < length && size <= length - off;
}

int vm_standalone__allowed(void *env, uint64_t addr, uint32_t size, int write)
{
	struct vm_standalone *s = env;

	for (size_t i = 0; i < s->elf->n_maps; i++) {
		struct map *m = &s->maps[i];

		if (write && m->def->is_constant)
			continue;
		if (m->values && within(m->values, m->stride * m->def->max_entries, addr, size))
			return 1;
		for (size_t b = 0; m->buckets && b < m->n_buckets; b++)
			for (struct entry *e = m->buckets[b]; e; e = e->next)
				if (within(e->bytes + m->value_at, m->def->value_size, addr, size))
					return 1;
	}
	return 0;
}

/* ---- binding ---- */

static int address_of(void *arg, const struct bpf_insn *in, uint64_t *value)
{
	struct vm_standalone *s = arg;
	struct map *m = (uint32_t)in->imm < s->elf->n_maps ? &s->maps[in->imm] : NULL;

	if (!m || (in->src_reg != BPF_PSEUDO_MAP_FD && in->src_reg != BPF_PSEUDO_MAP_VALUE))
		return -ENOENT;
	if (!m->values && !m->buckets)
		return -EOPNOTSUPP;
	*value = in->src_reg == BPF_PSEUDO_MAP_FD ? (uintptr_t)m : (uintptr_t)m->values + (uint32_t)in[1].imm;
	return 0;
}

/* All that can be told before the program runs, in the order of its instructions. */
static int check(struct vm_standalone *s, const struct vm_elf_prog *p, char *err, size_t err_size)
{
	for (size_t pc = 0; pc < p->n_insns; pc++) {
		const struct bpf_insn *in = p->insns + pc;
		enum vm_kind kind = vm_insn__kind(in, &(const char *){0});
		const char *name = vm_helper_name((uint32_t)in->imm);

		if (kind == VM_CALL && !helper((uint32_t)in->imm))
			return vm_fail(err, err_size, -EOPNOTSUPP,
				       "instruction %zu: helper %s#%d means nothing outside the kernel", pc,
				       name ? name : "unknown", in->imm);
		if (kind == VM_LDDW && in->src_reg == BPF_PSEUDO_MAP_FD && (uint32_t)in->imm < s->elf->n_maps) {
			const struct map *m = &s->maps[in->imm];

			if (!m->values && !m->buckets)
				return vm_fail(
					err, err_size, -EOPNOTSUPP,
					"instruction %zu: map '%s' is not there: type %u, %u entries of %u bytes, "
					"keys of %u; only arrays and hashes are",
					pc, m->def->name, m->def->type, m->def->max_entries, m->def->value_size,
					m->def->key_size);
		}
		pc += vm_insn__slots(kind) - 1;
	}
	return 0;
}

struct bpf_insn *vm_standalone__bind(struct vm_standalone *s, const struct vm_elf_prog *prog, char *err,
				     size_t err_size)
{
	struct bpf_insn *insns = malloc(prog->n_insns * sizeof(*insns));
	int r;

	if (!insns) {
		vm_fail(err, err_size, -ENOMEM, "no memory for %zu instructions", prog->n_insns);
		return NULL;
	}
	memcpy(insns, prog->insns, prog->n_insns * sizeof(*insns));
	r = vm_validate_features(insns, prog->n_insns, VM_STANDALONE_FEATURES, err, err_size);
	if (!r)
		r = check(s, prog, err, err_size);
	if (!r)
		r = vm_resolve(insns, prog->n_insns, address_of, s, err, err_size);
	if (r) {
		free(insns);
		return NULL;
	}
	return insns;
}
