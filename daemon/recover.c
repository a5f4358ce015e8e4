/* SPDX-License-Identifier: MIT */
/*
 * recover.c: the verifier's translation undone. What it does to a program (kernel/bpf/verifier.c do_misc_fixups(), the
 * map_gen_lookup functions of kernel/bpf/arraymap.c and hashtab.c):
 *
 *   call 1 (map lookup)          the map type's inlined lookup: a row of `inlined` below
 *   call 2, 3, ... (map update)  call htab_map_update_elem and the like: a row of `map_ops`
 *   call N                       call bpf_NAME, relative to __bpf_call_base
 *   call 8 (smp processor id)    three instructions on a per-CPU variable
 *   r /= s, r %= s               with a test for zero around it
 *   call of a subprogram         off has the distance, imm the subprogram's number
 *
 * Each match is a guess; only the proof decides. What is not matched stays as it is.
 */
#include "recover.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <bpf/bpf.h>

#include "bytecode.h"

#define KALLSYMS "/proc/kallsyms"

enum { MAX_SYMBOL = 128, PERCPU_OFF = -1 }; /* BPF_ADDR_PERCPU */

/* ---- helpers by the name of their function ---- */

#define HELPER_NAME(x) [BPF_FUNC_##x] = #x
static const char *const helper_names[] = {__BPF_FUNC_MAPPER(HELPER_NAME)};
#undef HELPER_NAME

enum { N_HELPERS = sizeof(helper_names) / sizeof(helper_names[0]) };

/* Functions that are not called bpf_<helper>. */
static const struct {
	const char *symbol;
	int helper;
} odd_names[] = {
	{"bpf_probe_read_compat", BPF_FUNC_probe_read},
	{"bpf_probe_read_compat_str", BPF_FUNC_probe_read_str},
	{"bpf_get_func_ip_kprobe", BPF_FUNC_get_func_ip},
	{"bpf_get_func_ip_uprobe_multi", BPF_FUNC_get_func_ip},
	{"bpf_get_attach_cookie_trace", BPF_FUNC_get_attach_cookie},
	{"bpf_get_attach_cookie_uprobe_multi", BPF_FUNC_get_attach_cookie},
};

/* A map type's own operation, called directly. */
static const struct {
	const char *end;
	int helper;
} map_ops[] = {
	{"_map_lookup_elem", BPF_FUNC_map_lookup_elem},
	{"_map_update_elem", BPF_FUNC_map_update_elem},
	{"_map_delete_elem", BPF_FUNC_map_delete_elem},
	{"_map_push_elem", BPF_FUNC_map_push_elem},
	{"_map_pop_elem", BPF_FUNC_map_pop_elem},
	{"_map_peek_elem", BPF_FUNC_map_peek_elem},
	{"_map_lookup_percpu_elem", BPF_FUNC_map_lookup_percpu_elem},
};

static bool ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), m = strlen(end);

	return n >= m && !strcmp(s + n - m, end);
}

/* The helper that this function serves, or 0. */
static int helper_of(const char *symbol)
{
	for (size_t i = 0; i < sizeof(odd_names) / sizeof(odd_names[0]); i++)
		if (!strcmp(symbol, odd_names[i].symbol))
			return odd_names[i].helper;
	if (!strncmp(symbol, "bpf_", 4))
		for (int i = 1; i < N_HELPERS; i++)
			if (helper_names[i] && !strcmp(symbol + 4, helper_names[i]))
				return i;
	for (size_t i = 0; i < sizeof(map_ops) / sizeof(map_ops[0]); i++)
		if (ends_with(symbol, map_ops[i].end))
			return map_ops[i].helper;
	return 0;
}

static bool is_helper_call(const struct bpf_insn *i)
{
	return i->code == (BPF_JMP | BPF_CALL) && i->src_reg == 0;
}

