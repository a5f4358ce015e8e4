/* SPDX-License-Identifier: MIT */
#include "daemon/repair.h"

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

#define PARENTS	     4096u /* buckets */
#define REPAIR_TRIES 3
#define REPAIR_DEPTH 16	 /* generations */
#define NICE	     -15 /* a child waits */
#define QUIET_MS     500 /* without a fork of a target: then none is under way, and all children have been repaired */

#define ENDING_MS 20

struct parent {
	struct parent *next;
	pid_t pid;
	struct fork_sites *sites; /* NULL: it has ended, or none is left */
	struct former *former;	  /* since the last time that it was quiet: a child may have these, too */
	bool to_sweep;		  /* it has had children since the last time */
};

struct former {
	struct former *next;
	struct fork_sites *sites;
};

struct repairer {
	pthread_mutex_t lock; /* of parents */
	struct parent *bucket[PARENTS];
	struct ring_buffer *ring;
	const unsigned long *consumed, *produced; /* bytes of the ring; a page each */
	int wake_fd;				  /* eventfd: there is something to forget, or it is to end */
	bool ends;
	pthread_t thread;
	bool runs;
	unsigned int n_to_sweep; /* parents */
	unsigned int n_former;
	int n_sweepers;	       /* threads */
	uint64_t last_fork_ms; /* CLOCK_MONOTONIC */
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
		*f = (struct former){p->former, p->sites};
		p->former = f;
		r->n_former++;
	} else {
		fork_sites__free(p->sites);
	}
	p->sites = NULL;
}

static void forget_former(struct parent *p)
{
	while (p->former) {
		struct former *f = p->former;

		p->former = f->next;
		fork_sites__free(f->sites);
		free(f);
	}
}

/* Whose children have all been repaired. Called when it is quiet. */
static void forget_past(struct repairer *r)
{
	for (unsigned int i = 0; i < PARENTS; i++) {
		for (struct parent **link = &r->bucket[i], *p; (p = *link);) {
			forget_former(p);
			if (p->sites) {
				link = &p->next;
				continue;
			}
			*link = p->next;
			free(p);
		}
	}
	r->n_former = 0;
}

static uint64_t now_ms(void)
{
	return (uint64_t)clock_us() / 1000;
}

static bool is_ending(const struct repairer *r)
{
	return __atomic_load_n(&r->ends, __ATOMIC_SEQ_CST);
}

/*
 * All forks have been read of, and what is to be done for their children is done: a record counts as read when
 * on_fork() has returned. (Documentation/bpf/ringbuf.rst)
 */
static bool has_read_all(const struct repairer *r)
{
	return __atomic_load_n(r->produced, __ATOMIC_ACQUIRE) == __atomic_load_n(r->consumed, __ATOMIC_ACQUIRE);
}

static bool is_quiet(const struct repairer *r)
{
	return has_read_all(r) && now_ms() - __atomic_load_n(&r->last_fork_ms, __ATOMIC_SEQ_CST) >= QUIET_MS;
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
	}
	pthread_mutex_unlock(&r->lock);
	eventfd_write(r->wake_fd, 1);
	return err;
}

/* What the child has forked before it was repaired has the patches, too. */
static void repair(struct fork_sites *sites, pid_t child, int depth)
{
	struct agent_error err = {""};
	pid_t *children;
	int ret = -ESRCH, n_children;

	for (int i = 0; ret && i < REPAIR_TRIES && procfs_start_time(child); i++)
		ret = fork_sites__repair(sites, child, &err);
	if (ret && procfs_start_time(child))
		log_warning("process %d, child of a target, keeps inherited patches: %s", child, err.text);
	n_children = depth ? procfs_children(child, &children) : 0;
	for (int i = 0; i < n_children; i++)
		repair(sites, children[i], depth - 1);
	if (n_children > 0)
		free(children);
}

static int on_fork(void *arg, void *data, size_t size)
{
	const struct obs_rec_head *rec = data;
	struct repairer *r = arg;
	struct parent *p;

	(void)size;
	__atomic_store_n(&r->last_fork_ms, now_ms(), __ATOMIC_SEQ_CST);
	pthread_mutex_lock(&r->lock);
	p = *find(r, rec->tgid);
	if (p) {
		if (p->sites) {
			repair(p->sites, (pid_t)rec->arg, REPAIR_DEPTH);
			r->n_to_sweep += !p->to_sweep;
			p->to_sweep = true;
		}
		for (struct former *f = p->former; f; f = f->next)
			repair(f->sites, (pid_t)rec->arg, REPAIR_DEPTH);
	}
	pthread_mutex_unlock(&r->lock);
	return 0;
}

