// SPDX-License-Identifier: MIT
/*
 * worker.c: the daemon's end of a compile worker. The socket does not block; every wait is a poll with what is left of
 * the job's time. Whatever goes wrong, the worker is killed, reaped, and started anew by the next job.
 */
#include "worker.h"
#include "insn.h"
#include "worker_proto.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

struct vm_worker {
	char *path;
	char **envp;
	pid_t pid; /* 0: not running */
	int fd;
};

struct vm_worker *vm_worker__new(const char *path, char **envp)
{
	struct vm_worker *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	w->fd = -1;
	w->envp = envp;
	w->path = strdup(path);
	if (!w->path) {
		free(w);
		return NULL;
	}
	return w;
}

static void stop(struct vm_worker *w)
{
	if (w->fd >= 0)
		close(w->fd);
	w->fd = -1;
	if (w->pid) {
		kill(w->pid, SIGKILL);
		while (waitpid(w->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	w->pid = 0;
}

void vm_worker__free(struct vm_worker *w)
{
	if (!w)
		return;
	stop(w);
	free(w->path);
	free(w);
}

/* In the child: the socket becomes descriptor 0, output goes nowhere but stderr, and death follows the parent's. */
static void __attribute__((noreturn)) child(const struct vm_worker *w, int fd, pid_t parent)
{
	char *argv[] = {w->path, NULL}, *none_set[] = {NULL};
	sigset_t none;
	int null;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	if (dup2(fd, 0) < 0 || (null >= 0 && dup2(null, 1) < 0))
		_exit(127);
	execve(w->path, argv, w->envp ? w->envp : none_set);
	_exit(127);
}

static int start(struct vm_worker *w, char *err, size_t err_size)
{
	pid_t parent = getpid();
	int pair[2];

	if (access(w->path, X_OK))
		return vm_fail(err, err_size, -errno, "the compiler %s cannot be run: %s", w->path, strerror(errno));
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		return vm_fail(err, err_size, -errno, "no socket pair for the compiler: %s", strerror(errno));
	w->pid = fork();
	if (w->pid == 0)
		child(w, pair[1], parent);
	close(pair[1]);
	if (w->pid < 0) {
		int e = errno;

		w->pid = 0;
		close(pair[0]);
		return vm_fail(err, err_size, -e, "the compiler cannot be started: %s", strerror(e));
	}
	w->fd = pair[0];
	fcntl(w->fd, F_SETFL, O_NONBLOCK);
	return 0;
}

/* ---- a job ---- */

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int wait_for(struct vm_worker *w, short events, int64_t deadline)
{
	struct pollfd p = {.fd = w->fd, .events = events};
	int64_t left = deadline - now_ms();
	int r;

	if (left <= 0)
		return -ETIMEDOUT;
	r = poll(&p, 1, (int)left);
	if (r < 0)
		return errno == EINTR ? 0 : -errno;
	return r ? 0 : -ETIMEDOUT;
}

static int send_all(struct vm_worker *w, const void *data, size_t size, int64_t deadline)
{
	const char *p = data;
	int r;

	while (size) {
		ssize_t n = send(w->fd, p, size, MSG_NOSIGNAL);

		if (n > 0) {
			p += n;
			size -= n;
			continue;
		}
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return -EPIPE;
		r = wait_for(w, POLLOUT, deadline);
		if (r)
			return r;
	}
	return 0;
}

static int receive_all(struct vm_worker *w, void *data, size_t size, int64_t deadline)
{
	char *p = data;
	int r;

	while (size) {
		ssize_t n = recv(w->fd, p, size, 0);

		if (n > 0) {
			p += n;
			size -= n;
			continue;
		}
		if (n == 0 || (errno != EAGAIN && errno != EINTR))
			return -EPIPE;
		r = wait_for(w, POLLIN, deadline);
		if (r)
			return r;
	}
	return 0;
}

static int send_request(struct vm_worker *w, const struct bpf_insn *insns, size_t n_insns,
			const struct vm_compile_opts *o, int64_t deadline)
{
	struct worker_request q = {
		.magic = WORKER_MAGIC,
		.n_insns = n_insns,
		.bitcode_size = o->bitcode_size,
		.n_blobs = o->n_blobs,
		.atomic_rmw = o->atomic_rmw,
		.env_calls = o->env_calls,
		.verified = o->verified,
		.native = o->native,
		.features = o->features,
		.n_helper_ids = o->n_helper_ids,
	};
	int r = send_all(w, &q, sizeof(q), deadline);

	if (!r)
		r = send_all(w, insns, n_insns * sizeof(*insns), deadline);
	if (!r)
		r = send_all(w, o->bitcode, o->bitcode_size, deadline);
	for (size_t i = 0; !r && i < o->n_blobs; i++) {
		struct worker_blob b = {.size = o->blobs[i].size};

		memcpy(b.name, o->blobs[i].name, strlen(o->blobs[i].name));
		r = send_all(w, &b, sizeof(b), deadline);
		if (!r)
			r = send_all(w, o->blobs[i].data, b.size, deadline);
	}
	if (!r)
		r = send_all(w, o->helper_ids, o->n_helper_ids * sizeof(*o->helper_ids), deadline);
	return r;
}

/* > 0 never; *answered: the worker is in order, whatever it answered. */
static int receive_reply(struct vm_worker *w, struct vm_code *out, int64_t deadline, bool *answered, char *err,
			 size_t err_size)
{
	struct worker_reply a;
	int r = receive_all(w, &a, sizeof(a), deadline);

	if (r)
		return r;
	a.err[sizeof(a.err) - 1] = 0;
	if (a.magic != WORKER_MAGIC || a.result > 0 || a.code_size > WORKER_MAX_BYTES ||
	    (a.result == 0 && a.entry >= a.code_size))
		return -EPIPE;
	if (a.result) {
		*answered = true;
		return vm_fail(err, err_size, a.result, "%s", a.err);
	}
	out->bytes = malloc(a.code_size);
	if (!out->bytes)
		return -ENOMEM;
	out->size = a.code_size;
	out->entry = a.entry;
	out->stack_size = a.stack_size;
	r = receive_all(w, out->bytes, out->size, deadline);
	*answered = r == 0;
	return r;
}

static int check_request(size_t n_insns, const struct vm_compile_opts *o, char *err, size_t err_size)
{
	bool large = n_insns > WORKER_MAX_INSNS || o->bitcode_size > WORKER_MAX_BYTES ||
		     o->n_blobs > WORKER_MAX_BLOBS || o->n_helper_ids > WORKER_MAX_IDS;

	for (size_t i = 0; !large && i < o->n_blobs; i++)
		large = o->blobs[i].size > WORKER_MAX_BYTES || strlen(o->blobs[i].name) >= WORKER_NAME_SIZE;
	if (large)
		return vm_fail(err, err_size, -E2BIG,
			       "a program of %zu instructions with its library is too large to compile", n_insns);
	return 0;
}

int vm_worker__compile(struct vm_worker *w, const struct bpf_insn *insns, size_t n_insns,
		       const struct vm_compile_opts *opts, int timeout_ms, struct vm_code *out, char *err,
		       size_t err_size)
{
	static const struct vm_compile_opts none = {.sz = sizeof(none)};
	const struct vm_compile_opts *o = opts ? opts : &none;
	int64_t deadline = now_ms() + timeout_ms;
	bool answered = false;
	int r;

	memset(out, 0, sizeof(*out));
	r = check_request(n_insns, o, err, err_size);
	if (r)
		return r;
	/* It may have died between two jobs: that is no fault of this one. */
	if (w->pid && waitpid(w->pid, NULL, WNOHANG) == w->pid) {
		w->pid = 0;
		stop(w);
	}
	if (!w->pid)
		r = start(w, err, err_size);
	if (r)
		return r;
	r = send_request(w, insns, n_insns, o, deadline);
	if (!r)
		r = receive_reply(w, out, deadline, &answered, err, err_size);
	if (!r)
		return 0;
	vm_code__clear(out);
	if (answered)
		return r;
	stop(w);
	return vm_fail(err, err_size, r,
		       r == -ETIMEDOUT ? "the compiler did not finish a program of %zu instructions in %d ms"
		       : r == -EPIPE   ? "the compiler crashed on a program of %zu instructions"
				       : "no memory for the code of a program of %zu instructions",
		       n_insns, timeout_ms);
}
