// SPDX-License-Identifier: MIT
/*
 * quiesce.c: proving that no thread is in the middle of something.
 *
 * A thread that sleeps in a system call is not stopped: it is outside, unless it got there from a signal handler that
 * interrupted what we ask about; then the kernel's signal frame is on its stack. Nor is one that wants a CPU:
 * bpf/threads.bpf.c tells where it was interrupted. A thread on a CPU loses it for a moment because we go there. Who is
 * not seen at rest in this way is stopped and looked at.
 *
 * A word on the stack that merely looks like an address says little: variables that nobody has set yet hold what
 * earlier calls have left, for as long as their function sleeps. Such words count only where the agent may have been
 * left by a call, which is in the vdso, and where code is to be unmapped.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cpus.h"
#include "clock.h"
#include "frame.h"
#include "pid_ns.h"
#include "site.h"
#include "target.h"

#define STOP_MS	      50
#define NAP_US	      200
#define GLANCES	      64 /* times that we look before anybody is stopped */
#define GLANCE_NAP_US 50

struct quiesce {
	const struct code_range *ranges;
	size_t n_ranges;
	bool left;		 /* nobody may return there either */
	struct code_range stubs; /* from the lowest to the highest that a site has */
	pid_t *seen;		 /* threads found quiet */
	size_t n_seen;
	struct agent_error *err;
};

static bool in_ranges(const struct code_range *r, size_t n, uint64_t addr)
{
	for (size_t i = 0; i < n; i++)
		if (addr >= r[i].start && addr < r[i].end)
			return true;
	return false;
}

#define ESCAPE_WAY 14 /* bytes of the stub */

/*
 * On the way to an escape slot, or there: a hit that is the kernel's and has not come to it yet. Mostly no word of a
 * stack looks like a stub at all.
 */
static bool escapes(const struct target *t, const struct quiesce *q, uint64_t addr)
{
	uint64_t slots = t->image + t->image_hdr.escapes;

	if (t->image && addr - slots < AGENT_MAX_ESCAPES * AGENT_ESCAPE_SIZE)
		return true;
	if (addr < q->stubs.start || addr >= q->stubs.end)
		return false;
	for (const struct site *s = t->sites; s; s = s->next)
		if (s->escape && addr - (s->stub + STUB_ESCAPE) < ESCAPE_WAY)
			return true;
	return false;
}

static struct code_range stubs_of(const struct target *t)
{
	struct code_range r = {UINT64_MAX, 0};

	for (const struct site *s = t->sites; s; s = s->next) {
		r.start = s->stub - STUB_BEFORE < r.start ? s->stub - STUB_BEFORE : r.start;
		r.end = s->stub > r.end ? s->stub : r.end;
	}
	return r;
}

static bool waits_at_gate(const struct target *t, uint64_t rip)
{
	return t->image && rip - t->image - t->image_hdr.wait_start < t->image_hdr.wait_end - t->image_hdr.wait_start;
}

/* In the agent's own code, between a gate and a program or on the way back. */
static bool in_agent(const struct target *t, uint64_t rip)
{
	return t->image && rip - t->image < agent_image__size() && !waits_at_gate(t, rip);
}

static bool in_code(const struct target *t, const struct quiesce *q, uint64_t rip)
{
	return in_agent(t, rip) || escapes(t, q, rip) ||
	       (!waits_at_gate(t, rip) && in_ranges(q->ranges, q->n_ranges, rip));
}

/* What a thread has on its stack, from the stack pointer on. */
struct words {
	const uint64_t *at;
	size_t n;
};

static bool returns_to_agent(const struct target *t, const struct words *w)
{
	for (size_t i = 0; i < w->n; i++)
		if (in_agent(t, w->at[i]))
			return true;
	return false;
}

static bool returns_to_ranges(const struct target *t, const struct quiesce *q, const struct words *w)
{
	for (size_t i = 0; i < w->n; i++)
		if (in_ranges(q->ranges, q->n_ranges, w->at[i]) || escapes(t, q, w->at[i]))
			return true;
	return false;
}

static bool is_inside_at(const struct target *t, const struct quiesce *q, uint64_t rip, const struct words *w)
{
	return in_code(t, q, rip) || (rip - t->vdso < t->vdso_size && returns_to_agent(t, w));
}

static bool was_interrupted_inside(const struct target *t, const struct quiesce *q, struct words w)
{
	for (; w.n; w.at++, w.n--)
		if (frame_has_ip(w.at, w.n) && is_inside_at(t, q, *w.at, &w))
			return true;
	return false;
}

