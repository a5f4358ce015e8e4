// SPDX-License-Identifier: MIT
/*
 * worker_main.c: the compiler's end. It reads bytecode that any user's tool may have loaded and runs a large library on
 * it, so before the first byte it gives up everything that it does not need: descriptors, user, new privileges, memory
 * without end, and all system calls but those for memory, the socket, and dying.
 */
#include "insn.h"
#include "worker.h"
#include "worker_proto.h"

#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#define NOBODY	     65534
#define MEMORY_LIMIT (2ull << 30)
/* The address sanitizer reserves terabytes of address space, and asks the system for more than we allow. */
#ifdef __SANITIZE_ADDRESS__
#define SANITIZED true
#else
#define SANITIZED false
#endif

#define JOB_SECONDS 30 /* of CPU; the client's timeout is shorter */

static int allow_system_calls(void)
{
	static const uint16_t allowed[] = {
		SYS_read,	  SYS_write,	   SYS_recvfrom,   SYS_sendto,	  SYS_mmap,	    SYS_munmap,
		SYS_mremap,	  SYS_mprotect,	   SYS_madvise,	   SYS_brk,	  SYS_futex,	    SYS_clock_gettime,
		SYS_getrusage,	  SYS_prlimit64,   SYS_setrlimit,  SYS_getrlimit, SYS_rt_sigaction, SYS_rt_sigprocmask,
		SYS_rt_sigreturn, SYS_sigaltstack, SYS_getpid,	   SYS_gettid,	  SYS_tgkill,	    SYS_close,
		SYS_getrandom,	  SYS_exit,	   SYS_exit_group,
	};
	enum { N = sizeof(allowed) / sizeof(allowed[0]) };
	struct sock_filter code[2 * N + 5] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	};
	struct sock_fprog prog = {.len = 2 * N + 5, .filter = code};

	for (size_t i = 0; i < N; i++) {
		code[4 + 2 * i] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, allowed[i], 0, 1);
		code[5 + 2 * i] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	}
	code[2 * N + 4] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog, 0, 0) ? -errno : 0;
}

static void close_others(int fd)
{
	if (fd > 3)
		syscall(SYS_close_range, 3u, (unsigned int)fd - 1, 0u);
	syscall(SYS_close_range, fd < 3 ? 3u : (unsigned int)fd + 1, ~0u, 0u);
}

static int drop_rights(int fd)
{
	struct rlimit none = {0, 0}, memory = {MEMORY_LIMIT, MEMORY_LIMIT};
	pid_t parent = getppid();

	close_others(fd);
	/* A compiler that wakes up takes no processor from who is running there, a target for instance. */
	sched_setscheduler(0, SCHED_BATCH, &(struct sched_param){0});
	if (geteuid() == 0 &&
	    (setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) || setresuid(NOBODY, NOBODY, NOBODY)))
		return -errno;
	/* Changing the user cleared it. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != parent)
		return -ESRCH;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || setrlimit(RLIMIT_CORE, &none))
		return -errno;
	if (SANITIZED)
		return 0;
	if (setrlimit(RLIMIT_AS, &memory))
		return -errno;
	return allow_system_calls();
}

static int read_all(int fd, void *data, size_t size)
{
	char *p = data;

	while (size) {
		ssize_t n = read(fd, p, size);

		if (n == 0)
			return -EPIPE;
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			p += n;
			size -= n;
		}
	}
	return 0;
}

static int write_all(int fd, const void *data, size_t size)
{
	const char *p = data;

	while (size) {
		ssize_t n = write(fd, p, size);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			p += n;
			size -= n;
		}
	}
	return 0;
}

/* Reads size bytes into new memory. */
static int read_new(int fd, size_t size, void **out)
{
	*out = malloc(size + 1);
	return *out ? read_all(fd, *out, size) : -ENOMEM;
}

struct job {
	struct worker_request q;
	void *insns, *bitcode, *helper_ids;
	struct worker_blob head[WORKER_MAX_BLOBS];
	struct vm_blob blobs[WORKER_MAX_BLOBS];
	void *data[WORKER_MAX_BLOBS];
};

static int read_job(int fd, struct job *j)
{
	int r = read_all(fd, &j->q, sizeof(j->q));

	if (r)
		return r;
	if (j->q.magic != WORKER_MAGIC || j->q.n_insns > WORKER_MAX_INSNS || j->q.bitcode_size > WORKER_MAX_BYTES ||
	    j->q.n_blobs > WORKER_MAX_BLOBS || j->q.n_helper_ids > WORKER_MAX_IDS)
		return -EPROTO;
	r = read_new(fd, j->q.n_insns * sizeof(struct bpf_insn), &j->insns);
	if (!r)
		r = read_new(fd, j->q.bitcode_size, &j->bitcode);
	for (uint32_t i = 0; !r && i < j->q.n_blobs; i++) {
		r = read_all(fd, &j->head[i], sizeof(j->head[i]));
		if (!r && (j->head[i].size > WORKER_MAX_BYTES || j->head[i].name[WORKER_NAME_SIZE - 1]))
			r = -EPROTO;
		if (!r)
			r = read_new(fd, j->head[i].size, &j->data[i]);
		j->blobs[i] = (struct vm_blob){.name = j->head[i].name, .data = j->data[i], .size = j->head[i].size};
	}
	if (!r)
		r = read_new(fd, j->q.n_helper_ids * sizeof(uint32_t), &j->helper_ids);
	return r;
}

static void limit_cpu(void)
{
	struct rlimit limit = {0, RLIM_INFINITY};
	struct rusage used;

	getrusage(RUSAGE_SELF, &used);
	limit.rlim_cur = used.ru_utime.tv_sec + used.ru_stime.tv_sec + JOB_SECONDS;
	setrlimit(RLIMIT_CPU, &limit);
}

static int serve_one(int fd)
{
	struct worker_reply a = {.magic = WORKER_MAGIC};
	struct vm_code code = {0};
	struct job j = {0};
	int r = read_job(fd, &j);

	if (!r) {
		struct vm_compile_opts o = {
			.sz = sizeof(o),
			.bitcode = j.bitcode,
			.bitcode_size = j.q.bitcode_size,
			.blobs = j.blobs,
			.n_blobs = j.q.n_blobs,
			.atomic_rmw = (int)j.q.atomic_rmw,
			.env_calls = (int)j.q.env_calls,
			.verified = (int)j.q.verified,
			.native = (int)j.q.native,
			.features = j.q.features,
			.helper_ids = j.helper_ids,
			.n_helper_ids = j.q.n_helper_ids,
		};

		limit_cpu();
		a.result = vm_compile(j.insns, j.q.n_insns, &o, &code, a.err, sizeof(a.err));
		a.code_size = code.size;
		a.entry = code.entry;
		a.stack_size = code.stack_size;
		r = write_all(fd, &a, sizeof(a));
		if (!r && !a.result)
			r = write_all(fd, code.bytes, code.size);
	}
	vm_code__clear(&code);
	for (uint32_t i = 0; i < WORKER_MAX_BLOBS; i++)
		free(j.data[i]);
	free(j.helper_ids);
	free(j.bitcode);
	free(j.insns);
	return r;
}

int vm_worker_main(int fd)
{
	int r;

	signal(SIGPIPE, SIG_IGN);
	r = drop_rights(fd);
	while (!r)
		r = serve_one(fd);
	return r == -EPIPE ? 0 : 1;
}
