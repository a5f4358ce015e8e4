/* SPDX-License-Identifier: MIT */
#include "daemon/occupy.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#include "agent/clock.h"
#include "agent/cpus.h"
#include "daemon/raw_call.h"
#include "daemon/thread_attr.h"

#define LEFT_OF 7 /* the part of the time that has to be left for what follows a look at the clock */
#define STACK	(256u << 10)
#define PAUSES	1024 /* between two looks at the clock: each is a system call, which somebody may count */

static struct {
	struct thread_attr before; /* the caller's, */
	cpu_set_t all;		   /* and where it may run; */
	int own;		   /* here it does meanwhile */
	pthread_t *thread;
	struct stayer {
		int cpu;
		uint32_t seen; /* the last call that was answered: the thread was in user mode then */
	} * stayer;	       /* what is the thread's */
	uint32_t call;
	int n;
	int arrived;
	bool over;
	int64_t deadline, left_us; /* clock_us() */
	void (*part)(void *arg, int i);
	void *arg;
	int left; /* parts that nobody has taken yet */
	int done;
} held;

/* As clock_us(), without the C library: a probe may be on its clock_gettime(), and this is for a moment without hits.
 */
static int64_t raw_clock_us(void)
{
	struct timespec ts;
	long ret = raw_call(SYS_clock_gettime, CLOCK_MONOTONIC, (long)&ts, 0);

	return ret ? INT64_MAX : ts.tv_sec * 1000000ll + ts.tv_nsec / 1000;
}

/* Parts, for as long as there are any. */
static void take_part(void)
{
	int left = __atomic_load_n(&held.left, __ATOMIC_ACQUIRE);

	while (left) {
		if (!__atomic_compare_exchange_n(&held.left, &left, left - 1, false, __ATOMIC_SEQ_CST,
						 __ATOMIC_ACQUIRE))
			continue;
		held.part(held.arg, left - 1);
		__atomic_fetch_add(&held.done, 1, __ATOMIC_SEQ_CST);
		left = __atomic_load_n(&held.left, __ATOMIC_ACQUIRE);
	}
}

static void *stay(void *arg)
{
	struct stayer *me = arg;

	__atomic_fetch_add(&held.arrived, 1, __ATOMIC_SEQ_CST);
	for (unsigned int i = 1; !__atomic_load_n(&held.over, __ATOMIC_SEQ_CST); i++) {
		__atomic_store_n(&me->seen, __atomic_load_n(&held.call, __ATOMIC_SEQ_CST), __ATOMIC_SEQ_CST);
		if (me->cpu != held.own)
			take_part();
		if (i % PAUSES == 0 && raw_clock_us() >= held.deadline)
			break;
		__builtin_ia32_pause();
	}
	return NULL;
}

static int start_on(int cpu)
{
	const struct sched_param param = {.sched_priority = 1};
	pthread_attr_t attr;
	cpu_set_t one;
	int err;

	held.stayer[held.n] = (struct stayer){.cpu = cpu, .seen = held.call};
	CPU_ZERO(&one);
	CPU_SET((size_t)cpu, &one);
	err = pthread_attr_init(&attr);
	if (err)
		return -err;
	err = pthread_attr_setstacksize(&attr, STACK);
	if (!err)
		err = pthread_attr_setinheritsched(&attr, PTHREAD_EXPLICIT_SCHED);
	if (!err)
		err = pthread_attr_setschedpolicy(&attr, SCHED_FIFO);
	if (!err)
		err = pthread_attr_setschedparam(&attr, &param);
	if (!err)
		err = pthread_attr_setaffinity_np(&attr, sizeof(one), &one);
	if (!err)
		err = pthread_create(&held.thread[held.n], &attr, stay, &held.stayer[held.n]);
	pthread_attr_destroy(&attr);
	held.n += !err;
	return -err;
}

static void free_threads(void)
{
	free(held.thread);
	free(held.stayer);
	held.thread = NULL;
	held.stayer = NULL;
}

