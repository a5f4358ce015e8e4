// SPDX-License-Identifier: MIT
/*
 * inject.c: memory that comes into a process from outside.
 *
 * One thread is stopped and made to call socketpair() and recvmsg(): descriptors travel as SCM_RIGHTS, which works for
 * targets without rights and in other namespaces. They are mapped and closed in the same stop. The scratch page in
 * which the call's arguments lie is behind the agent's fork page, so that later stops do not have to make one.
 */
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "slot.h"
#include "target.h"

#define MAX_FDS	  64 /* TARGET_MAP_MAX, and some */
#define PAGE	  4096ul
#define STOP_MS	  50
#define CHOOSE_MS 2000

#ifndef PIDFD_THREAD /* since Linux 6.9 */
#define PIDFD_THREAD O_EXCL
#endif
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

/* For madvise(): about a part of a mapping. */
struct advice {
	size_t from, size;
	int what; /* 0: none */
};

/* One mapping to be made. fd < 0: anonymous and private. */
struct want {
	int fd;
	size_t size;
	int prot;
	int flags;     /* MAP_SHARED or MAP_PRIVATE */
	uint64_t addr; /* wanted address or 0 */
	uint64_t at;   /* where it is, 0: not made */
	uint64_t offset;
	bool over;			     /* covers the beginning of the one before it */
	bool in_room;			     /* covers a part of make_room()'s, which is unmapped as a whole */
	size_t writable_from, writable_size; /* as in struct target_mapping */
	struct advice advice[2];
};

struct job {
	struct want *want;
	size_t n;
	bool makes_room;  /* the first of them is that of make_room() */
	int fds[MAX_FDS]; /* those of want[], as the tracer has them; one that follows itself is there once */
	size_t n_fds;
	const struct target_mapping *unmap;
	size_t n_unmap;
	const struct target_exchange *exchange; /* their new descriptors are the last of fds[] */
	size_t n_exchange;
	int old[MAX_FDS]; /* as the tracer has them: what is there now, by which it is told */
	int patience_ms;  /* 0: CHOOSE_MS */
	struct agent_error *err;
};

/* What recvmsg() in the target works on: lies at the start of the scratch page. */
struct scratch {
	int pair[2];
	struct msghdr msg;
	struct iovec iov;
	char data[8];
	char control[CMSG_SPACE(MAX_FDS * sizeof(int))];
};

/* A stopped thread and what has to be undone in it. */
struct remote {
	struct target *t;
	struct stopped s;
	struct agent_error *err;
	uint64_t scratch;
	bool scratch_is_lent; /* only for this stop */
	int pair[2];	      /* numbers in the target, -1: none */
	int fds[MAX_FDS];
	size_t n_fds;
};

static int call(struct remote *r, long *result, const char *what, long nr, long a, long b, long c, long d, long e,
		long f)
{
	int rc = thread_syscall(r->t, &r->s, result, nr, a, b, c, d, e, f);

	if (rc == -EOPNOTSUPP && r->s.filtered)
		return agent_fail(
			r->err, rc,
			"process %d has a seccomp filter, which is not suspended for a bpftimed that has one itself "
			"(see bpftimed(8))",
			r->t->pid);
	if (rc == -EOPNOTSUPP)
		return agent_fail(r->err, rc, "process %d catches system calls of its own", r->t->pid);
	if (rc)
		return agent_fail(r->err, rc, "%s in process %d was cut short: %s", what, r->t->pid, strerror(-rc));
	if (*result < 0 && *result > -4096)
		return agent_fail(r->err, (int)*result, "%s in process %d failed: %s", what, r->t->pid,
				  strerror((int)-*result));
	return 0;
}

static int send_fds(int sock, const int *fds, size_t n)
{
	char control[CMSG_SPACE(MAX_FDS * sizeof(int))] = {0};
	struct iovec iov = {"", 1};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control};
	struct cmsghdr *c;

	m.msg_controllen = CMSG_SPACE(n * sizeof(int));
	c = CMSG_FIRSTHDR(&m);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(n * sizeof(int));
	memcpy(CMSG_DATA(c), fds, n * sizeof(int));
	return sendmsg(sock, &m, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}

/* A copy of the target's descriptor. A main thread that has ended has none any more; then we ask the one that we hold.
 */
