/* SPDX-License-Identifier: MIT */
/* site.h: what plan (site.c), stub (stub.c), patch (patch.c) and uprobes (hold.c) share about one probed instruction.
 */
#ifndef BPFTIME_AGENT_SITE_H
#define BPFTIME_AGENT_SITE_H

#include "bury.h"
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

/* The same for many places at once: a uprobe_multi link. */
struct hold_link {
	int link;
	unsigned int refs; /* sites */
	unsigned int id;   /* in the target, in the pin's name */
	int path_fd;	   /* the file, as O_PATH; -1: not known */
	struct instructions at;
	char pin[256];
};

/* Pages of a target in which stubs of sites are. */
struct stub_area {
	struct target_mapping map;
	uint64_t ino; /* of their memfd: finds fork children */
	unsigned int refs;
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
/* Are the bytes behind the first one, up to the distance, int3 or the file's? */
bool jump_form__keeps(const struct jump_form *f, const uint8_t *code, const struct decoded *d);

/* ---- a site ---- */

struct site {
	struct target *t;
	uint64_t addr;		     /* in the target */
	size_t size;		     /* of the jump */
	struct site *next;	     /* of the target's sites */
	uint64_t stub;		     /* entry E of the stub, see abi.h */
	struct stub_area *area;	     /* the stub's pages; NULL: not made yet */
	uint8_t file[SITE_MAX_CODE]; /* what the file has at the site */
	size_t file_size;
	uint8_t before[JUMP_SIZE - 1]; /* and before it: another's jump there would reach into ours */
	size_t n_before;
	struct decoded d;
	uint8_t jump[PATCH_MAX];
	unsigned int step;	/* see struct jump_form */
	struct hold_link *held; /* what holds it; or, where the kernel has no such links, */
	struct hold *hold;	/* malloc'ed, PATCH_MAX of them, or NULL */
	struct hold *stand_ins; /* malloc'ed, STAND_INS * PATCH_MAX, or NULL: see hold_stand_in() */
	int path_fd;		/* as in held, which comes first */
	uint64_t offset;	/* in the file */
	uint32_t instruction;	/* its bucket, see bury.h */
	int noop_prog_fd;	/* not owned */
	int index;
	unsigned int escape; /* as in struct site_opts */
	bool has_return;
	bool is_stuck;	   /* site__free() failed: it is not tried as long again */
	bool was_unmapped; /* its code was not what we had left: never opened again */
	bool is_used;	   /* instruction_use() has been told */
	bool armed;	   /* the jump's bytes are behind the first one, and every processor sees them */
};

/* ---- place.c ---- */

struct jump_from {
	uint64_t next;	     /* address behind the jump */
	uint8_t int3s;	     /* bit k: byte k of the distance must be int3 */
	const uint8_t *keep; /* what the others must be, four bytes; NULL: they are free */
	int64_t reach;	     /* greatest distance, less than 2 GiB */
};

/*
 * Chooses the stub's entry so that the jump's bytes at instruction boundaries are int3. before and after: bytes of the
 * stub on either side of its entry. -ENOSPC.
 */
int place_stub(const struct vmas *maps, uint64_t start_brk, const struct jump_from *from, size_t before, size_t after,
	       uint64_t *entry);
/* The same between two addresses, at the lowest that fits. */
int place_stub_between(uint64_t lo, uint64_t hi, const struct jump_from *from, size_t before, size_t after,
		       uint64_t *entry);

/* ---- stubs.c ---- */

#define STUB_ROOM (STUB_BEFORE + STUB_RET_RESUME + DECODE_MAX_CODE)

/* Stubs that are to come into a target together. */
struct stubs;

struct stubs *stubs_new(struct target *t, size_t most);
void stubs_free(struct stubs *st);
/*
 * Chooses the entry of the site's stub for a jump of this form, and builds it. keep: the bytes of its distance that
 * need not be int3 are the file's. 0: s->stub, s->jump. -ENOSPC: no stub can be where this jump leads, *why.
 */
int stubs_add(struct stubs *st, struct site *s, const struct jump_form *form, bool keep, int64_t reach,
	      enum decode_result *why);
/* Maps them: the areas of all sites that were added. -EAGAIN: somebody was faster; nothing is mapped. */
int stubs_map(struct stubs *st, struct agent_error *err);
/* The site does not use its area any longer. Returns the area when nobody does: to be unmapped and freed. */
struct stub_area *stub_area_put(struct site *s);

/* ---- stub.c ---- */

size_t stub_build(const struct site *s, uint8_t *out, size_t room, enum decode_result *why); /* bytes, 0: see why */

/* ---- hold.c ---- */

/* Holds the boundaries of these sites, which are of one target and one file. */
enum site_result hold_sites(struct site *const *s, size_t n, const struct site_opts *o, struct agent_error *err);
/*
 * The uprobes that hold a site are limited to its process by the main thread. When that has ended the kernel takes
 * their int3s away one by one, as threads meet them. To be called before such a site is closed: others are armed that
 * are limited by threads which live.
 */
void hold_stand_in(struct site *s);
void hold_drop_all(struct site *s);

/* ---- patch.c ---- */

/* Reads the patch, s->size bytes; boundaries must hold int3s. 0 or -errno. */
int site_look(const struct site *s, uint8_t *now, struct agent_error *err);

/* ---- pages.c ---- */

/*
 * In a fork child, all threads of which are stopped: gives up its copies of the pages of these sites that differ from
 * the file in nothing else, and lets the kernel put int3s where the child is to have some. by: the thread that makes
 * the system calls. Returns how many sites are left to be repaired otherwise; they are now the first of s.
 */
size_t pages_give_up(struct target *child, struct stopped *by, const struct vmas *maps, const struct site **s,
		     size_t n);

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

/* ---- children.c ---- */

/* Repairs all fork children of these sites' targets. */
void children_repair(struct site *const *s, size_t n);

#endif