static bool next_symbol(FILE *f, uint64_t *addr, char *name)
{
	char line[512], *at;

	while (fgets_unlocked(line, sizeof(line), f)) {
		*addr = strtoull(line, &at, 16);
		if (strlen(at) <= 3)
			continue;
		at += 3; /* " t " */
		at[strcspn(at, "\t\n")] = 0;
		snprintf(name, MAX_SYMBOL, "%s", at);
		return true;
	}
	return false;
}

/* The kernel's functions that serve helpers. */
struct callee {
	uint64_t addr;
	int helper;
	size_t line; /* of several names of one function the last one holds */
};

struct callees {
	uint64_t base; /* __bpf_call_base: calls are relative to it. 0: not read yet */
	struct callee *at;
	size_t n, cap;
};

static int by_addr(const void *a, const void *b)
{
	const struct callee *x = a, *y = b;

	if (x->addr != y->addr)
		return x->addr < y->addr ? -1 : 1;
	return x->line < y->line ? -1 : x->line > y->line;
}

static int add_callee(struct callees *c, uint64_t addr, int helper)
{
	struct callee *grown;

	if (c->n == c->cap) {
		c->cap = c->cap ? 2 * c->cap : 256;
		grown = realloc(c->at, c->cap * sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		c->at = grown;
	}
	c->at[c->n] = (struct callee){.addr = addr, .helper = helper, .line = c->n};
	c->n++;
	return 0;
}

static int read_callees(struct callees *c)
{
	FILE *f = fopen(KALLSYMS, "re");
	char name[MAX_SYMBOL];
	size_t kept = 0;
	uint64_t addr;
	int err = f ? 0 : -errno;

	while (!err && next_symbol(f, &addr, name)) {
		int helper = helper_of(name);

		if (!strcmp(name, "__bpf_call_base"))
			c->base = addr;
		if (helper)
			err = add_callee(c, addr, helper);
	}
	if (f)
		fclose(f);
	if (c->n)
		qsort(c->at, c->n, sizeof(*c->at), by_addr);
	for (size_t i = 0; i < c->n; i++)
		if (i + 1 == c->n || c->at[i + 1].addr != c->at[i].addr)
			c->at[kept++] = c->at[i];
	c->n = kept;
	return err;
}

static int by_addr_alone(const void *key, const void *element)
{
	uint64_t addr = *(const uint64_t *)key, there = ((const struct callee *)element)->addr;

	return addr < there ? -1 : addr > there;
}

/*
 * Helper numbers for every helper call of insns, in *helpers (by instruction; 0: unknown). The kernel's symbols are
 * read once.
 */
static int name_calls(const struct bpf_insn *insns, size_t n, int *helpers, char *why, size_t why_size)
{
	static struct callees callees;
	int err = callees.base ? 0 : read_callees(&callees);

	if (err || !callees.base) {
		free(callees.at);
		callees = (struct callees){0};
	}
	if (err) {
		snprintf(why, why_size, "cannot read " KALLSYMS ": %s", strerror(-err));
		return err;
	}
	if (!callees.base) {
		snprintf(why, why_size, KALLSYMS " does not show kernel addresses");
		return -EPERM;
	}
	for (size_t i = 0; i < n; i++) {
		uint64_t addr = callees.base + (uint64_t)(int64_t)insns[i].imm;
		const struct callee *found;

		if (!is_helper_call(&insns[i]))
			continue;
		found = bsearch(&addr, callees.at, callees.n, sizeof(*callees.at), by_addr_alone);
		helpers[i] = found ? found->helper : 0;
	}
	return 0;
}

/* ---- inlined sequences ---- */

enum { ANY = 1 << 30, MAX_SEQ = 12 };

/* An instruction to match; ANY matches every off or imm. */
struct shape {
	uint8_t code, dst, src;
	int32_t off, imm;
};

struct inlined {
	int helper;
	uint8_t len;
	struct shape seq[MAX_SEQ];
};

#define OP_ADD_K   (BPF_ALU64 | BPF_ADD | BPF_K)
#define OP_ADD_X   (BPF_ALU64 | BPF_ADD | BPF_X)
#define OP_AND32_K (BPF_ALU | BPF_AND | BPF_K)
#define OP_LSH_K   (BPF_ALU64 | BPF_LSH | BPF_K)
#define OP_MUL_K   (BPF_ALU64 | BPF_MUL | BPF_K)
#define OP_MOV_K   (BPF_ALU64 | BPF_MOV | BPF_K)
#define OP_MOV_X   (BPF_ALU64 | BPF_MOV | BPF_X)
#define OP_MOV32_K (BPF_ALU | BPF_MOV | BPF_K)
#define OP_LDX(sz) (BPF_LDX | BPF_MEM | (sz))
#define OP_ST_B	   (BPF_ST | BPF_MEM | BPF_B)
#define OP_JGE_K   (BPF_JMP | BPF_JGE | BPF_K)
#define OP_JEQ_K   (BPF_JMP | BPF_JEQ | BPF_K)
#define OP_JNE_K   (BPF_JMP | BPF_JNE | BPF_K)
#define OP_JA	   (BPF_JMP | BPF_JA)
#define OP_CALL	   (BPF_JMP | BPF_CALL)

/* Beginnings and ends that several sequences share. */
#define ARRAY_HEAD(beyond)                                                                                             \
	{OP_ADD_K, 1, 0, 0, ANY}, {OP_LDX(BPF_W), 0, 2, 0, 0},                                                         \
	{                                                                                                              \
		OP_JGE_K, 0, 0, beyond, ANY                                                                            \
	}
#define ARRAY_MASK                                                                                                     \
	{                                                                                                              \
		OP_AND32_K, 0, 0, 0, ANY                                                                               \
	}
#define ARRAY_TAIL                                                                                                     \
	{OP_ADD_X, 0, 1, 0, 0}, {OP_JA, 0, 0, 1, 0},                                                                   \
	{                                                                                                              \
		OP_MOV_K, 0, 0, 0, 0                                                                                   \
	}
#define PERCPU_TAIL                                                                                                    \
	{OP_ADD_X, 0, 1, 0, 0}, {OP_LDX(BPF_DW), 0, 0, 0, 0}, {OP_MOV_X, 0, 0, PERCPU_OFF, 0}, {OP_JA, 0, 0, 1, 0},    \
	{                                                                                                              \
		OP_MOV_K, 0, 0, 0, 0                                                                                   \
	}
#define HASH_HEAD                                                                                                      \
	{                                                                                                              \
		OP_CALL, 0, 0, 0, ANY                                                                                  \
	}

static const struct inlined inlined[] = {
	/* array_map_gen_lookup(): element size a power of two or not; with the mask against speculation or not */
	{BPF_FUNC_map_lookup_elem, 7, {ARRAY_HEAD(3), {OP_LSH_K, 0, 0, 0, ANY}, ARRAY_TAIL}},
	{BPF_FUNC_map_lookup_elem, 7, {ARRAY_HEAD(3), {OP_MUL_K, 0, 0, 0, ANY}, ARRAY_TAIL}},
	{BPF_FUNC_map_lookup_elem, 8, {ARRAY_HEAD(4), ARRAY_MASK, {OP_LSH_K, 0, 0, 0, ANY}, ARRAY_TAIL}},
	{BPF_FUNC_map_lookup_elem, 8, {ARRAY_HEAD(4), ARRAY_MASK, {OP_MUL_K, 0, 0, 0, ANY}, ARRAY_TAIL}},
	/* percpu_array_map_gen_lookup() */
	{BPF_FUNC_map_lookup_elem, 9, {ARRAY_HEAD(5), {OP_LSH_K, 0, 0, 0, 3}, PERCPU_TAIL}},
	{BPF_FUNC_map_lookup_elem, 10, {ARRAY_HEAD(6), ARRAY_MASK, {OP_LSH_K, 0, 0, 0, 3}, PERCPU_TAIL}},
	/* htab_lru_map_gen_lookup() */
	{BPF_FUNC_map_lookup_elem,
	 6,
	 {HASH_HEAD,
	  {OP_JEQ_K, 0, 0, 4, 0},
	  {OP_LDX(BPF_B), 1, 0, ANY, 0},
	  {OP_JNE_K, 1, 0, 1, 0},
	  {OP_ST_B, 0, 0, ANY, 1},
	  {OP_ADD_K, 0, 0, 0, ANY}}},
	/* htab_percpu_map_gen_lookup() */
	{BPF_FUNC_map_lookup_elem,
	 5,
	 {HASH_HEAD,
	  {OP_JEQ_K, 0, 0, 3, 0},
	  {OP_ADD_K, 0, 0, 0, ANY},
	  {OP_LDX(BPF_DW), 0, 0, 0, 0},
	  {OP_MOV_X, 0, 0, PERCPU_OFF, 0}}},
	/* htab_of_map_gen_lookup() */
	{BPF_FUNC_map_lookup_elem,
	 4,
	 {HASH_HEAD, {OP_JEQ_K, 0, 0, 2, 0}, {OP_ADD_K, 0, 0, 0, ANY}, {OP_LDX(BPF_DW), 0, 0, 0, 0}}},
	/* htab_map_gen_lookup() */
	{BPF_FUNC_map_lookup_elem, 3, {HASH_HEAD, {OP_JEQ_K, 0, 0, 1, 0}, {OP_ADD_K, 0, 0, 0, ANY}}},
	/* the processor's number, do_misc_fixups() for x86-64 */
	{BPF_FUNC_get_smp_processor_id,
	 3,
	 {{OP_MOV32_K, 0, 0, 0, ANY}, {OP_MOV_X, 0, 0, PERCPU_OFF, 0}, {OP_LDX(BPF_W), 0, 0, 0, 0}}},
	/* the same since it is a per-CPU variable of the kernel image, an address that is sign-extended */
	{BPF_FUNC_get_smp_processor_id,
	 3,
	 {{OP_MOV_K, 0, 0, 0, ANY}, {OP_MOV_X, 0, 0, PERCPU_OFF, 0}, {OP_LDX(BPF_W), 0, 0, 0, 0}}},
};

static bool matches(const struct shape *s, const struct bpf_insn *i)
{
	return s->code == i->code && s->dst == i->dst_reg && s->src == i->src_reg &&
	       (s->off == ANY || s->off == i->off) && (s->imm == ANY || s->imm == i->imm);
}

static const struct inlined *find_inlined(const struct bpf_insn *insns, const int *helpers, size_t left)
{
	for (size_t k = 0; k < sizeof(inlined) / sizeof(inlined[0]); k++) {
		const struct inlined *in = &inlined[k];
		size_t m = 0;

		if (in->len > left || (in->seq[0].code == OP_CALL && *helpers != BPF_FUNC_map_lookup_elem))
			continue;
		while (m < in->len && matches(&in->seq[m], &insns[m]))
			m++;
		if (m == in->len)
			return in;
	}
	return NULL;
}

/* ---- division guarded against zero ---- */

struct guarded {
	size_t len, op; /* of the sequence, and where in it the division is; len 0: none */
};

/*
 *   div: if s != 0 goto +2; (u32)r ^= (u32)r; goto +1; r /= s
 *   mod: if s == 0 goto +1; r %= s
 *   mod, 32 bits: if s == 0 goto +2; r %= s; goto +1; (u32)r = (u32)r      (older: without the last two)
 */
static struct guarded find_guarded(const struct bpf_insn *i, size_t left)
{
	uint8_t cmp = BPF_OP(i->code), op;
	bool is_64;

	if ((BPF_CLASS(i->code) != BPF_JMP && BPF_CLASS(i->code) != BPF_JMP32) || BPF_SRC(i->code) != BPF_K || i->imm)
		return (struct guarded){0};
	if (cmp == BPF_JNE && i->off == 2 && left >= 4 && i[1].code == (BPF_ALU | BPF_XOR | BPF_X) &&
	    i[2].code == OP_JA && i[2].off == 1 && i[3].src_reg == i->dst_reg && i[1].dst_reg == i[3].dst_reg &&
	    (i[3].code == (BPF_ALU64 | BPF_DIV | BPF_X) || i[3].code == (BPF_ALU | BPF_DIV | BPF_X)))
		return (struct guarded){.len = 4, .op = 3};
	if (cmp != BPF_JEQ || left < 2 || i[1].src_reg != i->dst_reg)
		return (struct guarded){0};
	op = i[1].code;
	is_64 = op == (BPF_ALU64 | BPF_MOD | BPF_X);
	if (!is_64 && op != (BPF_ALU | BPF_MOD | BPF_X))
		return (struct guarded){0};
	if (i->off == 1)
		return (struct guarded){.len = 2, .op = 1};
	if (!is_64 && i->off == 2 && left >= 4 && i[2].code == OP_JA && i[2].off == 1 &&
	    i[3].code == (BPF_ALU | BPF_MOV | BPF_X) && i[3].dst_reg == i[3].src_reg && i[3].dst_reg == i[1].dst_reg)
		return (struct guarded){.len = 4, .op = 1};
	return (struct guarded){0};
}

/* ---- the whole ---- */

enum { INSIDE = -1 }; /* an instruction that has no counterpart */

/* A program while it is put together: where each translated instruction went, and came from. */
struct rebuilt {
	struct bpf_insn *insns;
	size_t n;
	int32_t *to;   /* by translated instruction: index in insns, or INSIDE; one more for the end */
	int32_t *from; /* by instruction: the translated one whose jump it has */
};

static void put(struct rebuilt *r, struct bpf_insn insn, size_t from)
{
	r->from[r->n] = from;
	r->insns[r->n++] = insn;
}

static int undo(struct rebuilt *r, const struct bpf_insn *x, const int *helpers, size_t n, char *why, size_t why_size)
{
	const struct inlined *in;
	struct bpf_insn insn;
	struct guarded g;

	for (size_t i = 0, len; i < n; i += len) {
		for (size_t j = i; j < n && j < i + MAX_SEQ; j++)
			r->to[j] = INSIDE;
		r->to[i] = r->n;
		in = find_inlined(&x[i], &helpers[i], n - i);
		g = find_guarded(&x[i], n - i);
		insn = x[i];
		len = 1;
		if (in) {
			len = in->len;
			put(r, (struct bpf_insn){.code = OP_CALL, .imm = in->helper}, i);
		} else if (g.len) {
			len = g.len;
			put(r, x[i + g.op], i);
		} else if (is_helper_call(&insn)) {
			if (insn.imm != BPF_FUNC_tail_call && !helpers[i]) {
				snprintf(why, why_size, "instruction %zu calls a kernel function that is not known", i);
				return -ENOTSUP;
			}
			if (helpers[i])
				insn.imm = helpers[i];
			insn.off = 0;
			put(r, insn, i);
		} else if (insn.code == (BPF_LD | BPF_IMM | BPF_DW) && i + 1 < n) {
			len = 2;
			put(r, insn, i);
			put(r, x[i + 1], i + 1);
		} else {
			if (insn.code == OP_CALL && insn.src_reg == BPF_PSEUDO_CALL) {
				insn.imm = insn.off;
				insn.off = 0;
			}
			put(r, insn, i);
		}
	}
	r->to[n] = r->n;
	return 0;
}

/* Where the instruction jumps to, or 0 when it does not; *field says whether the distance is in imm. */
static bool jumps(const struct bpf_insn *i, bool *in_imm)
{
	uint8_t class = BPF_CLASS(i->code), op = BPF_OP(i->code);

	*in_imm = i->code == (BPF_JMP32 | BPF_JA) || (i->code == OP_CALL && i->src_reg == BPF_PSEUDO_CALL);
	if (*in_imm)
		return true;
	return (class == BPF_JMP || class == BPF_JMP32) && op != BPF_CALL && op != BPF_EXIT;
}

static int retarget(struct rebuilt *r, size_t n_xlated, char *why, size_t why_size)
{
	int64_t target, distance;
	bool in_imm;

	for (size_t i = 0; i < r->n; i++) {
		if (i && r->insns[i - 1].code == (BPF_LD | BPF_IMM | BPF_DW))
			continue;
		if (!jumps(&r->insns[i], &in_imm))
			continue;
		target = r->from[i] + 1 + (in_imm ? r->insns[i].imm : r->insns[i].off);
		if (target < 0 || target > (int64_t)n_xlated || r->to[target] == INSIDE) {
			snprintf(why, why_size, "a jump leads into code that the kernel inserted");
			return -ENOTSUP;
		}
		distance = r->to[target] - (int64_t)i - 1;
		if (in_imm)
			r->insns[i].imm = distance;
		else
			r->insns[i].off = distance;
	}
	return 0;
}

int xlated__read(int prog_fd, struct bpf_insn **xlated, size_t *n, char *why, size_t why_size)
{
	struct bpf_prog_info info = {0};
	uint32_t len = sizeof(info), size;
	struct bpf_insn *buf;

	if (bpf_obj_get_info_by_fd(prog_fd, &info, &len)) {
		snprintf(why, why_size, "the kernel does not tell about it: %s", strerror(errno));
		return -errno;
	}
	size = info.xlated_prog_len;
	buf = calloc(1, size ? size : 1);
	if (!buf) {
		snprintf(why, why_size, "out of memory");
		return -ENOMEM;
	}
	info = (struct bpf_prog_info){.xlated_prog_insns = (uintptr_t)buf, .xlated_prog_len = size};
	len = sizeof(info);
	if (bpf_obj_get_info_by_fd(prog_fd, &info, &len) || !info.xlated_prog_insns || info.xlated_prog_len != size ||
	    !size) {
		snprintf(why, why_size, "the kernel does not show its instructions");
		free(buf);
		return -EPERM;
	}
	*xlated = buf;
	*n = size / sizeof(*buf);
	return 0;
}

int recover__prog(int prog_fd, const struct bpf_prog_info *info, struct bpf_insn **insns, size_t *n_insns,
		  bool sleepable, char *why, size_t why_size)
{
	struct rebuilt r = {0};
	struct bpf_insn *x = NULL;
	int *helpers = NULL;
	size_t n = 0;
	int err = xlated__read(prog_fd, &x, &n, why, why_size);

	if (err)
		return err;
	r.insns = calloc(n, sizeof(*r.insns));
	r.to = calloc(n + MAX_SEQ, sizeof(*r.to));
	r.from = calloc(n, sizeof(*r.from));
	helpers = calloc(n, sizeof(*helpers));
	if (!r.insns || !r.to || !r.from || !helpers) {
		snprintf(why, why_size, "out of memory");
		err = -ENOMEM;
		goto out;
	}
	err = name_calls(x, n, helpers, why, why_size);
	if (!err)
		err = undo(&r, x, helpers, n, why, why_size);
	if (!err)
		err = retarget(&r, n, why, why_size);
	if (!err && !proof__holds(r.insns, r.n, x, n, info, sleepable)) {
		snprintf(why, why_size,
			 "what the kernel shows of it does not lead back to its tag, nor to the same translation");
		err = -ENOTSUP;
	}
	if (!err) {
		*insns = r.insns;
		*n_insns = r.n;
		r.insns = NULL;
	}
out:
	free(r.insns);
	free(r.to);
	free(r.from);
	free(helpers);
	free(x);
	return err;
}