static int borrow(const struct remote *r, int fd)
{
	int own = (int)syscall(SYS_pidfd_getfd, r->t->pidfd, fd, 0), thread;

	if (own >= 0 || errno != ESRCH)
		return own;
	thread = (int)syscall(SYS_pidfd_open, r->s.tid, PIDFD_THREAD);
	if (thread < 0)
		return -1;
	own = (int)syscall(SYS_pidfd_getfd, thread, fd, 0);
	close(thread);
	return own;
}

/* Brings our descriptors into the target: r->fds[]. */
static int transfer(struct remote *r, const int *fds, size_t n)
{
	uint64_t at = r->scratch;
	struct scratch sc = {0};
	struct cmsghdr *c = (struct cmsghdr *)sc.control;
	int sock, rc;
	long ret;

	rc = call(r, &ret, "socketpair()", SYS_socketpair, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0,
		  (long)(at + offsetof(struct scratch, pair)), 0, 0);
	if (rc)
		return rc;
	rc = target_read(r->t, at + offsetof(struct scratch, pair), r->pair, sizeof(r->pair));
	if (rc)
		return agent_fail(r->err, rc, "process %d ended", r->t->pid);
	sock = borrow(r, r->pair[0]);
	if (sock < 0)
		return agent_fail(r->err, -errno, "a socket of process %d cannot be borrowed: %s", r->t->pid,
				  strerror(errno));
	rc = send_fds(sock, fds, n);
	close(sock);
	if (rc)
		return agent_fail(r->err, rc, "descriptors cannot be sent to process %d: %s", r->t->pid, strerror(-rc));
	sc.pair[0] = r->pair[0];
	sc.pair[1] = r->pair[1];
	sc.msg.msg_iov = (void *)(at + offsetof(struct scratch, iov));
	sc.msg.msg_iovlen = 1;
	sc.msg.msg_control = (void *)(at + offsetof(struct scratch, control));
	sc.msg.msg_controllen = sizeof(sc.control);
	sc.iov.iov_base = (void *)(at + offsetof(struct scratch, data));
	sc.iov.iov_len = sizeof(sc.data);
	rc = target_write(r->t, at, &sc, sizeof(sc));
	if (rc)
		return agent_fail(r->err, rc, "process %d ended", r->t->pid);
	rc = call(r, &ret, "recvmsg()", SYS_recvmsg, r->pair[1], (long)(at + offsetof(struct scratch, msg)),
		  MSG_CMSG_CLOEXEC | MSG_DONTWAIT, 0, 0, 0);
	if (rc)
		return rc;
	rc = target_read(r->t, at, &sc, sizeof(sc));
	if (rc)
		return agent_fail(r->err, rc, "process %d ended", r->t->pid);
	/* Another thread may write over all that was read here. */
	if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len >= CMSG_LEN(0) &&
	    c->cmsg_len <= CMSG_LEN(n * sizeof(int))) {
		r->n_fds = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		memcpy(r->fds, sc.control + CMSG_LEN(0), r->n_fds * sizeof(int));
	}
	if (r->n_fds != n)
		return agent_fail(r->err, -EMFILE, "process %d has no room for %zu descriptors", r->t->pid, n);
	return 0;
}

static int map_one(struct remote *r, struct want *w, int fd)
{
	int flags = w->flags | (fd < 0 ? MAP_ANONYMOUS : 0) |
		    (w->over || w->in_room ? MAP_FIXED
		     : w->addr		   ? MAP_FIXED_NOREPLACE
					   : 0);
	long ret;
	int rc;

	rc = call(r, &ret, "mmap()", SYS_mmap, (long)w->addr, (long)w->size, w->prot, flags, fd, (long)w->offset);
	if (rc)
		return rc;
	w->at = (uint64_t)ret;
	if (w->addr && w->at != w->addr) /* kernels before MAP_FIXED_NOREPLACE take it for a hint */
		return agent_fail(r->err, -EEXIST, "address %lx of process %d is taken", w->addr, r->t->pid);
	if (w->writable_size) {
		rc = call(r, &ret, "mmap()", SYS_mmap, (long)(w->at + w->writable_from), (long)w->writable_size,
			  PROT_READ | PROT_WRITE, w->flags | MAP_FIXED, fd, (long)w->writable_from);
		if (rc)
			return rc;
	}
	for (int i = 0; i < 2 && w->advice[i].what; i++) {
		const struct advice *a = &w->advice[i];

		rc = call(r, &ret, "madvise()", SYS_madvise, (long)(w->at + a->from), (long)a->size, a->what, 0, 0, 0);
		/* A kernel without huge pages does not know what to avoid. */
		if (rc && !(a->what == MADV_NOHUGEPAGE && rc == -EINVAL))
			return rc;
	}
	return 0;
}

