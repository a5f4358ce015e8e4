// SPDX-License-Identifier: MIT
/* Beginnings of functions: what gives way to a jump, and what it looks like elsewhere. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "agent/decode.h"
#include "agent/site.h"

#define BYTES(...) (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__})

static const struct {
	const char *what;
	const uint8_t *code;
	size_t size;
	enum decode_result want;
	size_t covered;
	uint8_t boundaries;
} table[] = {
	{"push %rbp; mov %rsp,%rbp; mov %rdi,-8(%rbp)", BYTES(0x55, 0x48, 0x89, 0xe5, 0x48, 0x89, 0x7d, 0xf8),
	 DECODE_OK, 8, 0x13},
	{"endbr64; push %rbx", BYTES(0xf3, 0x0f, 0x1e, 0xfa, 0x53), DECODE_OK, 5, 0x11},
	{"sub $24,%rsp; mov %rdi,(%rsp)", BYTES(0x48, 0x83, 0xec, 0x18, 0x48, 0x89, 0x3c, 0x24), DECODE_OK, 8, 0x11},
	{"mov 16(%rip),%rax", BYTES(0x48, 0x8b, 0x05, 0x10, 0, 0, 0), DECODE_OK, 7, 0x01},
	{"mov $1,%eax", BYTES(0xb8, 1, 0, 0, 0), DECODE_OK, 5, 0x01},
	{"five pushes", BYTES(0x55, 0x53, 0x50, 0x51, 0x52), DECODE_OK, 5, 0x1f},
	{"test; je +5", BYTES(0x48, 0x85, 0xff, 0x74, 0x05, 0xc3), DECODE_OK, 5, 0x09},
	{"mov; mov; ret in the last byte", BYTES(0x89, 0xf8, 0x89, 0xc2, 0xc3), DECODE_OK, 5, 0x15},
	{"ret", BYTES(0xc3, 0xcc, 0xcc, 0xcc, 0xcc), DECODE_SHORT, 0, 0},
	{"xor; ret", BYTES(0x31, 0xc0, 0xc3, 0x90, 0x90), DECODE_SHORT, 0, 0},
	{"jmp rel8", BYTES(0xeb, 0x05, 0x90, 0x90, 0x90), DECODE_SHORT, 0, 0},
	{"end of the function", BYTES(0x55, 0x48, 0x89, 0xe5), DECODE_SHORT, 0, 0},
	{"nop5", BYTES(0x0f, 0x1f, 0x44, 0x00, 0x00), DECODE_NOP5, 0, 0},
	{"endbr64; nop5", BYTES(0xf3, 0x0f, 0x1e, 0xfa, 0x0f, 0x1f, 0x44, 0x00, 0x00), DECODE_NOP5, 0, 0},
	{"call", BYTES(0xe8, 0, 0, 0, 0), DECODE_CALL, 0, 0},
	{"push; call *%rax", BYTES(0x55, 0xff, 0xd0, 0x90, 0x90), DECODE_CALL, 0, 0},
	{"jrcxz", BYTES(0xe3, 0x10, 0x90, 0x90, 0x90), DECODE_ODD_BRANCH, 0, 0},
	{"syscall", BYTES(0x0f, 0x05, 0x90, 0x90, 0x90), DECODE_TRAP, 0, 0},
	{"int3", BYTES(0xcc, 0x90, 0x90, 0x90, 0x90), DECODE_TRAP, 0, 0},
	{"no instruction", BYTES(0x06, 0x06, 0x06, 0x06, 0x06), DECODE_INVALID, 0, 0},
};

static void test_sites(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		struct decoded d;
		enum decode_result r = decode_site(table[i].code, table[i].size, JUMP_SIZE, &d);

		if (r != table[i].want)
			fail_msg("%s: %s", table[i].what, decode_reason(r));
		if (r)
			continue;
		assert_int_equal(d.covered, table[i].covered);
		assert_int_equal(d.boundary_mask, table[i].boundaries);
	}
}

static void test_branches(void **state)
{
	/* xor %esi,%esi; 1: inc %esi; cmp $4,%esi; jne 1b; ret */
	static const uint8_t into[] = {0x31, 0xf6, 0xff, 0xc6, 0x83, 0xfe, 0x04, 0x75, 0xf9, 0xc3};
	/* 0: lea 1(%rsi),%esi; and $3,%esi; jnz 0b; ret */
	static const uint8_t start[] = {0x8d, 0x76, 0x01, 0x83, 0xe6, 0x03, 0x75, 0xf8, 0xc3};
	struct decoded d;

	(void)state;
	assert_int_equal(decode_site(into, sizeof(into), JUMP_SIZE, &d), DECODE_OK);
	assert_int_equal(decode_branches(into, sizeof(into), 0, &d), DECODE_BRANCH_INTO);
	assert_int_equal(decode_site(start, sizeof(start), JUMP_SIZE, &d), DECODE_OK);
	assert_int_equal(decode_branches(start, sizeof(start), 0, &d), DECODE_OK);
}