/* ---- sweeping ---- */

struct sweep {
	struct repairer *r;
	size_t n;
	struct fork_sites *sites[];
};

static void *sweeper(void *arg)
{
	struct sweep *s = arg;

	for (size_t i = 0; i < s->n; i++) {
		if (!is_ending(s->r))
			fork_sites__sweep(s->sites[i]);
		fork_sites__free(s->sites[i]);
	}
	/* One after another; at the end repairer__free() closes many at a time. */
	while (!is_ending(s->r) && is_quiet(s->r) && agent_close_buried(false))
		;
	__atomic_sub_fetch(&s->r->n_sweepers, 1, __ATOMIC_SEQ_CST);
	free(s);
	return NULL;
}

/* One thread at a time: what comes meanwhile is the next one's. */
static void sweep(struct repairer *r)
{
	struct sweep *s = NULL;

	if (__atomic_load_n(&r->n_sweepers, __ATOMIC_SEQ_CST))
		return;
	pthread_mutex_lock(&r->lock);
	if (r->n_to_sweep || agent_has_buried())
		s = calloc(1, sizeof(*s) + r->n_to_sweep * sizeof(struct fork_sites *));
	for (unsigned int i = 0; s && i < PARENTS; i++) {
		for (struct parent *p = r->bucket[i]; p; p = p->next) {
			if (p->to_sweep && p->sites)
				s->sites[s->n++] = fork_sites__ref(p->sites);
			p->to_sweep = false;
		}
	}
	if (s)
		r->n_to_sweep = 0;
	forget_past(r);
	pthread_mutex_unlock(&r->lock);
	if (!s)
		return;
	s->r = r;
	__atomic_add_fetch(&r->n_sweepers, 1, __ATOMIC_SEQ_CST);
	if (thread_aside(sweeper, s))
		sweeper(s);
}

static int until_sweep(struct repairer *r)
{
	int ms;

	pthread_mutex_lock(&r->lock);
	ms = r->n_to_sweep || r->n_former || agent_has_buried() ? QUIET_MS : -1;
	pthread_mutex_unlock(&r->lock);
	return ms;
}

static void *run(void *arg)
{
	struct repairer *r = arg;
	struct pollfd wait[2] = {{.fd = ring_buffer__epoll_fd(r->ring), .events = POLLIN},
				 {.fd = r->wake_fd, .events = POLLIN}};
	uint64_t deadline = 0;
	eventfd_t ignored;

	setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), NICE);
	for (;;) {
		bool ends = is_ending(r);
		int n;

		if (ends && !deadline)
			deadline = now_ms() + 4 * QUIET_MS;
		if (ends && (is_quiet(r) || now_ms() > deadline))
			return NULL;
		n = poll(wait, 2, ends ? ENDING_MS : until_sweep(r));
		if (n < 0 && errno != EINTR)
			return NULL;
		if (n > 0 && wait[1].revents)
			eventfd_read(r->wake_fd, &ignored);
		if (n > 0)
			ring_buffer__consume(r->ring);
		else if (!ends && is_quiet(r))
			sweep(r);
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

int repairer__new(struct repairer **out, int forks_fd, char *err, size_t err_size)
{
	struct repairer *r = calloc(1, sizeof(*r));
	sigset_t all, old;
	int ret = -ENOMEM;

	if (!r)
		goto fail;
	pthread_mutex_init(&r->lock, NULL);
	r->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
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
	while (__atomic_load_n(&r->n_sweepers, __ATOMIC_SEQ_CST))
		usleep(1000);
	while (agent_close_buried(true))
		;
	agent_closed_all();
	for (unsigned int i = 0; i < PARENTS; i++) {
		for (struct parent *p = r->bucket[i], *next; p; p = next) {
			next = p->next;
			forget_former(p);
			fork_sites__free(p->sites);
			free(p);
		}
	}
	ring_buffer__free(r->ring);
	unmap_page(r->consumed);
	unmap_page(r->produced);
	if (r->wake_fd >= 0)
		close(r->wake_fd);
	pthread_mutex_destroy(&r->lock);
	free(r);
}
