// SPDX-License-Identifier: MIT
/*
 * choose.c: which thread of a process can be stopped without the program noticing.
 *
 * A stop wakes a blocking system call. What happens then differs by call (measured on Linux 6.18): most restart, some
 * return EINTR (put right by thread_stop(), but a relative timeout starts anew), and transfers of data come back short.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "target.h"

/* Smaller is better. */
enum fit { FIT_EXACT = 0, FIT_RUNNING = 1, FIT_TIMEOUT_ANEW = 2, FIT_NEVER = 3 };

struct call_fit {
	long nr;
	enum fit fit;
	int never_flag_arg; /* argument whose flag below makes it FIT_NEVER; -1 none */
	unsigned long never_flag;
	int timeout_arg; /* milliseconds argument; when it is negative the call is FIT_EXACT; -1 none */
};

static const struct call_fit calls[] = {
	{SYS_futex, FIT_EXACT, -1, 0, -1},
	{SYS_nanosleep, FIT_EXACT, -1, 0, -1},
	{SYS_clock_nanosleep, FIT_EXACT, -1, 0, -1},
	{SYS_poll, FIT_EXACT, -1, 0, -1},
	{SYS_ppoll, FIT_EXACT, -1, 0, -1},
	{SYS_select, FIT_EXACT, -1, 0, -1},
	{SYS_pselect6, FIT_EXACT, -1, 0, -1},
	{SYS_restart_syscall, FIT_EXACT, -1, 0, -1},
	{SYS_read, FIT_EXACT, -1, 0, -1},
	{SYS_wait4, FIT_EXACT, -1, 0, -1},
	{SYS_waitid, FIT_EXACT, -1, 0, -1},
	{SYS_pause, FIT_EXACT, -1, 0, -1},
	{SYS_rt_sigsuspend, FIT_EXACT, -1, 0, -1},
	{SYS_accept, FIT_EXACT, -1, 0, -1},
	{SYS_accept4, FIT_EXACT, -1, 0, -1},
	{SYS_flock, FIT_EXACT, -1, 0, -1},
	{SYS_recvfrom, FIT_EXACT, 3, MSG_WAITALL, -1},
	{SYS_recvmsg, FIT_EXACT, 2, MSG_WAITALL, -1},
	{SYS_epoll_wait, FIT_TIMEOUT_ANEW, -1, 0, 3},
	{SYS_epoll_pwait, FIT_TIMEOUT_ANEW, -1, 0, 3},
	{SYS_epoll_pwait2, FIT_TIMEOUT_ANEW, -1, 0, -1},
	{SYS_rt_sigtimedwait, FIT_TIMEOUT_ANEW, -1, 0, -1},
	{SYS_msgrcv, FIT_TIMEOUT_ANEW, -1, 0, -1},
	{SYS_io_getevents, FIT_TIMEOUT_ANEW, -1, 0, -1},
	{SYS_semtimedop, FIT_TIMEOUT_ANEW, -1, 0, -1},
};

#define RUNNING_SAMPLES 4

static enum fit fit_of_call(const struct task_at *at)
{
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		const struct call_fit *c = &calls[i];

		if (c->nr != at->nr)
			continue;
		if (c->never_flag_arg >= 0 && (at->arg[c->never_flag_arg] & c->never_flag))
			return FIT_NEVER;
		if (c->timeout_arg >= 0 && (int)at->arg[c->timeout_arg] < 0)
			return FIT_EXACT;
		return c->fit;
	}
	return FIT_NEVER;
}

/* A running thread may be in the kernel for a moment, in the middle of a transfer: look more than once. */
static enum fit fit_of_thread(pid_t pid, pid_t tid)
{
	enum fit fit = FIT_RUNNING;

	for (int i = 0; i < RUNNING_SAMPLES; i++) {
		struct task_at at = proc_task_at(pid, tid);
		char state = proc_task_state(pid, tid);

		if (state != 'R' && state != 'S')
			return FIT_NEVER;
		switch (at.where) {
		case TASK_IN_SYSCALL:
			return fit_of_call(&at);
		case TASK_RUNNING:
			break;
		default:
			return FIT_NEVER;
		}
		sched_yield();
	}
	return fit;
}

void target__stop_anywhere(struct target *t, bool anywhere)
{
	t->stop_anywhere = anywhere;
}

/* Some thread that sleeps in a system call, whichever it is. */
static bool choose_any(pid_t pid, const pid_t *tids, int n, pid_t *tid)
{
	for (int i = 0; i < n; i++) {
		if (proc_task_state(pid, tids[i]) != 'S' || proc_task_at(pid, tids[i]).where != TASK_IN_SYSCALL)
			continue;
		*tid = tids[i];
		return true;
	}
	return false;
}

int choose_thread(const struct target *t, pid_t *tid)
{
	enum fit best = FIT_NEVER;
	pid_t *tids, pid = t->pid;
	int n = proc_threads(pid, &tids);
	bool some;

	if (n < 0)
		return n;
	for (int i = 0; i < n && best != FIT_EXACT; i++) {
		enum fit fit = fit_of_thread(pid, tids[i]);

		if (fit < best) {
			best = fit;
			*tid = tids[i];
		}
	}
	some = best != FIT_NEVER || (t->stop_anywhere && choose_any(pid, tids, n, tid));
	free(tids);
	return some ? 0 : -EAGAIN;
}
