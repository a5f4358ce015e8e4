/* SPDX-License-Identifier: MIT */
/*
 * build.h: makes what a planned group needs before it can be switched: the arena, native code, the kernel half and its
 * attachments. Nothing of it changes what any process or tool sees.
 */
#ifndef BPFTIME_BUILD_H
#define BPFTIME_BUILD_H

#include "daemon/model.h"
#include "vm-llvm/worker.h"

/* Of the kernel half: probes of one program in one file; or a program of the tool that is replaced. */
struct khalf_link {
	int fd;
	uint32_t replaced; /* its id, or 0 */
	unsigned int prog;
	bool is_return;
	uint64_t dev, ino;
};

/*
 * Where a map that is not direct lies in the arena, from off on. What a tool sees has pages of its own. 0, or
 * -EOPNOTSUPP with *why.
 */
int gmap__lay_out(struct gmap *m, uint64_t off, const char **why);
/*
 * The arena, empty; and, once there is one, native code and the kernel half's programs, which may take long:
 * *gives_up (atomic) ends it between two programs. The latter touches nothing of the group but its programs, whether
 * the kernel half is to replace the tool's, and its watcher. 0, or -errno with the reason. What was made stays until
 * group__unbuild().
 */
int group__make_arena(struct group *g);
/* Gives the maps of a planned group their places in the arena. *size: bytes of all. 0, or -errno and g->reason. */
int group__lay_out(struct group *g, uint64_t *size);
/* What shm_group_hdr.daemon is while this process is the daemon. */
uint32_t shm_daemon(void);
int group__build(struct group *g, struct vm_worker *worker, const struct observer *o, const bool *gives_up,
		 char reason[REASON_SIZE]);
/*
 * Of a program that another daemon has compiled, with its sizes in p->code: the code itself, as it has kept it. i: its
 * number. 0 or -errno.
 */
int gprog__adopt_code(struct gprog *p, const struct group *g, unsigned int i);
/*
 * Attaches the kernel half, closed (it only counts, or does what the program does that it replaces), to all of the
 * group's probes; where there is none, what tells of new processes to those that are not limited to one.
 */
int group__attach_khalf(struct group *g);
void group__detach_khalf(struct group *g);
/* Frees everything that plan, build and attach made; the arena's memory goes with its last mapping. */
void group__unbuild(struct group *g);

#endif
