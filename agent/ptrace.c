// SPDX-License-Identifier: MIT
/*
 * ptrace.c: stopping a thread so that the program cannot tell, and system calls in its name.
 *
 * All ptrace calls on a target are made by one thread of ours, the tracer. A thread that was asked to stop and does not
 * (a vfork parent, a disk wait) cannot be let go of by PTRACE_DETACH, which wants it stopped; but when the tracer ends,
 * the kernel detaches everything that it held (exit_ptrace() in kernel/ptrace.c).
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "target.h"

/* The kernel's own code for "restart unless a handler runs", from include/linux/errno.h. */
#define ERESTARTNOHAND	  514
#define SYSCALL_INSN_SIZE 2
#define MAX_ODD_STOPS	  64

struct tracer {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	enum { TRACER_IDLE, TRACER_ASKED, TRACER_DONE, TRACER_END } state;
	int (*fn)(struct target *t, void *arg);
	struct target *target;
	void *arg;
	int result;
};

static void *tracer_main(void *arg)
{
	struct tracer *tr = arg;

	pthread_mutex_lock(&tr->lock);
	for (;;) {
		while (tr->state != TRACER_ASKED && tr->state != TRACER_END)
			pthread_cond_wait(&tr->cond, &tr->lock);
		if (tr->state == TRACER_END)
			break;
		tr->result = tr->fn(tr->target, tr->arg);
		tr->state = TRACER_DONE;
		pthread_cond_broadcast(&tr->cond);
	}
	pthread_mutex_unlock(&tr->lock);
	return NULL;
}

static int tracer_start(struct target *t)
{
	struct tracer *tr = calloc(1, sizeof(*tr));
	sigset_t all, old;
	int err;

	if (!tr)
		return -ENOMEM;
	pthread_mutex_init(&tr->lock, NULL);
	pthread_cond_init(&tr->cond, NULL);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(&tr->thread, NULL, tracer_main, tr);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err) {
		free(tr);
		return -err;
	}
	t->tracer = tr;
	return 0;
}

void tracer_end(struct target *t)
{
	struct tracer *tr = t->tracer;

	if (!tr)
		return;
	pthread_mutex_lock(&tr->lock);
	tr->state = TRACER_END;
	pthread_cond_broadcast(&tr->cond);
	pthread_mutex_unlock(&tr->lock);
	pthread_join(tr->thread, NULL);
	pthread_cond_destroy(&tr->cond);
	pthread_mutex_destroy(&tr->lock);
	free(tr);
	t->tracer = NULL;
}

int tracer_run(struct target *t, int (*fn)(struct target *t, void *arg), void *arg)
{
	struct tracer *tr;
	int result;

	if (!t->tracer) {
		int err = tracer_start(t);

		if (err)
			return err;
	}
	tr = t->tracer;
	pthread_mutex_lock(&tr->lock);
	tr->fn = fn;
	tr->target = t;
	tr->arg = arg;
	tr->state = TRACER_ASKED;
	pthread_cond_broadcast(&tr->cond);
	while (tr->state != TRACER_DONE)
		pthread_cond_wait(&tr->cond, &tr->lock);
	tr->state = TRACER_IDLE;
	result = tr->result;
	pthread_mutex_unlock(&tr->lock);
	if (result == -ETIMEDOUT)
		tracer_end(t);
	return result;
}

static int64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000ll + ts.tv_nsec / 1000;
}

/* Waits for the next stop. 0 with *status, -ESRCH when the thread ended, -ETIMEDOUT. */
static int wait_stop(pid_t tid, int64_t deadline_us, int *status)
{
	for (int tries = 0;; tries++) {
		pid_t got = waitpid(tid, status, __WALL | WNOHANG);

		if (got == tid)
			return WIFSTOPPED(*status) ? 0 : -ESRCH;
		if (got < 0 && errno != EINTR)
			return errno == ECHILD ? -ESRCH : -errno;
		if (now_us() > deadline_us)
			return -ETIMEDOUT;
		if (tries > 20) {
			struct timespec nap = {0, 20000};

			nanosleep(&nap, NULL);
		} else {
			sched_yield();
		}
	}
}

static bool is_interrupt_stop(int status)
{
	return status >> 16 == PTRACE_EVENT_STOP;
}

/*
 * A thread in a restartable sequence must not run anything else in between: the kernel would forget the sequence and
 * the thread go on in its middle, not restarted (CRIU met this).
 */
static bool in_rseq(struct target *t, struct stopped *s)
{
#ifdef PTRACE_GET_RSEQ_CONFIGURATION
	struct __ptrace_rseq_configuration c;
	struct {
		uint32_t version, flags;
		uint64_t start, length, abort;
	} cs;
	uint64_t cs_addr;

	if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, s->tid, sizeof(c), &c) != sizeof(c) || !c.rseq_abi_pointer)
		return false;
	/* struct rseq (linux/rseq.h): cpu_id_start, cpu_id, rseq_cs */
	if (target_read(t, c.rseq_abi_pointer + 8, &cs_addr, sizeof(cs_addr)) || !cs_addr ||
	    target_read(t, cs_addr, &cs, sizeof(cs)))
		return false;
	return s->regs.rip - cs.start < cs.length;
