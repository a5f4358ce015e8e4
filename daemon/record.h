/* SPDX-License-Identifier: MIT */
/*
 * record.h: what of the model stands in state.json, besides what a hand-back needs, so that a later bpftimed of the
 * same build can go on with it (adopt.h); and how values are written there and read. Structures are written as their
 * bytes: whoever reads them is of the same build.
 */
#ifndef BPFTIME_RECORD_H
#define BPFTIME_RECORD_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/model.h"

struct hosts;

/* ---- values ---- */

/* What is written from here on is whole, unless memory has failed: record__is_whole(). */
void record__begin(void);
bool record__is_whole(void);
/* The value is taken over, also when it cannot be added. */
void record__add(json_object *o, const char *key, json_object *value);
void record__append(json_object *array, json_object *value);
json_object *record__number(uint64_t n);
json_object *record__bytes(const void *data, size_t size);

uint64_t record__number_in(json_object *o, const char *key);
json_object *record__in(json_object *o, const char *key);
bool record__read_bytes(json_object *text, void *out, size_t size); /* false: it is not so many bytes */
size_t record__length(json_object *array);			    /* NULL: 0 */
json_object *record__at(json_object *array, size_t i);

/* ---- of a group ---- */

struct group_record {
	uint64_t permit, arena_size;
	int64_t since_sec, since_nsec;
	uint32_t n_user_progs, n_escape_links, domain;
	bool built, shared;
	bool has_khalf, has_direct, has_mirrored, has_viewed;
	bool is_replaced, never_replaced, is_parked, is_unordered;
	bool has_domain, several_users, domain_over;
};

/* In the order of the group, as all that follow. */
struct probe_record {
	uint64_t event_id, dev, ino, offset, ref_ctr_offset, cookie;
	uint32_t link_id, kind, form, prog_id, n_holders, prog;
	int32_t fd, link_fd, target, escape, escape_taken;
	bool is_beside, has_khalf, has_escape_link;
};

struct prog_record {
	uint64_t code_size, entry, stack_size;
	uint32_t type;
	bool plain, is_multi, escape_is_multi;
};

struct map_record {
	struct shm_geo geo;
	uint64_t map_size, waste;
	uint32_t id;
	int32_t carrier;
	bool read_only, is_viewed;
};

struct link_record {
	uint64_t dev, ino;
	uint32_t replaced, prog;
	bool is_return;
};

/* ---- of a host ---- */

struct host_record {
	uint64_t sites_ino;
	uint32_t uid, n_places;
	char comm[16];
};

struct place_record {
	uint64_t ino, offset;
	uint32_t index, hit_index, counts; /* of the group, or 0 */
	int32_t escape;
	bool has_site, has_return, open, stuck, gone;
};

/* ---- of the whole ---- */

struct escape_record {
	uint64_t dev, ino, offset;
	int32_t slot;
	bool is_used;
};

/* Objects that go into those of state.c. */
void record__group(json_object *into, const struct group *g);
void record__host(json_object *into, const struct host *h);
void record__whole(json_object *into, const struct hosts *hosts);
/* Of this program: another number for another build, or empty when it has none. */
const char *record__build(void);

#endif
