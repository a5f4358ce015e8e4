/* SPDX-License-Identifier: MIT */
#include "daemon/sampler.h"

#include <linux/perf_event.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RING_PAGES 32 /* a power of two; a second's samples, twice */

struct ring {
	int fd; /* -1: this processor is not there */
	struct perf_event_mmap_page *page;
};

struct sampler {
	size_t page_size, n;
	struct ring ring[];
};

/* What PERF_SAMPLE_IP | PERF_SAMPLE_TID makes of a record. */
struct sample {
	struct perf_event_header header;
	uint64_t ip;
	uint32_t pid, tid;
};

static bool open_ring(struct sampler *s, struct ring *r, int cpu)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_SW_CPU_CLOCK,
		.sample_period = SAMPLE_NS,
		.sample_type = PERF_SAMPLE_IP | PERF_SAMPLE_TID,
		.exclude_kernel = 1,
		.exclude_hv = 1,
	};

	r->fd = (int)syscall(SYS_perf_event_open, &attr, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC);
	if (r->fd < 0)
		return false;
	r->page = mmap(NULL, (1 + RING_PAGES) * s->page_size, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, 0);
	if (r->page != MAP_FAILED)
		return true;
	close(r->fd);
	r->fd = -1;
	return false;
}

struct sampler *sampler__new(void)
{
	long n = sysconf(_SC_NPROCESSORS_CONF);
	struct sampler *s = calloc(1, sizeof(*s) + (size_t)n * sizeof(s->ring[0]));
	bool some = false;

	if (!s)
		return NULL;
	s->page_size = (size_t)sysconf(_SC_PAGESIZE);
	s->n = (size_t)n;
	for (size_t i = 0; i < s->n; i++)
		some |= open_ring(s, &s->ring[i], (int)i);
	if (some)
		return s;
	sampler__free(s);
	return NULL;
}

void sampler__free(struct sampler *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->n; i++) {
		if (s->ring[i].fd < 0)
			continue;
		munmap(s->ring[i].page, (1 + RING_PAGES) * s->page_size);
		close(s->ring[i].fd);
	}
	free(s);
}

/* A record may go round the ring's end. */
static void copy_out(const char *data, size_t size, uint64_t at, void *out, size_t n)
{
	size_t from = at & (size - 1), first = n < size - from ? n : size - from;

	memcpy(out, data + from, first);
	memcpy((char *)out + first, data, n - first);
}

static void read_ring(const struct sampler *s, struct ring *r, void (*cb)(pid_t pid, uint64_t address, void *arg),
		      void *arg)
{
	const char *data = (const char *)r->page + s->page_size;
	size_t size = RING_PAGES * s->page_size;
	uint64_t head = __atomic_load_n(&r->page->data_head, __ATOMIC_ACQUIRE), at = r->page->data_tail;
	struct sample one;

	while (at < head) {
		copy_out(data, size, at, &one.header, sizeof(one.header));
		if (one.header.size < sizeof(one.header))
			break;
		if (one.header.type == PERF_RECORD_SAMPLE && one.header.size >= sizeof(one)) {
			copy_out(data, size, at, &one, sizeof(one));
			cb((pid_t)one.pid, one.ip, arg);
		}
		at += one.header.size;
	}
	__atomic_store_n(&r->page->data_tail, head, __ATOMIC_RELEASE);
}

void sampler__read(struct sampler *s, void (*cb)(pid_t pid, uint64_t address, void *arg), void *arg)
{
	for (size_t i = 0; i < s->n; i++)
		if (s->ring[i].fd >= 0)
			read_ring(s, &s->ring[i], cb, arg);
}
