/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/*
 * abi.h: what the daemon, the code in a target and the kernel-side service programs agree on.
 *
 * In a target are mapped, besides the arenas of the groups:
 *   - the agent image: one sealed read-only code memfd for the whole host (agent/image.S, agent/hit.c);
 *   - one sealed code memfd per compiled program;
 *   - the *target arena*, struct agent_target: first the value of a BPF_MAP_TYPE_ARRAY (BPF_F_MMAPABLE, one element of
 *     AGENT_ARENA_SIZE bytes), shared by the target, the daemon and the kernel-side programs: thread slots, which the
 *     target may write; behind it a memfd of a fixed size, shared by the target and the daemon: site descriptors, which
 *     it may not, pages of which cost nothing before they are used;
 *   - behind the image, at a constant distance, the *room*, which is private and anonymous: the fork page,
 *     MADV_WIPEONFORK: its first word is 1 in the target and 0 in a fork child; a page in which the arguments of
 *     injected system calls lie (agent/inject.c); struct agent_private, of which a fork child has its own copy;
 *   - trampoline pages near the probed functions: per-site stubs (code, r-x, from a sealed memfd).
 *
 * What the target may write here may be scribbled upon by a hostile one; it then harms only itself. A fork child has
 * it, too, and may have become another user's since: so nothing of it says where code is, or where something is
 * written.
 */
#ifndef BPFTIME_AGENT_ABI_H
#define BPFTIME_AGENT_ABI_H

#ifndef __ASSEMBLER__
#include "../shm-runtime/shm.h"
#endif

#define AGENT_ABI_VERSION   6
#define AGENT_MAX_ACTIONS   8u /* programs at one site; more: the site stays in the kernel */
#define AGENT_MAX_DIRECT    6u
#define AGENT_MAX_SITES	    4096u
#define AGENT_COUNTED_SITES 32u	  /* sites whose hits each thread counts for itself; a power of two */
#define AGENT_MAX_THREADS   1024u /* slots; a power of two */
#define AGENT_REPLY_SIZE    200u  /* bytes that one service call can bring back: struct agent_thread has 512 */
#define AGENT_MAX_SPARES    32u	  /* slots for callers without a thread slot of their own */
#define AGENT_PROBE_WINDOW  32u	  /* slots that can be a thread's: slot.h */
#define AGENT_SHADOW_DEPTH  64u	  /* as the kernel's MAX_URETPROBE_DEPTH */

/*
 * Escape slots: a slot is another address of a probed instruction, the same one in every process of the host. It is a
 * nop in the image, with the uprobes of the instruction's probes on it; then a jump to where agent_escape.to says. At
 * the nop all registers but the instruction pointer, the stack and the return address are as at the instruction. No
 * longer nop: Linux makes a call of that of five bytes, which writes below the stack pointer.
 */
#define AGENT_MAX_ESCAPES 4096
#define AGENT_ESCAPE_SIZE 8 /* nop; jmp *to(%rip); int3 */

/* The image as it is mapped, and the room behind it. */
#define AGENT_IMAGE_SIZE     0xa000
#define AGENT_ROOM_PAGES     0x2000				   /* the fork page, and that of system calls */
#define AGENT_PRIVATE_OFF    (AGENT_IMAGE_SIZE + AGENT_ROOM_PAGES) /* struct agent_private, from the image's start */
#define AGENT_ESCAPE_TO	     16					   /* of the first slot, in struct agent_private */
#define AGENT_ESCAPE_STEP    16
#define AGENT_SITE_FORK_PAGE 48 /* in struct agent_site */

/*
 * A stub, as offsets from its entry E (where the site's jump lands). entry.S and site.c must agree.
 *
 *   E-96  .quad the escape slot, or 0
 *   E-88  escape: lea 128(%rsp),%rsp; jmp *E-96
 *   E-64  .quad struct agent_site, agent_entry, agent_return
 *   E-40  bounce: lea 128(%rsp),%rsp; jmp site
 *   E-24  plain:  lea 128(%rsp),%rsp; jmp resume
 *   E     lea -128(%rsp),%rsp (-120 where the jump has pushed a word: form.c); call *agent_entry
 *   E+11  lea 128(%rsp),%rsp, and at E+19 resume: the relocated instructions; jmp site + covered
 * or, for return probes:
 *   E+11  lea 136(%rsp),%rsp (drops the return address); call resume
 *   E+24  lea -8(%rsp),%rsp; call *agent_return; ret
 *   E+40  resume
 */
#define STUB_BEFORE	 96
#define STUB_ESCAPE	 (-88)
#define STUB_BOUNCE	 (-40)
#define STUB_PLAIN	 (-24)
#define STUB_CALLED	 11
#define STUB_RESUME	 19
#define STUB_RETURNED	 24
#define STUB_RET_CALLED	 35
#define STUB_RET_RESUME	 40
#define STUB_ESCAPE_SLOT (-96)
#define STUB_SITE_SLOT	 (-64)
#define STUB_ENTRY_SLOT	 (-56)
#define STUB_RETURN_SLOT (-48)

