/* SPDX-License-Identifier: MIT */
/*
 * vm.h: eBPF bytecode to native code: interpreter (the reference) and LLVM JIT. Stands alone: knows nothing of
 * bpftimed. All functions are safe to call from several threads on different objects.
 */
#ifndef BPFTIME_VM_H
#define BPFTIME_VM_H

#include <stddef.h>
#include <stdint.h>
#include <linux/bpf.h>

/* What a program may use beyond the plain instructions of RFC 9669: each is refused unless its bit is given. */
enum vm_feature {
	VM_FEATURE_TAIL_CALL = 1 << 0, /* helper 12: go on with another program */
	VM_FEATURE_CALLX = 1 << 1,     /* call of what a register holds: a helper's number or a subprogram's address */
	VM_FEATURE_FUNC_ADDR = 1 << 2, /* address of a subprogram: vm_func_value() */
	VM_FEATURE_PACKET = 1 << 3,    /* BPF_ABS and BPF_IND */
	VM_FEATURE_KFUNC = 1 << 4,     /* call by BTF id; to be resolved before it is run */
	VM_FEATURE_MAP_IDX = 1 << 5,   /* as above: index into fd_array */
	VM_FEATURE_BTF_ID = 1 << 6,    /* as above: address of a kernel variable */
};
/* What the interpreter and the JIT can run. The others are replaced by vm_resolve(). */
#define VM_FEATURES_RUN (VM_FEATURE_TAIL_CALL | VM_FEATURE_CALLX | VM_FEATURE_FUNC_ADDR | VM_FEATURE_PACKET)

#define VM_TAIL_CALLS_MAX 33 /* MAX_TAIL_CALL_CNT */

/*
 * The address of the subprogram that begins at instruction pc, as programs see it: the same in both engines, good for
 * callx and comparison only. No helper has this number, which fits no 32 bits, and no memory this address.
 */
#define VM_FUNC_TAG 0xfbf0000000000000ull
static inline uint64_t vm_func_value(size_t pc)
{
	return VM_FUNC_TAG | pc;
}

/*
 * What compiled code of the kind vm_compile_opts.env_calls asks for in a call: the layout is an ABI between it and its
 * caller, who owns it. One of them serves one call at a time. The pointers may be NULL where the program was compiled
 * without the feature.
 */
struct vm_env {
	void *user; /* first argument of the helpers */
	/* One per vm_compile_opts.helper_ids, in their order, none NULL. */
	uint64_t (*const *helpers)(void *user, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5);
	/* The program at index of map, NULL: none, and the tail call does nothing. */
	uint64_t (*(*tail_call)(struct vm_env *env, uint64_t ctx, uint64_t map,
				uint32_t index))(uint64_t r1, uint64_t r2, struct vm_env *env);
	/* size bytes (1, 2, 4) of the packet of ctx (what r6 holds), most significant first; -1: not there. */
	int64_t (*packet)(void *user, uint64_t ctx, uint32_t offset, uint32_t size);
	uint32_t tail_calls; /* done so far; zero it before the call */
	uint32_t fault;	     /* 1 + the instruction at which the program was ended, 0: none; zero it before the call */
	const void *owner;   /* the caller's, not looked at */
};

/* A constant that is baked into the code: defines the global `name` of the linked bitcode. */
struct vm_blob {
	const char *name;
	const void *data;
	size_t size;
};

struct vm_compile_opts {
	size_t sz; /* sizeof(struct vm_compile_opts) of the caller */
	/*
	 * LLVM bitcode that is linked in and inlined. A helper call `call N` becomes a call of
	 *     uint64_t bpf_helper_N(void *env, uint64_t r1, ..., uint64_t r5)
	 * which must be defined there, else compilation fails with "helper N is not carried". A 64-bit immediate with
	 * BPF_PSEUDO_MAP_FD yields imm itself (a token); one with BPF_PSEUDO_MAP_VALUE becomes
	 *     uint64_t bpf_map_value(void *env, uint32_t imm, uint32_t off)
	 */
	const void *bitcode;
	size_t bitcode_size;
	const struct vm_blob *blobs;
	size_t n_blobs;
	/* `r += c` between a load and a store of the same address becomes one atomic add. */
	int atomic_rmw;
	/*
	 * The members below are for code that is not run in foreign threads.
	 *
	 * env_calls: the entry is uint64_t entry(uint64_t r1, uint64_t r2, struct vm_env *env). Helpers that the
	 * bitcode does not define are called through env, as are tail calls and packet loads; the bitcode's own get
	 * env->user as their env. The program need not have passed a verifier: it gets its whole stack, zeroed.
	 */
	int env_calls;
	int verified; /* with env_calls: a verifier has seen that nothing is read before it is written */
	int native;   /* use what this CPU has: vector registers, vectorised loops; the code runs on its like only */
	uint32_t features;	    /* enum vm_feature, of VM_FEATURES_RUN */
	const uint32_t *helper_ids; /* helpers that env->helpers holds */
	size_t n_helper_ids;
};

