/* SPDX-License-Identifier: MIT */
/*
 * capture.h: the programs whose bytecode is known or was asked for. Bytecode arrives in pieces from observe.bpf.c; when
 * the load has returned, the whole is kept if the program's tag proves it. One thread.
 */
#ifndef BPFTIME_CAPTURE_H
#define BPFTIME_CAPTURE_H

#include <linux/bpf.h>
#include <linux/types.h>

#include "bpf/observe_abi.h"
#include "observe.h"

struct captures;

struct captures *captures__new(void);
void captures__free(struct captures *c);

/* Records of the ring buffer. */
void captures__code(struct captures *c, const struct obs_rec_code *rec, size_t size);
void captures__loaded(struct captures *c, const struct obs_rec_loaded *rec);

const struct obs_prog *captures__find(struct captures *c, uint32_t prog_id);

/*
 * Keeps a program. name, type and tag come from info; insns (calloc'ed, may be NULL: then why, a sentence, is kept)
 * become the captures'. NULL without memory.
 */
struct obs_prog *captures__keep(struct captures *c, const struct bpf_prog_info *info, struct bpf_insn *insns,
				size_t n_insns, const char *license, const char *why);

/* Recovering what was not captured is tried once: whether it is still to be tried, and what it brought (insns NULL:
 * why). */
bool captures__may_recover(struct captures *c, const struct obs_prog *p);
const struct obs_prog *captures__recovered(struct captures *c, const struct obs_prog *p, struct bpf_insn *insns,
					   size_t n_insns, const char *why);

/* Forgets the programs that the kernel no longer has. */
void captures__prune(struct captures *c);

#endif
