// SPDX-License-Identifier: MIT
/*
 * hit.c: what happens in a target when a probed instruction is reached, or a probed function returns.
 *
 * entry.S asks agent_hit() what to do, and agent_returned() likewise. In the common case, one program at the site,
 * these count the hit and say what entry.S is to call; they call nothing themselves, so that they need no stack and
 * save no registers. What they decline is done by agent_hit_slowly() and agent_returned_slowly(). Nothing here makes a
 * system call, uses a vector register, or needs a relocation. Memory shared with the target is not trusted by anybody
 * but the target itself.
 *
 * Every hit is served by one side only. All gates are looked at before anything runs: one of them closed sends the
 * thread back to the site, where by then the kernel's int3 is.
 */
#include <linux/types.h>
#include <linux/ptrace.h>
#include <asm/ptrace.h>

#include "ask.h"

extern struct agent_private agent_private __attribute__((visibility("hidden")));
extern const __u8 agent_escapes[AGENT_MAX_ESCAPES][AGENT_ESCAPE_SIZE] __attribute__((visibility("hidden")));

typedef __u64 (*action_fn)(struct pt_regs *regs, struct agent_env *env);

/* What entry.S calls with the registers; fn == 0: nothing was done, the slow function does it. In rax and rdx. */
struct plain_call {
	action_fn fn;
	struct agent_env *env;
};

void agent_service(__u64 op, __u64 slot, __u64 a, __u64 b, __u64 c);
long agent_wait(const __u32 *gate, __u64 moments);
struct plain_call agent_hit(struct agent_site *site);
long agent_hit_slowly(struct pt_regs *regs, struct agent_site *site, const __u8 *stub);
int agent_push(struct agent_site *site, __u64 sp);
struct plain_call agent_returned(struct pt_regs *regs, struct agent_site *site);
void agent_returned_slowly(struct pt_regs *regs, struct agent_site *site);

/* Where agent_entry returns to, relative to where it was called from. */
#define GO_ON	       0
#define GO_BOUNCE      (STUB_BOUNCE - STUB_CALLED)
#define GO_WITHOUT_RET (STUB_PLAIN - STUB_CALLED)
#define GO_ESCAPE      (STUB_ESCAPE - STUB_CALLED)

static inline const __u32 *gate_of(const struct agent_action *a)
{
	return &((const struct shm_group_hdr *)a->env.arena)->ugate;
}

static inline __u32 n_actions(const struct agent_site *site)
{
	return site->n_actions < AGENT_MAX_ACTIONS ? site->n_actions : AGENT_MAX_ACTIONS;
}

static inline int wanted(const struct agent_action *a, int in_child)
{
	return a->fn && !((a->flags & AGENT_ACT_PID_LIMITED) && in_child);
}

static inline void count(struct agent_action *a, const struct agent_target *t)
{
	__u64 *hits = (__u64 *)(a->env.arena + a->env.hits_off);

	__atomic_fetch_add(&hits[agent_cpu(t)], 1, __ATOMIC_RELAXED);
}

/* One instruction is not torn by a signal handler that counts, too. */
static inline void count_alone(__u64 *hits)
{
	__asm__ volatile("incq %0" : "+m"(*hits) : : "cc");
}

static inline void run(struct agent_action *a, struct pt_regs *regs)
{
	count(a, (const struct agent_target *)a->env.target);
	((action_fn)a->fn)(regs, &a->env);
}

/*
 * One of several threads: it counts in its slot, which is its own. 0: the slot at which it looks first is nobody's,
 * register_thread() gets it one.
 */
static inline int count_in_slot(struct agent_action *a, struct agent_target *t, __u32 counter)
{
	__u64 fs_base = agent_fs_base(), owner;
	struct agent_thread *slot = &t->thread[agent_slot_first(fs_base)];

	owner = __atomic_load_n(&slot->fs_base, __ATOMIC_ACQUIRE);
	if (__builtin_expect(owner == fs_base && __atomic_load_n(&slot->state, __ATOMIC_RELAXED) == AGENT_THREAD_KNOWN,
			     1)) {
		count_alone(&slot->hits[counter]);
		return 1;
	}
	if (!owner)
		return 0;
	count(a, t);
	return 1;
}

/*
 * Counts a hit of the only action of a site in a plain mode, not in a fork child. A locked addition costs as much as
 * all the rest, so it is done without wherever nobody else counts in the same place.
 */
