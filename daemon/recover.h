/* SPDX-License-Identifier: MIT */
/*
 * recover.h: bytecode of a program that is loaded already, from the kernel's translation of it. The verifier replaces
 * helper numbers by addresses, inlines map lookups and a few helpers, and cuts away what it found dead; recover.c
 * undoes the first two. The result is believed only with a proof (proof.c).
 */
#ifndef BPFTIME_RECOVER_H
#define BPFTIME_RECOVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <linux/bpf.h>

/*
 * The program behind prog_fd; maps are named by id. *insns is malloc'ed. sleepable: the program is. 0, or -errno
 * with the reason, a clause, in why.
 */
int recover__prog(int prog_fd, const struct bpf_prog_info *info, struct bpf_insn **insns, size_t *n_insns,
		  bool sleepable, char *why, size_t why_size);

/* The kernel's translation, with map ids in the place of addresses. *xlated is malloc'ed; why as above. */
int xlated__read(int prog_fd, struct bpf_insn **xlated, size_t *n, char *why, size_t why_size);

/*
 * Whether insns (maps by id) is the program whose translation is xlated. Proof is the tag; or, because the tag of a
 * program from which dead code was cut belongs to code that no longer exists, that the kernel accepts insns and
 * translates them to exactly xlated.
 */
bool proof__holds(const struct bpf_insn *insns, size_t n_insns, const struct bpf_insn *xlated, size_t n_xlated,
		  const struct bpf_prog_info *info, bool sleepable);

#endif