#else
	return false;
#endif
}

int thread_stop(struct target *t, pid_t tid, int timeout_ms, struct stopped *s, struct agent_error *err)
{
	int64_t deadline = now_us() + timeout_ms * 1000ll;
	int status, rc;

	memset(s, 0, sizeof(*s));
	s->tid = tid;
	if (ptrace(PTRACE_SEIZE, tid, NULL, PTRACE_O_SUSPEND_SECCOMP) && ptrace(PTRACE_SEIZE, tid, NULL, NULL))
		return agent_fail(err, -errno, "thread %d of process %d cannot be traced: %s", tid, t->pid,
				  strerror(errno));
	for (;;) {
		if (ptrace(PTRACE_INTERRUPT, tid, NULL, NULL))
			return agent_fail(err, -errno, "thread %d cannot be interrupted: %s", tid, strerror(errno));
		rc = wait_stop(tid, deadline, &status);
		if (rc)
			return agent_fail(err, rc, "thread %d of process %d %s", tid, t->pid,
					  rc == -ETIMEDOUT ? "did not stop in time" : "ended");
		if (is_interrupt_stop(status))
			break;
		/* A signal came first: deliver it, then ask again. */
		if (ptrace(PTRACE_CONT, tid, NULL, (long)WSTOPSIG(status)))
			return agent_fail(err, -errno, "thread %d ended", tid);
	}
	if (WSTOPSIG(status) != SIGTRAP) {
		ptrace(PTRACE_DETACH, tid, NULL, NULL);
		return agent_fail(err, -EPERM, "process %d is stopped by a signal", t->pid);
	}
	if (ptrace(PTRACE_GETREGS, tid, NULL, &s->regs)) {
		rc = -errno;
		ptrace(PTRACE_DETACH, tid, NULL, NULL);
		return agent_fail(err, rc, "registers of thread %d cannot be read: %s", tid, strerror(-rc));
	}
	/* Some calls end with a plain EINTR when a stop wakes them. Let the kernel decide as it would have without us.
	 */
	if ((long)s->regs.orig_rax >= 0 && (long)s->regs.rax == -EINTR) {
		s->regs.rax = -ERESTARTNOHAND;
		ptrace(PTRACE_SETREGS, tid, NULL, &s->regs);
	}
	if (in_rseq(t, s)) {
		ptrace(PTRACE_DETACH, tid, NULL, NULL);
		return agent_fail(err, -EAGAIN, "thread %d is in a restartable sequence", tid);
	}
	return 0;
}

/* Signals wait while we use the thread. SIGKILL and SIGSTOP do not. */
static int mask_signals(struct stopped *s)
{
	uint64_t all = ~0ull;

	if (s->masked)
		return 0;
	if (ptrace(PTRACE_GETSIGMASK, s->tid, sizeof(s->sigmask), &s->sigmask) ||
	    ptrace(PTRACE_SETSIGMASK, s->tid, sizeof(all), &all))
		return -errno;
	s->masked = true;
	return 0;
}

int thread_resume(struct target *t, struct stopped *s)
{
	int rc = 0;

	if (ptrace(PTRACE_SETREGS, s->tid, NULL, &s->regs))
		rc = -errno;
	if (s->masked && ptrace(PTRACE_SETSIGMASK, s->tid, sizeof(s->sigmask), &s->sigmask) && !rc)
		rc = -errno;
	if (ptrace(PTRACE_DETACH, s->tid, NULL, NULL) && !rc)
		rc = -errno;
	for (int sig = 1; sig < 32; sig++)
		if (s->resend & (1u << sig))
			syscall(SYS_tgkill, t->pid, s->tid, sig);
	return rc;
}

int thread_syscall(struct target *t, struct stopped *s, long *result, long nr, long a, long b, long c, long d, long e,
		   long f)
{
	struct user_regs_struct r = s->regs;
	int status, rc = mask_signals(s);

	if (rc)
		return rc;
	r.rip = t->syscall_insn;
	r.rax = nr;
	r.orig_rax = -1;
	r.rdi = a;
	r.rsi = b;
	r.rdx = c;
	r.r10 = d;
	r.r8 = e;
	r.r9 = f;
	if (ptrace(PTRACE_SETREGS, s->tid, NULL, &r))
		return -errno;
	for (int odd = 0; odd < MAX_ODD_STOPS; odd++) {
		if (ptrace(PTRACE_SINGLESTEP, s->tid, NULL, NULL))
			return -errno;
		/* No deadline: letting go of the thread now would leave it in the middle of our call. */
		rc = wait_stop(s->tid, INT64_MAX, &status);
		if (rc)
			return rc;
		if (!is_interrupt_stop(status) && WSTOPSIG(status) != SIGTRAP)
			s->resend |= 1u << (WSTOPSIG(status) & 31);
		if (ptrace(PTRACE_GETREGS, s->tid, NULL, &r))
			return -errno;
		if (r.rip == t->syscall_insn + SYSCALL_INSN_SIZE) {
			*result = (long)r.rax;
			return 0;
		}
	}
	return -EPROTO;
}
