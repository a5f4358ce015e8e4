/* SPDX-License-Identifier: MIT */
#include "daemon/repair.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/poll.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/aside.h"
#include "agent/clock.h"
#include "bpf/observe_abi.h"
#include "daemon/log.h"
#include "daemon/procfs.h"

#define PARENTS	      4096u /* buckets */
#define REPAIR_TRIES  3
#define CLOSERS	      16  /* the kernel takes a tenth of a second for each, also for several at a time */
#define NICE	      -15 /* a child waits */
#define LATE_TRIES_MS 2000
#define LOOK_MS	      200 /* how often, while something waits to be forgotten */
#define ENDING_MS     20  /* the same at the end */
#define END_MS	      2000

struct parent {
	struct parent *next;
	pid_t pid;
	struct fork_sites *sites; /* NULL: it has ended, or none is left */
	struct former *former;	  /* a child may still have these, too */
	int64_t since;		  /* clock_us(), when it was given them */
	struct former *past;	  /* this one and what is behind it: no child that is still to be told of has them */
};

struct former {
	struct former *next;
	struct fork_sites *sites;
	int64_t since; /* clock_us() */
};

/* A child that could not be repaired yet. */
struct late {
	struct late *next;
	pid_t parent, child;
	uint64_t start_time;
};

struct repairer {
	pthread_mutex_t lock; /* of parents */
	struct parent *bucket[PARENTS];
	unsigned int n_former;
	struct late *late; /* the thread's own, and what follows */
	uint64_t late_due; /* ms */
	struct ring_buffer *ring;
	int kin_fd;				  /* the observer's */
	const unsigned long *consumed, *produced; /* bytes of the ring; a page each */
	int wake_fd;				  /* eventfd: there is something to forget, or it is to end */
	bool ends;
	pthread_t thread;
	bool runs;
	int n_closers; /* threads */
};

static struct parent **find(struct repairer *r, pid_t pid)
{
	struct parent **link = &r->bucket[(unsigned int)pid % PARENTS];

	while (*link && (*link)->pid != pid)
		link = &(*link)->next;
	return link;
}

static void supersede(struct repairer *r, struct parent *p)
{
	struct former *f = p->sites ? malloc(sizeof(*f)) : NULL;

	if (f) {
		*f = (struct former){p->former, p->sites, clock_us()};
		p->former = f;
		r->n_former++;
	} else {
		fork_sites__free(p->sites);
	}
	p->sites = NULL;
}

static unsigned int free_formers(struct former **first)
{
	unsigned int n = 0;

	while (*first) {
		struct former *f = *first;

		*first = f->next;
		fork_sites__free(f->sites);
		free(f);
		n++;
	}
	return n;
}

/* Those that no child has any longer. */
static void forget_past(struct repairer *r)
{
	for (unsigned int i = 0; i < PARENTS; i++) {
		for (struct parent **link = &r->bucket[i], *p; (p = *link);) {
			struct former **last = &p->former;

			while (p->past && *last != p->past)
				last = &(*last)->next;
			if (p->past)
				r->n_former -= free_formers(last);
			p->past = NULL;
			if (p->sites || p->former) {
				link = &p->next;
				continue;
			}
			*link = p->next;
			free(p);
		}
	}
}

static uint64_t now_ms(void)
{
	return (uint64_t)clock_us() / 1000;
}

static bool is_ending(const struct repairer *r)
{
	return __atomic_load_n(&r->ends, __ATOMIC_SEQ_CST);
}

int repairer__set(struct repairer *r, const struct target *t, struct site *const *s, size_t n)
{
	struct fork_sites *sites = n ? fork_sites__new(t, s, n) : NULL;
	struct parent **link, *p;
	int err = n && !sites ? -ENOMEM : 0;

	pthread_mutex_lock(&r->lock);
	link = find(r, target__pid(t));
	p = *link;
	if (!p && sites) {
		p = calloc(1, sizeof(*p));
		if (p) {
			p->pid = target__pid(t);
			*link = p;
		} else {
			fork_sites__free(sites);
			err = -ENOMEM;
		}
	}
	if (p && !err) {
		supersede(r, p);
		p->sites = sites;
		p->since = clock_us();
	}
	pthread_mutex_unlock(&r->lock);
	eventfd_write(r->wake_fd, 1);
	return err;
}

/* ---- repairing ---- */

static void note_late(struct repairer *r, pid_t parent, pid_t child, uint64_t start_time)
{
	struct late *l = calloc(1, sizeof(*l));

	if (!l)
		return;
	*l = (struct late){r->late, parent, child, start_time};
	r->late = l;
}

