// SPDX-License-Identifier: MIT
/* stub.c: the few instructions between a site and the agent. The layout is told in abi.h. */
#include <string.h>

#include "site.h"

/* Byte patterns, each with the assembly it encodes. */
static const uint8_t lea_up_128[] = {0x48, 0x8d, 0xa4, 0x24, 0x80, 0x00, 0x00, 0x00}; /* lea 128(%rsp),%rsp */
static const uint8_t lea_up_136[] = {0x48, 0x8d, 0xa4, 0x24, 0x88, 0x00, 0x00, 0x00}; /* lea 136(%rsp),%rsp */
static const uint8_t lea_down_128[] = {0x48, 0x8d, 0x64, 0x24, 0x80};		      /* lea -128(%rsp),%rsp */
static const uint8_t lea_down_120[] = {0x48, 0x8d, 0x64, 0x24, 0x88};		      /* lea -120(%rsp),%rsp */
static const uint8_t lea_down_8[] = {0x48, 0x8d, 0x64, 0x24, 0xf8};		      /* lea -8(%rsp),%rsp */
static const uint8_t call_mem[] = {0xff, 0x15};					      /* call *rel32(%rip) */
static const uint8_t jmp[] = {0xe9};						      /* jmp rel32 */
static const uint8_t jmp_mem[] = {0xff, 0x25};					      /* jmp *rel32(%rip) */
static const uint8_t call[] = {0xe8};						      /* call rel32 */
static const uint8_t ret[] = {0xc3};						      /* ret */

struct writer {
	uint8_t *entry; /* where E is in the buffer */
	int at;		/* next byte, relative to E */
};

static void put(struct writer *w, const void *bytes, size_t n)
{
	memcpy(w->entry + w->at, bytes, n);
	w->at += (int)n;
}

static void put_u64(struct writer *w, uint64_t v)
{
	put(w, &v, sizeof(v));
}

/* An instruction that ends in the distance to a place given relative to E. */
static void put_rel(struct writer *w, const uint8_t *op, size_t n, int64_t to)
{
	int32_t rel;

	put(w, op, n);
	rel = (int32_t)(to - (w->at + (int)sizeof(rel)));
	put(w, &rel, sizeof(rel));
}

size_t stub_build(const struct site *s, uint8_t *out, size_t room, enum decode_result *why)
{
	const struct target *t = s->t;
	struct writer w = {out + STUB_BEFORE, STUB_ESCAPE_SLOT};
	int resume = s->has_return ? STUB_RET_RESUME : STUB_RESUME;
	size_t size;

	if (room < (size_t)(STUB_BEFORE + resume + DECODE_MAX_CODE))
		return 0;
	memset(out, INT3, STUB_BEFORE + resume);
	put_u64(&w, s->escape ? t->image + t->image_hdr.escapes + (uint64_t)(s->escape - 1) * AGENT_ESCAPE_SIZE : 0);
	w.at = STUB_ESCAPE;
	put(&w, lea_up_128, sizeof(lea_up_128));
	put_rel(&w, jmp_mem, sizeof(jmp_mem), STUB_ESCAPE_SLOT);
	w.at = STUB_SITE_SLOT;
	put_u64(&w, t->arena + offsetof(struct agent_target, site) + (uint64_t)s->index * sizeof(struct agent_site));
	put_u64(&w, t->image + (s->has_return ? t->image_hdr.entry_ret : t->image_hdr.entry));
	put_u64(&w, t->image + t->image_hdr.ret);
	w.at = STUB_BOUNCE;
	put(&w, lea_up_128, sizeof(lea_up_128));
	put_rel(&w, jmp, sizeof(jmp), (int64_t)(s->addr - s->stub));
	w.at = STUB_PLAIN;
	put(&w, lea_up_128, sizeof(lea_up_128));
	put_rel(&w, jmp, sizeof(jmp), resume);
	w.at = 0;
	put(&w, s->step ? lea_down_120 : lea_down_128, sizeof(lea_down_128));
	put_rel(&w, call_mem, sizeof(call_mem), STUB_ENTRY_SLOT);
	if (s->has_return) {
		put(&w, lea_up_136, sizeof(lea_up_136));
		put_rel(&w, call, sizeof(call), resume);
		put(&w, lea_down_8, sizeof(lea_down_8));
		put_rel(&w, call_mem, sizeof(call_mem), STUB_RETURN_SLOT);
		put(&w, ret, sizeof(ret));
		w.at = resume;
	} else {
		put(&w, lea_up_128, sizeof(lea_up_128));
	}
	*why = decode_relocate(s->file, &s->d, s->addr, s->stub + resume, w.entry + w.at, &size);
	return *why ? 0 : STUB_BEFORE + resume + size;
}