static inline int count_plain(struct agent_action *a, const struct agent_site *site)
{
	struct agent_target *t = (struct agent_target *)a->env.target;
	__u32 counter = site->counter & (AGENT_COUNTED_SITES - 1);

	if (!__atomic_load_n(&t->alone, __ATOMIC_RELAXED))
		return count_in_slot(a, t, counter);
	count_alone(&t->alone_hits[counter]);
	return 1;
}

/* A thread that has not been here yet gets a slot for its next hits. */
static void register_thread(struct agent_site *site)
{
	const struct agent_action *a = &site->action[0];
	struct agent_target *t = (struct agent_target *)a->env.target;
	__u64 fs_base = agent_fs_base();

	if (!t->alone && fs_base && agent_find_slot(t, fs_base) == AGENT_NO_SLOT)
		agent_ask(t, a->env.service, a->env.fork_page, AGENT_OP_REGISTER, fs_base);
}

/* The pending returns of the calling thread, when the slot has to be looked for; NULL when there is none for it. */
static __attribute__((noinline)) struct agent_shadow *shadow_slowly(struct agent_target *t,
								    const struct agent_site *site)
{
	struct agent_shadow *all = (struct agent_shadow *)site->shadow;
	__u64 fs_base = agent_fs_base();
	__u32 i = agent_find_slot(t, fs_base), n;
	struct agent_shadow *s;

	if (i == AGENT_NO_SLOT) {
		agent_ask(t, (__u64)agent_service, site->fork_page, AGENT_OP_REGISTER, fs_base);
		i = agent_find_slot(t, fs_base);
		if (i == AGENT_NO_SLOT)
			return 0;
	}
	s = &all[i];
	if (s->fs_base == fs_base && s->pid_tgid == t->thread[i].pid_tgid)
		return s;
	/* The slot is new to this thread: what is left under its fs base was another thread's. */
	for (n = 0; n < AGENT_PROBE_WINDOW; n++) {
		struct agent_shadow *other = &all[agent_slot_nth(fs_base, n)];

		if (other->fs_base == fs_base)
			other->fs_base = 0;
	}
	s->depth = 0;
	s->pid_tgid = t->thread[i].pid_tgid;
	s->fs_base = fs_base;
	return s;
}

/* The same without looking far: nearly always the thread has the first slot of its window. NULL: it has not. */
static inline struct agent_shadow *shadow_first(struct agent_target *t, const struct agent_site *site)
{
	__u64 fs_base = agent_fs_base();
	__u32 i = agent_slot_first(fs_base);
	struct agent_shadow *s = (struct agent_shadow *)site->shadow + i;

	if (__builtin_expect(s->fs_base == fs_base &&
				     __atomic_load_n(&t->thread[i].fs_base, __ATOMIC_ACQUIRE) == fs_base &&
				     s->pid_tgid == t->thread[i].pid_tgid,
			     1))
		return s;
	return 0;
}

/*
 * Drops what the kernel would take for dead: frames that were left by longjmp lie below the stack pointer. Done only
 * when the stack is full: threads also change stacks (signals, coroutines), where a lower address says nothing.
 */
static __attribute__((noinline)) void drop_dead(struct agent_shadow *s, __u64 sp)
{
	__u64 i, kept = 0;

	for (i = 0; i < s->depth && i < AGENT_SHADOW_DEPTH; i++)
		if (s->at[i].sp > sp)
			s->at[kept++] = s->at[i];
	s->depth = kept;
}

/* A signal handler that pushes in between leaves the depth as it found it. */
static inline void push_at(struct agent_shadow *s, const struct agent_site *site, __u64 sp)
{
	struct agent_return *r = &s->at[s->depth];

	*(volatile __u64 *)&s->depth = s->depth + 1;
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	r->sp = sp;
	r->ip = *(__u64 *)sp;
	r->site = (__u64)site;
}

static struct agent_shadow *shadow_of(struct agent_target *t, const struct agent_site *site)
{
	struct agent_shadow *s = shadow_first(t, site);

	return s ? s : shadow_slowly(t, site);
}

/* Remembers where the function returns to. 0: beyond the depth that the kernel has, no return probe. */
static int push_return(struct agent_site *site, struct agent_shadow *s, __u64 sp)
{
	if (s->depth >= AGENT_SHADOW_DEPTH)
		drop_dead(s, sp);
	if (s->depth >= AGENT_SHADOW_DEPTH)
		return 0;
	push_at(s, site, sp);
	return 1;
}

