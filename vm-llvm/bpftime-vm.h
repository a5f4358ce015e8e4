/* SPDX-License-Identifier: MIT */
/*
 * bpftime-vm.h: run eBPF programs in a process: validate, interpret, compile to native code, call.
 *
 * The instructions are those of RFC 9669: all of the conformance groups base32, base64, atomic32, atomic64, divmul32,
 * divmul64, and, where the caller asks for them, callx and packet. Where the RFC leaves something open, a program does
 * here what it does in Linux.
 *
 *	struct bpftime_vm *vm;
 *	char err[256];
 *	uint64_t r0;
 *
 *	if (bpftime_vm__new(&vm, insns, n_insns, NULL, err, sizeof(err)) ||
 *	    bpftime_vm__compile(vm, NULL, err, sizeof(err)))
 *		errx(1, "%s", err);
 *	bpftime_vm__call(vm, packet, packet_size, &r0);
 *	bpftime_vm__free(vm);
 *
 * Functions return 0 or -errno. err, where there is one, may be NULL; else it gets one sentence that names the
 * instruction and the reason, cut to err_size bytes, when the function fails. A structure of options begins with its
 * size; a pointer to options may be NULL, and a member that is zero has the default. Link with -lbpftime-vm.
 */
#ifndef BPFTIME_VM_LIBRARY_H
#define BPFTIME_VM_LIBRARY_H

#include <stddef.h>
#include <stdint.h>
#include <linux/bpf.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BPFTIME_VM_API __attribute__((visibility("default")))

/* A program. It does not change after it was compiled, so any number of threads may run it then. */
struct bpftime_vm;

/* "MAJOR.MINOR.PATCH" of the library that is linked. A static string. */
BPFTIME_VM_API const char *bpftime_vm_version(void);

/* ---- programs ---- */

/* What a program is refused for unless its bit is given. */
enum bpftime_vm_feature {
	BPFTIME_VM_TAIL_CALL = 1 << 0, /* helper 12: needs tail_call */
	BPFTIME_VM_CALLX = 1 << 1,     /* opcode 0x8d: call the helper, or the subprogram, that a register names */
	BPFTIME_VM_FUNC_ADDR = 1 << 2, /* 64-bit immediate with the address of a subprogram; opaque, for callx */
	BPFTIME_VM_PACKET = 1 << 3,    /* BPF_ABS and BPF_IND: needs packet */
	BPFTIME_VM_KFUNC = 1 << 4,     /* call with src_reg 2: resolve gives the helper that it is */
	BPFTIME_VM_MAP_IDX = 1 << 5,   /* 64-bit immediates of kinds 5 and 6: resolve gives the number */
	BPFTIME_VM_BTF_ID = 1 << 6,    /* 64-bit immediate of kind 3: as above */
};

/*
 * The body of a helper. user: as in the options. r1 to r5: the program's registers, which keep their values. What it
 * returns is r0. It is called in the thread that runs the program.
 */
typedef uint64_t bpftime_vm_helper_fn(void *user, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5);

struct bpftime_vm_helper {
	uint32_t id; /* the imm of the call, not 12 */
	bpftime_vm_helper_fn *fn;
};

struct bpftime_vm_opts {
	size_t sz;	   /* sizeof(struct bpftime_vm_opts) */
	uint32_t features; /* enum bpftime_vm_feature */
	/* What `call` may call. Copied; in any order; at most 4096. */
	const struct bpftime_vm_helper *helpers;
	size_t n_helpers;
	void *user; /* first argument of all functions below */
	/*
	 * The number that stands for a 64-bit immediate with a source register (BPF_PSEUDO_MAP_FD 1,
	 * BPF_PSEUDO_MAP_VALUE 2, and the kinds of the features above; insn[0] and insn[1] are the pair), or the
	 * helper's number for a call of a kernel function. Called while the program is made, once for each. 0 or
	 * -errno. NULL: such programs are refused.
	 */
	int (*resolve)(void *user, const struct bpf_insn *insn, uint64_t *value);
	/*
	 * The program at index of a program array, or NULL: then the tail call does nothing. map: what the program has
	 * in r2. A program in native code goes on with programs in native code that have the same helpers; others count
	 * as not there. 33 tail calls are made in one run, later ones do nothing (MAX_TAIL_CALL_CNT).
	 */
	struct bpftime_vm *(*tail_call)(void *user, uint64_t ctx, uint64_t map, uint32_t index);
	/*
	 * The number in size (1, 2, 4) bytes at offset of the packet that ctx (r6) stands for, most significant byte
	 * first; -1 when they are not there, which ends the program with 0.
	 */
	int64_t (*packet)(void *user, uint64_t ctx, uint32_t offset, uint32_t size);
};

/*
 * Makes a program from n_insns instructions, which are copied. Checks the form: opcodes, registers, jumps, pairs of
 * 64-bit immediates, exits; linear in n_insns. What the program does at run time is not looked at. *vm: free it with
 * bpftime_vm__free(). -EINVAL: malformed, or refused. -E2BIG: options of a newer header than this library with members
 * that it does not know.
 */
BPFTIME_VM_API int bpftime_vm__new(struct bpftime_vm **vm, const struct bpf_insn *insns, size_t n_insns,
				   const struct bpftime_vm_opts *opts, char *err, size_t err_size);

/* Frees the program and its code, in which no thread may be. NULL is allowed. */
BPFTIME_VM_API void bpftime_vm__free(struct bpftime_vm *vm);

