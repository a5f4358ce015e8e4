/* SPDX-License-Identifier: MIT */
/*
 * khalf.c: makes the kernel half of a program and loads it. It begins by looking at the group's kgate, where it counts
 * the hit when told to; when that is closed it returns 0. It tells of a process that is new here. Then comes the
 * program, every instruction at its place: `map = ...` of a mirrored map becomes its number, calls on mirrored maps
 * become calls of the subprograms, additions in place become atomic. The subprograms of bpf/khalf.bpf.c that are called
 * follow.
 */
#include "daemon/khalf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <bpf/bpf.h>

#include "bpf/khalf.h"
#include "daemon/khalf_flow.h"
#include "daemon/khalf_lib.h"
#include "vm-llvm/additive.h"

#define LOG_SIZE      (4u << 20)
#define PROLOGUE_MOST 20u /* instructions */

/* Helpers that work on a map and have a subprogram. */
static const struct {
	int helper;
	enum khalf_sub sub;
} carried[] = {
	{BPF_FUNC_map_lookup_elem, KHALF_LOOKUP},
	{BPF_FUNC_map_update_elem, KHALF_UPDATE},
	{BPF_FUNC_map_delete_elem, KHALF_DELETE},
	{VM_HELPER_MAP_ADD, KHALF_ADD},
};

/* Helpers that go over a map in ways of their own. */
static const struct {
	int helper;
	const char *name;
} not_carried[] = {
	{BPF_FUNC_for_each_map_elem, "bpf_for_each_map_elem"},
	{BPF_FUNC_map_lookup_percpu_elem, "bpf_map_lookup_percpu_elem"},
	{BPF_FUNC_map_push_elem, "bpf_map_push_elem"},
	{BPF_FUNC_map_pop_elem, "bpf_map_pop_elem"},
	{BPF_FUNC_map_peek_elem, "bpf_map_peek_elem"},
};

#define N(a) (sizeof(a) / sizeof((a)[0]))

#define INSN(c, d, s, o, i) ((struct bpf_insn){.code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i)})

struct khalf {
	struct bpf_insn *out;
	size_t n_out;
	const int *direct_fd;
	bool kernel_map[SHM_MAX_MAPS];
	const struct shm_geo *geo;
	size_t n_maps;
	struct khalf_fds fds;
	bool used[KHALF_N_SUBS];
	size_t sub_at[KHALF_N_SUBS];
	char *err;
	size_t err_size;
};

__attribute__((format(printf, 3, 4))) static int refuse(struct khalf *k, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(k->err, k->err_size, fmt, ap);
	va_end(ap);
	return code;
}

static void emit(struct khalf *k, const struct bpf_insn *insns, size_t n)
{
	memcpy(k->out + k->n_out, insns, n * sizeof(*insns));
	k->n_out += n;
}

/*
 * Since Linux 6.13 programs of this type have one stack for each processor when theirs is large (kernel/bpf/verifier.c,
 * bpf_enable_priv_stack()), because two of them never run there at once. At uprobes they do where the kernel preempts
 * them: one would write over what the other one has there. Programs with tail calls are excepted, also when the
 * verifier sees that the call never comes.
 */
static void emit_own_stack(struct khalf *k)
{
	const struct bpf_insn never[] = {
		INSN(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0),
		INSN(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1, 0),
		INSN(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_tail_call),
	};

	emit(k, never, N(never));
}

/* At a perf event's tracepoint the answers of all programs are one, by AND: closed, this one has no say. */
static int closed_answer(const struct khalf_opts *o)
{
	return o->prog_type == BPF_PROG_TYPE_TRACEPOINT;
}

#define COUNTS_TO_SIGN 2

_Static_assert(SHM_KGATE_COUNTS << COUNTS_TO_SIGN == 1ull << 63, "see emit_prologue()");

/*
 * The gate's word tells, in the sign, whether it is open. When hits are counted, one fetch-and-add counts this one and
 * tells the same.
 */
