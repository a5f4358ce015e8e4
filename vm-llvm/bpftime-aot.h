/* SPDX-License-Identifier: MIT */
/*
 * bpftime-aot.h: how a C program uses what `bpftime aot compile prog.bpf.o -o prog.o` (or prog.so) made. The object
 * defines each program of the file as a function by its name,
 *
 *     uint64_t NAME(void *ctx, uint64_t r2);      r2 is what register 2 holds at first; 0 unless the program uses it
 *
 * and one table, by default prog_bpf, which says what the programs need. Fill it with bpftime_aot_resolve() before the
 * first call. Data sections (.data, .rodata, .bss) are in the object; maps and helpers are the caller's.
 *
 * The functions are safe to call from several threads at once, as far as the helpers are. Nothing in this header needs
 * a library.
 */
#ifndef BPFTIME_AOT_H
#define BPFTIME_AOT_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define BPFTIME_AOT_VERSION 1

/* A map, or a data section, of the object file. */
struct bpftime_aot_map {
	const char *name;
	uint32_t type; /* enum bpf_map_type */
	uint32_t key_size, value_size, max_entries, flags;
	uint32_t is_data; /* a data section: map is the address of its value_size bytes */
	void *map;	  /* else what helpers get for this map: the caller's, NULL before bpftime_aot_resolve() */
};

/* A helper of the kernel, called with registers 1 to 5; the result is register 0. user: of the table. */
typedef uint64_t bpftime_aot_helper_fn(void *user, uint64_t r1, uint64_t r2, uint64_t r3, uint64_t r4, uint64_t r5);

struct bpftime_aot_helper {
	const char *name; /* "bpf_map_lookup_elem"; "" when it has none that was known */
	uint32_t id;	  /* enum bpf_func_id */
	uint32_t reserved;
	bpftime_aot_helper_fn *call;
};

struct bpftime_aot_prog {
	const char *name, *section;
	uint64_t (*run)(void *ctx, uint64_t r2);
};

/* The table. Its owner is the object; the caller writes maps[].map, helpers[].call and user, before any call. */
struct bpftime_aot {
	uint32_t version; /* BPFTIME_AOT_VERSION */
	uint32_t n_maps, n_helpers, n_progs;
	struct bpftime_aot_map *maps;
	struct bpftime_aot_helper *helpers; /* those that the programs call, no others */
	const struct bpftime_aot_prog *progs;
	void *user; /* first argument of every helper */
};

/* What gives maps and helpers. Each function returns NULL for what it does not have. */
struct bpftime_aot_resolver {
	void *(*map)(void *arg, const struct bpftime_aot_map *map);
	bpftime_aot_helper_fn *(*helper)(void *arg, uint32_t id, const char *name);
	void *arg;
	void *user; /* for the helpers */
};

/*
 * Fills the table. 0; -EPROTO: made for another version of this header; -ENOENT: a map or a helper is not there, and
 * err names it. err gets one sentence, at most err_size bytes with its end. Not to be called while a program runs.
 */
static inline int bpftime_aot_resolve(struct bpftime_aot *table, const struct bpftime_aot_resolver *resolver, char *err,
				      size_t err_size)
{
	if (table->version != BPFTIME_AOT_VERSION) {
		snprintf(err, err_size, "the object is of version %u, not %u", table->version, BPFTIME_AOT_VERSION);
		return -EPROTO;
	}
	table->user = resolver->user;
	for (uint32_t i = 0; i < table->n_maps; i++) {
		struct bpftime_aot_map *m = &table->maps[i];

		if (m->is_data)
			continue;
		m->map = resolver->map ? resolver->map(resolver->arg, m) : NULL;
		if (!m->map) {
			snprintf(err, err_size, "there is no map '%s'", m->name);
			return -ENOENT;
		}
	}
	for (uint32_t i = 0; i < table->n_helpers; i++) {
		struct bpftime_aot_helper *h = &table->helpers[i];

		h->call = resolver->helper ? resolver->helper(resolver->arg, h->id, h->name) : NULL;
		if (!h->call) {
			snprintf(err, err_size, "there is no helper %s#%u", h->name, h->id);
			return -ENOENT;
		}
	}
	return 0;
}

/* The program of this name, or NULL: for objects that are opened with dlopen(). */
static inline const struct bpftime_aot_prog *bpftime_aot_find(const struct bpftime_aot *table, const char *name)
{
	for (uint32_t i = 0; i < table->n_progs; i++)
		if (!strcmp(table->progs[i].name, name))
			return &table->progs[i];
	return NULL;
}

#endif
