/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * abi.h: what the daemon, the code in a target and the kernel-side service programs agree on.
 *
 * In a target are mapped, besides the arenas of the groups:
 *   - the agent image: one sealed read-only code memfd for the whole host (agent/image.S, agent/hit.c);
 *   - one sealed code memfd per compiled program;
 *   - the *target arena*: the value of a BPF_MAP_TYPE_ARRAY (BPF_F_MMAPABLE, one element of struct agent_target),
 *     shared by the target, the daemon and the kernel-side programs: thread slots and site descriptors;
 *   - the fork page: private, anonymous, MADV_WIPEONFORK: its first word is 1 in the target and 0 in a fork child;
 *   - trampoline pages near the probed functions: per-site stubs (code, r-x, from a sealed memfd).
 *
 * Everything here may be scribbled upon by a hostile target; it then harms only itself.
 */
#ifndef BPFTIME_AGENT_ABI_H
#define BPFTIME_AGENT_ABI_H

#include "../shm-runtime/shm.h"

#define AGENT_ABI_VERSION 1u
#define AGENT_MAX_ACTIONS 8u /* programs at one site; more: the site stays in the kernel */
#define AGENT_MAX_DIRECT 6u
#define AGENT_MAX_SITES 128u
#define AGENT_MAX_THREADS 1024u /* slots; a power of two */
#define AGENT_REPLY_SIZE 256u	/* bytes that one service call can bring back */
#define AGENT_SHADOW_DEPTH 64u	/* as the kernel's MAX_URETPROBE_DEPTH */

/* What a compiled program gets as second argument. One per action, filled by the daemon. Addresses are the target's. */
struct agent_env {
	__u64 arena;	    /* group arena (struct shm_group_hdr) */
	__u64 target;	    /* struct agent_target */
	__u64 service;	    /* agent_service(): see enum agent_op */
	__u64 vdso_gettime; /* __vdso_clock_gettime, or 0: ask the kernel */
	__u64 hits_off;	    /* this action's hit counters, from the start of the arena */
	__u64 func_ip;	    /* runtime address of the probed function: bpf_get_func_ip() */
	__u64 cookie;	    /* bpf_get_attach_cookie() */
	__u64 fork_page;    /* address of the fork page */
	__u64 direct[AGENT_MAX_DIRECT];
};

enum agent_action_flags {
	AGENT_ACT_RETURN = 1,	   /* runs when the function returns */
	AGENT_ACT_PID_LIMITED = 2, /* must not run in fork children */
};

/* One program at one site. fn == 0: no action in this place. */
struct agent_action {
	__u64 fn; /* __u64 fn(struct pt_regs *, struct agent_env *) */
	__u32 flags;
	__u32 pad;
	struct agent_env env;
};

/* One probed instruction. Written by the daemon while the site is closed. */
struct agent_site {
	__u64 site;   /* address of the probed instruction */
	__u64 resume; /* relocated instructions, then the jump back: in the stub */
	__u64 call_resume; /* for return probes: where agent code calls the relocated function entry */
	__u32 n_actions;
	__u32 has_return;
	/*
	 * 1: serve nothing here; a thread that still comes goes back to the site, whose byte is the kernel's int3 by then.
	 * Set after the byte was closed, cleared before it is opened.
	 */
	__u32 bounce;
	__u32 pad;
	struct agent_action action[AGENT_MAX_ACTIONS];
};

/* Who a thread is, as the kernel says. Written by kernel-side programs, read by the agent; found by fs base. */
enum agent_thread_state {
	AGENT_THREAD_FREE = 0,
	AGENT_THREAD_KNOWN = 1,	 /* tid, tgid, comm may be used */
	AGENT_THREAD_SHARED = 2, /* another task lives with this fs base (vfork): ask the kernel at every hit */
};

struct agent_thread {
	__u64 fs_base; /* 0: free */
	__u32 state;
	__u32 depth;	 /* of the shadow stack */
	__u64 pid_tgid;	 /* as bpf_get_current_pid_tgid(), initial namespace */
	char comm[16];
	__u64 busy;	 /* reply buffer in use by the owning thread (nesting by signals): see agent_service() */
	__s64 result;	 /* of the last service call */
	__u8 reply[AGENT_REPLY_SIZE];
	__u64 shadow[AGENT_SHADOW_DEPTH][2]; /* { stack pointer, return address }; the agent's own */
};

/* Operations of the service call: one trap into a kernel-side program, no system call. */
enum agent_op {
	AGENT_OP_REGISTER = 1,	 /* fill the caller's thread slot (found by fs base) */
	AGENT_OP_PID_TGID = 2,	 /* result */
	AGENT_OP_UID_GID = 3,	 /* result */
	AGENT_OP_COMM = 4,	 /* reply[0..15] */
	AGENT_OP_KTIME = 5,	 /* result */
	AGENT_OP_KTIME_BOOT = 6, /* result */
	AGENT_OP_READ_USER = 7,	 /* a = address, b = bytes (<= AGENT_REPLY_SIZE): reply, result = 0 or -EFAULT */
	AGENT_OP_READ_USER_STR = 8, /* the same for a string: result = length with the NUL, or -EFAULT */
	AGENT_OP_CPU = 9,	 /* result */
};

struct agent_target {
	__u32 version;
	__u32 tgid; /* initial namespace */
	__u32 n_sites;
	__u32 flags;
	struct agent_thread thread[AGENT_MAX_THREADS];
	struct agent_thread spare[32]; /* for threads without a slot of their own: claimed through busy */
	struct agent_site site[AGENT_MAX_SITES];
};

#endif
