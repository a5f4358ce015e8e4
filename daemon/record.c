/* SPDX-License-Identifier: MIT */
#include "daemon/record.h"

#include <elf.h>
#include <link.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/adopt.h"
#include "daemon/build.h"
#include "daemon/escape.h"
#include "daemon/hosts.h"
#include "daemon/park.h"

#define BYTES_MOST 512

/* ---- values ---- */

/* One that lacks something would be worse than none: the next bpftimed would take it for the whole. */
static bool incomplete;

void record__begin(void)
{
	incomplete = false;
}

bool record__is_whole(void)
{
	return !incomplete;
}

void record__add(json_object *o, const char *key, json_object *value)
{
	if (o && value && !json_object_object_add(o, key, value))
		return;
	incomplete = true;
	json_object_put(value);
}

void record__append(json_object *array, json_object *value)
{
	if (array && value && !json_object_array_add(array, value))
		return;
	incomplete = true;
	json_object_put(value);
}

json_object *record__number(uint64_t n)
{
	return json_object_new_uint64(n);
}

json_object *record__bytes(const void *data, size_t size)
{
	static const char digits[] = "0123456789abcdef";
	char text[2 * BYTES_MOST + 1];
	size_t n = 0;

	for (size_t i = 0; i < size && n + 2 < sizeof(text); i++) {
		text[n++] = digits[((const uint8_t *)data)[i] >> 4];
		text[n++] = digits[((const uint8_t *)data)[i] & 15];
	}
	return json_object_new_string_len(text, (int)n);
}

json_object *record__in(json_object *o, const char *key)
{
	return json_object_object_get(o, key);
}

uint64_t record__number_in(json_object *o, const char *key)
{
	return json_object_get_uint64(json_object_object_get(o, key));
}

