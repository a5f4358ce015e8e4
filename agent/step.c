// SPDX-License-Identifier: MIT
/*
 * step.c: nobody is left between the two instructions of a jump that has a step (form.c), before its bytes go away.
 *
 * The site is closed, so nobody comes to the step any more; only who lost the CPU or took a signal there is still
 * to jump. Mostly all threads are seen elsewhere at once. Who stays, because its process is stopped or it does not come
 * back from its signal handler, is given what its next instruction would have done: its instruction pointer, in its
 * registers or in the frame that the kernel laid down for the handler, becomes the stub's entry.
 */
#include <errno.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "frame.h"
#include "site.h"

#define GLANCE_MS  100
#define TRIES	   5
#define STOP_TRIES 100 /* of a millisecond */

static int fix_frames(struct target *t, const struct site *s, uint64_t sp)
{
	uint64_t *words = malloc(STACK_SEARCHED);
	ssize_t n;
	int rc = 0;

	if (!words)
		return -ENOMEM;
	sp &= ~7ull;
	n = pread(t->mem, words, STACK_SEARCHED, (off_t)sp) / (ssize_t)sizeof(*words);
	for (ssize_t i = 0; i < n && !rc; i++)
		if (words[i] == s->addr + s->step && frame_has_ip(&words[i], (size_t)(n - i)))
			rc = target_write(t, sp + (uint64_t)i * sizeof(*words), &s->stub, sizeof(s->stub));
	free(words);
	return rc;
}

int step_leave_stopped(struct target *t, const struct site *s, struct stopped *thread)
{
	if (!s->step)
		return 0;
	if (thread->regs.rip == s->addr + s->step)
		thread->regs.rip = s->stub;
	return fix_frames(t, s, thread->regs.rsp);
}

static void nap(void)
{
	const struct timespec ms = {0, 1000000};

	nanosleep(&ms, NULL);
}

static int stop_and_leave(struct target *t, const struct site *s, pid_t tid, struct agent_error *err)
{
	struct stopped thread;
	int rc;

	do
		rc = thread_stop(t, tid, STOP_TRIES, &thread, err);
	while (rc == -EAGAIN);
	if (rc)
		return rc;
	rc = step_leave_stopped(t, s, &thread);
	thread_resume(t, &thread);
	return rc;
}

/* A process that a signal has stopped: it stays so. */
static int leave_while_stopped(struct target *t, const struct site *s, pid_t tid)
{
	struct stopped thread = {.tid = tid};
	int status = 0, rc = -ETIMEDOUT;

	if (ptrace(PTRACE_SEIZE, tid, NULL, NULL))
		return -errno;
	if (ptrace(PTRACE_INTERRUPT, tid, NULL, NULL))
		return -errno;
	for (int i = 0; i < STOP_TRIES && rc; i++) {
		pid_t got = waitpid(tid, &status, __WALL | WNOHANG);

		if (got < 0 || (got == tid && !WIFSTOPPED(status)))
			return 0;
		if (got == tid)
			rc = 0;
		else
			nap();
	}
	if (rc)
		return rc; /* the tracer's end lets go of it */
	if (ptrace(PTRACE_GETREGS, tid, NULL, &thread.regs))
		rc = -errno;
	if (!rc) {
		uint64_t rip = thread.regs.rip;

		rc = step_leave_stopped(t, s, &thread);
		if (!rc && thread.regs.rip != rip && ptrace(PTRACE_SETREGS, tid, NULL, &thread.regs))
			rc = -errno;
	}
	/* A signal that came first is delivered now. */
	ptrace(PTRACE_DETACH, tid, NULL, status >> 16 ? 0 : (long)WSTOPSIG(status));
	return rc;
}

struct leaver {
	const struct site *s;
	struct agent_error *err;
};

/* A thread of the target or of a child that shares its memory; pid: of which process. */
static int leave_one(struct target *t, const struct leaver *l, pid_t pid, pid_t tid)
{
	int rc = -EPERM;

	/* -EPERM: a signal has just stopped it, or somebody traces it. */
	for (int i = 0; i < TRIES && rc == -EPERM; i++) {
		struct task_at at = proc_task_at(pid, tid);

		if (at.where == TASK_GONE)
			rc = 0;
		else if (at.where == TASK_RUNNING)
			rc = stop_and_leave(t, l->s, tid, l->err);
		else if (at.ip == l->s->addr + l->s->step)
			rc = leave_while_stopped(t, l->s, tid);
		else
			rc = fix_frames(t, l->s, at.sp);
		if (rc == -EPERM)
			nap();
	}
	return rc == -ESRCH ? 0 : rc;
}

/* May the thread be waiting for a child that runs in its memory? Whether clone() does cannot be seen from outside. */
static bool may_have_vforked(pid_t pid, pid_t tid)
{
	struct task_at at = proc_task_at(pid, tid);

	return at.where == TASK_IN_SYSCALL && (at.nr == SYS_vfork || at.nr == SYS_clone || at.nr == SYS_clone3);
}

/* Where the kernel does not say, it is taken to. */
static bool shares_memory(pid_t a, pid_t b)
{
	return syscall(SYS_kcmp, a, b, KCMP_VM, 0, 0) <= 0;
}

static int leave_children(struct target *t, const struct leaver *l, pid_t tid)
{
	char path[64];
	int child, rc = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", t->pid, tid);
	f = fopen(path, "re");
	if (!f)
		return errno == ENOENT ? 0 : -errno;
	while (!rc && fscanf(f, "%d", &child) == 1)
		if (shares_memory(t->pid, child))
			rc = leave_one(t, l, child, child);
	fclose(f);
	return rc;
}

static int leave(struct target *t, void *arg)
{
	const struct leaver *l = arg;
	pid_t *tids;
	int n = proc_threads(t->pid, &tids), rc = 0;

	for (int i = 0; i < n && !rc; i++) {
		rc = leave_one(t, l, t->pid, tids[i]);
		if (!rc && may_have_vforked(t->pid, tids[i]))
			rc = leave_children(t, l, tids[i]);
	}
	if (n >= 0)
		free(tids);
	return n < 0 ? n : rc;
}

static bool is_alone_in_memory(const struct target *t)
{
	pid_t *tids;
	int n = proc_threads(t->pid, &tids);
	bool alone = n >= 0;

	for (int i = 0; i < n && alone; i++)
		alone = !may_have_vforked(t->pid, tids[i]);
	if (n >= 0)
		free(tids);
	return alone;
}

int step_leave(const struct site *s, struct agent_error *err)
{
	const struct code_range step = {s->addr + s->step, s->addr + s->step + 1};
	struct leaver l = {s, err};
	int rc = -EAGAIN, tries = s->is_stuck ? 1 : TRIES;

	if (!s->step)
		return 0;
	/* On a busy machine a thread may take long to come to a stop. */
	for (int i = 0; i < tries && rc; i++) {
		if (!target__left(s->t, &step, 1, GLANCE_MS, err) && is_alone_in_memory(s->t))
			return 0;
		if (!target__alive(s->t))
			return 0;
		rc = tracer_run(s->t, leave, &l);
	}
	return rc ? agent_fail(err, rc, "a thread of process %d is in the middle of the jump at 0x%lx: %s", s->t->pid,
			       s->addr, strerror(-rc))
		  : 0;
}