void cpus_release(void)
{
	__atomic_store_n(&held.over, true, __ATOMIC_SEQ_CST);
	while (held.n)
		pthread_join(held.thread[--held.n], NULL);
	free_threads();
	sched_setaffinity(0, sizeof(held.all), &held.all);
	thread_attr__set(&held.before);
}

bool cpus_are_occupied(void)
{
	return held.thread && raw_clock_us() < held.deadline - held.left_us;
}

/* Either its thread has run in user mode since, or we do: nothing is under way there that cannot be interrupted. */
static bool has_passed(const struct stayer *s)
{
	return __atomic_load_n(&s->seen, __ATOMIC_SEQ_CST) == held.call || s->cpu == held.own;
}

bool cpus_pass(void)
{
	if (!held.thread) {
		cpus_visit();
		return true;
	}
	__atomic_store_n(&held.call, held.call + 1, __ATOMIC_SEQ_CST);
	for (int i = 0; i < held.n; i++) {
		for (unsigned int n = 1; !has_passed(&held.stayer[i]); n++) {
			if (n % PAUSES == 0 && !cpus_are_occupied())
				return false;
			__builtin_ia32_pause();
		}
	}
	return cpus_are_occupied();
}

int cpus_kept(void)
{
	return held.thread ? held.n : 0;
}

bool cpus_share(int n, void (*part)(void *arg, int i), void *arg)
{
	if (!held.thread) {
		for (int i = 0; i < n; i++)
			part(arg, i);
		return true;
	}
	held.part = part;
	held.arg = arg;
	held.done = 0;
	__atomic_store_n(&held.left, n, __ATOMIC_RELEASE);
	take_part();
	/* None of them is on our processor. */
	for (unsigned int i = 1; __atomic_load_n(&held.done, __ATOMIC_SEQ_CST) < n; i++) {
		if (i % PAUSES == 0 && !cpus_are_occupied()) {
			__atomic_store_n(&held.left, 0, __ATOMIC_SEQ_CST);
			return false;
		}
		__builtin_ia32_pause();
	}
	return cpus_are_occupied();
}

/* Before all ordinary tasks and our own threads, and where we are. */
static int settle(void)
{
	const struct sched_param first = {.sched_priority = 2};
	int ret = thread_attr__get(&held.before);

	if (ret)
		return ret;
	if (sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &first))
		return -errno;
	held.own = sched_getcpu();
	ret = held.own < 0 ? -errno : cpu_go(held.own);
	if (ret)
		thread_attr__set(&held.before);
	return ret;
}

int cpus_occupy(int ms)
{
	const struct timespec nap = {.tv_nsec = 20000};
	int err = 0;

	if (sched_getaffinity(0, sizeof(held.all), &held.all))
		return -errno;
	/* Processors that we may not use are somebody's whom we cannot keep off. */
	if (CPU_COUNT(&held.all) < get_nprocs())
		return -EPERM;
	held.thread = calloc((size_t)CPU_COUNT(&held.all), sizeof(*held.thread));
	held.stayer = calloc((size_t)CPU_COUNT(&held.all), sizeof(*held.stayer));
	err = held.thread && held.stayer ? settle() : -ENOMEM;
	if (err) {
		free_threads();
		return err;
	}
	held.arrived = 0;
	held.left = 0;
	held.over = false;
	held.left_us = ms * 1000ll / LEFT_OF;
	held.deadline = clock_us() + ms * 1000ll;
	for (int cpu = 0; cpu < CPU_SETSIZE && !err; cpu++)
		if (CPU_ISSET((size_t)cpu, &held.all))
			err = start_on(cpu);
	/* Not spinning: one of them wants the processor that we are on. */
	while (!err && __atomic_load_n(&held.arrived, __ATOMIC_SEQ_CST) < held.n) {
		nanosleep(&nap, NULL);
		if (clock_us() > held.deadline - ms * 500ll)
			err = -ETIMEDOUT;
	}
	if (err)
		cpus_release();
	return err;
}