static int digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool record__read_bytes(json_object *text, void *out, size_t size)
{
	const char *s = json_object_get_string(text);

	if (!s || strlen(s) != 2 * size)
		return false;
	for (size_t i = 0; i < size; i++) {
		int high = digit(s[2 * i]), low = digit(s[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		((uint8_t *)out)[i] = (uint8_t)(high << 4 | low);
	}
	return true;
}

size_t record__length(json_object *array)
{
	return array && json_object_is_type(array, json_type_array) ? json_object_array_length(array) : 0;
}

json_object *record__at(json_object *array, size_t i)
{
	return json_object_array_get_idx(array, i);
}

/* ---- of a group ---- */

static json_object *of_probe(const struct probe *p)
{
	json_object *o = json_object_new_object();
	struct probe_record r;

	/* Padding is written, too. */
	memset(&r, 0, sizeof(r));
	r.event_id = p->o.event_id;
	r.dev = p->o.dev;
	r.ino = p->o.ino;
	r.offset = p->o.offset;
	r.ref_ctr_offset = p->o.ref_ctr_offset;
	r.cookie = p->o.cookie;
	r.link_id = p->o.link_id;
	r.kind = p->o.kind;
	r.form = p->o.form;
	r.prog_id = p->o.prog_id;
	r.n_holders = p->o.n_holders;
	r.prog = p->prog;
	r.fd = p->o.fd;
	r.link_fd = p->o.link_fd;
	r.target = p->o.target;
	r.escape = p->escape;
	r.escape_taken = p->escape_taken;
	r.is_beside = p->is_beside;
	r.has_khalf = p->khalf_link_fd >= 0;
	r.has_escape_link = p->escape_link_fd >= 0;
	record__add(o, "of", record__bytes(&r, sizeof(r)));
	record__add(o, "path", json_object_new_string(p->o.path));
	if (p->parked)
		record__add(o, "parked", parked__json(p->parked));
	return o;
}

static json_object *of_prog(const struct gprog *p)
{
	struct prog_record r;

	memset(&r, 0, sizeof(r));
	r.code_size = p->code.size;
	r.entry = p->code.entry;
	r.stack_size = p->code.stack_size;
	r.type = p->type;
	r.plain = p->plain;
	r.is_multi = p->is_multi;
	r.escape_is_multi = p->escape_is_multi;
	return record__bytes(&r, sizeof(r));
}

static json_object *of_map(const struct gmap *m)
{
	struct map_record r;

	memset(&r, 0, sizeof(r));
	r.geo = m->geo;
	r.map_size = m->map_size;
	r.waste = m->waste;
	r.id = m->m.id;
	r.carrier = m->carrier;
	r.read_only = m->read_only;
	r.is_viewed = m->is_viewed;
	return record__bytes(&r, sizeof(r));
}

static json_object *of_link(const struct khalf_link *l)
{
	struct link_record r;

	memset(&r, 0, sizeof(r));
	r.dev = l->dev;
	r.ino = l->ino;
	r.replaced = l->replaced;
	r.prog = l->prog;
	r.is_return = l->is_return;
	return record__bytes(&r, sizeof(r));
}

void record__group(json_object *into, const struct group *g)
{
	json_object *probes = json_object_new_array(), *progs = json_object_new_array(),
		    *maps = json_object_new_array(), *links = json_object_new_array();
	struct group_record r;

	memset(&r, 0, sizeof(r));
	r.permit = g->permit;
	r.arena_size = g->arena_size;
	r.since_sec = g->since.tv_sec;
	r.since_nsec = g->since.tv_nsec;
	r.n_user_progs = g->n_user_progs;
	r.n_escape_links = g->n_escape_links;
	r.domain = g->domain;
	r.built = g->built;
	r.shared = g->state == GROUP_SHARED;
	r.has_khalf = g->has_khalf;
	r.has_direct = g->has_direct;
	r.has_mirrored = g->has_mirrored;
	r.has_viewed = g->has_viewed;
	r.is_replaced = g->is_replaced;
	r.never_replaced = g->never_replaced;
	r.is_parked = g->is_parked;
	r.is_unordered = g->is_unordered;
	r.has_domain = g->has_domain;
	r.several_users = g->several_users;
	r.domain_over = g->domain_over;
	for (unsigned int i = 0; i < g->n_probes; i++)
		record__append(probes, of_probe(g->probe[i]));
	for (unsigned int i = 0; i < g->n_progs && !g->building; i++)
		record__append(progs, of_prog(&g->prog[i]));
	for (unsigned int i = 0; i < g->n_maps; i++)
		record__append(maps, of_map(&g->map[i]));
	for (unsigned int i = 0; i < g->n_links; i++)
		record__append(links, of_link(&g->link[i]));
	record__add(into, "of", record__bytes(&r, sizeof(r)));
	record__add(into, "probes", probes);
	record__add(into, "programs", progs);
	record__add(into, "all_maps", maps);
	record__add(into, "links", links);
}

/* ---- of a host ---- */

static json_object *of_place(const struct host *h, const struct place *pl)
{
	json_object *o = json_object_new_object();
	struct place_record r;

	memset(&r, 0, sizeof(r));
	r.ino = pl->ino;
	r.offset = pl->offset;
	r.index = (uint32_t)(pl - h->place);
	r.hit_index = pl->hit_index;
	r.counts = pl->counts ? pl->counts->id : 0;
	r.escape = pl->escape;
	r.has_site = pl->site != NULL;
	r.has_return = pl->has_return;
	r.open = pl->open;
	r.stuck = pl->stuck;
	r.gone = pl->gone;
	record__add(o, "of", record__bytes(&r, sizeof(r)));
	if (pl->why[0])
		record__add(o, "why", json_object_new_string(pl->why));
	return o;
}

void record__host(json_object *into, const struct host *h)
{
	json_object *places = json_object_new_array();
	struct host_record r;
	struct stat st = {0};

	memset(&r, 0, sizeof(r));
	if (h->sites_fd >= 0)
		(void)fstat(h->sites_fd, &st);
	r.sites_ino = st.st_ino;
	r.uid = h->uid;
	r.n_places = h->n_places;
	memcpy(r.comm, h->comm, sizeof(r.comm));
	for_each_used_place(pl, h) record__append(places, of_place(h, pl));
	record__add(into, "of", record__bytes(&r, sizeof(r)));
	record__add(into, "all_places", places);
}

/* ---- of the whole ---- */

void record__whole(json_object *into, const struct hosts *hosts)
{
	json_object *escapes = json_object_new_array();
	struct escape_record r;

	memset(&r, 0, sizeof(r));
	for (int i = -1; (i = escapes__next(hosts->escapes, i, &r)) >= 0;)
		record__append(escapes, record__bytes(&r, sizeof(r)));
	record__add(into, "escapes", escapes);
	record__add(into, "image", record__number(agent_image__ino(hosts->image)));
	record__add(into, "build", json_object_new_string(record__build()));
}

#define BUILD_ID_MOST 32

static int find_build_id(struct dl_phdr_info *info, size_t size, void *arg)
{
	char *text = arg;

	(void)size;
	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
		const char *at = (const char *)(info->dlpi_addr + ph->p_vaddr), *end = at + ph->p_memsz;

		while (ph->p_type == PT_NOTE && at + sizeof(ElfW(Nhdr)) <= end) {
			const ElfW(Nhdr) *n = (const void *)at;
			const uint8_t *id = (const uint8_t *)(n + 1) + ((n->n_namesz + 3) & ~3u);

			at = (const char *)id + ((n->n_descsz + 3) & ~3u);
			if (n->n_type != NT_GNU_BUILD_ID || n->n_descsz > BUILD_ID_MOST)
				continue;
			for (uint32_t k = 0; k < n->n_descsz; k++)
				sprintf(text + 2 * k, "%02x", id[k]);
			return 1;
		}
	}
	return 1; /* the program itself is the first */
}

const char *record__build(void)
{
	static char text[2 * BUILD_ID_MOST + 1];

	if (!text[0])
		dl_iterate_phdr(find_build_id, text);
	return text;
}