/* The return address of the thread's latest entry for this site that was pushed with this stack pointer. */
static __attribute__((noinline)) __u64 pop_slowly(struct agent_site *site, __u64 sp)
{
	struct agent_shadow *all = (struct agent_shadow *)site->shadow;
	__u64 fs_base = agent_fs_base();
	__u32 n;

	for (n = 0; n < AGENT_PROBE_WINDOW; n++) {
		struct agent_shadow *s = &all[agent_slot_nth(fs_base, n)];
		__u64 i = s->depth < AGENT_SHADOW_DEPTH ? s->depth : AGENT_SHADOW_DEPTH;

		if (s->fs_base != fs_base)
			continue;
		while (i--) {
			struct agent_return found = s->at[i];

			if (found.sp != sp || found.site != (__u64)site)
				continue;
			/* Entries above are dead when nothing else was on the stack; other stacks' entries move down.
			 */
			for (; i + 1 < s->depth; i++)
				s->at[i] = s->at[i + 1];
			__atomic_signal_fence(__ATOMIC_SEQ_CST);
			*(volatile __u64 *)&s->depth = s->depth - 1;
			return found.ip;
		}
	}
	/* The target overwrote its own bookkeeping: there is nowhere to return to. */
	__builtin_trap();
}

/* Where it is kept, if it is the thread's last one: unless a longjmp or a change of stacks came in between. Or NULL. */
static inline struct agent_shadow *shadow_of_last(const struct agent_site *site, __u64 sp)
{
	__u64 fs_base = agent_fs_base();
	struct agent_shadow *s = (struct agent_shadow *)site->shadow + agent_slot_first(fs_base);
	const struct agent_return *r;

	if (__builtin_expect(s->fs_base != fs_base || s->depth - 1 >= AGENT_SHADOW_DEPTH, 0))
		return 0;
	r = &s->at[s->depth - 1];
	return __builtin_expect(r->sp == sp && r->site == (__u64)site, 1) ? s : 0;
}

static inline __u64 pop_last(struct agent_shadow *s)
{
	__u64 ip = s->at[s->depth - 1].ip;

	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	*(volatile __u64 *)&s->depth = s->depth - 1;
	return ip;
}

static __u64 pop_return(struct agent_site *site, __u64 sp)
{
	struct agent_shadow *s = shadow_of_last(site, sp);

	return s ? pop_last(s) : pop_slowly(site, sp);
}

/* Of the flags: those that lahf and seto give; string instructions go downwards. */
#define LAHF_FLAGS 0xd5ull
#define FLAG_OF	   0x800ull
#define FLAG_DF	   0x400ull

/* Makes regs->eflags what the kernel shows, and lets all code be called. Returns what leave_code() takes. */
static __u64 enter_code(struct pt_regs *regs)
{
	__u64 kept = regs->eflags, now;

	__asm__ volatile("pushfq; popq %0" : "=r"(now)::"memory");
	regs->eflags = (now & ~(LAHF_FLAGS | FLAG_OF)) | (kept >> 8 & LAHF_FLAGS) | (kept & 1 ? FLAG_OF : 0);
	if (now & FLAG_DF)
		__asm__ volatile("cld" ::: "memory");
	return kept;
}

static void leave_code(struct pt_regs *regs, __u64 kept)
{
	if (regs->eflags & FLAG_DF)
		__asm__ volatile("std" ::: "memory");
	regs->eflags = kept;
}

#define INT3		  0xcc
#define MOST_REPAIR_WAITS (1u << 23) /* some 200 ms */

/*
 * A fork child has the jump until agent_repair_child(), which comes in milliseconds. Here it would be without an
 * identity, and its returns not probed: it waits, and goes back to the kernel's int3. When nobody comes, because the
 * daemon has ended, it has waited once. 0: then.
 */
static int await_repair(const struct agent_site *site)
{
	const volatile __u8 *code = (const volatile __u8 *)site->site;
	volatile __u32 *alone = (volatile __u32 *)site->fork_page + 1;
	__u32 i;

	if (*alone)
		return 0;
	for (i = 0; i < MOST_REPAIR_WAITS; i++) {
		if (*code == INT3)
			return 1;
		__builtin_ia32_pause();
	}
	*alone = 1;
	__atomic_fetch_or(&((struct agent_target *)site->action[0].env.target)->flags, AGENT_TARGET_LATE_CHILD,
			  __ATOMIC_RELAXED);
	return 0;
}

