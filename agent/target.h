/* SPDX-License-Identifier: MIT */
/* target.h: what the parts of agent/ that work from outside share. Not for the daemon, which uses agent.h. */
#ifndef BPFTIME_AGENT_TARGET_H
#define BPFTIME_AGENT_TARGET_H

#include <sys/user.h>

#include <linux/types.h>

#include "agent.h"
#include "bpf/threads.h"

struct tracer;
struct bpf_link;
struct stand;

struct target {
	pid_t pid;
	uint32_t tgid; /* the same in the initial PID namespace, for the kernel's programs */
	int pidfd;
	int mem;	       /* /proc/PID/mem: stays with the mm; reads nothing after exec */
	struct tracer *tracer; /* runs every ptrace call; its end detaches whatever it holds */
	uint64_t syscall_insn; /* address of a `syscall` instruction in the vdso */
	uint64_t vdso;	       /* 0 when the target has none */
	uint64_t vdso_size;
	uint64_t vdso_gettime;
	uint64_t start_brk;
	uint64_t image, arena, fork_page, shadow; /* 0 before inject */
	struct agent_image_hdr image_hdr;
	struct stand *stand;	   /* a thread that stands still while memory is exchanged, see stand.c */
	struct site *sites;	   /* planned and not freed, see site.h */
	unsigned int n_hold_links; /* ever made */
	struct bpf_link *threads;  /* see threads.c */
	bool stop_anywhere;	   /* see target__stop_anywhere() */
	bool has_stragglers;	   /* see target__has_stragglers() */
};

__attribute__((format(printf, 3, 4))) int agent_fail(struct agent_error *err, int code, const char *fmt, ...);

/* ---- proc.c ---- */

struct vma {
	uint64_t start, end, offset, ino;
	uint32_t major, minor;
	bool read, write, exec, shared;
	char path[256];
};

struct vmas {
	struct vma *v;
	size_t n;
};

int proc_maps(pid_t pid, struct vmas *out);
void vmas_clear(struct vmas *m);

/* What /proc/PID/task/TID/syscall says. */
enum task_where { TASK_RUNNING, TASK_IN_SYSCALL, TASK_BLOCKED_ELSEWHERE, TASK_GONE };
struct task_at {
	enum task_where where;
	long nr;
	uint64_t arg[6], sp, ip;
};
struct task_at proc_task_at(pid_t pid, pid_t tid);
char proc_task_state(pid_t pid, pid_t tid); /* R, S, D, T, t, Z ... or 0 */
/* Threads of the process: malloc'ed array, count returned; -errno. */
int proc_threads(pid_t pid, pid_t **tids);
/* The value of a line "Name:\tvalue" of /proc/PID/status; -ENOENT. */
int proc_status(pid_t pid, const char *name, char *value, size_t size);
int proc_stat_field(pid_t pid, int field, uint64_t *value); /* as numbered in proc(5), from 4 on */
/* The file a process runs: Go program? Reads section names. */
bool elf_is_go(const char *path);
/* Address of a dynamic symbol in an ELF image that is mapped whole (the vdso), or 0. */
uint64_t elf_mapped_symbol(const uint8_t *image, size_t size, const char *name);

/* ---- open.c ---- */

/* target__open() of a process of which is known that it may be touched. */
int target_open_unchecked(pid_t pid, struct target **out, struct agent_error *err);

/* ---- memory ---- */

int target_read(const struct target *t, uint64_t addr, void *buf, size_t size);
int target_write(const struct target *t, uint64_t addr, const void *buf, size_t size);

/* ---- ptrace.c ---- */

/*
 * Runs fn(arg) in the target's tracer, a process that shares our memory and of our descriptors has t->mem and t->pidfd:
 * others it takes by tracer_fd(). We wait meanwhile; it goes on to the end when we are killed. A thread that does not
 * stop in time can be let go of only by the end of the tracer, so after -ETIMEDOUT a new one is started. -ECHILD: the
 * tracer was killed.
 */
int tracer_run(struct target *t, int (*fn)(struct target *t, void *arg), void *arg);
/* In the tracer: is who asked for this gone? */
bool tracer_is_orphan(const struct target *t);
/* In the tracer: to run before all ordinary tasks while a thread stands still because of us. */
void tracer_hurry(struct target *t, bool hurry);
/* In the daemon: the tracer, which is idle, runs at this priority of real time from now on; 0: as an ordinary task. */
void tracer_lift(const struct target *t, int priority);
/* In the tracer: a copy of the daemon's descriptor, or -errno. */
int tracer_fd(const struct target *t, int fd);
void tracer_end(struct target *t);
/*
 * Writes memory, code too, as the tracer of one of the target's threads, which is stopped meanwhile. Kernels since 6.12
 * may let nobody else write what is not writable (CONFIG_PROC_MEM_FORCE_PTRACE, proc_mem_foll_force() in
 * fs/proc/base.c). Both from the daemon and in the tracer.
 */
int tracer_write(const struct target *t, uint64_t addr, const void *buf, size_t size);

struct stopped {
	pid_t tid;
	struct user_regs_struct regs; /* as they will be restored */
	uint64_t sigmask;
	bool masked;
	bool filtered;	 /* its seccomp filter could not be suspended */
	uint32_t resend; /* bit per signal that has to be sent again */
	int vain_spins;	 /* see wait_stop() */
};

/*
 * Stops one thread in user mode, between two instructions and outside of restartable sequences. -ETIMEDOUT, -ESRCH,
 * -EPERM; -EAGAIN: inside a restartable sequence, let go again.
 */
int thread_stop(struct target *t, pid_t tid, int timeout_ms, struct stopped *s, struct agent_error *err);
int thread_resume(struct target *t, struct stopped *s);
/* A system call in the stopped thread, *result as the kernel gives it (negative errno). */
int thread_syscall(struct target *t, struct stopped *s, long *result, long nr, long a, long b, long c, long d, long e,
		   long f);

/* ---- threads.c ---- */

/* Makes threads_read() possible, where this kernel can. */
void threads_prepare(struct target *t);
void threads_end(struct target *t);
/* The threads of the target, malloc'ed; their number or -errno. Some may be missing when others end meanwhile. */
int threads_read(const struct target *t, struct thread_rec **out);
/* May a thread that wants a CPU have lost it within a uprobe's handler? */
bool threads_can_be_in_handlers(void);

/* ---- stand.c ---- */

/* In the tracer: what target__go_on() does. t->stand is not NULL. */
int stand_end(struct target *t, void *arg);

/* ---- image.c ---- */

const struct agent_image_hdr *agent_image__hdr(const struct agent_image *img);
size_t agent_image__size(void); /* whole pages */
/* The image that this file, which is the image's from now on, has: adopt.h. */
int agent_image__of(struct agent_image **out, int fd, uint64_t ino, struct agent_error *err);

/* ---- choose.c ---- */

/* The thread that is best stopped now, or -EAGAIN: none is at a place where a stop goes unseen. */
int choose_thread(const struct target *t, pid_t *tid);

#endif
