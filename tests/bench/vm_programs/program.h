/* SPDX-License-Identifier: MIT */
/*
 * program.h: one source, compiled as eBPF and natively, for tests/bench/vm. A program reads and writes nothing but its
 * `data`, which prepare() fills: natively, once; then it is copied to where the eBPF program has its own. So kernel,
 * JIT and native code do the same work on the same memory. Loops have constant bounds: the kernel's verifier follows
 * them.
 */
#ifndef BENCH_VM_PROGRAM_H
#define BENCH_VM_PROGRAM_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

/* What a natively compiled program shows to the driver. */
struct bench_program {
	u64 (*run)(void *ctx);
	void (*prepare)(void); /* fills data */
	void *data;
	u64 size;
};

#ifdef __bpf__
#define PROGRAM                                                                                                        \
	struct data data;                                                                                              \
	char _license[] __attribute__((section("license"), used)) = "Dual MIT/GPL";                                    \
	__attribute__((section("socket"), used)) u64 run(void *ctx)
#define PREPARE static inline void prepare(void)
#else
#define PROGRAM                                                                                                        \
	struct data data;                                                                                              \
	static u64 run(void *ctx)
#define PREPARE                                                                                                        \
	static void prepare(void);                                                                                     \
	__attribute__((visibility("default"))) const struct bench_program *bench_program(void);                        \
	const struct bench_program *bench_program(void)                                                                \
	{                                                                                                              \
		static const struct bench_program p = {run, prepare, &data, sizeof(data)};                             \
                                                                                                                       \
		return &p;                                                                                             \
	}                                                                                                              \
	static void prepare(void)
#endif

/* Numbers that are the same each time. */
static inline u64 bench_random(u64 *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}
#define BENCH_SEED 88172645463325252ull

#endif
