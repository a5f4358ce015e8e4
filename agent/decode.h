/* SPDX-License-Identifier: MIT */
/* decode.h: can the instructions at a place give way to a five-byte jump, and what do they look like elsewhere? */
#ifndef BPFTIME_AGENT_DECODE_H
#define BPFTIME_AGENT_DECODE_H

#include <stddef.h>
#include <stdint.h>

#define JUMP_SIZE	5   /* e9 and a distance of four bytes */
#define PATCH_MAX	12  /* the longest of the forms that a jump can take: form.c */
#define DECODE_MAX_CODE 128 /* bytes that relocated instructions may take */

/* Why an instruction or a place stays in the kernel. Sentences in decode.c. */
enum decode_result {
	DECODE_OK = 0,
	DECODE_INVALID,
	DECODE_SHORT,
	DECODE_NOP5,
	DECODE_CALL,
	DECODE_ODD_BRANCH,
	DECODE_TRAP,
	DECODE_BRANCH_INTO,
	DECODE_TOO_FAR,
	DECODE_N,
};

const char *decode_reason(enum decode_result r); /* "the function is shorter than the jump" */

struct decoded {
	size_t covered;		/* bytes of whole instructions that the patch lies on */
	uint16_t boundary_mask; /* bit k: an instruction begins at byte k of the patch; bit 0 always */
};

/*
 * code: the file's bytes from the site on; size: up to the end of the function or of what is known; patch: bytes that
 * are to be patched, JUMP_SIZE or more.
 */
enum decode_result decode_site(const uint8_t *code, size_t size, size_t patch, struct decoded *out);

/*
 * Does a direct branch in the function lead to an instruction inside the patch, behind its first byte? Such a branch
 * would work, by the kernel's breakpoints there, but make the target slower. func: the function's bytes, of which the
 * site is at site_off.
 */
enum decode_result decode_branches(const uint8_t *func, size_t size, size_t site_off, const struct decoded *d);

/*
 * The covered instructions, which were at address from, as they must be at address to; then a jump to from + covered.
 * *out_size: bytes written to out (DECODE_MAX_CODE long). Their size does not depend on the addresses.
 */
enum decode_result decode_relocate(const uint8_t *code, const struct decoded *d, uint64_t from, uint64_t to,
				   uint8_t *out, size_t *out_size);

#endif