static void emit_prologue(struct khalf *k, const struct khalf_opts *o)
{
	const struct bpf_insn nothing[] = {
		INSN(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, closed_answer(o)),
		INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
	};
	const struct bpf_insn *closed = o->closed ? o->closed : nothing;
	size_t n_closed = o->closed ? o->n_closed : N(nothing);
	const struct bpf_insn gate[] = {
		INSN(BPF_LD | BPF_IMM | BPF_DW, 2, BPF_PSEUDO_MAP_VALUE, 0, k->fds.arena),
		INSN(0, 0, 0, 0, offsetof(struct shm_group_hdr, kgate)),
		INSN(BPF_LDX | BPF_MEM | BPF_DW, 3, 2, 0, 0),
		INSN(BPF_ALU64 | BPF_MOV | BPF_X, 4, 3, 0, 0),
		INSN(BPF_ALU64 | BPF_LSH | BPF_K, 4, 0, 0, COUNTS_TO_SIGN),
		INSN(BPF_JMP | BPF_JSGE | BPF_K, 4, 0, 2, 0),
		INSN(BPF_ALU64 | BPF_MOV | BPF_K, 3, 0, 0, 1),
		INSN(BPF_STX | BPF_ATOMIC | BPF_DW, 2, 3, 0, BPF_ADD | BPF_FETCH),
		INSN(BPF_JMP | BPF_JSLT | BPF_K, 3, 0, (short)n_closed, 0),
	};
	const struct bpf_insn arrive[] = {
		INSN(BPF_ALU64 | BPF_MOV | BPF_X, 6, 1, 0, 0),
		INSN(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, KHALF_ARRIVE + 1, 0),
		INSN(BPF_ALU64 | BPF_MOV | BPF_X, 1, 6, 0, 0),
	};

	emit(k, gate, N(gate));
	emit(k, closed, n_closed);
	if (k->fds.arrived >= 0) {
		emit(k, arrive, N(arrive));
		k->used[KHALF_ARRIVE] = true;
	}
}

/* The same, but that hits of the daemon's are not counted: what it does while it moves the group's truth. */
static void emit_sparing_prologue(struct khalf *k, const struct khalf_opts *o)
{
	const int daemon = offsetof(struct shm_group_hdr, daemon), kgate = offsetof(struct shm_group_hdr, kgate);
	const struct bpf_insn gate[] = {
		INSN(BPF_ALU64 | BPF_MOV | BPF_X, 6, 1, 0, 0),
		INSN(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_get_current_pid_tgid),
		INSN(BPF_ALU64 | BPF_RSH | BPF_K, 0, 0, 0, 32),
		INSN(BPF_LD | BPF_IMM | BPF_DW, 2, BPF_PSEUDO_MAP_VALUE, 0, k->fds.arena),
		INSN(0, 0, 0, 0, 0),
		INSN(BPF_LDX | BPF_MEM | BPF_W, 4, 2, (short)daemon, 0),
		INSN(BPF_LDX | BPF_MEM | BPF_DW, 3, 2, (short)kgate, 0),
		INSN(BPF_JMP | BPF_JEQ | BPF_X, 4, 0, 5, 0),
		INSN(BPF_ALU64 | BPF_MOV | BPF_X, 4, 3, 0, 0),
		INSN(BPF_ALU64 | BPF_LSH | BPF_K, 4, 0, 0, COUNTS_TO_SIGN),
		INSN(BPF_JMP | BPF_JSGE | BPF_K, 4, 0, 2, 0),
		INSN(BPF_ALU64 | BPF_MOV | BPF_K, 3, 0, 0, 1),
		INSN(BPF_STX | BPF_ATOMIC | BPF_DW, 2, 3, (short)kgate, BPF_ADD | BPF_FETCH),
		INSN(BPF_JMP | BPF_JSLT | BPF_K, 3, 0, 2, 0),
		INSN(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, closed_answer(o)),
		INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
		INSN(BPF_ALU64 | BPF_MOV | BPF_X, 1, 6, 0, 0),
	};

	emit(k, gate, N(gate));
}