/* Checks the form only, as bpftime_vm__new() does. features: enum bpftime_vm_feature. 0 or -EINVAL or -ENOMEM. */
BPFTIME_VM_API int bpftime_vm_validate(const struct bpf_insn *insns, size_t n_insns, uint32_t features, char *err,
				       size_t err_size);

/* The instructions, after immediates were resolved; *n: how many slots. They are the program's. */
BPFTIME_VM_API const struct bpf_insn *bpftime_vm__insns(const struct bpftime_vm *vm, size_t *n);

/* ---- interpreter: any program, from anybody, safely ---- */

struct bpftime_vm_region {
	uint64_t start, size; /* bytes at start */
	int writable;
};

struct bpftime_vm_run_opts {
	size_t sz;
	uint64_t max_steps; /* instructions; 0: no limit, the program may run for ever */
	/*
	 * What the program may reach besides mem, its own 512 bytes of stack and those of its callers. A region may
	 * begin where it likes; accesses need not be aligned.
	 */
	const struct bpftime_vm_region *regions;
	size_t n_regions;
	/* Asked about what is in no region (memory that a helper has handed out); 0: no. May be NULL. */
	int (*allowed)(void *user, uint64_t addr, uint32_t size, int write);
	int unchecked; /* the program may reach everything */
};

/*
 * Runs the program with r1 = mem, r2 = mem_size (mem may be NULL), all else zero. mem is writable. 0 and *r0, or
 *	-EFAULT	     it reached for other memory, or called what is no function
 *	-ELOOP	     max_steps were made
 *	-E2BIG	     calls nested deeper than 8 frames
 *	-EOPNOTSUPP  there is no such helper
 * Helpers get what the program gives them: they have to check it themselves. Thread-safe.
 */
BPFTIME_VM_API int bpftime_vm__interpret(const struct bpftime_vm *vm, void *mem, size_t mem_size,
					 const struct bpftime_vm_run_opts *opts, uint64_t *r0, char *err,
					 size_t err_size);

/* ---- native code: programs that a verifier has passed, or that are trusted ---- */

struct bpftime_vm_compile_opts {
	size_t sz;
	/* A verifier has passed it: nothing is read before it is written. Else each frame is zeroed first. */
	int verified;
	int portable; /* code for any x86-64; else for this CPU and its like, with loops vectorised */
	/*
	 * LLVM 19 bitcode with bodies of helpers, which are inlined: function bpf_helper_N for helper N, of type
	 * bpftime_vm_helper_fn. It may call no function that it does not define and have no variables.
	 */
	const void *bitcode;
	size_t bitcode_size;
	/*
	 * Compile in a process of its own, with few rights, 2 GB of memory and timeout_ms (0: 30000) of time: the path
	 * of bpftime-vm-worker. NULL: in this process, which then has LLVM in it and takes as long as it takes.
	 */
	const char *worker;
	int timeout_ms;
};

/*
 * Compiles the program, once; -EEXIST when it has been. No page of memory is ever writable and executable. -EOPNOTSUPP
 * when it calls a helper that is not there, -ETIMEDOUT, -EPIPE (the worker died), -E2BIG. Not thread-safe for one
 * program, and nobody may run it meanwhile. The program can reach all memory of this process, and need not end.
 */
BPFTIME_VM_API int bpftime_vm__compile(struct bpftime_vm *vm, const struct bpftime_vm_compile_opts *opts, char *err,
				       size_t err_size);

/*
 * Calls the native code with r1 = mem, r2 = mem_size. 0 and *r0; -ENOENT when it was not compiled; -EFAULT when it
 * called what is no function or callx nested too deep. Thread-safe.
 */
BPFTIME_VM_API int bpftime_vm__call(const struct bpftime_vm *vm, void *mem, size_t mem_size, uint64_t *r0);

/* What native code needs in a call. Filled by bpftime_vm__env(); members are changed between calls as said there. */
struct bpftime_vm_env {
	void *user;
	bpftime_vm_helper_fn *const *helpers;
	void *tail_call;
	int64_t (*packet)(void *user, uint64_t ctx, uint32_t offset, uint32_t size);
	uint32_t tail_calls; /* made so far: zero it before each call of a program with tail calls */
	uint32_t fault;	     /* not zero: the program was ended, at instruction fault - 1: zero it likewise */
	const void *owner;
};

/* The native code itself: the fastest way to call it. It may use one env at a time. */
typedef uint64_t bpftime_vm_fn(uint64_t r1, uint64_t r2, struct bpftime_vm_env *env);

/* The function, good until bpftime_vm__free(); NULL when it was not compiled. */
BPFTIME_VM_API bpftime_vm_fn *bpftime_vm__function(const struct bpftime_vm *vm);

/* Fills env for calls of this program. env->user may be changed afterwards. One env for each thread. */
BPFTIME_VM_API void bpftime_vm__env(const struct bpftime_vm *vm, struct bpftime_vm_env *env);

/*
 * The native code as bytes, to be kept or looked at: position-independent, without relocations. *size: how many,
 * *entry: where bpftime_vm_fn begins. NULL when it was not compiled. They are the program's.
 */
BPFTIME_VM_API const void *bpftime_vm__code(const struct bpftime_vm *vm, size_t *size, size_t *entry);

#ifdef __cplusplus
}
#endif

#endif