/* It may have sites of before, too. */
static int repair_all(const struct parent *p, pid_t child, struct agent_error *err)
{
	int ret = p->sites ? fork_sites__repair(p->sites, child, err) : 0;

	for (struct former *f = p->former; f && !ret; f = f->next)
		ret = fork_sites__repair(f->sites, child, err);
	return ret;
}

/* What it has forked before is told of by itself, what it forks afterwards has no patches. */
static void repair(struct repairer *r, const struct parent *p, pid_t child, bool again)
{
	uint64_t start_time = procfs_start_time(child);
	struct agent_error err = {""};
	int ret = -ESRCH;

	for (int i = 0; ret && i < REPAIR_TRIES && procfs_start_time(child); i++)
		ret = repair_all(p, child, &err);
	if (ret && start_time && procfs_start_time(child) == start_time) {
		if (!again)
			log_warning("process %d, child of a target, keeps inherited patches for now: %s", child,
				    err.text);
		note_late(r, p->pid, child, start_time);
	} else {
		bpf_map_delete_elem(r->kin_fd, &child);
	}
}

static int on_fork(void *arg, void *data, size_t size)
{
	const struct obs_rec_head *rec = data;
	pid_t child = (pid_t)rec->arg;
	struct repairer *r = arg;
	const struct parent *p;

	(void)size;
	pthread_mutex_lock(&r->lock);
	p = *find(r, rec->tgid);
	if (p)
		repair(r, p, child, false);
	else
		bpf_map_delete_elem(r->kin_fd, &child);
	pthread_mutex_unlock(&r->lock);
	return 0;
}

static void repair_late(struct repairer *r)
{
	struct late *all = r->late;

	if (!all || now_ms() < r->late_due)
		return;
	pthread_mutex_lock(&r->lock);
	r->late = NULL;
	for (struct late *l; (l = all); all = l->next, free(l)) {
		const struct parent *p = *find(r, l->parent);
		bool lives = procfs_start_time(l->child) == l->start_time;

		if (p && lives)
			repair(r, p, l->child, true);
	}
	pthread_mutex_unlock(&r->lock);
	r->late_due = now_ms() + LATE_TRIES_MS;
}

void repairer__catch_up(struct repairer *r, int64_t deadline)
{
	unsigned long told = __atomic_load_n(r->produced, __ATOMIC_ACQUIRE);

	while ((long)(__atomic_load_n(r->consumed, __ATOMIC_ACQUIRE) - told) < 0 && clock_us() < deadline)
		usleep(500);
}

/* ---- what no child has any longer ---- */

