/* SPDX-License-Identifier: MIT */
/*
 * agent.h: taking a process over, from outside: inject, plan a site, patch it, open and close it, quiesce.
 *
 * All functions return 0 or -errno and, where they take `struct agent_error *`, a sentence for a person. None is thread
 * safe, but for fork_sites__repair(): the daemon has one thread, and one that repairs fork children.
 */
#ifndef BPFTIME_AGENT_H
#define BPFTIME_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "abi.h"

struct agent_error {
	char text[256]; /* "process 42 is traced by gdb (41)" */
};

/* ---- the agent image: once per host ---- */

struct agent_image; /* sealed memfd with the in-target code */

int agent_image__new(struct agent_image **out, struct agent_error *err);
int agent_image__fd(const struct agent_image *img);
/* Offset of the nop on which the service program (bpf/service.bpf.c) is attached. */
uint64_t agent_image__service_offset(const struct agent_image *img);
/* That of the nop of an escape slot (abi.h), for uprobes. */
uint64_t agent_image__escape_offset(const struct agent_image *img, unsigned int slot);
void agent_image__free(struct agent_image *img);

/* Makes a sealed, read-only, executable-mappable memfd of code. Returns the fd or -errno. */
int agent_code_memfd(const char *name, const void *code, size_t size);

/* Does the code hold string instructions, which go the wrong way when DF is set? true, too, when it cannot be decoded.
 */
bool agent_code_has_strings(const void *code, size_t size);

/* ---- a target process ---- */

struct target; /* a process (mm) that has, or is to get, the agent */

/*
 * Opens a running process and checks that it may be touched: exists, not a kernel thread, 64-bit, not traced, not Go,
 * thread that can be stopped, ... Does not stop it. -EPERM/-EOPNOTSUPP with a sentence otherwise.
 */
int target__open(pid_t pid, struct target **out, struct agent_error *err);
pid_t target__pid(const struct target *t);
bool target__alive(const struct target *t); /* same process, same image since open (exec makes it false) */
/* Nothing is going to be done with it for a while: ends the process that traces it, until it is needed again. */
void target__rest(struct target *t);
/* Unmaps nothing and patches nothing; closes descriptors. */
void target__free(struct target *t);

/*
 * A target arena for us: arena_fd is the BPF map of its first AGENT_ARENA_SIZE bytes, *sites_fd the memory of the rest:
 * made when it is -1. NULL with errno.
 */
struct agent_target *agent_arena__map(int arena_fd, int *sites_fd);
/*
 * The memory of the sites where a process has it mapped, as agent_arena__map() wants it: arena is its address there,
 * which the process may have made up, as what is mapped: then this is some memory of its own, or -EPERM. -errno.
 */
int agent_sites__open(pid_t pid, uint64_t arena);
void agent_arena__unmap(struct agent_target *arena); /* NULL is allowed */

/*
 * Gives the process the agent: image, target arena (as of agent_arena__map()), fork page. Two short stops of one
 * thread, invisible. No descriptor is left behind.
 */
int target__inject(struct target *t, const struct agent_image *img, int arena_fd, int sites_fd,
		   struct agent_error *err);

/* When no thread is at a place where a stop goes unseen: at another one, where a transfer of data may come back short.
 */
void target__stop_anywhere(struct target *t, bool anywhere);

/* Maps fds into the target in one stop (MAP_SHARED). addr in: wanted address or 0; out: where it is. */
struct target_mapping {
	int fd;
	size_t size;
	int prot;
	uint64_t addr;
	uint64_t offset; /* in the file */
	/*
	 * The part of it that may be written, whole pages, where prot does not say so of all; size 0: none. What lies
	 * outside cannot be made writable by the target.
	 */
	size_t writable_from, writable_size;
};
#define TARGET_MAP_MAX 60 /* mappings made at once */
int target__map(struct target *t, struct target_mapping *m, size_t n, struct agent_error *err);
int target__unmap(struct target *t, const struct target_mapping *m, size_t n, struct agent_error *err);

/*
 * Exchanges memory in a process: a thread is stopped and stands still until target__go_on(). Then each mapping at
 * `from` is moved to `to`, over what is there, if by then (*word & mask) == moved_when; else nothing has happened. When
 * the daemon is killed meanwhile, this is done all the same. *opts and the moves must live until then. -EAGAIN after
 * timeout_ms: at no moment could a thread be stopped without the program's noticing.
 *
 * Other threads run meanwhile. If they must not, the caller keeps the processors from them from before the word is
 * turned until target__go_on() returns; then the thread is moved at a priority of real time.
 */