static bool is_inside(const struct target *t, const struct quiesce *q, uint64_t rip, uint64_t rsp)
{
	uint64_t *stack = malloc(STACK_SEARCHED);
	struct words w = {stack, 0};
	ssize_t size;
	bool inside;

	if (!stack)
		return true;
	size = pread(t->mem, stack, STACK_SEARCHED, (off_t)(rsp & ~7ull));
	if (size > 0)
		w.n = (size_t)size / sizeof(*stack);
	inside = is_inside_at(t, q, rip, &w) || was_interrupted_inside(t, q, w) ||
		 (q->left && returns_to_ranges(t, q, &w));
	free(stack);
	return inside;
}

static bool was_seen(const struct quiesce *q, pid_t tid)
{
	for (size_t i = 0; i < q->n_seen; i++)
		if (q->seen[i] == tid)
			return true;
	return false;
}

static int mark_seen(struct quiesce *q, pid_t tid)
{
	pid_t *more = realloc(q->seen, (q->n_seen + 1) * sizeof(*more));

	if (!more)
		return -ENOMEM;
	q->seen = more;
	q->seen[q->n_seen++] = tid;
	return 0;
}

/* 1: quiet, 0: not yet. */
static int look_at_stopped(struct target *t, const struct quiesce *q, struct stopped *s)
{
	bool inside = is_inside(t, q, s->regs.rip, s->regs.rsp);

	thread_resume(t, s);
	return !inside;
}

/* A main thread that ends before others do stays to be seen, and cannot be stopped. */
static bool has_ended(pid_t pid, pid_t tid)
{
	char state = proc_task_state(pid, tid);

	return state == 'Z' || state == 'X';
}

static int look_at_thread(struct target *t, struct quiesce *q, pid_t tid)
{
	struct task_at at = proc_task_at(t->pid, tid);
	struct stopped s;
	int rc;

	if (at.where == TASK_IN_SYSCALL)
		return !is_inside(t, q, at.ip, at.sp);
	if (at.where == TASK_GONE || has_ended(t->pid, tid))
		return 1;
	tracer_hurry(t, true);
	rc = thread_stop(t, tid, STOP_MS, &s, q->err);
	if (!rc)
		rc = look_at_stopped(t, q, &s);
	else if (rc == -ESRCH || rc == -EAGAIN)
		rc = rc == -ESRCH;
	tracer_hurry(t, false);
	return rc;
}

/*
 * May the thread have met the kernel's int3 and not be through with it? The kernel sets the instruction pointer back to
 * the int3 before it runs the handlers (handle_swbp() in kernel/events/uprobes.c).
 */
static bool at_breakpoint(const struct target *t, uint64_t rip)
{
	for (const struct site *s = t->sites; s; s = s->next)
		if (rip == s->addr || rip == s->addr + 1)
			return true;
	return false;
}

static bool rests(const struct target *t, const struct quiesce *q, const struct thread_rec *r)
{
	switch (r->where) {
	case THREAD_ENDING:
		return true;
	case THREAD_PREEMPTED:
		if (threads_can_be_in_handlers() || at_breakpoint(t, r->ip))
			return false;
		return !is_inside(t, q, r->ip, r->sp);
	case THREAD_IN_SYSCALL:
		return !is_inside(t, q, r->ip, r->sp);
	default:
		return false;
	}
}

/*
 * Marks who rests. Returns how many do not, or -errno; *cpu: where one of them runs, or -1.
 */
static int glance(const struct target *t, struct quiesce *q, int *cpu)
{
	struct thread_rec *r;
	int n = threads_read(t, &r), restless = 0;

	*cpu = -1;
	for (int i = 0; i < n; i++) {
		if (was_seen(q, r[i].tid) || (rests(t, q, &r[i]) && !mark_seen(q, r[i].tid)))
			continue;
		restless++;
		if (r[i].where == THREAD_ON_CPU)
			*cpu = (int)r[i].cpu;
	}
	if (n >= 0)
		free(r);
	return n < 0 ? n : restless;
}

/* Looks until all threads have been seen at rest, or it takes too long; nobody is stopped. */
static void look_without_stops(const struct target *t, struct quiesce *q)
{
	const struct timespec nap = {0, GLANCE_NAP_US * 1000};
	cpu_set_t all;

	if (sched_getaffinity(0, sizeof(all), &all))
		return;
	for (int i = 0; i < GLANCES; i++) {
		int cpu;

		if (glance(t, q, &cpu) <= 0)
			break;
		if (cpu < 0 || cpu_go(cpu))
			nanosleep(&nap, NULL);
	}
	sched_setaffinity(0, sizeof(all), &all);
}

