/* SPDX-License-Identifier: MIT */
#include "daemon/builder.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "daemon/build.h"
#include "daemon/log.h"

#define INTERRUPT	   SIGUSR1
#define INTERRUPT_EVERY_NS 1000000
#define BUDGET_ENV	   "BPFTIME_VERIFY_SECONDS"
#define BUDGET_S	   30 /* of processor time */

enum job_state { JOB_WAITS, JOB_RUNS, JOB_DONE };

struct job {
	struct job *next; /* begun later */
	struct group *group;
	enum job_state state;
	int err;
	char reason[REASON_SIZE];
};

struct builder {
	struct vm_worker *worker;
	const struct observer *observer;
	pthread_mutex_t lock; /* of jobs and ends */
	pthread_cond_t changed;
	struct job *jobs;	    /* oldest first */
	struct histogram durations; /* under the lock */
	bool ends;
	bool gives_up; /* atomic: the job that runs is wanted no more, or takes too long */
	int done_fd;   /* eventfd: jobs that are done */
	pthread_t thread;
	bool runs;
};

static struct job *first(struct builder *b, enum job_state state)
{
	struct job *j = b->jobs;

	while (j && j->state != state)
		j = j->next;
	return j;
}

static int budget(void)
{
	const char *text = getenv(BUDGET_ENV);

	return text && atoi(text) > 0 ? atoi(text) : BUDGET_S;
}

/* What the calling thread does after so many seconds of its processor time is interrupted, all the time. 0: nothing. */
static void limit(const timer_t *timer, int seconds)
{
	const struct itimerspec end = {
		.it_value.tv_sec = seconds,
		.it_interval.tv_nsec = INTERRUPT_EVERY_NS,
	};

	if (timer)
		timer_settime(*timer, 0, &end, NULL);
}

static void build(struct builder *b, struct job *j, const timer_t *timer)
{
	uint64_t allowed = j->group->compile_seconds;
	int seconds = allowed < (uint64_t)budget() ? (int)allowed : budget();

	limit(timer, seconds);
	j->err = group__build(j->group, b->worker, b->observer, &b->gives_up, j->reason);
	limit(timer, 0);
	if (j->err && __atomic_load_n(&b->gives_up, __ATOMIC_RELAXED)) {
		j->err = -E2BIG;
		snprintf(j->reason, sizeof(j->reason),
			 "the kernel has not verified its kernel half within %d seconds of processor time%s", seconds,
			 seconds < budget() ? ", which policy allows" : "");
	}
}

static double seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void *run(void *arg)
{
	struct builder *b = arg;
	struct sigevent when_late = {
		.sigev_notify = SIGEV_THREAD_ID,
		.sigev_signo = INTERRUPT,
		.sigev_value.sival_ptr = &b->gives_up,
		._sigev_un._tid = gettid(),
	};
	timer_t timer;
	struct job *j;
	double begin;
	bool limited = !timer_create(CLOCK_THREAD_CPUTIME_ID, &when_late, &timer);

	if (!limited)
		log_warning("what is verified may take as long as it takes: %s", strerror(errno));
	pthread_mutex_lock(&b->lock);
	while (!b->ends) {
		j = first(b, JOB_WAITS);
		if (!j) {
			pthread_cond_wait(&b->changed, &b->lock);
			continue;
		}
		j->state = JOB_RUNS;
		__atomic_store_n(&b->gives_up, false, __ATOMIC_RELAXED);
		pthread_mutex_unlock(&b->lock);
		begin = seconds();
		build(b, j, limited ? &timer : NULL);
		pthread_mutex_lock(&b->lock);
		histogram__add(&b->durations, seconds() - begin);
		j->state = JOB_DONE;
		eventfd_write(b->done_fd, 1);
		pthread_cond_broadcast(&b->changed);
	}
	pthread_mutex_unlock(&b->lock);
	if (limited)
		timer_delete(timer);
	return NULL;
}

/* System calls end early by it, and so does the verifier (do_check() in kernel/bpf/verifier.c). */
static void on_interrupt(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)context;
	if (info->si_code == SI_TIMER)
		__atomic_store_n((bool *)info->si_value.sival_ptr, true, __ATOMIC_RELAXED);
}

