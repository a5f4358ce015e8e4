// SPDX-License-Identifier: MIT
/*
 * stand.c: memory under a process is exchanged at one moment. What is to be there has been mapped elsewhere before; a
 * thread stands still while the daemon makes it the truth, and then moves it to its place, by one mremap() for each
 * mapping. Whether it does is decided by a word in memory that the daemon's switch turns, and not by a message of the
 * daemon's: when the daemon is killed in between, the tracer looks at the word and goes on alone.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

#include "clock.h"
#include "target.h"

#define STOP_MS	      20
#define MOVE_PRIORITY 3 /* in real time */

struct stand {
	struct stopped s;
	struct target_stand *opts;
	struct agent_error *err;
};

/* Nobody else runs while the processors are kept from ordinary tasks; others cannot be kept off. Frees tids. */
static int check_others(struct target *t, pid_t *tids, size_t n, struct agent_error *err)
{
	int rc = (int)n;

	for (size_t i = 0; i < n && rc > 0; i++) {
		int policy = sched_getscheduler(tids[i]) & ~SCHED_RESET_ON_FORK;

		if (policy != SCHED_OTHER && policy != SCHED_BATCH && policy != SCHED_IDLE)
			rc = agent_fail(err, -EOPNOTSUPP,
					"process %d has several threads, of which %d runs in real time", t->pid,
					tids[i]);
	}
	free(tids);
	return rc;
}

static int begin(struct target *t, void *arg)
{
	struct stand *st = arg;
	pid_t *tids, tid;
	int rc = choose_thread(t, &tid);

	if (rc)
		return rc == -EAGAIN ? rc : agent_fail(st->err, -ESRCH, "process %d ended", t->pid);
	if (tracer_is_orphan(t))
		return -ECANCELED;
	rc = thread_stop(t, tid, STOP_MS, &st->s, st->err);
	if (rc)
		return rc;
	rc = proc_threads(t->pid, &tids);
	if (rc > 1)
		rc = check_others(t, tids, (size_t)rc, st->err);
	else if (rc >= 0)
		free(tids);
	if (rc < 0) {
		thread_resume(t, &st->s);
		return rc;
	}
	st->opts->crowded = rc > 1;
	t->stand = st;
	return 0;
}

/* While the processors are kept, the thread runs before those who keep them; so do we, see target__go_on(). */
static int hurry(const struct stand *st, int *policy, struct sched_param *param)
{
	const struct sched_param first = {.sched_priority = MOVE_PRIORITY};

	*policy = sched_getscheduler(st->s.tid);
	if (*policy < 0 || sched_getparam(st->s.tid, param) ||
	    sched_setscheduler(st->s.tid, SCHED_FIFO | SCHED_RESET_ON_FORK, &first))
		return -errno;
	return 0;
}

static int move_all(struct target *t, struct stand *st)
{
	const struct target_stand *o = st->opts;
	int ret = 0;

	for (size_t i = 0; i < o->n_moves; i++) {
		const struct target_move *m = &o->move[i];
		long result;
		int rc = thread_syscall(t, &st->s, &result, SYS_mremap, (long)m->from, (long)m->size, (long)m->size,
					MREMAP_MAYMOVE | MREMAP_FIXED, (long)m->to, 0);

		if (!rc && (uint64_t)result != m->to)
			rc = (int)result;
		if (rc)
			ret = agent_fail(st->err, rc, "memory of process %d cannot be moved: %s", t->pid,
					 strerror(-rc));
	}
	return ret;
}

int stand_end(struct target *t, void *arg)
{
	struct stand *st = t->stand;
	uint64_t word = __atomic_load_n(st->opts->word, __ATOMIC_SEQ_CST);
	bool moves = (word & st->opts->mask) == st->opts->moved_when;
	struct sched_param param;
	int policy, rc = 0;

	(void)arg;
	t->stand = NULL;
	if (moves && st->opts->crowded) {
		int hurried = hurry(st, &policy, &param);

		rc = move_all(t, st);
		if (!hurried)
			sched_setscheduler(st->s.tid, policy, &param);
	} else if (moves) {
		rc = move_all(t, st);
	}
	thread_resume(t, &st->s);
	return rc;
}

int target__stand(struct target *t, struct target_stand *opts, int timeout_ms, struct agent_error *err)
{
	int64_t deadline = clock_us() + timeout_ms * 1000ll;
	struct stand *st = calloc(1, sizeof(*st));

	if (!st)
		return -ENOMEM;
	st->opts = opts;
	st->err = err;
	for (;;) {
		const struct timespec nap = {0, 200000};
		int rc = tracer_run(t, begin, st);

		if (!rc)
			return 0;
		if ((rc != -EAGAIN && rc != -ETIMEDOUT) || !target__alive(t) || clock_us() > deadline) {
			free(st);
			return rc == -EAGAIN || rc == -ETIMEDOUT
				       ? agent_fail(err, -EAGAIN,
						    "process %d has no thread that can be stopped without its noticing",
						    t->pid)
				       : rc;
		}
		nanosleep(&nap, NULL);
	}
}

int target__go_on(struct target *t, struct agent_error *err)
{
	struct stand *st = t->stand;
	int rc;

	if (!st)
		return 0;
	st->err = err;
	if (st->opts->crowded)
		tracer_lift(t, MOVE_PRIORITY);
	rc = tracer_run(t, stand_end, NULL);
	if (st->opts->crowded)
		tracer_lift(t, 0);
	t->stand = NULL;
	free(st);
	return rc;
}