struct target_move {
	uint64_t from, to;
	size_t size;
};
struct target_stand {
	struct target_move *move;
	size_t n_moves;
	const uint64_t *word;
	uint64_t mask, moved_when;
	bool crowded; /* out: there are more threads */
};
int target__stand(struct target *t, struct target_stand *opts, int timeout_ms, struct agent_error *err);
int target__go_on(struct target *t, struct agent_error *err);

/*
 * Other files under the same descriptor numbers, in one stop: under each number will be fd, if what is there now is old
 * (both are ours). Only in a process with one thread: another one could be at work on the number at that moment, which
 * is -EUSERS. -ESTALE: there is something else. -ETIMEDOUT: at no moment could it be stopped without its noticing.
 * After these nothing has changed; after others some may have been exchanged.
 */
struct target_exchange {
	int fd, number, old;
	bool cloexec;
};
#define TARGET_EXCHANGE_MAX 60
int target__exchange(struct target *t, const struct target_exchange *x, size_t n, int timeout_ms,
		     struct agent_error *err);

/* Addresses in the target after inject, for filling struct agent_env. */
uint64_t target__arena_addr(const struct target *t);
/* After a mapping has come or before one goes, the arena's generation is another; here the target is told of it. */
int target__tell_generation(const struct target *t, uint64_t generation);
uint64_t target__fork_page(const struct target *t);
uint64_t target__service_addr(const struct target *t);
/* Is this address in the agent's own code there? */
bool target__is_agent_code(const struct target *t, uint64_t address);
uint64_t target__vdso_gettime(const struct target *t); /* 0: time namespace, or clock not readable from userspace */

/* ---- a site: one probed instruction in one target ---- */

struct site;

/*
 * The uprobes that hold the boundaries of sites: are they uprobe_multi links, since Linux 6.6? Then their int3s stay in
 * fork children, too. Those of perf events, which are limited to the parent, the kernel takes away as a child meets
 * them. May be called by any thread.
 */
bool agent_holds_are_links(void);

enum site_result {
	SITE_DONE = 0,
	SITE_SKIPPED = 1, /* stays in the kernel; err says why */
	SITE_FAILED = 2,  /* something went wrong; nothing changed; err says what */
};

struct site_opts {
	size_t sz;
	const char *path;   /* file in which the probe is, as the daemon can open it */
	uint64_t offset;    /* file offset */
	const char *symbol; /* may be NULL */
	bool has_return;    /* some action runs at return */
	int noop_prog_fd;   /* BPF program of kprobe type that does nothing, for the uprobes that hold the boundaries */
	const char *pin_dir; /* bpffs folder in which links are pinned, or NULL */
	int index;	     /* which struct agent_site of the target arena */
	unsigned int escape; /* the instruction's escape slot and one, 0: it has none */
};
/* What became of one of several. */
struct site_plan {
	struct site *site; /* NULL unless result is SITE_DONE */
	enum site_result result;
	struct agent_error err;
};

/*
 * Finds the file's executable mapping in the target, decodes the instructions at the site, chooses the place of the
 * stub, builds and maps it, arms kernel uprobes (no-op, limited to this process) on the site and on the instruction
 * boundaries that the jump covers. The site's first byte stays the kernel's int3: nothing is served yet. The daemon
 * then fills agent_site.action, and calls site__arm() and site__open().
 */
enum site_result site__plan(struct target *t, const struct site_opts *opts, struct site **out, struct agent_error *err);
/* The same for many: the process is stopped as often as for one, and one link holds all of them. */
void site__plan_all(struct target *t, const struct site_opts *opts, size_t n, struct site_plan *out);
uint64_t site__address(const struct site *s);
/* Is this address in what the agent has put between the site and itself? The relocated instructions are not. */
bool site__is_stub_code(const struct site *s, uint64_t address);
/*
 * May hits that the agent cannot serve exactly go to the escape slot, where all actions of the site are served? Nobody
 * may be inside. -errno: it is as it was. A site begins without.
 */
int site__set_escape(const struct site *s, bool on);
struct agent_site *site__fill_addresses(const struct site *s,
					struct agent_target *arena); /* fills site, resume, call_resume */
/*
 * Writes what of the jump is behind the site's first byte, or puts the file's bytes back there. Waits for every
 * processor; to be called while no thread is held. A closed site must not stay armed, because of fork children: see
 * patch.c.
 */
int site__arm(struct site *s, struct agent_error *err);
int site__disarm(struct site *s, struct agent_error *err);
/* The same for many; what fails stays as it is. Every processor is visited once for all of them. */
void site__arm_all(struct site *const *s, size_t n);
void site__disarm_all(struct site *const *s, size_t n);
/* One byte: int3 to the jump's first and back. Nobody is stopped. open() arms when it was not done. After close() comes
 * disarm(). -EBUSY when the byte is not what it should be (-> look again);
 * -ESTALE from open(): the code has been unmapped. */