/*
 * What a hit uses of the thread's stack, in bytes below the stack pointer at the probed instruction, before the program
 * that it calls (struct vm_code.stack_size): the red zone, which it must step over, what the stub and entry.S lay down,
 * and in general what hit.c takes. Whoever could take a signal there has more. A program that needs more than
 * AGENT_STACK_PROGRAM stays in the kernel, so that a hit does with 2 KiB, the least that a stack for signals has.
 */
#define AGENT_STACK_PLAIN   304
#define AGENT_STACK_GENERAL 512
#define AGENT_STACK_PROGRAM 1536

#define AGENT_IMAGE_MAGIC 0x544e4742

#ifndef __ASSEMBLER__

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
	AGENT_ACT_GENERAL = 4,	   /* reads registers that a plain hit does not save, or has string instructions */
};

/* One program at one site. fn == 0: no action in this place. */
struct agent_action {
	__u64 fn; /* __u64 fn(struct pt_regs *, struct agent_env *) */
	__u32 flags;
	__u32 group; /* the daemon's number of the group that it belongs to */
	struct agent_env env;
};

enum agent_site_mode {
	/*
	 * Serve nothing here; a thread that still comes goes back to the site, whose byte is the kernel's int3 by then.
	 * Set after the byte was closed, changed before it is opened.
	 */
	AGENT_SITE_BOUNCE = 0,
	AGENT_SITE_GENERAL = 1,
	AGENT_SITE_PLAIN_ENTRY = 2,  /* the first action, at entry, is the only one */
	AGENT_SITE_PLAIN_RETURN = 3, /* the same, when the function returns */
};

/* One probed instruction. Written by the daemon while the site is closed. */
struct agent_site {
	__u64 site;	   /* address of the probed instruction */
	__u64 resume;	   /* relocated instructions, then the jump back: in the stub */
	__u64 call_resume; /* for return probes: where the probed function returns to in the stub */
	__u32 n_actions;
	__u32 has_return;
	__u32 mode;	 /* enum agent_site_mode; see agent_site_serve() */
	__u32 counter;	 /* index of the site, where a thread counts the hits of the plain modes */
	__u32 jump_size; /* what is at the probed instruction while the place is open: see below */
	__u32 pad;
	__u64 fork_page; /* as in struct agent_env */
	__u64 shadow;	 /* struct agent_shadow[AGENT_MAX_THREADS] */
	struct agent_action action[AGENT_MAX_ACTIONS];
	__u8 jump[16];
};

/* Are these the bytes behind the first one? An int3 may be somebody's uprobe. */
static inline int agent_is_behind(const __u8 *now, const __u8 *bytes, __u32 size)
{
	for (__u32 i = 1; i < size; i++)
		if (now[i] != bytes[i] && now[i] != 0xcc)
			return 0;
	return 1;
}

/* Who a thread is, as the kernel says. Written by kernel-side programs, read by the agent; found by fs base. */
enum agent_thread_state {
	AGENT_THREAD_FREE = 0,
	AGENT_THREAD_KNOWN = 1,	 /* tid, tgid, comm may be used */
	AGENT_THREAD_SHARED = 2, /* and above: state - 1 more tasks live with this fs base (vfork): ask at every hit */
};

struct agent_thread {
	__u64 fs_base; /* 0: free */
	__u32 state;
	__u32 pad;
	__u64 pid_tgid; /* as bpf_get_current_pid_tgid(), initial namespace */
	char comm[16];
	__u64 busy;   /* reply buffer in use by the owning thread (nesting by signals): see ask.h */
	__s64 result; /* of the last service call */
	__u8 reply[AGENT_REPLY_SIZE];
	/*
	 * Hits of the sites in their plain modes, by counter. Only the thread that owns the slot counts here, by one
	 * instruction without a lock; a slot that changes hands is counted on. Everything else counts per CPU.
	 */
	__u64 hits[AGENT_COUNTED_SITES];
} __attribute__((aligned(64))); /* no two threads' in one line of the cache */

/*
 * A thread's pending returns. These lie in memory private to the target's mm (agent_site.shadow), at the index of the
 * thread's slot, so that a fork child has its own copy, as it has of the stack. Only code in the target touches them.
 */
struct agent_return {
	__u64 sp;   /* where the return address was */
	__u64 ip;   /* the return address */
	__u64 site; /* struct agent_site */
};

struct agent_shadow {
	__u64 fs_base; /* whose this is; the slot may have changed hands since */
	__u64 pid_tgid;
	__u64 depth;
	struct agent_return at[AGENT_SHADOW_DEPTH];
	__u64 unused[61];
};

/* Of the instruction to which a slot belongs, in this process. Written by the daemon, and nobody else. */
struct agent_escape {
	__u64 to; /* the relocated instructions: in the stub. Stays while a thread may be at the slot */
	__u64 on; /* 1: all probes that the instruction has in userspace are at the slot, too: hits may go there */
};

