// SPDX-License-Identifier: MIT
#include "btf_maps.h"
#include "insn.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <linux/btf.h>

#define MAX_TYPES   (1u << 20)
#define MAX_CHAIN   32 /* typedefs and qualifiers in a row; deeper is a cycle */
#define MAPS_NAME   ".maps"
#define KIND_ENUM64 19 /* newer than some headers */

struct btf {
	const uint8_t *types, *strings;
	uint32_t types_size, strings_size;
	uint32_t *at; /* offset of each type; at[0] is void */
	uint32_t n;
	char *err;
	size_t err_size;
};

static int broken(struct btf *b, const char *what)
{
	return vm_fail(b->err, b->err_size, -EINVAL, "the type information (.BTF) is malformed: %s", what);
}

static int open_btf(struct btf *b, const uint8_t *data, size_t size)
{
	struct btf_header h;

	if (size < sizeof(h))
		return broken(b, "it is shorter than its header");
	memcpy(&h, data, sizeof(h));
	if (h.magic != BTF_MAGIC || h.version != BTF_VERSION)
		return broken(b, "magic number or version");
	if (h.hdr_len < sizeof(h) || h.hdr_len > size)
		return broken(b, "length of its header");
	size -= h.hdr_len;
	if (h.type_off > size || h.type_len > size - h.type_off || h.str_off > size || h.str_len > size - h.str_off)
		return broken(b, "a part of it lies outside");
	b->types = data + h.hdr_len + h.type_off;
	b->types_size = h.type_len;
	b->strings = data + h.hdr_len + h.str_off;
	b->strings_size = h.str_len;
	if (!h.str_len || b->strings[h.str_len - 1])
		return broken(b, "its strings have no end");
	return 0;
}

static const char *string_at(const struct btf *b, uint32_t off)
{
	return off < b->strings_size ? (const char *)b->strings + off : "";
}

/* Bytes behind the struct btf_type. */
static int64_t extra_size(const struct btf_type *t)
{
	uint32_t n = BTF_INFO_VLEN(t->info);

	switch (BTF_INFO_KIND(t->info)) {
	case BTF_KIND_INT:
	case BTF_KIND_VAR:
	case BTF_KIND_DECL_TAG:
		return 4;
	case BTF_KIND_ARRAY:
		return sizeof(struct btf_array);
	case BTF_KIND_STRUCT:
	case BTF_KIND_UNION:
		return n * sizeof(struct btf_member);
	case BTF_KIND_ENUM:
		return n * sizeof(struct btf_enum);
	case KIND_ENUM64:
		return n * 12;
	case BTF_KIND_FUNC_PROTO:
		return n * sizeof(struct btf_param);
	case BTF_KIND_DATASEC:
		return n * sizeof(struct btf_var_secinfo);
	case BTF_KIND_PTR:
	case BTF_KIND_FWD:
	case BTF_KIND_TYPEDEF:
	case BTF_KIND_VOLATILE:
	case BTF_KIND_CONST:
	case BTF_KIND_RESTRICT:
	case BTF_KIND_FUNC:
	case BTF_KIND_FLOAT:
	case BTF_KIND_TYPE_TAG:
		return 0;
	}
	return -1;
}

static int index_types(struct btf *b)
{
	struct btf_type t;
	int64_t extra;

	b->at = malloc((b->types_size / sizeof(t) + 2) * sizeof(*b->at));
	if (!b->at)
		return vm_fail(b->err, b->err_size, -ENOMEM, "no memory for the type information");
	b->n = 1;
	for (uint32_t off = 0; off < b->types_size; b->n++) {
		if (b->types_size - off < sizeof(t) || b->n > MAX_TYPES)
			return broken(b, "a type is cut off");
		memcpy(&t, b->types + off, sizeof(t));
		extra = extra_size(&t);
		if (extra < 0)
			return broken(b, "a type of unknown kind");
		if (extra > (int64_t)(b->types_size - off - sizeof(t)))
			return broken(b, "a type is cut off");
		b->at[b->n] = off;
		off += (uint32_t)(sizeof(t) + (uint64_t)extra);
	}
	return 0;
}

/* False: there is no such type (void counts as none). */
static bool type_at(const struct btf *b, uint32_t id, struct btf_type *t)
{
	if (id == 0 || id >= b->n)
		return false;
	memcpy(t, b->types + b->at[id], sizeof(*t));
	return true;
}

/* What stands behind type id, the i'th of its kind's records. */
static void record(const struct btf *b, uint32_t id, uint32_t i, void *out, size_t size)
{
	memcpy(out, b->types + b->at[id] + sizeof(struct btf_type) + i * size, size);
}

static bool is_kind(const struct btf_type *t, uint32_t kind)
{
	return BTF_INFO_KIND(t->info) == kind;
}