static void *closer(void *arg)
{
	struct repairer *r = arg;

	/* Several at a time; at the end repairer__free() closes many. */
	while (!is_ending(r) && agent_close_buried(false, false))
		;
	__atomic_sub_fetch(&r->n_closers, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

/*
 * Of those whose parent has no fork under way now. Are there others? The main thread may not have told us yet of what
 * it has just given up, so also those are asked who have given up nothing.
 */
static bool note_past(struct repairer *r)
{
	bool others = false;

	pthread_mutex_lock(&r->lock);
	for (unsigned int i = 0; i < PARENTS; i++)
		for (struct parent *p = r->bucket[i]; p; p = p->next) {
			bool may_fork = agent_may_fork_since(p->pid, p->former ? p->former->since : p->since);

			p->past = may_fork ? NULL : p->former;
			others |= may_fork;
		}
	pthread_mutex_unlock(&r->lock);
	return others;
}

/*
 * A fork that copied a place which has been given up since is over, has been told of by the kernel's ring and has been
 * seen to, or else what the place was stays known, and its uprobes stay. A record counts as read when on_fork() has
 * returned. (Documentation/bpf/ringbuf.rst) Returns whether nothing is left.
 */
static bool forget(struct repairer *r)
{
	unsigned long told;
	bool all, others;

	if (__atomic_load_n(&r->n_closers, __ATOMIC_SEQ_CST))
		return false;
	all = agent_look_at_buried();
	others = note_past(r);
	told = __atomic_load_n(r->produced, __ATOMIC_ACQUIRE);
	ring_buffer__consume(r->ring);
	repair_late(r);
	if (r->late || (long)(__atomic_load_n(r->consumed, __ATOMIC_ACQUIRE) - told) < 0)
		return false;
	pthread_mutex_lock(&r->lock);
	forget_past(r);
	pthread_mutex_unlock(&r->lock);
	if (is_ending(r) || others)
		return all && !others;
	for (size_t i = 0; i < CLOSERS && i <= agent_buried() / 16; i++) {
		__atomic_add_fetch(&r->n_closers, 1, __ATOMIC_SEQ_CST);
		if (thread_aside(closer, r))
			__atomic_sub_fetch(&r->n_closers, 1, __ATOMIC_SEQ_CST);
	}
	return all;
}

static bool has_to_forget(struct repairer *r)
{
	bool has;

	pthread_mutex_lock(&r->lock);
	has = r->n_former != 0;
	pthread_mutex_unlock(&r->lock);
	return has || r->late || agent_has_buried();
}

bool repairer__is_idle(struct repairer *r)
{
	bool is_idle;

	pthread_mutex_lock(&r->lock);
	is_idle = !r->n_former && !r->late;
	pthread_mutex_unlock(&r->lock);
	return is_idle;
}

static void *run(void *arg)
{
	struct repairer *r = arg;
	struct pollfd wait[2] = {{.fd = ring_buffer__epoll_fd(r->ring), .events = POLLIN},
				 {.fd = r->wake_fd, .events = POLLIN}};
	uint64_t deadline = 0, due = 0;
	eventfd_t ignored;

	setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), NICE);
	for (;;) {
		bool ends = is_ending(r), waits = has_to_forget(r);
		int n;

		if (ends && !deadline)
			deadline = now_ms() + END_MS;
		if (ends && (!waits || now_ms() > deadline))
			return NULL;
		n = poll(wait, 2, ends ? ENDING_MS : waits ? LOOK_MS : -1);
		if (n < 0 && errno != EINTR)
			return NULL;
		if (n > 0 && wait[1].revents)
			eventfd_read(r->wake_fd, &ignored);
		if (n > 0)
			ring_buffer__consume(r->ring);
		if (!waits || (!ends && now_ms() < due))
			continue;
		if (forget(r) && ends)
			return NULL;
		due = now_ms() + LOOK_MS;
	}
}

static const unsigned long *map_page(int fd, int n)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	void *m = mmap(NULL, page, PROT_READ, MAP_SHARED, fd, (off_t)page * n);

	return m == MAP_FAILED ? NULL : m;
}

static void unmap_page(const unsigned long *m)
{
	if (m)
		munmap((void *)m, (size_t)sysconf(_SC_PAGESIZE));
}

int repairer__new(struct repairer **out, int forks_fd, int kin_fd, char *err, size_t err_size)
{
	struct repairer *r = calloc(1, sizeof(*r));
	sigset_t all, old;
	int ret = -ENOMEM;

	if (!r)
		goto fail;
	pthread_mutex_init(&r->lock, NULL);
	r->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r->kin_fd = kin_fd;
	r->ring = ring_buffer__new(forks_fd, on_fork, r, NULL);
	r->consumed = map_page(forks_fd, 0);
	r->produced = map_page(forks_fd, 1);
	if (!r->ring || r->wake_fd < 0 || !r->consumed || !r->produced) {
		ret = -errno;
		goto fail;
	}
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = -pthread_create(&r->thread, NULL, run, r);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	r->runs = !ret;
	if (ret)
		goto fail;
	agent_bury_holds(true);
	*out = r;
	return 0;
fail:
	snprintf(err, err_size, "the thread that repairs fork children cannot be started: %s", strerror(-ret));
	repairer__free(r);
	return ret;
}

void repairer__free(struct repairer *r)
{
	if (!r)
		return;
	agent_bury_holds(false);
	if (r->runs) {
		__atomic_store_n(&r->ends, true, __ATOMIC_SEQ_CST);
		eventfd_write(r->wake_fd, 1);
		pthread_join(r->thread, NULL);
	}
	while (__atomic_load_n(&r->n_closers, __ATOMIC_SEQ_CST))
		usleep(1000);
	while (agent_close_buried(true, true))
		;
	agent_closed_all();
	for (unsigned int i = 0; i < PARENTS; i++) {
		for (struct parent *p = r->bucket[i], *next; p; p = next) {
			next = p->next;
			free_formers(&p->former);
			fork_sites__free(p->sites);
			free(p);
		}
	}
	for (struct late *l; (l = r->late); free(l))
		r->late = l->next;
	ring_buffer__free(r->ring);
	unmap_page(r->consumed);
	unmap_page(r->produced);
	if (r->wake_fd >= 0)
		close(r->wake_fd);
	pthread_mutex_destroy(&r->lock);
	free(r);
}