/* Of a place that was emptied since the fork nobody knows any more. */
static int may_count_children(const struct agent_action *a, const struct agent_action *end)
{
	int is_empty = a == end;

	while (a < end)
		if (wanted(a++, 1))
			return 1;
	return is_empty;
}

/* Does a fork child have what the descriptor, which its parent goes on to use, speaks of? */
static int has_mappings(const struct agent_site *site)
{
	const struct agent_target *t = (const struct agent_target *)site->action[0].env.target;

	return t && __atomic_load_n(&t->generation, __ATOMIC_ACQUIRE) == agent_private.generation;
}

/*
 * May this hit go to the site's escape slot? There it is the kernel's from the first to the last of its actions, and of
 * whoever has a probe here, whatever the gates say: nothing of it may have been done here. The slot is the stub's for
 * good, and a fork child has what it says as of its birth, as it has the jump: no word of its parent is needed.
 */
static int may_escape(const __u8 *stub)
{
	__u64 slot = *(const __u64 *)(stub + STUB_ESCAPE_SLOT);

	return slot && agent_private.escape[(slot - (__u64)agent_escapes) / AGENT_ESCAPE_SIZE].on;
}

#define ESCAPE_MOMENTS (1ull << 27) /* some seconds */
#define LOST_MOMENTS   (1ull << 32) /* longer than a daemon that stands still lives, on any processor */
#define AGAIN_MOMENTS  (1ull << 12)

/*
 * At a gate that waits. The daemon, or when it has been killed its guard, turns it within milliseconds; when both have
 * been killed nobody does, until the next daemon comes. 0: then, and the hit goes on by the escape, which is right at
 * any moment, or where there is none, at last, without being served.
 */
static __attribute__((noinline)) int is_let_in(const __u32 *gate, const struct agent_site *site, int escapes)
{
	__u32 *flags = &((struct agent_target *)site->action[0].env.target)->flags;
	__u32 seen = escapes ? AGENT_TARGET_STRANDED : AGENT_TARGET_LOST;
	__u64 moments = escapes ? ESCAPE_MOMENTS : LOST_MOMENTS;

	if (__atomic_load_n(flags, __ATOMIC_RELAXED) & seen)
		moments = AGAIN_MOMENTS;
	if (agent_wait(gate, moments))
		return 1;
	__atomic_fetch_or(flags, seen, __ATOMIC_RELAXED);
	return 0;
}

/* What to do at a probed instruction, and where in the stub to go on: GO_*. */
static long serve(struct pt_regs *regs, struct agent_site *site, const __u8 *stub)
{
	struct agent_action *a, *end = site->action + n_actions(site), *returning = 0;
	int in_child = agent_in_fork_child(site->fork_page);
	long go_on = site->call_resume ? GO_WITHOUT_RET : GO_ON;
	struct agent_shadow *shadow = 0;

	if (in_child && may_count_children(site->action, end) && await_repair(site))
		return GO_BOUNCE;
again:
	if (__builtin_expect(__atomic_load_n(&site->mode, __ATOMIC_ACQUIRE) == AGENT_SITE_BOUNCE, 0))
		/* The parent's place was closed since: what a child does here is the kernel's to see, too. */
		return in_child && !await_repair(site) ? go_on : GO_BOUNCE;
	if (in_child && !has_mappings(site))
		return go_on;
	for (a = site->action; a < end; a++) {
		const __u32 *gate;
		__u32 g;

		if (!wanted(a, in_child))
			continue;
		gate = gate_of(a);
		g = __atomic_load_n(gate, __ATOMIC_ACQUIRE);
		if (__builtin_expect(g == SHM_UGATE_OPEN, 1))
			continue;
		if (g != SHM_UGATE_WAIT)
			return in_child && !await_repair(site) ? go_on : GO_BOUNCE;
		if (in_child && !has_mappings(site))
			return go_on;
		if (!is_let_in(gate, site, may_escape(stub)))
			return may_escape(stub) ? GO_ESCAPE : go_on;
		goto again;
	}
	/* A fork child's returns are not probed. */
	for (a = site->action; a < end && !in_child && site->call_resume; a++)
		if (a->fn && (a->flags & AGENT_ACT_RETURN))
			returning = a;
	if (returning) {
		struct agent_target *t = (struct agent_target *)returning->env.target;

		shadow = shadow_of(t, site);
		if (!shadow && may_escape(stub))
			return GO_ESCAPE;
		if (!shadow)
			__atomic_fetch_or(&t->flags, AGENT_TARGET_NO_SLOT, __ATOMIC_RELAXED);
	}
	for (a = site->action; a < end; a++)
		if (wanted(a, in_child) && !(a->flags & AGENT_ACT_RETURN))
			run(a, regs);
	return shadow && push_return(site, shadow, regs->rsp) ? GO_ON : go_on;
}

