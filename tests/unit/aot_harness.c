// SPDX-License-Identifier: MIT
/*
 * aot_harness.c: the part of test_vm_aot that runs on the machine the code was made for: every form, as compiled,
 * against the interpreter. Linked with the object, with its table forms_bpf; prints how many runs agreed.
 */
#include <inttypes.h>

#include "vm-llvm/bpftime-aot.h"
#include "vm-llvm/vm.h"
#include "vm_forms.h"

extern struct bpftime_aot forms_bpf;

static uint64_t sum(void *user, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5)
{
	return *(uint64_t *)user + r1 + 10 * r2 + 100 * r3 + 1000 * r4 + 10000 * r5;
}

static bpftime_aot_helper_fn *give_helper(void *arg, uint32_t id, const char *name)
{
	return id == 1 && !strcmp(name, "bpf_map_lookup_elem") ? sum : NULL;
}

static void *give_map(void *arg, const struct bpftime_aot_map *map)
{
	return !strcmp(map->name, "counts") && map->max_entries == 3 ? (void *)0x1234 : NULL;
}

/* True: they agree for all values. */
static int compare(const struct form *f, const struct bpftime_aot_prog *p, size_t *runs)
{
	struct bpf_insn prog[FORM_MAX_INSNS];
	size_t n = form_program(f, prog);
	char err[256] = "";
	uint64_t r0;

	for (size_t k = 0; k < N_VALUES * N_VALUES; k++) {
		struct form_ctx want = {.in = {form_values[k / N_VALUES], form_values[k % N_VALUES]}}, got = want;

		if (vm_interpret(prog, n, &want, NULL, &r0, err, sizeof(err)) || p->run(&got, 0) != r0 ||
		    memcmp(&want, &got, sizeof(want))) {
			fprintf(stderr,
				"%s of %#" PRIx64 ", %#" PRIx64 ": r0 %#" PRIx64 " r2 %#" PRIx64 ", not %#" PRIx64
				" %#" PRIx64 " %s\n",
				f->name, want.in[0], want.in[1], got.out[0], got.out[1], want.out[0], want.out[1], err);
			return 0;
		}
		++*runs;
	}
	return 1;
}

int main(void)
{
	uint64_t base = 7;
	const struct bpftime_aot_resolver all = {.map = give_map, .helper = give_helper, .user = &base};
	const struct bpftime_aot_resolver none = {.map = give_map};
	const struct bpftime_aot_prog *p;
	size_t runs = 0;
	char err[256], name[32];

	if (bpftime_aot_resolve(&forms_bpf, &none, err, sizeof(err)) != -ENOENT ||
	    !strstr(err, "bpf_map_lookup_elem#1"))
		return 1;
	if (bpftime_aot_resolve(&forms_bpf, &all, err, sizeof(err))) {
		fprintf(stderr, "%s\n", err);
		return 1;
	}
	for (size_t i = 0; i < N_FORMS; i++) {
		snprintf(name, sizeof(name), "form_%zu", i);
		p = bpftime_aot_find(&forms_bpf, name);
		if (!p || !compare(&forms[i], p, &runs))
			return 1;
	}
	/* A helper, a map, and data that is written: see test_vm_aot.c. */
	p = bpftime_aot_find(&forms_bpf, "outside");
	if (!p || p->run(NULL, 0) != 7 + 0x1234 + 10 * 5 + 77 || p->run(NULL, 0) != 7 + 0x1234 + 10 * 5 + 78)
		return 1;
	if (forms_bpf.n_maps != 2 || *(uint64_t *)((char *)forms_bpf.maps[1].map + 8) != 79)
		return 1;
	printf("%zu runs\n", runs);
	return 0;
}
