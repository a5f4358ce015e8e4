// SPDX-License-Identifier: MIT
/*
 * ptrace.c: stopping a thread so that the program cannot tell, and system calls in its name.
 *
 * All ptrace calls on a target are made by one process of ours, the tracer, and not by a thread of the daemon. When a
 * tracer ends, the kernel lets go of what it holds as it is (exit_ptrace() in kernel/ptrace.c), and a thread in the
 * middle of a call of ours would run on with our registers. A daemon that is killed takes its threads along, but not
 * this process: it brings the thread home, and then sees that its parent is gone. So whoever kills the daemon at
 * whatever moment does not harm a target. (Who kills the tracer itself at that moment does. It is in the daemon's
 * control group.)
 *
 * The tracer shares the daemon's memory, and of its descriptors has only the target's. It has no thread-local storage
 * of its own either: it uses the daemon's, which waits meanwhile. Only one of the two runs at any time; what is done
 * while both may run uses no errno (raw_syscall()).
 *
 * A thread that was asked to stop and does not (a vfork parent, a disk wait) cannot be let go of by PTRACE_DETACH,
 * which wants it stopped: then the tracer is ended.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sanitizer/asan_interface.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "aside.h"
#include "clock.h"
#include "target.h"

/* The kernel's own code for "restart unless a handler runs", from include/linux/errno.h. */
#define ERESTARTNOHAND	    514
#define SYSCALL_INSN_SIZE   2
#define MAX_ODD_STOPS	    64
#define SYSCALL_STOP	    (SIGTRAP | 0x80) /* PTRACE_O_TRACESYSGOOD */
#define GET_DISPATCH_CONFIG 0x4211	     /* PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, since Linux 6.4 */
#define MAX_SLEEP_US	    100000	     /* then we look whatever the signals say */
#define SPIN_US		    60		     /* a stop comes sooner than who has fallen asleep wakes up */
#define MAX_VAIN_SPINS	    2		     /* then the thread is taken to want the CPU on which we spin */
#define TRACER_STACK	    (256ul << 10)
#define STACK_GUARD	    4096ul

/* To the tracer: blocked in it, and waited for. */
#define SIGNAL_ASKED  SIGUSR1
#define SIGNAL_ORPHAN SIGHUP

enum tracer_state {
	TRACER_ENDED = 0, /* the kernel writes this when the process ends (CLONE_CHILD_CLEARTID) */
	TRACER_STARTS,
	TRACER_IDLE,
	TRACER_ASKED,
	TRACER_DONE,
	TRACER_QUITS,
};

struct tracer {
	int state; /* enum tracer_state; a futex */
	pid_t pid, owner;
	int owner_fd; /* a pidfd, among the tracer's descriptors */
	char *stack;
	struct target *target;
	int (*fn)(struct target *t, void *arg);
	void *arg;
	int result;
	bool urgent, is_urgent; /* to be scheduled before all ordinary tasks, as the daemon is while threads are held */
	bool has_left_some;	/* threads that it still traces, and nobody knows of */
};