/* The site's only action, at an open gate: the commonest case. Not for a fork child, which may not have the gate's
 * memory. */
static inline int is_open(const struct agent_site *site, __u32 mode)
{
	return __builtin_expect(__atomic_load_n(&site->mode, __ATOMIC_ACQUIRE) == mode &&
					__atomic_load_n(gate_of(&site->action[0]), __ATOMIC_ACQUIRE) == SHM_UGATE_OPEN,
				1);
}

static inline int is_plain(const struct agent_site *site, __u32 mode)
{
	return __builtin_expect(!agent_in_fork_child(site->fork_page), 1) && is_open(site, mode);
}

_Static_assert(__builtin_offsetof(struct agent_site, fork_page) == AGENT_SITE_FORK_PAGE, "entry.S looks at it");

/* fn == 0: the hit is not so simple. Not called in a fork child: entry.S. */
struct plain_call agent_hit(struct agent_site *site)
{
	struct agent_action *a = &site->action[0];

	if (!is_open(site, AGENT_SITE_PLAIN_ENTRY) || !count_plain(a, site))
		return (struct plain_call){0, 0};
	return (struct plain_call){(action_fn)a->fn, &a->env};
}

long agent_hit_slowly(struct pt_regs *regs, struct agent_site *site, const __u8 *stub)
{
	__u64 kept = enter_code(regs);
	long go;

	if (is_plain(site, AGENT_SITE_PLAIN_ENTRY))
		register_thread(site);
	go = serve(regs, site, stub);
	leave_code(regs, kept);
	return go;
}

/* At the entry of a function whose return alone is wanted: no registers needed. 0: agent_hit(). */
int agent_push(struct agent_site *site, __u64 sp)
{
	struct agent_shadow *s;

	if (!is_plain(site, AGENT_SITE_PLAIN_RETURN))
		return 0;
	s = shadow_first((struct agent_target *)site->action[0].env.target, site);
	if (__builtin_expect(!s || s->depth >= AGENT_SHADOW_DEPTH, 0))
		return 0;
	push_at(s, site, sp);
	return 1;
}

static void run_returns(struct pt_regs *regs, struct agent_site *site)
{
	struct agent_action *a, *end = site->action + n_actions(site);

	if (agent_in_fork_child(site->fork_page))
		return;
	for (a = site->action; a < end; a++) {
		if (!a->fn || !(a->flags & AGENT_ACT_RETURN))
			continue;
		run(a, regs);
	}
}

/*
 * Called when the function has returned; regs as they are then, rip filled here: where to go on. What began in
 * userspace ends in userspace, whatever the gate says meanwhile: before the daemon moves the truth it waits for
 * target__pending_returns() to be 0 and for threads in here to leave. 0 in fn: agent_returned_slowly().
 */
struct plain_call agent_returned(struct pt_regs *regs, struct agent_site *site)
{
	struct agent_action *a = &site->action[0];
	struct agent_shadow *s;

	if (!is_plain(site, AGENT_SITE_PLAIN_RETURN))
		return (struct plain_call){0, 0};
	s = shadow_of_last(site, regs->rsp - 8);
	if (!s || !count_plain(a, site))
		return (struct plain_call){0, 0};
	regs->rip = pop_last(s);
	return (struct plain_call){(action_fn)a->fn, &a->env};
}

void agent_returned_slowly(struct pt_regs *regs, struct agent_site *site)
{
	__u64 kept = enter_code(regs);

	regs->rip = pop_return(site, regs->rsp - 8);
	run_returns(regs, site);
	leave_code(regs, kept);
}