static int translate_load64(struct khalf *k, struct bpf_insn *in, size_t at)
{
	size_t map = (unsigned int)in->imm;

	if (in->src_reg != BPF_PSEUDO_MAP_FD && in->src_reg != BPF_PSEUDO_MAP_VALUE)
		return in->src_reg
			       ? refuse(k, -EOPNOTSUPP, "instruction %zu loads an address of kind %u", at, in->src_reg)
			       : 0;
	if (map >= k->n_maps)
		return refuse(k, -EINVAL, "instruction %zu names map %zu of %zu", at, map, k->n_maps);
	if (k->kernel_map[map]) {
		in->imm = k->direct_fd[map];
		return 0;
	}
	if (in->src_reg == BPF_PSEUDO_MAP_VALUE && k->geo[map].kind == SHM_ARRAY) {
		in->imm = k->fds.arena;
		in[1].imm += (int)k->geo[map].nodes_off;
		return 0;
	}
	if (in->src_reg == BPF_PSEUDO_MAP_VALUE)
		return refuse(k, -EOPNOTSUPP, "instruction %zu takes an address inside map %zu", at, map);
	in[0] = INSN(BPF_ALU64 | BPF_MOV | BPF_K, in->dst_reg, 0, 0, (int)map);
	in[1] = INSN(BPF_JMP | BPF_JA, 0, 0, 0, 0);
	return 0;
}

static int translate_call(struct khalf *k, struct bpf_insn *in, size_t at, uint8_t first_arg)
{
	for (size_t i = 0; i < N(not_carried); i++)
		if (in->imm == not_carried[i].helper && (first_arg & HOLDS_MIRRORED))
			return refuse(k, -EOPNOTSUPP, "instruction %zu calls %s", at, not_carried[i].name);
	for (size_t i = 0; i < N(carried); i++) {
		if (in->imm != carried[i].helper || !(first_arg & HOLDS_MIRRORED))
			continue;
		if (first_arg != HOLDS_MIRRORED)
			return refuse(k, -EOPNOTSUPP, "instruction %zu works on different kinds of maps", at);
		k->used[carried[i].sub] = true;
		/* Marked by the number of the subprogram; the distance is known when all have their place. */
		in->src_reg = BPF_PSEUDO_CALL;
		in->off = (short)(carried[i].sub + 1);
		return 0;
	}
	if (in->imm == VM_HELPER_MAP_ADD)
		return refuse(k, -EOPNOTSUPP, "instruction %zu adds to a map that the kernel serves", at);
	return 0;
}

static bool is_jump(const struct bpf_insn *in)
{
	int op = BPF_OP(in->code), class = BPF_CLASS(in->code);

	return (class == BPF_JMP || class == BPF_JMP32) && op != BPF_CALL && op != BPF_EXIT;
}

static bool is_load64(const struct bpf_insn *in)
{
	return in->code == (BPF_LD | BPF_IMM | BPF_DW);
}

/*
 * r = *(p + o); r += c; *(p + o) = r	becomes	r = c; r = fetch_add(p + o, r); r += c
 *
 * in one place, three for three, whatever is done with r later: native code on another CPU adds to the same word.
 */
