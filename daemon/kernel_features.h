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

enum bpf_hook {
	BPF_HOOK_TRACEPOINT,
	BPF_HOOK_RAW_TRACEPOINT,
	BPF_HOOK_LSM,
	BPF_HOOK_LSM_ALONE /* the same, with programs that keep the kernel from preempting them */
};

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
 * Where the programs stand that bring a tool's map up to date before the kernel serves bpf(). The one place to choose:
 *
 *	not preemptible, LSM and fexit programs load and fire	lsm		costs other calls nothing
 *	not preemptible						tracepoint	costs every system call 30 to 45 ns
 *	preemptible, or not known				raw tracepoint	costs every system call 180 to 230 ns
 *	the same from Linux 6.19 on, LSM and fexit programs
 *	load and fire and may switch preemption off		lsm		costs other calls nothing
 *
 * Preemptible is what decides first. The programs of a system call's tracepoint are skipped while another program runs
 * on the same CPU, which happens where a program can be preempted. At the LSM hook a program is not skipped (since
 * Linux 6.2 and 6.1.54), but can be preempted while it holds a map's lock, unless it forbids that. At the raw
 * tracepoint it is neither, up to Linux 6.18.
 *
 * To find out whether these programs fire, three are loaded and attached for a moment. BPFTIME_HOOK in the environment
 * (lsm, lsm-alone, raw-tracepoint, tracepoint), which is for tests, overrules.
 */
enum bpf_hook kernel_features__hook(const struct kernel_features *k);

/* How loads and attachments are observed, where the end of a call is wanted too: tracepoint or raw tracepoint. */
enum bpf_hook kernel_features__observing_hook(const struct kernel_features *k);

/* May a task lose its processor in the middle of a program? Also when that is not known. */
bool kernel_features__is_preemptible(const struct kernel_features *k);
bool kernel_features__preempts(void); /* the same of this kernel; from several threads at once, too */

/* Can a loaded program be replaced (freplace)? Tried at the first call, with programs of our own. */
bool kernel_features__can_replace(void);

const char *preempt_mode__name(enum preempt_mode mode);
const char *bpf_hook__name(enum bpf_hook hook); /* "tracepoint", "raw tracepoint", "lsm" for both */

/* A perf event, not enabled, at tracepoint "category/name", or -errno. Needs no mounted tracefs and mounts none. */
int tracepoint_open(const char *category, const char *name);

#endif