/* Through typedefs and qualifiers. */
static bool strip(const struct btf *b, uint32_t *id, struct btf_type *t)
{
	for (unsigned int i = 0; i < MAX_CHAIN && type_at(b, *id, t); i++) {
		switch (BTF_INFO_KIND(t->info)) {
		case BTF_KIND_TYPEDEF:
		case BTF_KIND_VOLATILE:
		case BTF_KIND_CONST:
		case BTF_KIND_RESTRICT:
		case BTF_KIND_TYPE_TAG:
			*id = t->type;
			continue;
		}
		return true;
	}
	return false;
}

/* sizeof() of a type; false when it has none, or more than 32 bits of it. */
static bool size_of(const struct btf *b, uint32_t id, uint32_t *size)
{
	uint64_t total = 1;
	struct btf_array a;
	struct btf_type t;

	for (unsigned int i = 0; i < MAX_CHAIN && strip(b, &id, &t); i++) {
		if (!is_kind(&t, BTF_KIND_ARRAY)) {
			total *= is_kind(&t, BTF_KIND_PTR) ? 8 : t.size;
			*size = (uint32_t)total;
			return total <= UINT32_MAX && !is_kind(&t, BTF_KIND_FUNC_PROTO) && !is_kind(&t, BTF_KIND_FWD);
		}
		record(b, id, 0, &a, sizeof(a));
		total *= a.nelems;
		if (total > UINT32_MAX)
			return false;
		id = a.type;
	}
	return false;
}

/* __uint(name, n): a pointer to an array of n. __type(name, t): a pointer to t. */
static int read_member(struct btf *b, const struct btf_member *m, struct btf_map *out)
{
	const char *name = string_at(b, m->name_off);
	const struct {
		const char *name;
		uint32_t *to;
		bool is_type;
	} known[] = {
		{"type", &out->type, false},
		{"key_size", &out->key_size, false},
		{"value_size", &out->value_size, false},
		{"max_entries", &out->max_entries, false},
		{"map_flags", &out->flags, false},
		{"key", &out->key_size, true},
		{"value", &out->value_size, true},
	};
	uint32_t id = m->type;
	struct btf_array a;
	struct btf_type t;

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		if (strcmp(name, known[i].name))
			continue;
		if (!strip(b, &id, &t) || !is_kind(&t, BTF_KIND_PTR))
			return broken(b, "a map's attribute is not a pointer");
		id = t.type;
		if (known[i].is_type) {
			if (!size_of(b, id, known[i].to))
				return broken(b, "a map's key or value has no size");
			return 0;
		}
		if (!strip(b, &id, &t) || !is_kind(&t, BTF_KIND_ARRAY))
			return broken(b, "a map's attribute is not a pointer to an array");
		record(b, id, 0, &a, sizeof(a));
		*known[i].to = a.nelems;
	}
	return 0; /* others (pinning, inner maps ...) mean something to the kernel only */
}

static int read_map(struct btf *b, uint32_t id, struct btf_map *out)
{
	struct btf_member m;
	struct btf_type t;
	int r = 0;

	if (!strip(b, &id, &t) || !is_kind(&t, BTF_KIND_STRUCT))
		return broken(b, "a map is not a struct");
	for (uint32_t i = 0; !r && i < BTF_INFO_VLEN(t.info); i++) {
		record(b, id, i, &m, sizeof(m));
		r = read_member(b, &m, out);
	}
	return r;
}

static int find_map(struct btf *b, const char *name, struct btf_map *out)
{
	struct btf_var_secinfo v;
	struct btf_type sec, var;

	for (uint32_t id = 1; id < b->n; id++) {
		if (!type_at(b, id, &sec) || !is_kind(&sec, BTF_KIND_DATASEC) ||
		    strcmp(string_at(b, sec.name_off), MAPS_NAME))
			continue;
		for (uint32_t i = 0; i < BTF_INFO_VLEN(sec.info); i++) {
			record(b, id, i, &v, sizeof(v));
			if (!type_at(b, v.type, &var) || !is_kind(&var, BTF_KIND_VAR))
				return broken(b, "a section holds what is no variable");
			if (strcmp(string_at(b, var.name_off), name))
				continue;
			out->name = string_at(b, var.name_off);
			return read_map(b, var.type, out);
		}
	}
	return -ENOENT;
}

int btf_maps__find(const void *data, size_t size, const char *name, struct btf_map *out, char *err, size_t err_size)
{
	struct btf b = {.err = err, .err_size = err_size};
	int r = open_btf(&b, data, size);

	memset(out, 0, sizeof(*out));
	if (!r)
		r = index_types(&b);
	if (!r)
		r = find_map(&b, name, out);
	free(b.at);
	return r;
}