int builder__new(struct builder **out, struct vm_worker *worker, const struct observer *o, char *err, size_t err_size)
{
	struct sigaction interrupt = {.sa_sigaction = on_interrupt, .sa_flags = SA_SIGINFO};
	struct builder *b = calloc(1, sizeof(*b));
	pthread_condattr_t monotonic;
	sigset_t mask, old;
	int ret = -ENOMEM;

	if (!b)
		goto fail;
	b->worker = worker;
	b->observer = o;
	pthread_mutex_init(&b->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&b->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	b->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);
	if (b->done_fd < 0 || sigaction(INTERRUPT, &interrupt, NULL)) {
		ret = -errno;
		goto fail;
	}
	sigfillset(&mask);
	sigdelset(&mask, INTERRUPT);
	pthread_sigmask(SIG_SETMASK, &mask, &old);
	ret = -pthread_create(&b->thread, NULL, run, b);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	b->runs = !ret;
	if (ret)
		goto fail;
	*out = b;
	return 0;
fail:
	snprintf(err, err_size, "the thread that compiles cannot be started: %s", strerror(-ret));
	builder__free(b);
	return ret;
}

static struct job **link_of(struct builder *b, const struct group *g)
{
	struct job **link = &b->jobs;

	while (*link && (*link)->group != g)
		link = &(*link)->next;
	return link;
}

static void remove_job(struct job **link)
{
	struct job *j = *link;

	*link = j->next;
	j->group->building = false;
	free(j);
}

/* With the lock held, which is let go meanwhile. The signal may come between two system calls: so it comes again. */
static void interrupt_job(struct builder *b, const struct job *j)
{
	struct timespec until;

	__atomic_store_n(&b->gives_up, true, __ATOMIC_RELAXED);
	while (j->state == JOB_RUNS) {
		pthread_kill(b->thread, INTERRUPT);
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_nsec += INTERRUPT_EVERY_NS;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		pthread_cond_timedwait(&b->changed, &b->lock, &until);
	}
}

void builder__cancel(struct builder *b, struct group *g)
{
	eventfd_t one;

	if (!g->building)
		return;
	pthread_mutex_lock(&b->lock);
	interrupt_job(b, *link_of(b, g));
	if ((*link_of(b, g))->state == JOB_DONE)
		eventfd_read(b->done_fd, &one);
	remove_job(link_of(b, g));
	pthread_mutex_unlock(&b->lock);
}

void builder__free(struct builder *b)
{
	if (!b)
		return;
	while (b->jobs)
		builder__cancel(b, b->jobs->group);
	if (b->runs) {
		pthread_mutex_lock(&b->lock);
		b->ends = true;
		pthread_cond_broadcast(&b->changed);
		pthread_mutex_unlock(&b->lock);
		pthread_join(b->thread, NULL);
	}
	if (b->done_fd >= 0)
		close(b->done_fd);
	pthread_cond_destroy(&b->changed);
	pthread_mutex_destroy(&b->lock);
	free(b);
}

int builder__fd(const struct builder *b)
{
	return b->done_fd;
}

int builder__start(struct builder *b, struct group *g)
{
	struct job *j = calloc(1, sizeof(*j));

	if (!j)
		return -ENOMEM;
	j->group = g;
	g->building = true;
	pthread_mutex_lock(&b->lock);
	*link_of(b, NULL) = j;
	pthread_cond_broadcast(&b->changed);
	pthread_mutex_unlock(&b->lock);
	return 0;
}

struct group *builder__done(struct builder *b, int *err)
{
	struct group *g = NULL;
	struct job *j;
	eventfd_t one;

	pthread_mutex_lock(&b->lock);
	j = first(b, JOB_DONE);
	if (j) {
		eventfd_read(b->done_fd, &one);
		g = j->group;
		*err = j->err;
		memcpy(g->reason, j->reason, sizeof(g->reason));
		remove_job(link_of(b, g));
	}
	pthread_mutex_unlock(&b->lock);
	return g;
}

void builder__durations(struct builder *b, struct histogram *out)
{
	pthread_mutex_lock(&b->lock);
	*out = b->durations;
	pthread_mutex_unlock(&b->lock);
}

void builder__wait(struct builder *b)
{
	struct pollfd p = {.fd = b->done_fd, .events = POLLIN};

	if (b->jobs)
		poll(&p, 1, -1);
}