/*
 * A thread may have been forbidden to read the time stamp counter (prctl, or strict seccomp), and so the vdso's clock:
 * it would get a SIGSEGV there.
 */
static int check_tsc(struct remote *r)
{
	int mode, rc;
	long ret;

	rc = call(r, &ret, "prctl()", SYS_prctl, PR_GET_TSC, (long)r->scratch, 0, 0, 0, 0);
	if (!rc)
		rc = target_read(r->t, r->scratch, &mode, sizeof(mode));
	if (!rc && mode != PR_TSC_ENABLE)
		r->t->vdso_gettime = 0;
	return rc;
}

static int find_scratch(struct remote *r)
{
	long ret;
	int rc;

	if (r->t->fork_page) {
		r->scratch = r->t->fork_page + PAGE;
		return 0;
	}
	rc = call(r, &ret, "mmap()", SYS_mmap, 0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (rc)
		return rc;
	r->scratch = (uint64_t)ret;
	r->scratch_is_lent = true;
	return 0;
}

static bool follows_itself(const struct job *j, size_t i)
{
	return i && j->want[i].fd >= 0 && j->want[i].fd == j->want[i - 1].fd;
}

/* What the tracer needs, before anybody is stopped. */
static int prepare(struct target *t, struct job *j)
{
	j->n_fds = 0;
	for (size_t i = 0; i < j->n; i++) {
		int fd;

		if (j->want[i].fd < 0 || follows_itself(j, i))
			continue;
		if (j->n_fds == MAX_FDS)
			return agent_fail(j->err, -E2BIG, "too many mappings at once");
		fd = tracer_fd(t, j->want[i].fd);
		if (fd < 0)
			return agent_fail(j->err, fd, "a descriptor cannot be handed to the tracer: %s", strerror(-fd));
		j->fds[j->n_fds++] = fd;
	}
	for (size_t i = 0; i < j->n_exchange; i++)
		j->old[i] = -1;
	for (size_t i = 0; i < j->n_exchange; i++) {
		int fd = tracer_fd(t, j->exchange[i].fd);

		if (fd >= 0) {
			j->fds[j->n_fds++] = fd;
			fd = j->old[i] = tracer_fd(t, j->exchange[i].old);
		}
		if (fd < 0)
			return agent_fail(j->err, fd, "a descriptor cannot be handed to the tracer: %s", strerror(-fd));
	}
	return 0;
}

/* Nobody but the stopped thread changes what the numbers mean. */
static int check_exchange(const struct remote *r, const struct job *j)
{
	pid_t *tids;
	int n = proc_threads(r->t->pid, &tids);

	if (n < 0)
		return agent_fail(r->err, -ESRCH, "process %d ended", r->t->pid);
	free(tids);
	if (n > 1)
		return agent_fail(r->err, -EUSERS, "process %d has several threads", r->t->pid);
	for (size_t i = 0; i < j->n_exchange; i++) {
		long same = syscall(SYS_kcmp, getpid(), r->t->pid, KCMP_FILE, j->old[i], j->exchange[i].number);

		if (same)
			return agent_fail(r->err, same < 0 && errno != EBADF ? -errno : -ESTALE,
					  "descriptor %d of process %d is not what it was", j->exchange[i].number,
					  r->t->pid);
	}
	return 0;
}

static void close_old(struct job *j)
{
	for (size_t i = 0; i < j->n_exchange; i++) {
		if (j->old[i] >= 0)
			close(j->old[i]);
		j->old[i] = -1;
	}
}

static int exchange_all(struct remote *r, struct job *j)
{
	int rc = check_exchange(r, j);

	/* If the daemon is killed now, what is exchanged must have ended when the thread goes on, and not when we do.
	 */
	close_old(j);

	for (size_t i = 0; !rc && i < j->n_exchange; i++) {
		const struct target_exchange *x = &j->exchange[i];
		long ret;

		rc = call(r, &ret, "dup3()", SYS_dup3, r->fds[r->n_fds - j->n_exchange + i], x->number,
			  x->cloexec ? O_CLOEXEC : 0, 0, 0, 0);
	}
	return rc;
}

/* Runs in the tracer with the thread stopped. */
static int do_job(struct remote *r, struct job *j)
{
	size_t next = 0;
	int rc = 0;
	long ret;

	if (j->n_fds) {
		rc = find_scratch(r);
		if (!rc)
			rc = transfer(r, j->fds, j->n_fds);
	}
	for (size_t i = 0; !rc && i < j->n; i++) {
		next += j->want[i].fd >= 0 && !follows_itself(j, i);
		if (j->want[i].over)
			j->want[i].addr = j->want[i - 1].at;
		rc = map_one(r, &j->want[i], j->want[i].fd >= 0 ? r->fds[next - 1] : -1);
	}
	if (!rc && j->makes_room && r->t->vdso_gettime) {
		r->scratch = j->want[0].at + AGENT_IMAGE_SIZE + PAGE;
		rc = check_tsc(r);
	}
	for (size_t i = 0; !rc && i < j->n_unmap; i++)
		rc = call(r, &ret, "munmap()", SYS_munmap, (long)j->unmap[i].addr, (long)j->unmap[i].size, 0, 0, 0, 0);
	if (!rc && j->n_exchange)
		rc = exchange_all(r, j);
	return rc;
}

static int by_number(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

/* Descriptors that follow each other, which is the rule, by one call. */
static void close_all(struct remote *r)
{
	int fds[MAX_FDS + 2];
	size_t n = 0, run;
	long ret;

	for (size_t i = 0; i < r->n_fds; i++)
		fds[n++] = r->fds[i];
	for (int i = 0; i < 2; i++)
		if (r->pair[i] >= 0)
			fds[n++] = r->pair[i];
	qsort(fds, n, sizeof(fds[0]), by_number);
	for (size_t i = 0; i < n; i += run) {
		for (run = 1; i + run < n && fds[i + run] == fds[i] + (int)run;)
			run++;
		if (run > 1 && !call(r, &ret, "close_range()", SYS_close_range, fds[i], fds[i + run - 1], 0, 0, 0, 0))
			continue;
		for (size_t k = i; k < i + run; k++)
			call(r, &ret, "close()", SYS_close, fds[k], 0, 0, 0, 0, 0);
	}
}

/* Whatever happened, nothing of ours stays behind but finished mappings. */
static void undo(struct remote *r, struct job *j, bool failed)
{
	struct agent_error *err = r->err, ignored;
	long ret;

	r->err = &ignored;
	for (size_t i = 0; failed && i < j->n; i++)
		if (j->want[i].at && !j->want[i].over && !j->want[i].in_room) {
			call(r, &ret, "munmap()", SYS_munmap, (long)j->want[i].at, (long)j->want[i].size, 0, 0, 0, 0);
			j->want[i].at = 0;
		}
	close_all(r);
	if (r->scratch_is_lent)
		call(r, &ret, "munmap()", SYS_munmap, (long)r->scratch, PAGE, 0, 0, 0, 0);
	r->err = err;
}

static int stop_and_do(struct target *t, struct job *j, pid_t tid)
{
	struct remote r = {.t = t, .err = j->err, .pair = {-1, -1}};
	int rc = thread_stop(t, tid, STOP_MS, &r.s, j->err);

	if (rc == -ESRCH && target__alive(t))
		return -EAGAIN; /* only that thread ended */
	if (rc)
		return rc;
	rc = do_job(&r, j);
	if (!rc && tracer_is_orphan(t))
		rc = agent_fail(j->err, -ECANCELED, "the daemon ended");
	undo(&r, j, rc != 0);
	thread_resume(t, &r.s);
	return rc;
}

static int job_in_tracer(struct target *t, void *arg)
{
	struct job *j = arg;
	int rc = prepare(t, j);
	pid_t tid;

	if (!rc) {
		rc = choose_thread(t, &tid);
		if (rc && rc != -EAGAIN)
			rc = agent_fail(j->err, -ESRCH, "process %d ended", t->pid);
	}
	if (!rc && tracer_is_orphan(t))
		rc = -ECANCELED;
	if (!rc) {
		tracer_hurry(t, true);
		rc = stop_and_do(t, j, tid);
		tracer_hurry(t, false);
	}
	for (size_t i = 0; i < j->n_fds; i++)
		close(j->fds[i]);
	close_old(j);
	return rc;
}

/* Tries until some thread is at a good place. */
static int run_job(struct target *t, struct job *j)
{
	int64_t deadline = clock_us() + (j->patience_ms ? j->patience_ms : CHOOSE_MS) * 1000ll;

	for (;;) {
		struct timespec nap = {0, 500000};
		int rc = tracer_run(t, job_in_tracer, j);

		if (rc == -ECHILD)
			return agent_fail(j->err, rc, "the process that traces process %d was killed", t->pid);
		if (rc != -EAGAIN && rc != -ETIMEDOUT)
			return rc;
		if (!target__alive(t))
			return agent_fail(j->err, -ESRCH, "process %d ended", t->pid);
		if (clock_us() > deadline)
			return agent_fail(j->err, -ETIMEDOUT,
					  "process %d has no thread that can be stopped without its noticing", t->pid);
		nanosleep(&nap, NULL);
	}
}

static bool cpu_has_rdpid(void)
{
	unsigned int a, b, c, d;

	return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & bit_RDPID);
}

/*
 * Place for the image, and behind it memory of the target's own: a page for what only the target knows, one for later
 * injections, where escape slots lead, and the threads' pending returns, which a fork child keeps.
 */
#define ROOM_SHADOW (AGENT_PRIVATE_OFF + sizeof(struct agent_private))
#define ROOM_SIZE   (ROOM_SHADOW + sizeof(struct agent_shadow) * AGENT_MAX_THREADS)

static void give_up_room(struct target *t)
{
	const struct target_mapping room = {.addr = t->fork_page - AGENT_IMAGE_SIZE, .size = ROOM_SIZE};
	struct agent_error ignored;

	if (target__alive(t))
		target__unmap(t, &room, 1, &ignored);
	t->fork_page = t->shadow = 0;
}

static int make_room(struct target *t, struct agent_error *err)
{
	struct want want = {
		.fd = -1,
		.size = ROOM_SIZE,
		.prot = PROT_READ | PROT_WRITE,
		.flags = MAP_PRIVATE | MAP_NORESERVE,
		.advice = {{AGENT_IMAGE_SIZE, AGENT_ROOM_PAGES, MADV_WIPEONFORK},
			   {AGENT_PRIVATE_OFF, ROOM_SIZE - AGENT_PRIVATE_OFF, MADV_NOHUGEPAGE}},
	};
	struct job j = {.want = &want, .n = 1, .makes_room = true, .err = err};
	int rc = run_job(t, &j);

	if (!rc) {
		t->fork_page = want.at + AGENT_IMAGE_SIZE;
		t->shadow = want.at + ROOM_SHADOW;
	}
	return rc;
}

/* Of a fixed size: a target cannot take from under our feet what we have mapped. No file on a disk has such seals. */
#define SITES_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

static int new_sites(void)
{
	int fd = memfd_create("bpftime-sites", MFD_CLOEXEC | MFD_ALLOW_SEALING), err;

	if (fd < 0)
		return -1;
	if (!ftruncate(fd, sizeof(struct agent_target)) && !fcntl(fd, F_ADD_SEALS, SITES_SEALS))
		return fd;
	err = errno;
	close(fd);
	errno = err;
	return -1;
}

int agent_sites__open(pid_t pid, uint64_t arena)
{
	char path[96];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", pid, arena + AGENT_ARENA_SIZE,
		 arena + sizeof(struct agent_target));
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (fcntl(fd, F_GET_SEALS) == SITES_SEALS)
		return fd;
	close(fd);
	return -EPERM;
}