static int32_t rel_at(const uint8_t *p)
{
	int32_t rel;

	memcpy(&rel, p, sizeof(rel));
	return rel;
}

static void test_relocation(void **state)
{
	static const uint8_t rip[] = {0x48, 0x8b, 0x05, 0x10, 0, 0, 0}; /* mov 16(%rip),%rax */
	static const uint8_t je[] = {0x48, 0x85, 0xff, 0x74, 0x05};	/* test %rdi,%rdi; je +5 */
	static const uint8_t jmp[] = {0xe9, 0x00, 0x01, 0x00, 0x00};	/* jmp +256 */
	const uint64_t from = 0x555555554000, to = from - 0x33000000;
	uint8_t out[DECODE_MAX_CODE];
	struct decoded d;
	size_t n;

	(void)state;
	assert_int_equal(decode_site(rip, sizeof(rip), JUMP_SIZE, &d), DECODE_OK);
	assert_int_equal(decode_relocate(rip, &d, from, to, out, &n), DECODE_OK);
	assert_int_equal(n, 7 + 5);
	assert_int_equal(to + 7 + rel_at(out + 3), from + 7 + 16);
	assert_int_equal(out[7], 0xe9);
	assert_int_equal(to + 12 + rel_at(out + 8), from + 7);
	assert_int_equal(decode_relocate(rip, &d, from, from - (3ull << 30), out, &n), DECODE_TOO_FAR);

	assert_int_equal(decode_site(je, sizeof(je), JUMP_SIZE, &d), DECODE_OK);
	assert_int_equal(decode_relocate(je, &d, from, to, out, &n), DECODE_OK);
	assert_int_equal(n, 3 + 6 + 5);
	assert_int_equal(out[3], 0x0f);
	assert_int_equal(out[4], 0x84);
	assert_int_equal(to + 9 + rel_at(out + 5), from + 5 + 5);

	assert_int_equal(decode_site(jmp, sizeof(jmp), JUMP_SIZE, &d), DECODE_OK);
	assert_int_equal(decode_relocate(jmp, &d, from, to, out, &n), DECODE_OK);
	assert_int_equal(to + 5 + rel_at(out + 1), from + 5 + 256);
}

static void test_places(void **state)
{
	struct vma v[] = {
		{.start = 0x555555554000, .end = 0x555555558000, .path = "/bin/x"},
		{.start = 0x555555560000, .end = 0x555555581000, .path = "[heap]"},
		{.start = 0x7ffff7dd0000, .end = 0x7ffff7ffe000, .path = "/lib/y"},
		{.start = 0x7ffffffde000, .end = 0x7ffffffff000, .path = "[stack]"},
	};
	struct vma low[] = {{.start = 0x400000, .end = 0x500000, .path = "/bin/static"}};
	struct vmas maps = {v, 4}, fixed = {low, 1};

	(void)state;
	for (unsigned int int3s = 0; int3s < 16; int3s++) {
		struct jump_from from = {.next = 0x555555555149 + JUMP_SIZE, .int3s = int3s, .reach = 1ll << 30};
		uint64_t entry;
		int64_t rel;

		if (place_stub(&maps, 0x555555560000, &from, STUB_BEFORE, 256, &entry))
			fail_msg("no place for int3s 0x%x", int3s);
		rel = (int64_t)(entry - from.next);
		assert_true(rel == (int32_t)rel);
		for (int k = 0; k < 4; k++)
			if (int3s & (1u << k))
				assert_int_equal((uint8_t)(rel >> (8 * k)), INT3);
		/* Where the distance's second and third byte are free its low 24 bits are not about zero. */
		assert_true((int3s & 0x6) || ((rel + 4096) & 0xffffff) >= 8192);
		for (size_t i = 0; i < 4; i++)
			assert_true(entry + 256 <= v[i].start || entry - STUB_BEFORE >= v[i].end);
	}
	/* 816 MiB below 4 MiB there is nothing; elsewhere the jump can go up or a little down. */
	struct jump_from bottom = {.next = 0x401000 + JUMP_SIZE, .int3s = 0x8, .reach = 15ll << 27};
	struct jump_from free = {.next = bottom.next, .reach = 1ll << 30};
	struct jump_from far = {.next = 0x1200000 + JUMP_SIZE, .int3s = 0x7, .reach = 15ll << 27};
	uint64_t entry;

	assert_int_not_equal(place_stub(&fixed, 0x501000, &bottom, STUB_BEFORE, 256, &entry), 0);
	assert_int_equal(place_stub(&fixed, 0x501000, &free, STUB_BEFORE, 256, &entry), 0);
	assert_int_equal(place_stub(&fixed, 0x501000, &far, STUB_BEFORE, 256, &entry), 0);
	assert_int_equal((entry - far.next) & 0xffffff, 0xcccccc);

	/* sub $8,%rsp; then another instruction: what is not int3 stays as it is. */
	const uint8_t sub[] = {0x83, 0xec, 0x08, 0x90};
	struct jump_from keep = {.next = 0x555555555149 + JUMP_SIZE, .int3s = 0x8, .keep = sub, .reach = 1ll << 30};

	assert_int_equal(place_stub(&maps, 0x555555560000, &keep, STUB_BEFORE, 256, &entry), 0);
	assert_int_equal((uint32_t)(entry - keep.next), 0xcc08ec83);
}