/* One pass over all threads: 0 when all were seen quiet, -EAGAIN. */
static int one_pass(struct target *t, void *arg)
{
	struct quiesce *q = arg;
	pid_t *tids;
	int n = proc_threads(t->pid, &tids), rc = 0;

	if (n < 0)
		return agent_fail(q->err, -ESRCH, "process %d ended", t->pid);
	for (int i = 0; i < n; i++) {
		int quiet;

		if (was_seen(q, tids[i]))
			continue;
		quiet = look_at_thread(t, q, tids[i]);
		if (quiet == 1 && !mark_seen(q, tids[i]))
			continue;
		rc = quiet < 0 ? quiet : -EAGAIN;
		if (rc != -EAGAIN)
			break;
	}
	free(tids);
	return rc;
}

/* Is there a thread that was not seen at rest? */
static bool has_unseen(const struct target *t, const struct quiesce *q)
{
	pid_t *tids;
	int n = proc_threads(t->pid, &tids);
	bool found = n < 0;

	for (int i = 0; i < n && !found; i++)
		found = !was_seen(q, tids[i]);
	if (n >= 0)
		free(tids);
	return found;
}

static int come_to_rest(struct target *t, struct quiesce *q, int timeout_ms)
{
	const struct timespec nap = {0, NAP_US * 1000};
	int64_t deadline = clock_us() + timeout_ms * 1000ll;

	look_without_stops(t, q);
	for (;;) {
		size_t before = q->n_seen;
		int rc = has_unseen(t, q) ? tracer_run(t, one_pass, q) : 0;

		/* The tracer's end let go of whom it had stopped. */
		if (rc == -ETIMEDOUT || rc == -ECHILD)
			rc = -EAGAIN;
		/* Threads that came meanwhile are looked at too: the last pass must have found nobody new. */
		if (rc != -EAGAIN && (rc || q->n_seen == before))
			return rc;
		if (rc && clock_us() > deadline)
			return agent_fail(q->err, -ETIMEDOUT, "process %d did not come to rest within %d ms", t->pid,
					  timeout_ms);
		if (rc)
			nanosleep(&nap, NULL);
	}
}

static int look(struct target *t, struct quiesce *q, int timeout_ms)
{
	int rc;

	q->stubs = stubs_of(t);
	rc = come_to_rest(t, q, timeout_ms);
	free(q->seen);
	return rc;
}

int target__quiesce(struct target *t, const struct code_range *ranges, size_t n_ranges, int timeout_ms,
		    struct agent_error *err)
{
	struct quiesce q = {.ranges = ranges, .n_ranges = n_ranges, .err = err};

	return look(t, &q, timeout_ms);
}

int target__left(struct target *t, const struct code_range *ranges, size_t n_ranges, int timeout_ms,
		 struct agent_error *err)
{
	struct quiesce q = {.ranges = ranges, .n_ranges = n_ranges, .left = true, .err = err};

	return look(t, &q, timeout_ms);
}

/* The thread in our PID namespace; 0: gone, or cannot be told. */
static pid_t thread_number(const struct target *t, uint64_t pid_tgid)
{
	struct thread_rec *rec;
	pid_t tid = 0;
	int n;

	if (pid_ns__is_initial())
		return (pid_t)(uint32_t)pid_tgid;
	n = threads_read(t, &rec);
	for (int i = 0; i < n && !tid; i++)
		if (rec[i].pid_tgid == pid_tgid)
			tid = rec[i].tid;
	free(rec);
	return tid;
}

/* A pending return whose frame is gone: overwritten, or below the stack pointer (left by longjmp). */
static bool is_pending(const struct target *t, const struct agent_target *arena, uint32_t slot,
		       const struct agent_return *r)
{
	uint64_t first = t->arena + offsetof(struct agent_target, site),
		 index = (r->site - first) / sizeof(struct agent_site);
	struct task_at at;
	uint64_t word;

	if (r->site < first || index >= AGENT_MAX_SITES || target_read(t, r->sp, &word, sizeof(word)) ||
	    word != arena->site[index].call_resume)
		return false;
	at = proc_task_at(t->pid, thread_number(t, arena->thread[slot].pid_tgid));
	return at.where != TASK_IN_SYSCALL || r->sp >= at.sp || at.sp - r->sp > (8ull << 20);
}

int target__pending_returns(const struct target *t, const struct agent_target *arena)
{
	struct agent_shadow *s = malloc(sizeof(*s));
	int n = 0;

	if (!s)
		return -ENOMEM;
	for (uint32_t i = 0; t->shadow && i < AGENT_MAX_THREADS && !n; i++) {
		if (arena->thread[i].state == AGENT_THREAD_FREE)
			continue;
		if (target_read(t, t->shadow + i * sizeof(*s), s, sizeof(*s))) {
			n = -ESRCH;
			break;
		}
		if (s->fs_base != arena->thread[i].fs_base)
			continue;
		for (uint64_t k = 0; k < s->depth && k < AGENT_SHADOW_DEPTH && !n; k++)
			n = is_pending(t, arena, i, &s->at[k]);
	}
	free(s);
	return n;
}