static void make_atomic(struct bpf_insn *in, const bool *target, size_t n)
{
	for (size_t i = 0; i + 2 < n; i++) {
		struct bpf_insn load = in[i], add = in[i + 1], store = in[i + 2];
		int size = BPF_SIZE(load.code);

		if (is_load64(&load)) {
			i++;
			continue;
		}
		if (BPF_CLASS(load.code) != BPF_LDX || BPF_MODE(load.code) != BPF_MEM ||
		    (size != BPF_DW && size != BPF_W) || load.src_reg == BPF_REG_10 || load.dst_reg == load.src_reg)
			continue;
		if ((BPF_CLASS(add.code) != BPF_ALU64 && (BPF_CLASS(add.code) != BPF_ALU || size != BPF_W)) ||
		    BPF_OP(add.code) != BPF_ADD || add.dst_reg != load.dst_reg)
			continue;
		if (BPF_SRC(add.code) == BPF_X && add.src_reg == load.dst_reg)
			continue;
		if (store.code != (BPF_STX | BPF_MEM | size) || store.dst_reg != load.src_reg ||
		    store.off != load.off || store.src_reg != load.dst_reg || target[i + 1] || target[i + 2])
			continue;
		in[i] = add;
		in[i].code = (unsigned char)((add.code & ~0xf0) | BPF_MOV);
		in[i + 1] =
			INSN(BPF_STX | BPF_ATOMIC | size, load.src_reg, load.dst_reg, load.off, BPF_ADD | BPF_FETCH);
		in[i + 2] = add;
	}
}

static int translate(struct khalf *k, const struct bpf_insn *insns, size_t n)
{
	struct bpf_insn *in = k->out + k->n_out;
	uint8_t *first_arg = calloc(n, 1);
	bool *target = calloc(n + 1, sizeof(*target));
	int err = -ENOMEM;

	if (!first_arg || !target) {
		refuse(k, err, "no memory");
		goto out;
	}
	err = khalf_flow(insns, n, k->kernel_map, k->n_maps, first_arg, k->err, k->err_size);
	memcpy(in, insns, n * sizeof(*in));
	k->n_out += n;
	for (size_t i = 0; i < n && !err; i++) {
		if (is_load64(&in[i])) {
			err = i + 1 < n ? translate_load64(k, &in[i], i) : -EINVAL;
			i++;
		} else if (in[i].code == (BPF_JMP | BPF_CALL) && in[i].src_reg == 0) {
			err = translate_call(k, &in[i], i, first_arg[i]);
		} else if (is_jump(&in[i])) {
			long to = (long)i + 1 + (in[i].code == (BPF_JMP32 | BPF_JA) ? in[i].imm : in[i].off);

			if (to >= 0 && to <= (long)n)
				target[to] = true;
		}
	}
	if (!err)
		make_atomic(in, target, n);
out:
	free(first_arg);
	free(target);
	return err;
}

static int append_subs(struct khalf *k)
{
	size_t end = k->n_out;

	for (int s = 0; s < KHALF_N_SUBS; s++) {
		struct khalf_code code;

		if (!k->used[s])
			continue;
		if (khalf_lib__find(s, &code))
			return refuse(k, -ENOENT, "the object with the map subprograms is not as expected");
		memcpy(k->out + k->n_out, code.insns, code.n * sizeof(*code.insns));
		if (khalf_lib__link(s, k->out + k->n_out, &k->fds))
			return refuse(k, -ENOENT, "the object with the map subprograms is not as expected");
		k->sub_at[s] = k->n_out;
		k->n_out += code.n;
	}
	for (size_t i = 0; i < end; i++) {
		struct bpf_insn *in = &k->out[i];

		if (is_load64(in)) {
			i++;
			continue;
		}
		if (in->code != (BPF_JMP | BPF_CALL) || in->src_reg != BPF_PSEUDO_CALL || in->off == 0)
			continue;
		in->imm = (int)(k->sub_at[in->off - 1] - (i + 1));
		in->off = 0;
	}
	return 0;
}

/* The constants, in a map that nobody can change any more: -errno or its descriptor. */
static int consts_map(const struct khalf_consts *c)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = BPF_F_RDONLY_PROG);
	int fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "khalf_consts", 4, sizeof(*c), 1, &opts);
	uint32_t zero = 0;

	if (fd < 0)
		return -errno;
	if (bpf_map_update_elem(fd, &zero, c, 0) || bpf_map_freeze(fd)) {
		int err = -errno;

		close(fd);
		return err;
	}
	return fd;
}