/* The first form for code at 4 MiB, where an int3 in the distance's last byte leads nowhere. */
static const struct {
	const char *what;
	const uint8_t *code;
	size_t size;
	const uint8_t *jump; /* up to the distance; NULL: none */
	size_t n_jump;
	uint8_t int3s;
} low[] = {
	{"push %rbp; mov %rsp,%rbp; sub $16,%rsp", BYTES(0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x10, 0xc3),
	 BYTES(0x6a, 0xcc, 0xe9), 0x2},
	{"push %rbp; mov %rsp,%rbp; push %rbx; mov", BYTES(0x55, 0x48, 0x89, 0xe5, 0x53, 0x48, 0x89, 0xfb),
	 BYTES(0x6a, 0xcc, 0xe9), 0x6},
	{"push %rbp; mov %rsp,%rbp; two pushes; sub", BYTES(0x55, 0x48, 0x89, 0xe5, 0x53, 0x50, 0x48, 0x83, 0xec, 0x08),
	 BYTES(0x6a, 0xcc, 0x2e, 0xe9), 0x7},
	{"push %rbp; push %rbx; mov; sub", BYTES(0x55, 0x53, 0x89, 0xfb, 0x48, 0x83, 0xec, 0x08, 0x89, 0xf0),
	 BYTES(0x68, 0xcc, 0xcc, 0xcc, 0xcc, 0xe9), 0x4},
	{"push %r12; mov; mov", BYTES(0x41, 0x54, 0x89, 0xfd, 0x48, 0x89, 0xf3, 0xc3), BYTES(0x2e, 0xe9), 0x5},
	{"endbr64; sub $8,%rsp", BYTES(0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x83, 0xec, 0x08), BYTES(0x2e, 0xe9), 0x4},
	{"endbr64; push %rbp; mov %rsp,%rbp", BYTES(0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0x48, 0x89, 0xe5),
	 BYTES(0x2e, 0x2e, 0xe9), 0x6},
	{"endbr64; push; push; mov", BYTES(0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0x53, 0x48, 0x89, 0xfb),
	 BYTES(0x2e, 0x2e, 0x2e, 0xe9), 0x7},
	{"sub $24,%rsp; mov", BYTES(0x48, 0x83, 0xec, 0x18, 0x48, 0x89, 0x3c, 0x24), BYTES(0x2e, 0xe9), 0x4},
	{"mov 16(%rip),%rax", BYTES(0x48, 0x8b, 0x05, 0x10, 0, 0, 0), BYTES(0xe9), 0x0},
	{"cltd; mov; mov", BYTES(0x99, 0x48, 0x89, 0xe5, 0x48, 0x89, 0xfb, 0x89, 0xf8, 0x89, 0xf8, 0x89, 0xf8), NULL, 0,
	 0},
	{"push 8(%rsp); mov", BYTES(0xff, 0x74, 0x24, 0x08, 0x53, 0x50, 0x51, 0x52, 0x55, 0x53), NULL, 0, 0},
};

static void test_forms(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(low) / sizeof(low[0]); i++) {
		const struct jump_form *found = NULL;
		uint8_t code[SITE_MAX_CODE] = {0};
		struct decoded d;

		memcpy(code, low[i].code, low[i].size);
		for (size_t k = 0; k < JUMP_FORMS && !found; k++) {
			const struct jump_form *f = &jump_forms[k];

			if (!decode_site(code, low[i].size, jump_form__size(f), &d) && jump_form__suits(f, code, &d) &&
			    !(jump_form__int3s(f, &d) & 0x8))
				found = f;
		}
		if (!found != !low[i].jump)
			fail_msg("%s: %s", low[i].what, found ? "a form that does not suit" : "no form");
		if (!found)
			continue;
		assert_int_equal(found->n_lead + 1, low[i].n_jump);
		assert_memory_equal(found->lead, low[i].jump, found->n_lead);
		if (jump_form__int3s(found, &d) != low[i].int3s)
			fail_msg("%s: int3s 0x%x", low[i].what, jump_form__int3s(found, &d));
		/* Only a push makes a step, and none of the function's instructions begins there. */
		assert_true(!found->step || !(d.boundary_mask & (1u << found->step)));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sites),  cmocka_unit_test(test_branches), cmocka_unit_test(test_relocation),
		cmocka_unit_test(test_places), cmocka_unit_test(test_forms),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests_name("agent_decode", tests, NULL, NULL);
}
