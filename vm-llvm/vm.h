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
};

struct vm_code {
	uint8_t *bytes; /* position-independent, no relocations, constants behind the code; malloc'ed, yours */
	size_t size;
	size_t entry;	   /* offset of: uint64_t entry(void *ctx, void *env) */
	size_t stack_size; /* bytes of stack that one call may use, return address included */
};

/*
 * Compiles insns to x86-64 code. Returns 0 or -errno; err gets one sentence that names the instruction and the reason.
 * The code uses general registers only, no red zone, makes no calls outside itself but indirect ones that the bitcode
 * makes.
 */
int vm_compile(const struct bpf_insn *insns, size_t n_insns, const struct vm_compile_opts *opts, struct vm_code *out,
	       char *err, size_t err_size);
void vm_code__clear(struct vm_code *code);

/* Checks form only (jumps, registers, opcodes, lddw pairs, exit). 0 or -EINVAL with err as above. */
int vm_validate(const struct bpf_insn *insns, size_t n_insns, char *err, size_t err_size);

/* The reference interpreter. */
struct vm_interp_opts {
	size_t sz;
	uint64_t (*helper)(void *env, uint32_t id, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5);
	uint64_t (*map_value)(void *env, uint32_t imm, uint32_t off);
	void *env;
	uint64_t max_steps; /* 0: no limit */
};
int vm_interpret(const struct bpf_insn *insns, size_t n_insns, void *ctx, const struct vm_interp_opts *opts,
		 uint64_t *r0, char *err, size_t err_size);

#endif