static void last_line(char *log, char *out, size_t size)
{
	size_t n = strlen(log);
	char *line;

	/* The verifier ends with a line of statistics, "processed N insns ...", which comes after the reason. */
	for (int i = 0; i < 2; i++) {
		while (n && log[n - 1] == '\n')
			log[--n] = 0;
		line = strrchr(log, '\n');
		line = line ? line + 1 : log;
		if (strncmp(line, "processed ", 10) || line == log)
			break;
		n = (size_t)(line - log);
		log[n] = 0;
	}
	snprintf(out, size, "%s", *log ? line : "no reason given");
}

/* What replaces a program names the types of its functions, which follow one another as append_subs() put them. */
static size_t list_functions(const struct khalf *k, const struct khalf_replaced *r, struct bpf_func_info *func)
{
	size_t n = 0;

	func[n++] = (struct bpf_func_info){.insn_off = 0, .type_id = r->main_type};
	for (int s = 0; s < KHALF_N_SUBS; s++)
		if (k->used[s])
			func[n++] = (struct bpf_func_info){.insn_off = (uint32_t)k->sub_at[s], .type_id = r->sub_type};
	return n;
}

/* -errno; *misaligned when another width of access might help. */
static int load(struct khalf *k, const struct khalf_opts *a, bool *misaligned)
{
	LIBBPF_OPTS(bpf_prog_load_opts, opts, .expected_attach_type = a->expected_attach_type,
		    .attach_btf_id = a->attach_btf_id, .attempts = 5);
	enum bpf_prog_type type = a->replaces ? BPF_PROG_TYPE_EXT : (enum bpf_prog_type)a->prog_type;
	struct bpf_func_info func[1 + KHALF_N_SUBS];
	char *log, line[160];
	int fd, err;

	if (a->replaces) {
		opts.expected_attach_type = 0;
		opts.attach_prog_fd = (uint32_t)a->replaces->prog_fd;
		opts.attach_btf_id = a->replaces->main_in_prog;
		opts.prog_btf_fd = (uint32_t)a->replaces->btf_fd;
		opts.func_info = func;
		opts.func_info_cnt = (uint32_t)list_functions(k, a->replaces, func);
		opts.func_info_rec_size = sizeof(func[0]);
	}
	fd = bpf_prog_load(type, a->name, a->license, k->out, k->n_out, &opts);
	*misaligned = false;
	if (fd >= 0)
		return fd;
	err = -errno;
	log = calloc(1, LOG_SIZE);
	if (!log)
		return refuse(k, err, "the kernel refused the translated program: %s", strerror(-err));
	opts.log_buf = log;
	opts.log_size = LOG_SIZE;
	opts.log_level = 1;
	fd = bpf_prog_load(type, a->name, a->license, k->out, k->n_out, &opts);
	if (fd < 0) {
		*misaligned = strstr(log, "misaligned stack") != NULL;
		last_line(log, line, sizeof(line));
		refuse(k, err, "the kernel refused the translated program: %s: %s", strerror(-err), line);
	}
	free(log);
	return fd < 0 ? err : fd;
}

static int check_maps(struct khalf *k, const struct shm_geo *geo, size_t n_geo)
{
	struct bpf_map_info info = {0};
	unsigned int len = sizeof(info);

	if (n_geo > SHM_MAX_MAPS)
		return refuse(k, -E2BIG, "the program uses %zu maps, at most %u are carried", n_geo, SHM_MAX_MAPS);
	if (bpf_obj_get_info_by_fd(k->fds.arena, &info, &len))
		return refuse(k, -errno, "the arena: %s", strerror(errno));
	for (size_t i = 0; i < n_geo; i++) {
		k->kernel_map[i] = k->direct_fd && k->direct_fd[i] >= 0;
		if (!k->kernel_map[i] && (geo[i].kind < SHM_ARRAY || geo[i].kind > SHM_PERCPU_HASH))
			return refuse(k, -EINVAL, "map %zu has neither a place in the arena nor a descriptor", i);
		if (!k->kernel_map[i] && geo[i].end_off > info.value_size)
			return refuse(k, -EINVAL, "map %zu does not lie in the arena", i);
	}
	k->geo = geo;
	k->n_maps = n_geo;
	return 0;
}

