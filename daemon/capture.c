/* SPDX-License-Identifier: MIT */
/* capture.c: see capture.h. */
#include "capture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <bpf/bpf.h>

#include "bytecode.h"

enum {
	MAX_LOADS = 256,	    /* loads between entry and exit; a killed thread leaves one behind */
	MAX_KEPT_BYTES = 256 << 20, /* bytecode of all programs */
	BUCKETS = 1024,		    /* by id */
	PRUNE_EVERY =
		64, /* new programs, and as many as there are, between two looks at which have gone, if nobody scans */
};

static const char *const refusals[OBS_REFUSAL_MAX] = {
	[OBS_REFUSAL_TOO_LARGE] = "it has more than 1,000,000 instructions",
	[OBS_REFUSAL_UNREADABLE] = "its instructions were in memory that was not resident when it was loaded",
	[OBS_REFUSAL_NO_ROOM] = "the buffer to the daemon was full when it was loaded",
	[OBS_REFUSAL_MAP] = "it names a map by a descriptor that could not be resolved when it was loaded",
	[OBS_REFUSAL_MAP_INDEX] = "it names its maps by index in an array of descriptors",
	[OBS_REFUSAL_GONE] = "pieces of it are missing",
};

/* A load whose pieces are arriving: [0, have) of insns is there. */
struct load {
	uint64_t number;
	struct bpf_insn *insns;
	size_t have, cap;
	bool broken; /* a piece is missing */
};

struct kept {
	struct obs_prog p;
	struct kept *next; /* in the same bucket */
	char *license, *why;
	bool may_recover; /* not captured, and recovery not tried yet */
};

struct captures {
	struct load loads[MAX_LOADS]; /* number ascending, n_loads used */
	size_t n_loads;
	struct kept *bucket[BUCKETS];
	size_t n_kept, kept_bytes;
	unsigned int unpruned;
};

struct captures *captures__new(void)
{
	return calloc(1, sizeof(struct captures));
}

static void kept__free(struct captures *c, struct kept *k)
{
	c->n_kept--;
	c->kept_bytes -= k->p.n_insns * sizeof(struct bpf_insn);
	free(k->p.insns);
	free(k->license);
	free(k->why);
	free(k);
}

void captures__free(struct captures *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < c->n_loads; i++)
		free(c->loads[i].insns);
	for (size_t i = 0; i < BUCKETS; i++) {
		for (struct kept *k = c->bucket[i], *next; k; k = next) {
			next = k->next;
			kept__free(c, k);
		}
	}
	free(c);
}

/* ---- loads under way ---- */

static struct load *find_load(struct captures *c, uint64_t number)
{
	for (size_t i = 0; i < c->n_loads; i++)
		if (c->loads[i].number == number)
			return &c->loads[i];
	return NULL;
}

static void drop_load(struct captures *c, struct load *l)
{
	free(l->insns);
	c->n_loads--;
	memmove(l, l + 1, (size_t)(&c->loads[c->n_loads] - l) * sizeof(*l));
}

static struct load *new_load(struct captures *c, uint64_t number)
{
	struct load *l;

	if (c->n_loads == MAX_LOADS)
		drop_load(c, &c->loads[0]); /* the oldest: if it is still alive it ends as "pieces missing" */
	l = &c->loads[c->n_loads++];
	*l = (struct load){.number = number};
	return l;
}

void captures__code(struct captures *c, const struct obs_rec_code *rec, size_t size)
{
	struct load *l = find_load(c, rec->head.arg);
	struct bpf_insn *grown;
	size_t want;

	if (!l)
		l = new_load(c, rec->head.arg);
	if (rec->first != l->have || rec->n > OBS_CHUNK_INSNS ||
	    size < offsetof(struct obs_rec_code, insns) + rec->n * sizeof(rec->insns[0])) {
		l->broken = true;
		return;
	}
	want = l->have + rec->n;
	if (want > l->cap) {
		l->cap = want > 2 * l->cap ? want : 2 * l->cap;
		grown = realloc(l->insns, l->cap * sizeof(*grown));
		if (!grown) {
			l->broken = true;
			return;
		}
		l->insns = grown;
	}
	memcpy(l->insns + l->have, rec->insns, rec->n * sizeof(rec->insns[0]));
	l->have = want;
}

/* The program's info by id. 0 or -errno. */
static int prog_info(uint32_t id, struct bpf_prog_info *info)
{
	uint32_t size = sizeof(*info);
	int fd = bpf_prog_get_fd_by_id(id), err;

	if (fd < 0)
		return -errno;
	memset(info, 0, sizeof(*info));
	err = bpf_obj_get_info_by_fd(fd, info, &size) ? -errno : 0;
	close(fd);
	return err;
}