int site__open(struct site *s, struct agent_error *err);
int site__close(struct site *s, struct agent_error *err);
/* The code at the site is not what it was: unmapped. A site whose open() said -ESTALE stays closed for good. */
bool site__is_gone(const struct site *s);
bool site__is_open(const struct site *s); /* reads the byte: another tool's attach turns it back to CC */
/*
 * Restores the file's bytes and drops the uprobes. The site must be closed and the target quiescent. -EBUSY: a debugger
 * holds a thread in the middle of the jump; the site stays as it is, with the uprobes that make it harmless: call
 * again.
 */
int site__free(struct site *s);
/* The same for many, of whatever targets. Those that are freed become NULL; returns how many are not. */
size_t site__free_all(struct site **s, size_t n);
/* Is a thread left, perhaps, that goes by a slot or a stub of a site that was freed? Then they cannot be used again. */
bool target__has_stragglers(const struct target *t);
/*
 * Closing uprobes takes the kernel a good part of a second. From now on threads wait for that: what site__free() frees
 * may go on costing time for a moment. agent_closed_all() waits until it is over.
 */
void agent_close_aside(void);
void agent_closed_all(void);
/*
 * The kernel takes an int3 that a uprobe wanted which ends from all processes in which no other uprobe wants it: also
 * from fork children, of whatever target, that still have their parent's jump, of which it is a part; the child would
 * then jump anywhere. So with on the uprobes that protect places are not closed when these are given up, but later.
 * agent_look_at_buried() finds those at whose instructions no process has a jump any more, and whose own process has no
 * fork under way that began before. When none of the other targets has one either, and all children have been repaired
 * that were told of until then, agent_close_buried() closes one of these, if that still holds; it returns false when
 * there was none. all: one of the others, too, and aside: see agent_close_aside(): for the end. agent_has_buried(): is
 * there one at whose instructions no process has a jump? agent_buried(): how many there are in all. These may be called
 * by any thread. agent_look_at_buried(): are all found?
 */
void agent_bury_holds(bool on);
bool agent_has_buried(void);
size_t agent_buried(void);
bool agent_look_at_buried(void);
bool agent_close_buried(bool all, bool aside);
/*
 * May a thread of the process be in a system call that copies the process and began before then (clock_us(); what
 * began later may be meant, too)? Where threads cannot be asked, it may be for half a second.
 */
bool agent_may_fork_since(pid_t pid, int64_t since);
/* Forgets a site that cannot be freed. What of it is pinned goes on working, for site__adopt(). */
void site__leave(struct site *s);

/* ---- quiescence ---- */

/*
 * Does the kernel take the CPU away from a thread within the kernel (full or lazy preemption)? Unless told that it does
 * not, we assume that it does, and quiescence takes longer: threads that want a CPU are stopped.
 */
void agent_kernel_preempts_itself(bool preempts);

struct code_range {
	uint64_t start, end; /* in the target */
};

/*
 * Returns 0 when every thread of the target has been seen, since the call began, either asleep in a system call or
 * stopped in user mode outside the ranges (waiting at a closed gate counts as outside: agent_wait range is known here).
 * Threads that are not on a CPU are not stopped, and others only when they cannot be seen otherwise: our own thread
 * visits the CPU on which they are, and so takes it away from them. Each stop is invisible and short. After this nobody
 * is between the kernel's int3 and its handler, and nobody is in the middle of a program in the ranges, nor in the
 * agent on the way to one or back, not even in a signal handler that interrupted it. -ETIMEDOUT after timeout_ms.
 */
int target__quiesce(struct target *t, const struct code_range *ranges, size_t n_ranges, int timeout_ms,
		    struct agent_error *err);
/*
 * The same for code that is to be unmapped: nor does a word of any thread's stack, as far as it is searched, point into
 * the ranges. Some may do that by chance, for as long as a thread sleeps.
 */
int target__left(struct target *t, const struct code_range *ranges, size_t n_ranges, int timeout_ms,
		 struct agent_error *err);

/*
 * Is a return of a probed function pending in the target's shadow stacks (user half)? 1, 0 or -errno. Of those pending
 * in the kernel see daemon/observe.h.
 */
int target__pending_returns(const struct target *t, const struct agent_target *arena);

/* A fork child inherited our patches: put the file's bytes back in it (stops it for a moment). */
int agent_repair_child(pid_t child, const struct site *const *sites, size_t n_sites, struct agent_error *err);

/* What that needs to know, by itself: for a thread that repairs while another plans and frees sites. */
struct fork_sites;
struct fork_sites *fork_sites__new(const struct target *t, struct site *const *s, size_t n);
void fork_sites__free(struct fork_sites *f); /* NULL is allowed */
int fork_sites__repair(struct fork_sites *f, pid_t child, struct agent_error *err);

#endif