int khalf_load(const struct bpf_insn *insns, size_t n_insns, const struct khalf_opts *o, char *err, size_t err_size)
{
	static const uint32_t widths[] = {8, 4, 1};
	struct khalf k = {
		.direct_fd = o->direct_fd,
		.fds = {.arena = o->arena_fd, .arrived = o->arrived_fd, .arrivals = o->arrivals_fd},
		.err = err,
		.err_size = err_size,
	};
	struct khalf_consts consts = {0};
	size_t room = n_insns + o->n_closed + PROLOGUE_MOST;
	int ret;

	if (o->n_closed > INT16_MAX)
		return refuse(&k, -E2BIG, "the program has %zu instructions", o->n_closed);
	ret = check_maps(&k, o->geo, o->n_geo);
	if (ret)
		return ret;
	for (int s = 0; s < KHALF_N_SUBS; s++) {
		struct khalf_code code;

		if (!khalf_lib__find(s, &code))
			room += code.n;
	}
	memcpy(consts.geo, o->geo, o->n_geo * sizeof(*o->geo));
	for (size_t i = 0; i < N(widths); i++) {
		bool misaligned = false;

		consts.caller_width = widths[i];
		k.fds.consts = consts_map(&consts);
		if (k.fds.consts < 0)
			return refuse(&k, k.fds.consts, "a map for the constants: %s", strerror(-k.fds.consts));
		k.out = calloc(room, sizeof(*k.out));
		ret = k.out ? 0 : refuse(&k, -ENOMEM, "no memory");
		if (!ret) {
			k.n_out = 0;
			if (o->has_own_stack)
				emit_own_stack(&k);
			if (o->spares_daemon)
				emit_sparing_prologue(&k, o);
			else
				emit_prologue(&k, o);
			ret = translate(&k, insns, n_insns);
		}
		if (!ret)
			ret = append_subs(&k);
		if (!ret)
			ret = load(&k, o, &misaligned);
		free(k.out);
		close(k.fds.consts);
		if (ret >= 0 || !misaligned)
			break;
	}
	return ret;
}

int khalf_load_watcher(int arrived_fd, int arrivals_fd, char *err, size_t err_size)
{
	const struct bpf_insn insns[] = {
		INSN(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_CALL, KHALF_ARRIVE + 1, 0),
		INSN(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0),
		INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
	};
	const struct khalf_opts opts = {
		.prog_type = BPF_PROG_TYPE_KPROBE, .license = "Dual MIT/GPL", .name = "bpftimed_watch"};
	struct khalf k = {
		.fds = {.arena = -1, .consts = -1, .arrived = arrived_fd, .arrivals = arrivals_fd},
		.used[KHALF_ARRIVE] = true,
		.err = err,
		.err_size = err_size,
	};
	struct khalf_code code;
	bool misaligned;
	int ret;

	if (khalf_lib__find(KHALF_ARRIVE, &code))
		return refuse(&k, -ENOENT, "the object with the map subprograms is not as expected");
	k.out = calloc(N(insns) + code.n, sizeof(*k.out));
	if (!k.out)
		return refuse(&k, -ENOMEM, "no memory");
	memcpy(k.out, insns, sizeof(insns));
	k.n_out = N(insns);
	ret = append_subs(&k);
	if (!ret)
		ret = load(&k, &opts, &misaligned);
	free(k.out);
	return ret;
}