void captures__loaded(struct captures *c, const struct obs_rec_loaded *rec)
{
	struct load *l = find_load(c, rec->head.arg);
	const char *problem = rec->refusal < OBS_REFUSAL_MAX ? refusals[rec->refusal] : refusals[OBS_REFUSAL_GONE];
	struct bpf_insn *insns = NULL;
	struct bpf_prog_info info;
	struct obs_prog *p;
	char why[256];

	if (!rec->prog_id || prog_info(rec->prog_id, &info))
		goto out;
	if (!problem && rec->n_insns && (!l || l->broken || l->have != rec->n_insns))
		problem = refusals[OBS_REFUSAL_GONE];
	if (!problem && !bytecode__has_tag(l->insns, l->have, rec->tag))
		problem = "what was captured does not have the tag of what the kernel verified";
	if (!problem && c->kept_bytes + rec->n_insns * sizeof(*insns) > MAX_KEPT_BYTES)
		problem = "the daemon keeps too much bytecode already";
	if (!problem) {
		insns = l->insns;
		l->insns = NULL;
	} else {
		snprintf(why, sizeof(why), "its bytecode was not captured: %s", problem);
	}
	p = captures__keep(c, &info, insns, insns ? rec->n_insns : 0, rec->license, insns ? NULL : why);
	if (p) {
		p->expected_attach_type = rec->expected_attach_type;
		p->sleepable = rec->prog_flags & BPF_F_SLEEPABLE;
		((struct kept *)p)->may_recover = !insns;
	}
out:
	if (l)
		drop_load(c, l);
}

/* ---- programs ---- */

const struct obs_prog *captures__find(struct captures *c, uint32_t prog_id)
{
	for (struct kept *k = c->bucket[prog_id % BUCKETS]; k; k = k->next)
		if (k->p.id == prog_id)
			return &k->p;
	return NULL;
}

static void list_maps(struct obs_prog *p)
{
	size_t m;

	for (size_t i = 0; i < p->n_insns; i++) {
		if (!insn__names_map(&p->insns[i]))
			continue;
		for (m = 0; m < p->n_maps && p->map_ids[m] != (uint32_t)p->insns[i].imm; m++)
			;
		if (m == p->n_maps && m < sizeof(p->map_ids) / sizeof(p->map_ids[0]))
			p->map_ids[p->n_maps++] = p->insns[i].imm;
	}
}

struct obs_prog *captures__keep(struct captures *c, const struct bpf_prog_info *info, struct bpf_insn *insns,
				size_t n_insns, const char *license, const char *why)
{
	struct kept **bucket = &c->bucket[info->id % BUCKETS], **end, *k = calloc(1, sizeof(*k));

	if (++c->unpruned >= PRUNE_EVERY + c->n_kept)
		captures__prune(c);
	if (!k)
		goto err_insns;
	k->license = strdup(license);
	k->why = why ? strdup(why) : NULL;
	if (!k->license || (why && !k->why))
		goto err_kept;
	k->p.id = info->id;
	k->p.type = info->type;
	k->p.attach_btf_obj_id = info->attach_btf_obj_id;
	k->p.attach_btf_id = info->attach_btf_id;
	memcpy(k->p.tag, info->tag, sizeof(k->p.tag));
	memcpy(k->p.name, info->name, sizeof(k->p.name) - 1);
	k->p.insns = insns;
	k->p.n_insns = n_insns;
	k->p.why_unknown = k->why;
	k->p.license = k->license;
	list_maps(&k->p);
	c->kept_bytes += n_insns * sizeof(*insns);
	for (end = bucket; *end; end = &(*end)->next)
		;
	*end = k;
	c->n_kept++;
	return &k->p;

err_kept:
	free(k->license);
	free(k->why);
	free(k);
err_insns:
	free(insns);
	return NULL;
}

bool captures__may_recover(struct captures *c, const struct obs_prog *p)
{
	return ((const struct kept *)p)->may_recover;
}

const struct obs_prog *captures__recovered(struct captures *c, const struct obs_prog *p, struct bpf_insn *insns,
					   size_t n_insns, const char *why)
{
	struct kept *k = (struct kept *)p;
	char *longer;

	k->may_recover = false;
	if (insns) {
		k->p.insns = insns;
		k->p.n_insns = n_insns;
		k->p.why_unknown = NULL;
		c->kept_bytes += n_insns * sizeof(*insns);
		list_maps(&k->p);
	} else if (asprintf(&longer, "%s, and cannot be recovered (%s)", k->why, why) > 0) {
		free(k->why);
		k->p.why_unknown = k->why = longer;
	}
	return p;
}

void captures__prune(struct captures *c)
{
	for (size_t i = 0; i < BUCKETS; i++) {
		struct kept **link = &c->bucket[i], *k;

		while ((k = *link)) {
			int fd = bpf_prog_get_fd_by_id(k->p.id);

			if (fd >= 0)
				close(fd);
			if (fd >= 0 || errno != ENOENT) {
				link = &k->next;
				continue;
			}
			*link = k->next;
			kept__free(c, k);
		}
	}
	c->unpruned = 0;
}
