/* SPDX-License-Identifier: MIT */
/* site.h: what plan (site.c), stub (stub.c), patch (patch.c) and uprobes (hold.c) share about one probed instruction.
 */
#ifndef BPFTIME_AGENT_SITE_H
#define BPFTIME_AGENT_SITE_H

#include "decode.h"
#include "target.h"

#define INT3	      0xcc
#define JMP_REL32     0xe9
#define SITE_MAX_CODE 32 /* bytes of the file that are looked at */

/* A kernel uprobe that does nothing, limited to the target. */
struct hold {
	int event, link;
	char pin[256];
};

/* ---- form.c ---- */

#define JUMP_FORMS    10
#define JUMP_LEAD_MAX (PATCH_MAX - JUMP_SIZE)

/* What a jump looks like: lead bytes, then e9 and the distance. */
struct jump_form {
	uint8_t lead[JUMP_LEAD_MAX];
	uint8_t n_lead;
	uint8_t step; /* where a second instruction begins, behind one that pushed a word; 0: there is one only */
};
extern const struct jump_form jump_forms[JUMP_FORMS];

size_t jump_form__size(const struct jump_form *f);
/* Are the lead's bytes int3 where instructions begin? code: the file's bytes; d: decoded for the form's size. */
bool jump_form__suits(const struct jump_form *f, const uint8_t *code, const struct decoded *d);
/* Bit k: byte k of the distance must be int3. */
uint8_t jump_form__int3s(const struct jump_form *f, const struct decoded *d);

/* ---- a site ---- */

struct site {
	struct target *t;
	uint64_t addr;		     /* in the target */
	uint64_t stub;		     /* entry E of the stub, see abi.h */
	struct target_mapping map;   /* the stub's pages */
	uint64_t stub_ino;	     /* of its memfd: finds fork children */
	uint8_t file[SITE_MAX_CODE]; /* what the file has at the site */
	size_t file_size;
	uint8_t before[JUMP_SIZE - 1]; /* and before it: another's jump there would reach into ours */
	size_t n_before;
	struct decoded d;
	uint8_t jump[PATCH_MAX];
	size_t size;	   /* of the jump */
	unsigned int step; /* see struct jump_form */
	struct hold hold[PATCH_MAX];
	struct hold *stand_ins; /* malloc'ed, STAND_INS * PATCH_MAX, or NULL: see hold_stand_in() */
	int path_fd;		/* the file, as O_PATH; -1: not known */
	uint64_t offset;	/* in the file */
	int noop_prog_fd;	/* not owned */
	int index;
	bool has_return;
	bool is_stuck;	   /* site__free() failed: it is not tried as long again */
	bool was_unmapped; /* its code was not what we had left: never opened again */
	bool armed;	   /* the jump's bytes are behind the first one, and every processor sees them */
	struct site *next; /* of the target's sites */
};

/* ---- place.c ---- */

struct jump_from {
	uint64_t next; /* address behind the jump */
	uint8_t int3s; /* bit k: byte k of the distance must be int3 */
	int64_t reach; /* greatest distance, less than 2 GiB */
};

/*
 * Chooses the stub's entry so that the jump's bytes at instruction boundaries are int3. before and after: bytes of the
 * stub on either side of its entry. -ENOSPC.
 */
int place_stub(const struct vmas *maps, uint64_t start_brk, const struct jump_from *from, size_t before, size_t after,
	       uint64_t *entry);

/* ---- stub.c ---- */

size_t stub_build(const struct site *s, uint8_t *out, size_t room, enum decode_result *why); /* bytes, 0: see why */

/* ---- hold.c ---- */

int hold_arm(struct hold *h, const struct site_opts *o, pid_t pid, unsigned int at, struct agent_error *err);
void hold_drop(struct hold *h);
/*
 * The uprobes that hold a site are limited to its process by the main thread. When that has ended the kernel takes
 * their int3s away one by one, as threads meet them. To be called before such a site is closed: others are armed that
 * are limited by threads which live.
 */
void hold_stand_in(struct site *s);
void hold_drop_all(struct site *s);

/* ---- elf.c ---- */

struct function {
	char name[64];
	uint64_t offset, size; /* in the file; size 0: unknown */
	bool saves_context;    /* a setjmp or vfork: returns twice or on another stack */
};
/* The function whose code is at this file offset. -ENOENT: no symbol says so. */
int elf_function_at(const char *path, uint64_t offset, struct function *f);

/* ---- step.c ---- */

/*
 * Returns 0 when no thread of the target is between the two instructions of the site's jump, nor returns there from a
 * signal handler. The site is closed and every processor has been visited since.
 */
int step_leave(const struct site *s, struct agent_error *err);
/* The same for one stopped thread of the target or of a fork child; thread->regs may change. */
int step_leave_stopped(const struct target *t, const struct site *s, struct stopped *thread);

/* ---- patch.c ---- */

/* Is a jump that is not ours so close that it overlaps our place? */
bool patch_is_overlapped(const struct site *s);

/* Puts the file's bytes back into fork children, which have the jump but not the uprobes' protection. */
void patch_repair_children(const struct site *s);

#endif