struct agent_target *agent_arena__map(int arena_fd, int *sites_fd)
{
	const int prot = PROT_READ | PROT_WRITE;
	bool is_new = *sites_fd < 0;
	void *m;
	int err;

	if (is_new)
		*sites_fd = new_sites();
	if (*sites_fd < 0)
		return NULL;
	m = mmap(NULL, sizeof(struct agent_target), prot, MAP_SHARED, *sites_fd, 0);
	if (m != MAP_FAILED && mmap(m, AGENT_ARENA_SIZE, prot, MAP_SHARED | MAP_FIXED, arena_fd, 0) == m)
		return m;
	err = errno;
	if (m != MAP_FAILED)
		munmap(m, sizeof(struct agent_target));
	if (is_new) {
		close(*sites_fd);
		*sites_fd = -1;
	}
	errno = err;
	return NULL;
}

void agent_arena__unmap(struct agent_target *arena)
{
	if (arena)
		munmap(arena, sizeof(*arena));
}

/* Mapped from this, memory can never be made writable again by who has it mapped (do_mmap() in mm/mmap.c). */
static int open_for_reading(int fd)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int target__inject(struct target *t, const struct agent_image *img, int arena_fd, int sites_fd, struct agent_error *err)
{
	enum { IMAGE, SITES, ARENA, N };
	struct want want[N] = {
		/* private: the kernel puts a breakpoint on the nop of agent_service(), which it does not in shared
		   memory */
		[IMAGE] = {.fd = agent_image__fd(img),
			   .size = agent_image__size(),
			   .prot = PROT_READ | PROT_EXEC,
			   .flags = MAP_PRIVATE,
			   .in_room = true},
		[SITES] = {.fd = -1, .size = sizeof(struct agent_target), .prot = PROT_READ, .flags = MAP_SHARED},
		[ARENA] = {.fd = arena_fd,
			   .size = AGENT_ARENA_SIZE,
			   .prot = PROT_READ | PROT_WRITE,
			   .flags = MAP_SHARED,
			   .over = true},
	};
	struct job j = {.want = want, .n = N, .err = err};
	struct agent_target *arena;
	uint32_t alive = 1;
	int rc;

	if (t->image)
		return agent_fail(err, -EALREADY, "process %d already has the agent", t->pid);
	arena = mmap(NULL, want[ARENA].size, PROT_READ | PROT_WRITE, MAP_SHARED, arena_fd, 0);
	if (arena == MAP_FAILED)
		return agent_fail(err, -errno, "the arena of process %d cannot be mapped: %s", t->pid, strerror(errno));
	want[SITES].fd = rc = open_for_reading(sites_fd);
	if (rc < 0) {
		agent_fail(err, rc, "the sites of process %d cannot be opened: %s", t->pid, strerror(-rc));
		goto out;
	}
	/* Two stops: each is half as long. */
	rc = make_room(t, err);
	if (rc)
		goto out;
	want[IMAGE].addr = t->fork_page - AGENT_IMAGE_SIZE;
	rc = run_job(t, &j);
	if (rc) {
		give_up_room(t);
		goto out;
	}
	t->image_hdr = *agent_image__hdr(img);
	t->image = want[IMAGE].at;
	t->arena = want[ARENA].at;
	arena->version = AGENT_ABI_VERSION;
	arena->tgid = t->tgid;
	arena->flags = cpu_has_rdpid() ? AGENT_TARGET_RDPID : 0;
	arena->self = t->arena;
	/* A thread without an fs base has no slot, and must not find that of nobody. */
	arena->thread[agent_slot_first(0)].pid_tgid = ~0ull;
	rc = target_write(t, t->fork_page, &alive, sizeof(alive));
	if (rc)
		agent_fail(err, rc, "process %d ended", t->pid);
out:
	if (want[SITES].fd >= 0)
		close(want[SITES].fd);
	munmap(arena, want[ARENA].size);
	return rc;
}

