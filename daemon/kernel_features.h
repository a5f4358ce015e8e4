/* SPDX-License-Identifier: MIT */
/* kernel_features.h: what this kernel offers and allows, asked once at start; and what follows for the choice of hooks.
 */
#ifndef BPFTIME_KERNEL_FEATURES_H
#define BPFTIME_KERNEL_FEATURES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum preempt_mode {
	PREEMPT_MODE_UNKNOWN,
	PREEMPT_MODE_NONE,
	PREEMPT_MODE_VOLUNTARY,
	PREEMPT_MODE_LAZY,
	PREEMPT_MODE_FULL
};

enum bpf_hook { BPF_HOOK_TRACEPOINT, BPF_HOOK_RAW_TRACEPOINT };

struct kernel_features {
	char release[128];
	char lockdown[24]; /* "none", "integrity", "confidentiality"; "unknown" when the kernel does not tell */
	enum preempt_mode preempt;
	bool has_btf;		  /* /sys/kernel/btf/vmlinux */
	bool has_raw_tp;	  /* raw tracepoint programs load */
	bool has_syscall_tp;	  /* the tracepoints of single system calls can be found in tracefs */
	uint32_t uprobe_pmu;	  /* attr.type of perf uprobes, 0: none */
	uint32_t uprobe_ret_mask; /* bit in attr.config that makes it a return probe */
};

void kernel_features__probe(struct kernel_features *k);

/* 0, or -ENOTSUP and one sentence that says what observing needs and this kernel lacks. */
int kernel_features__missing(const struct kernel_features *k, char *err, size_t err_size);

/*
 * How bpf() is to be observed. The programs of a system call's tracepoint are skipped while another program runs on the
 * same CPU, which happens where a program can be preempted: there the raw tracepoints, which cost every system call
 * more.
 */
enum bpf_hook kernel_features__hook(const struct kernel_features *k);

const char *preempt_mode__name(enum preempt_mode mode);
const char *bpf_hook__name(enum bpf_hook hook);

/* The number of tracepoint "category/name" for perf_event_open(), or -errno. Needs no mounted tracefs and mounts none.
 */
int tracepoint_id(const char *category, const char *name);

#endif