struct vm_code {
	uint8_t *bytes; /* position-independent, no relocations, constants behind the code; malloc'ed, yours */
	size_t size;
	size_t entry;	   /* offset of: uint64_t entry(void *ctx, void *env), or what env_calls says */
	size_t stack_size; /* bytes of stack that one call may use, return address included; of env's functions none */
};

/*
 * Compiles insns to x86-64 code. Returns 0 or -errno; err gets one sentence that names the instruction and the reason.
 * Unless it is native, the code uses general registers only and no red zone. It makes no calls outside itself but
 * indirect ones, which the bitcode makes or which go through env. out is to be cleared by vm_code__clear().
 */
int vm_compile(const struct bpf_insn *insns, size_t n_insns, const struct vm_compile_opts *opts, struct vm_code *out,
	       char *err, size_t err_size);
void vm_code__clear(struct vm_code *code);

/*
 * Maps code for execution, written first and executable only afterwards: no page is ever both. *mem is to be given to
 * vm_code__unmap() when no thread is in the code. Returns the entry's address, or NULL with errno set.
 */
void *vm_code__map(const struct vm_code *code, void **mem);
void vm_code__unmap(const struct vm_code *code, void *mem);

/* Checks form only (jumps, registers, opcodes, lddw pairs, exit). 0 or -EINVAL with err as above. */
int vm_validate(const struct bpf_insn *insns, size_t n_insns, char *err, size_t err_size);

/* As vm_validate(), with these features (enum vm_feature) accepted. Takes time linear in n_insns. */
int vm_validate_features(const struct bpf_insn *insns, size_t n_insns, uint32_t features, char *err, size_t err_size);

/*
 * Replaces each 64-bit immediate with a source register (BPF_PSEUDO_MAP_FD and the others, but not the address of a
 * subprogram) by the number that resolve gives for it, and each call of a kernel function by a call of the helper that
 * it gives. insns is valid. resolve returns 0, or -errno: the instruction is then named in err.
 */
typedef int vm_resolve_fn(void *arg, const struct bpf_insn *insn, uint64_t *value);
int vm_resolve(struct bpf_insn *insns, size_t n_insns, vm_resolve_fn *resolve, void *arg, char *err, size_t err_size);

/* Memory that a program may reach: [start, start + size). */
struct vm_region {
	uint64_t start, size;
	int writable;
};

/* A program that a tail call goes to; valid, with the features of the one that calls it. */
struct vm_program {
	const struct bpf_insn *insns;
	size_t n_insns;
	const uint8_t *kinds; /* of vm_kinds(), or NULL */
};

/* What each instruction of a valid program is, so that the interpreter need not find out each time. malloc'ed; NULL. */
uint8_t *vm_kinds(const struct bpf_insn *insns, size_t n_insns);

/* The reference interpreter. It is slow and does not end by itself: give it max_steps. */
struct vm_interp_opts {
	size_t sz;
	uint64_t (*helper)(void *env, uint32_t id, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5);
	uint64_t (*map_value)(void *env, uint32_t imm, uint32_t off);
	void *env;
	uint64_t max_steps;   /* 0: no limit */
	uint64_t r2;	      /* what register 2 holds at the beginning */
	uint32_t features;    /* enum vm_feature, of VM_FEATURES_RUN */
	int trusted;	      /* the program is known to be valid: it is not looked at again */
	const uint8_t *kinds; /* of vm_kinds(), or NULL */
	/*
	 * check_memory: the program may reach its own stack frames, those of its callers, and regions, nothing else;
	 * where it tries, it ends with -EFAULT. allowed, when not NULL, is asked about what is in no region.
	 */
	int check_memory;
	struct vm_region memory; /* where most accesses go */
	const struct vm_region *regions;
	size_t n_regions;
	int (*allowed)(void *env, uint64_t addr, uint32_t size, int write);
	/* Whether there is a helper of this number; NULL: all that are called. */
	int (*has_helper)(void *env, uint32_t id);
	/* As in struct vm_env. */
	const struct vm_program *(*tail_call)(void *env, uint64_t ctx, uint64_t map, uint32_t index);
	int64_t (*packet)(void *env, uint64_t ctx, uint32_t offset, uint32_t size);
};
/*
 * Runs the program with ctx in r1. All other registers and the stack are zero. 0 and *r0, or -errno with a sentence:
 * -EINVAL (the program is not valid), -ELOOP (max_steps), -EFAULT (memory, a bad callx), -E2BIG (calls too deep),
 * -EOPNOTSUPP (no such helper). Safe to call from several threads. Atomic instructions are atomic where the address is
 * aligned.
 */
int vm_interpret(const struct bpf_insn *insns, size_t n_insns, void *ctx, const struct vm_interp_opts *opts,
		 uint64_t *r0, char *err, size_t err_size);

#endif
