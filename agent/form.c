// SPDX-License-Identifier: MIT
/*
 * form.c: what a jump can look like.
 *
 * Wherever an instruction of the function begins inside the jump there must be int3, so that the kernel's uprobe there
 * serves whoever comes to it. With e9 in the first byte these int3s are parts of the distance, and one in its last byte
 * sends the jump 816 MiB down, which code at 4 MiB (not PIE) does not have. Two things move the distance:
 *
 * 2e e9 d d d d: segment prefixes mean nothing to a near jump; assemblers pad branches with cs for alignment. It is
 * still one instruction. The function's first one must reach over e9.
 *
 * 6a cc e9 d d d d: push $-52, then the jump. 68 cc cc cc cc e9 d d d d: push $-858993460. The function's first
 * instruction is a push, too, usually of rbp in one byte: the word below the stack pointer is its to overwrite, and the
 * stub moves the stack pointer back before it looks at anything.
 *
 * In all of them the first byte alone is what opens and closes a place. The forms with a push have a *step*: a thread
 * that has pushed may lose the CPU, or take a signal, before it jumps. The jump's bytes stay until nobody is there:
 * patch.c.
 */
#include "site.h"

#define CS	   0x2e
#define PUSH_IMM8  0x6a
#define PUSH_IMM32 0x68
#define REX_B	   0x41

/* In the order in which they are tried. */
const struct jump_form jump_forms[JUMP_FORMS] = {
	{{0}, 0, 0},
	{{CS}, 1, 0},
	{{CS, CS}, 2, 0},
	{{CS, CS, CS}, 3, 0},
	{{PUSH_IMM8, INT3}, 2, 2},
	{{PUSH_IMM8, INT3, CS}, 3, 2},
	{{PUSH_IMM8, INT3, CS, CS}, 4, 2},
	{{PUSH_IMM32, INT3, INT3, INT3, INT3}, 5, 5},
	{{PUSH_IMM32, INT3, INT3, INT3, INT3, CS}, 6, 5},
	{{PUSH_IMM32, INT3, INT3, INT3, INT3, CS, CS}, 7, 5},
};

/* push of a 64-bit register: 50+r, 41 50+r */
static bool is_push(const uint8_t *code)
{
	return (code[code[0] == REX_B] & 0xf8) == 0x50;
}

size_t jump_form__size(const struct jump_form *f)
{
	return f->n_lead + JUMP_SIZE;
}

bool jump_form__suits(const struct jump_form *f, const uint8_t *code, const struct decoded *d)
{
	if (f->step && !is_push(code))
		return false;
	for (unsigned int i = 1; i <= f->n_lead; i++)
		if ((d->boundary_mask & (1u << i)) && (i == f->n_lead || f->lead[i] != INT3))
			return false;
	return true;
}

uint8_t jump_form__int3s(const struct jump_form *f, const struct decoded *d)
{
	return (d->boundary_mask >> (f->n_lead + 1)) & 0xf;
}

bool jump_form__keeps(const struct jump_form *f, const uint8_t *code, const struct decoded *d)
{
	for (unsigned int i = 1; i <= f->n_lead; i++)
		if (!(d->boundary_mask & (1u << i)) && code[i] != (i == f->n_lead ? JMP_REL32 : f->lead[i]))
			return false;
	return true;
}