/* In the room: what a fork child has as of its birth. */
struct agent_private {
	__u64 generation; /* see struct agent_target */
	__u64 unused;
	struct agent_escape escape[AGENT_MAX_ESCAPES];
	__u64 to_page[510];
};
_Static_assert(__builtin_offsetof(struct agent_private, escape) == AGENT_ESCAPE_TO &&
		       sizeof(struct agent_escape) == AGENT_ESCAPE_STEP && sizeof(struct agent_private) % 4096 == 0,
	       "entry.S knows where slots lead");

/* What a hit finds its slot by is no multiplication. */
_Static_assert(sizeof(struct agent_thread) == 512, "a power of two");
_Static_assert(sizeof(struct agent_shadow) == 2048, "a power of two");

/* Operations of the service call: one trap into a kernel-side program, no system call. */
enum agent_op {
	AGENT_OP_REGISTER = 1,	    /* fill the caller's thread slot (found by fs base) */
	AGENT_OP_PID_TGID = 2,	    /* result */
	AGENT_OP_UID_GID = 3,	    /* result */
	AGENT_OP_COMM = 4,	    /* reply[0..15] */
	AGENT_OP_KTIME = 5,	    /* result */
	AGENT_OP_KTIME_BOOT = 6,    /* result */
	AGENT_OP_READ_USER = 7,	    /* a = address, b = bytes (<= AGENT_REPLY_SIZE): reply, result = 0 or -EFAULT */
	AGENT_OP_READ_USER_STR = 8, /* the same for a string: result = length with the NUL, or -EFAULT */
	AGENT_OP_CPU = 9,	    /* result */
};

enum agent_target_flags {
	AGENT_TARGET_RDPID = 1,	      /* the CPU has rdpid */
	AGENT_TARGET_KERNEL_READ = 2, /* set by the agent: a program read a kernel address and got -EFAULT */
	AGENT_TARGET_NO_SLOT = 4, /* set by the agent: a return was not probed, the thread table is full, no escape */
	AGENT_TARGET_LATE_CHILD = 8, /* set by the agent: a fork child was not repaired in time, see hit.c */
	AGENT_TARGET_STRANDED =
		16,		/* set by the agent: a gate waited, nobody turned it, and a hit escaped, see hit.c */
	AGENT_TARGET_LOST = 32, /* the same where there is no escape */
};

/* Filled by target__inject() up to flags; sites by the daemon; the rest by the kernel-side programs and the agent. */
struct agent_target {
	__u32 version;
	__u32 tgid;    /* initial namespace */
	__u32 n_sites; /* no site at this index or above was ever used */
	__u32 flags;
	__u64 self; /* address of this in the target */
	/*
	 * 1: no other task has this memory, so that hits can be counted without lock or owner. The daemon says it when
	 * it has seen so, a kernel-side program takes it back before a second thread runs.
	 */
	__u32 alone;
	__u32 pad;
	__u64 alone_hits[AGENT_COUNTED_SITES]; /* as agent_thread.hits, of the thread that was alone */
	struct agent_thread thread[AGENT_MAX_THREADS];
	struct agent_thread spare[AGENT_MAX_SPARES]; /* claimed through busy */
	/*
	 * From here on the target may only read. generation: changes with every mapping that comes or goes; the target
	 * has it in memory of its own, too (agent_private.generation), where a fork child has the one of its birth.
	 * What the descriptors say later is not for the child's mappings.
	 */
	__u64 generation __attribute__((aligned(4096)));
	struct agent_site site[AGENT_MAX_SITES];
};

/* What the BPF map has; and the rest. */
#define AGENT_ARENA_SIZE __builtin_offsetof(struct agent_target, generation)
_Static_assert(AGENT_ARENA_SIZE % 4096 == 0 && sizeof(struct agent_target) % 4096 == 0, "whole pages");

/*
 * The site at this index is to serve its actions. For the daemon, before the site's byte is opened; __ATOMIC_SEQ_CST.
 */
static inline void agent_site_serve(struct agent_site *s, __u32 index)
{
	const struct agent_action *a = &s->action[0];
	__u32 mode = AGENT_SITE_GENERAL;

	s->counter = index;
	if (s->n_actions == 1 && a->fn && !(a->flags & AGENT_ACT_GENERAL) && index < AGENT_COUNTED_SITES) {
		if ((a->flags & AGENT_ACT_RETURN) && s->call_resume)
			mode = AGENT_SITE_PLAIN_RETURN;
		else if (!(a->flags & AGENT_ACT_RETURN) && !s->call_resume)
			mode = AGENT_SITE_PLAIN_ENTRY;
	}
	__atomic_store_n(&s->mode, mode, __ATOMIC_SEQ_CST);
}

/* First bytes of the agent image. Offsets from its start. */
struct agent_image_hdr {
	__u32 magic, version;
	__u32 entry, entry_ret, ret; /* agent_entry, agent_entry_ret, agent_return */
	__u32 service, service_nop;  /* agent_service() and the nop in it */
	__u32 wait_start, wait_end;  /* agent_wait() */
	__u32 escapes;		     /* the first escape slot */
};

#endif /* __ASSEMBLER__ */

#endif
