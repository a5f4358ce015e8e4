// SPDX-License-Identifier: MIT
/*
 * discount.c: rules of a shop as eBPF programs. A rule gets an order (r1), may ask how often the customer has bought
 * (helper 1), and returns the price in cents. Rules come from the shop's own people, so they are compiled.
 *
 *	cc discount.c $(pkg-config --cflags --libs bpftime-vm)
 */
#include <bpftime-vm.h>

#include <stdio.h>

struct order {
	uint64_t customer;
	uint64_t cents;
};

#define PURCHASES 1 /* the helper's number */

static uint64_t purchases(void *user, uint64_t customer, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	const uint64_t *counts = user;

	return customer < 3 ? counts[customer] : 0;
}

/* Who has bought ten times pays nine tenths. What a compiler makes of C for eBPF looks like this. */
static const struct bpf_insn rule[] = {
	{.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = 6, .src_reg = 1},	    /* r6 = order */
	{.code = BPF_LDX | BPF_MEM | BPF_DW, .dst_reg = 1, .src_reg = 6, .off = 0}, /* r1 = r6->customer */
	{.code = BPF_JMP | BPF_CALL, .imm = PURCHASES},				    /* r0 = purchases(r1) */
	{.code = BPF_LDX | BPF_MEM | BPF_DW, .dst_reg = 1, .src_reg = 6, .off = 8}, /* r1 = r6->cents */
	{.code = BPF_JMP | BPF_JLT | BPF_K, .dst_reg = 0, .imm = 10, .off = 2},	    /* if r0 < 10 goto +2 */
	{.code = BPF_ALU64 | BPF_MUL | BPF_K, .dst_reg = 1, .imm = 9},		    /* r1 *= 9 */
	{.code = BPF_ALU64 | BPF_DIV | BPF_K, .dst_reg = 1, .imm = 10},		    /* r1 /= 10 */
	{.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = 0, .src_reg = 1},	    /* r0 = r1 */
	{.code = BPF_JMP | BPF_EXIT},
};

int main(void)
{
	static uint64_t counts[] = {0, 3, 12};
	static const struct bpftime_vm_helper helpers[] = {{PURCHASES, purchases}};
	const struct bpftime_vm_opts opts = {.sz = sizeof(opts), .helpers = helpers, .n_helpers = 1, .user = counts};
	struct bpftime_vm *vm = NULL;
	char err[256];

	if (bpftime_vm__new(&vm, rule, sizeof(rule) / sizeof(rule[0]), &opts, err, sizeof(err)) ||
	    bpftime_vm__compile(vm, NULL, err, sizeof(err))) {
		fprintf(stderr, "discount: %s\n", err);
		bpftime_vm__free(vm);
		return 1;
	}
	for (uint64_t customer = 0; customer < 3; customer++) {
		struct order order = {.customer = customer, .cents = 2000};
		uint64_t cents;

		if (!bpftime_vm__call(vm, &order, sizeof(order), &cents))
			printf("customer %llu pays %llu\n", (unsigned long long)customer, (unsigned long long)cents);
	}
	bpftime_vm__free(vm);
	return 0;
}