/* Two of us may be here at once, and there is one errno. */
static long raw_syscall(long nr, long a, long b, long c, long d)
{
	register long r10 __asm__("r10") = d;
	long ret;

	__asm__ volatile("syscall" : "=a"(ret) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return ret;
}

static int state_of(const struct tracer *tr)
{
	return __atomic_load_n(&tr->state, __ATOMIC_SEQ_CST);
}

static void set_state(struct tracer *tr, enum tracer_state state)
{
	__atomic_store_n(&tr->state, (int)state, __ATOMIC_SEQ_CST);
	raw_syscall(SYS_futex, (long)&tr->state, FUTEX_WAKE, 1, 0);
}

static void wait_while(struct tracer *tr, enum tracer_state state)
{
	while (state_of(tr) == (int)state)
		raw_syscall(SYS_futex, (long)&tr->state, FUTEX_WAIT, (long)state, 0);
}

/* ---- in the tracer ---- */

static void become_urgent(struct tracer *tr, bool urgent)
{
	const struct sched_param param = {.sched_priority = urgent ? 1 : 0};

	if (tr->is_urgent != urgent && !sched_setscheduler(0, urgent ? SCHED_FIFO : SCHED_OTHER, &param))
		tr->is_urgent = urgent;
}

/*
 * A thread that was killed while it was traced is seen by nobody else before its tracer has waited for it or has ended,
 * and its process does not end before. Tracees are all the children that a tracer has.
 */
static bool has_tracees(void)
{
	siginfo_t info;

	return !waitid(P_ALL, 0, &info, WEXITED | WSTOPPED | WNOHANG | WNOWAIT | __WALL) || errno != ECHILD;
}

static int tracer_main(void *arg)
{
	struct tracer *tr = arg;
	sigset_t wanted;

	signal(SIGCHLD, SIG_DFL);
	prctl(PR_SET_PDEATHSIG, SIGNAL_ORPHAN);
	prctl(PR_SET_NAME, "bpftimed-tracer");
	setsid();
	fds_close_but(tr->target->mem, tr->target->pidfd);
	tr->owner_fd = (int)syscall(SYS_pidfd_open, tr->owner, 0);
	sigemptyset(&wanted);
	sigaddset(&wanted, SIGNAL_ASKED);
	sigaddset(&wanted, SIGNAL_ORPHAN);
	if (getppid() == tr->owner)
		set_state(tr, TRACER_IDLE);
	while (raw_syscall(SYS_getppid, 0, 0, 0, 0) == tr->owner && state_of(tr) != TRACER_QUITS) {
		if (state_of(tr) == TRACER_ASKED) {
			become_urgent(tr, tr->urgent);
			tr->result = tr->fn(tr->target, tr->arg);
			tr->has_left_some = !tr->target->stand && has_tracees();
			set_state(tr, TRACER_DONE);
		}
		raw_syscall(SYS_rt_sigtimedwait, (long)&wanted, 0, 0, _NSIG / 8);
	}
	if (tr->target->stand)
		stand_end(tr->target, NULL);
	raw_syscall(SYS_exit, 0, 0, 0, 0);
	return 0;
}

void tracer_hurry(struct target *t, bool hurry)
{
	become_urgent(t->tracer, hurry || t->tracer->urgent);
}

void tracer_lift(const struct target *t, int priority)
{
	const struct sched_param param = {.sched_priority = priority};

	if (!t->tracer)
		return;
	sched_setscheduler(t->tracer->pid, priority ? SCHED_FIFO : SCHED_OTHER, &param);
	t->tracer->is_urgent = false;
}

bool tracer_is_orphan(const struct target *t)
{
	return getppid() != t->tracer->owner;
}

int tracer_fd(const struct target *t, int fd)
{
	int own = (int)syscall(SYS_pidfd_getfd, t->tracer->owner_fd, fd, 0);

	return own < 0 ? -errno : own;
}

/* ---- in the daemon ---- */

/* Unless the kernel has said that the tracer has ended. */
static bool change_state(struct tracer *tr, int from, enum tracer_state to)
{
	return __atomic_compare_exchange_n(&tr->state, &from, (int)to, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

static void free_tracer(struct tracer *tr)
{
	if (tr->stack) {
		/* The frames that it ended in were never left, as far as the sanitizer knows. */
		ASAN_UNPOISON_MEMORY_REGION(tr->stack, TRACER_STACK);
		munmap(tr->stack, TRACER_STACK);
	}
	free(tr);
}

static pid_t daemon_pid; /* tracers share our memory, and are processes of their own */

static int tracer_start(struct target *t)
{
	struct tracer *tr = calloc(1, sizeof(*tr));
	sigset_t all, old;
	int err;

	if (!tr)
		return -ENOMEM;
	tr->stack = mmap(NULL, TRACER_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (tr->stack == MAP_FAILED || mprotect(tr->stack, STACK_GUARD, PROT_NONE)) {
		err = -errno;
		tr->stack = tr->stack == MAP_FAILED ? NULL : tr->stack;
		free_tracer(tr);
		return err;
	}
	tr->state = TRACER_STARTS;
	tr->target = t;
	tr->owner = getpid();
	daemon_pid = tr->owner;
	t->tracer = tr;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &old);
	tr->pid = clone(tracer_main, tr->stack + TRACER_STACK, CLONE_VM | CLONE_CHILD_CLEARTID, tr, NULL, NULL,
			&tr->state);
	err = tr->pid < 0 ? -errno : 0;
	if (!err)
		wait_while(tr, TRACER_STARTS);
	sigprocmask(SIG_SETMASK, &old, NULL);
	if (err) {
		t->tracer = NULL;
		free_tracer(tr);
	}
	return err;
}

void tracer_end(struct target *t)
{
	struct tracer *tr = t->tracer;

	if (!tr)
		return;
	if (change_state(tr, TRACER_IDLE, TRACER_QUITS)) {
		syscall(SYS_tgkill, tr->pid, tr->pid, SIGNAL_ASKED);
		wait_while(tr, TRACER_QUITS);
	}
	while (waitpid(tr->pid, NULL, __WALL) < 0 && errno == EINTR)
		;
	free_tracer(tr);
	t->tracer = NULL;
}

void target__rest(struct target *t)
{
	tracer_end(t);
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
	tr->fn = fn;
	tr->arg = arg;
	tr->urgent = (sched_getscheduler(0) & ~SCHED_RESET_ON_FORK) == SCHED_FIFO;
	tr->result = -ECHILD;
	if (change_state(tr, TRACER_IDLE, TRACER_ASKED)) {
		raw_syscall(SYS_tgkill, tr->pid, tr->pid, SIGNAL_ASKED, 0);
		wait_while(tr, TRACER_ASKED);
		change_state(tr, TRACER_DONE, TRACER_IDLE);
	}
	result = tr->result;
	if (result == -ETIMEDOUT || tr->has_left_some || state_of(tr) == TRACER_ENDED)
		tracer_end(t);
	return result;
}

/*
 * A thread that goes on elsewhere stops again within microseconds, and each of the dozen stops of an injection would
 * take several times as long if we slept: the thread stands still meanwhile.
 */
static pid_t spin(struct stopped *s, int *status)
{
	int64_t end = clock_us() + SPIN_US;
	pid_t got;

	do
		got = waitpid(s->tid, status, __WALL | WNOHANG);
	while (!got && s->vain_spins < MAX_VAIN_SPINS && clock_us() < end);
	s->vain_spins += !got;
	return got;
}

/*
 * Waits for the next stop. 0 with *status, -ESRCH when the thread ended, -ETIMEDOUT. The kernel says by SIGCHLD that
 * there is something to wait for; the tracer has all signals blocked.
 */
static int wait_stop(struct stopped *s, int64_t deadline_us, int *status)
{
	pid_t got = spin(s, status);
	sigset_t child;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	for (;;) {
		int64_t left = deadline_us - clock_us();
		struct timespec ts;

		if (got == s->tid)
			return WIFSTOPPED(*status) ? 0 : -ESRCH;
		if (got < 0 && errno != EINTR)
			return errno == ECHILD ? -ESRCH : -errno;
		if (left <= 0)
			return -ETIMEDOUT;
		if (left > MAX_SLEEP_US)
			left = MAX_SLEEP_US;
		ts = (struct timespec){left / 1000000, left % 1000000 * 1000};
		sigtimedwait(&child, NULL, &ts);
		got = waitpid(s->tid, status, __WALL | WNOHANG);
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

/*
 * It may have executed another program since we looked at it, the stop having come in the middle of that: nothing that
 * we know of it is true any more, the address of its vdso to begin with.
 */
static bool is_same_program(const struct target *t, pid_t tid)
{
	unsigned long aux[2 * 64];
	char path[64];
	ssize_t n = -1;
	uint8_t byte;
	int fd;

	if (target_read(t, t->vdso, &byte, sizeof(byte)))
		return false;
	snprintf(path, sizeof(path), "/proc/%d/auxv", tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, aux, sizeof(aux));
		close(fd);
	}
	for (ssize_t i = 0; i + 1 < n / (ssize_t)sizeof(aux[0]); i += 2)
		if (aux[i] == AT_SYSINFO_EHDR)
			return aux[i + 1] == t->vdso;
	return false;
}

static bool has_filter(pid_t tid)
{
	char mode[16];

	return proc_status(tid, "Seccomp", mode, sizeof(mode)) || atoi(mode);
}

/*
 * The kernel suspends the thread's seccomp filter while we hold it; but not for a tracer that has a filter itself
 * (check_ptrace_options() in kernel/ptrace.c).
 */
static int seize(struct stopped *s)
{
	if (!ptrace(PTRACE_SEIZE, s->tid, NULL, PTRACE_O_TRACESYSGOOD | PTRACE_O_SUSPEND_SECCOMP))
		return 0;
	if (ptrace(PTRACE_SEIZE, s->tid, NULL, PTRACE_O_TRACESYSGOOD))
		return -errno;
	s->filtered = has_filter(s->tid);
	return 0;
}

int thread_stop(struct target *t, pid_t tid, int timeout_ms, struct stopped *s, struct agent_error *err)
{
	int64_t deadline = clock_us() + timeout_ms * 1000ll;
	int status, rc;

	memset(s, 0, sizeof(*s));
	s->tid = tid;
	rc = seize(s);
	if (rc)
		return agent_fail(err, rc, "thread %d of process %d cannot be traced: %s", tid, t->pid, strerror(-rc));
	for (;;) {
		if (ptrace(PTRACE_INTERRUPT, tid, NULL, NULL))
			return agent_fail(err, -errno, "thread %d cannot be interrupted: %s", tid, strerror(errno));
		rc = wait_stop(s, deadline, &status);
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
	if (!is_same_program(t, tid)) {
		ptrace(PTRACE_DETACH, tid, NULL, NULL);
		return agent_fail(err, -ESRCH, "process %d has executed another program", t->pid);
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

/* Does the program catch system calls of its own threads (prctl(2), PR_SET_SYSCALL_USER_DISPATCH)? It would catch ours.
 */
static bool catches_calls(const struct stopped *s)
{
	struct {
		uint64_t mode, selector, offset, len;
	} config = {0};

	return !ptrace(GET_DISPATCH_CONFIG, s->tid, sizeof(config), &config) && config.mode;
}

/* Signals wait while we use the thread. SIGKILL and SIGSTOP do not. */
static int mask_signals(struct stopped *s)
{
	uint64_t all = ~0ull;

	if (s->masked)
		return 0;
	if (s->filtered || catches_calls(s))
		return -EOPNOTSUPP;
	if (ptrace(PTRACE_GETSIGMASK, s->tid, sizeof(s->sigmask), &s->sigmask) ||
	    ptrace(PTRACE_SETSIGMASK, s->tid, sizeof(all), &all))
		return -errno;
	s->masked = true;
	return 0;
}

static void note_signal(struct stopped *s, int status)
{
	if (!is_interrupt_stop(status))
		s->resend |= 1u << (WSTOPSIG(status) & 31);
}

/*
 * From the end of a system call to where we stopped it first: only there does the kernel look at the registers that we
 * give back and restart what was interrupted (arch_do_signal_or_restart() in arch/x86/kernel/signal.c). No instruction
 * is executed on the way.
 */
static int back_to_interrupt(struct stopped *s)
{
	int status, rc;

	if (ptrace(PTRACE_INTERRUPT, s->tid, NULL, NULL))
		return -errno;
	for (int odd = 0; odd < MAX_ODD_STOPS; odd++) {
		if (ptrace(PTRACE_CONT, s->tid, NULL, NULL))
			return -errno;
		rc = wait_stop(s, INT64_MAX, &status);
		if (rc || is_interrupt_stop(status))
			return rc;
		note_signal(s, status);
	}
	return -EPROTO;
}

int thread_resume(struct target *t, struct stopped *s)
{
	int rc = s->masked ? back_to_interrupt(s) : 0;

	if (ptrace(PTRACE_SETREGS, s->tid, NULL, &s->regs) && !rc)
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

/*
 * Not by PTRACE_SINGLESTEP: its SIGTRAP is forced upon the thread, and when the signal is blocked or ignored the kernel
 * forgets the program's handler for it (force_sig_info_to_task() in kernel/signal.c). A stop at a system call is no
 * signal.
 */
int thread_syscall(struct target *t, struct stopped *s, long *result, long nr, long a, long b, long c, long d, long e,
		   long f)
{
	struct user_regs_struct r = s->regs;
	int status, rc = mask_signals(s);
	bool entered = false;

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
	for (int odd = 0; odd < MAX_ODD_STOPS;) {
		if (ptrace(PTRACE_SYSCALL, s->tid, NULL, NULL))
			return -errno;
		/* No deadline: letting go of the thread now would leave it in the middle of our call. */
		rc = wait_stop(s, INT64_MAX, &status);
		if (rc)
			return rc;
		if (WSTOPSIG(status) != SYSCALL_STOP) {
			note_signal(s, status);
			odd++;
		} else if (!entered) {
			entered = true;
		} else if (ptrace(PTRACE_GETREGS, s->tid, NULL, &r)) {
			return -errno;
		} else {
			*result = (long)r.rax;
			return r.rip == t->syscall_insn + SYSCALL_INSN_SIZE ? 0 : -EPROTO;
		}
	}
	return -EPROTO;
}

/* ---- memory that only a tracer may write ---- */

#define WRITE_STOP_MS 50

struct write_job {
	uint64_t addr;
	const void *buf;
	size_t size;
};

/* The file speaks of the thread by whose name it was opened. */
static int write_by(const struct target *t, pid_t tid, const struct write_job *j)
{
	char path[64];
	int fd, rc = 0;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/mem", t->pid, tid);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (pwrite(fd, j->buf, j->size, (off_t)j->addr) != (ssize_t)j->size)
		rc = -EIO;
	close(fd);
	return rc;
}

/* false: the thread cannot be stopped, another one may. */
static bool stop_and_write_by(struct target *t, pid_t tid, const struct write_job *j, int *rc)
{
	struct agent_error err;
	struct stopped s;

	*rc = thread_stop(t, tid, WRITE_STOP_MS, &s, &err);
	if (*rc)
		return false;
	*rc = write_by(t, tid, j);
	thread_resume(t, &s);
	return true;
}

static int write_in_tracer(struct target *t, void *arg)
{
	const bool holds_some = has_tracees();
	int n, rc = -EIO;
	pid_t *tids;

	n = proc_threads(t->pid, &tids);
	if (n < 0)
		return n;
	for (int i = 0; i < n && rc && holds_some; i++)
		rc = write_by(t, tids[i], arg);
	for (int i = 0; i < n && rc; i++)
		if (stop_and_write_by(t, tids[i], arg, &rc))
			break;
	free(tids);
	return rc;
}

int tracer_write(const struct target *t, uint64_t addr, const void *buf, size_t size)
{
	struct target *target = (struct target *)t; /* its tracer may have to be started */
	struct write_job j = {addr, buf, size};

	if (daemon_pid && getpid() != daemon_pid)
		return write_in_tracer(target, &j);
	return tracer_run(target, write_in_tracer, &j);
}