int target__map(struct target *t, struct target_mapping *m, size_t n, struct agent_error *err)
{
	struct want want[TARGET_MAP_MAX] = {0};
	struct job j = {.want = want, .n = n, .err = err};
	int rc;

	if (n > TARGET_MAP_MAX)
		return agent_fail(err, -E2BIG, "too many mappings at once");
	for (size_t i = 0; i < n; i++)
		want[i] = (struct want){.fd = m[i].fd,
					.size = m[i].size,
					.prot = m[i].prot,
					.flags = MAP_SHARED,
					.addr = m[i].addr,
					.offset = m[i].offset,
					.writable_from = m[i].writable_from,
					.writable_size = m[i].writable_size};
	rc = run_job(t, &j);
	for (size_t i = 0; !rc && i < n; i++)
		m[i].addr = want[i].at;
	return rc;
}

int target__tell_generation(const struct target *t, uint64_t generation)
{
	return target_write(t, t->shadow - sizeof(struct agent_private) + offsetof(struct agent_private, generation),
			    &generation, sizeof(generation));
}

int target__unmap(struct target *t, const struct target_mapping *m, size_t n, struct agent_error *err)
{
	struct job j = {.unmap = m, .n_unmap = n, .err = err};

	return run_job(t, &j);
}

int target__exchange(struct target *t, const struct target_exchange *x, size_t n, int timeout_ms,
		     struct agent_error *err)
{
	struct job j = {.exchange = x, .n_exchange = n, .patience_ms = timeout_ms, .err = err};

	return n > TARGET_EXCHANGE_MAX ? agent_fail(err, -E2BIG, "too many descriptors at once") : run_job(t, &j);
}
