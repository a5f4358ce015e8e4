// SPDX-License-Identifier: MIT
#include "bury.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"
#include "aside.h"
#include "clock.h"

#define BUCKETS	     (1u << 16)
#define MOST_CLOSERS 32

/* ---- closing ---- */

static unsigned int n_closers;
static bool closes_aside;

struct closing {
	int fd[2];
	size_t n;
};

void agent_close_aside(void)
{
	closes_aside = true;
}

void agent_closed_all(void)
{
	close_aside_wait(&n_closers);
}

/* Nobody has to wait with the kernel for a process that is gone. */
static void close_fds(const struct closing *c, bool aside)
{
	/* Too many wait already: so do we, for one of them. */
	while (aside && __atomic_load_n(&n_closers, __ATOMIC_SEQ_CST) >= MOST_CLOSERS)
		usleep(1000);
	if (aside)
		close_aside(&n_closers, c->fd, c->n);
	for (size_t i = 0; !aside && i < c->n; i++)
		close(c->fd[i]);
}

/* ---- instructions ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of all that follows */
static pthread_cond_t is_closed = PTHREAD_COND_INITIALIZER;
static uint32_t n_jumps[BUCKETS], n_closing[BUCKETS];
static int64_t last_use[BUCKETS]; /* clock_us(), when it ended */

uint32_t instruction_bucket(dev_t dev, ino_t ino, uint64_t offset)
{
	uint64_t h = (ino ^ dev << 32 ^ offset * 0x9e3779b97f4a7c15ull) * 0x9e3779b97f4a7c15ull;

	return (uint32_t)(h >> 48) & (BUCKETS - 1);
}

void instruction_use(uint32_t bucket)
{
	pthread_mutex_lock(&lock);
	n_jumps[bucket]++;
	while (n_closing[bucket])
		pthread_cond_wait(&is_closed, &lock);
	pthread_mutex_unlock(&lock);
}

void instruction_unuse(uint32_t bucket)
{
	pthread_mutex_lock(&lock);
	n_jumps[bucket]--;
	last_use[bucket] = clock_us();
	pthread_mutex_unlock(&lock);
}

/* ---- not yet ---- */

static struct buried {
	struct buried *next;
	pid_t pid;
	struct closing fds;
	struct instructions at;
	int64_t since;	 /* clock_us() */
	int64_t safe_at; /* 0: not. No fork of the process is under way that began before, nobody has a jump there */
} * buried;
static size_t n_buried;
static bool buries;

void agent_bury_holds(bool on)
{
	buries = on;
}

static bool bury(pid_t pid, struct closing fds, const struct instructions *at)
{
	struct buried *b = buries ? malloc(sizeof(*b) + at->n * sizeof(*at->bucket)) : NULL;

	if (!b)
		return false;
	*b = (struct buried){.pid = pid, .fds = fds, .at = {(uint32_t *)(b + 1), at->n}, .since = clock_us()};
	if (at->n)
		memcpy(b->at.bucket, at->bucket, at->n * sizeof(*at->bucket));
	pthread_mutex_lock(&lock);
	b->next = buried;
	buried = b;
	n_buried++;
	pthread_mutex_unlock(&lock);
	return true;
}

void uprobes_end(pid_t pid, int link, int event, const struct instructions *at, bool aside)
{
	struct closing fds = {.n = 0};

	if (link >= 0)
		fds.fd[fds.n++] = link;
	if (event >= 0)
		fds.fd[fds.n++] = event;
	if (fds.n && !bury(pid, fds, at))
		close_fds(&fds, aside || closes_aside);
}

size_t agent_buried(void)
{
	return __atomic_load_n(&n_buried, __ATOMIC_ACQUIRE);
}

/* With the lock held, as all that follows. Has some process a jump there? */
static bool has_jumps(const struct buried *b)
{
	for (size_t i = 0; i < b->at.n; i++)
		if (n_jumps[b->at.bucket[i]])
			return true;
	return false;
}

/* Or had one since it was found to be safe? */
static bool is_safe(const struct buried *b)
{
	for (size_t i = 0; i < b->at.n; i++)
		if (n_jumps[b->at.bucket[i]] || last_use[b->at.bucket[i]] >= b->safe_at)
			return false;
	return b->safe_at != 0;
}

bool agent_has_buried(void)
{
	bool has = false;

	pthread_mutex_lock(&lock);
	for (struct buried *b = buried; b && !has; b = b->next)
		has = !has_jumps(b);
	pthread_mutex_unlock(&lock);
	return has;
}

bool agent_look_at_buried(void)
{
	bool all = true, may_fork = false;
	pid_t pid = 0;

	pthread_mutex_lock(&lock);
	for (struct buried *b = buried; b; b = b->next) {
		if (!is_safe(b))
			b->safe_at = 0;
		/* Who has a jump there may fork at any time. */
		if (has_jumps(b)) {
			all = false;
			continue;
		}
		/* Mostly many in a row are of the same process, the youngest first. */
		if (!b->safe_at && b->pid != pid)
			may_fork = agent_may_fork_since(pid = b->pid, b->since);
		if (!b->safe_at && !may_fork)
			b->safe_at = clock_us();
		all &= b->safe_at != 0;
	}
	pthread_mutex_unlock(&lock);
	return all;
}

static void count_closing(const struct buried *b, int by)
{
	for (size_t i = 0; i < b->at.n; i++)
		n_closing[b->at.bucket[i]] += (uint32_t)by;
}

bool agent_close_buried(bool all, bool aside)
{
	struct buried **link = &buried, *b;

	pthread_mutex_lock(&lock);
	while ((b = *link) && !all && !is_safe(b))
		link = &b->next;
	if (b) {
		*link = b->next;
		n_buried--;
		count_closing(b, 1);
	}
	pthread_mutex_unlock(&lock);
	if (!b)
		return false;
	close_fds(&b->fds, aside);
	pthread_mutex_lock(&lock);
	count_closing(b, -1);
	pthread_cond_broadcast(&is_closed);
	pthread_mutex_unlock(&lock);
	free(b);
	return true;
}
