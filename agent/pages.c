// SPDX-License-Identifier: MIT
/*
 * pages.c: a fork child's copies of patched pages are given up, so that it has the file's own again.
 *
 * In them are int3s of uprobes that are not for the child, and which of those at the same instruction are for it only
 * the kernel knows. It puts them where they belong when a mapping of the file is made, split or merged
 * (uprobe_mmap(), called by vma_complete() in mm/vma.c; mm/mmap.c before Linux 6.12). So a mapping is split, the pages
 * are given up, and it is merged again: advice about access does that, and means nothing else here.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "site.h"

#define PAGE 4096ul

#ifndef MADV_DONTNEED_LOCKED /* since Linux 5.18 */
#define MADV_DONTNEED_LOCKED 24
#endif

struct job {
	struct target *child;
	struct stopped *by; /* the thread that makes the calls */
	const struct site **s;
	size_t n;
	uint64_t *page; /* those that can be given up, in this mapping */
	size_t n_pages;
};

static uint64_t page_of(uint64_t addr)
{
	return addr & ~(PAGE - 1);
}

static bool is_in(const struct vma *v, const struct site *s)
{
	return s->addr >= v->start && s->addr + s->size <= v->end;
}

/* Is nothing of the page different from the file's, but for our patches? */
static bool is_the_files(const struct job *j, const struct vma *v, int file, uint64_t page)
{
	uint8_t now[PAGE], files[PAGE] = {0};

	if (target_read(j->child, page, now, PAGE) ||
	    pread(file, files, PAGE, (off_t)(v->offset + (page - v->start))) <= 0)
		return false;
	for (size_t i = 0; i < j->n; i++)
		for (size_t k = 0; k < j->s[i]->size; k++)
			if (page_of(j->s[i]->addr + k) == page)
				now[j->s[i]->addr + k - page] = files[j->s[i]->addr + k - page];
	return !memcmp(now, files, PAGE);
}

static bool has_page(const struct job *j, uint64_t page)
{
	for (size_t i = 0; i < j->n_pages; i++)
		if (j->page[i] == page)
			return true;
	return false;
}

static void find_pages(struct job *j, const struct vma *v)
{
	uint64_t last = 0;
	char path[64];
	int file;

	j->n_pages = 0;
	/* A page alone cannot be split. */
	if (v->shared || v->write || !v->ino || v->end - v->start < 2 * PAGE)
		return;
	snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", j->child->pid, v->start, v->end);
	file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		return;
	for (size_t i = 0; i < j->n; i++) {
		if (!is_in(v, j->s[i]))
			continue;
		for (uint64_t page = page_of(j->s[i]->addr); page < j->s[i]->addr + j->s[i]->size; page += PAGE) {
			if (page != last && !has_page(j, page) && is_the_files(j, v, file, page))
				j->page[j->n_pages++] = page;
			last = page;
		}
	}
	close(file);
}

static bool advise(struct job *j, uint64_t page, int advice)
{
	long result;

	return !thread_syscall(j->child, j->by, &result, SYS_madvise, (long)page, PAGE, advice, 0, 0, 0) && !result;
}

static void give_up(struct job *j, const struct vma *v)
{
	size_t n = 0;

	if (!j->n_pages || !advise(j, v->start, MADV_RANDOM))
		return;
	for (size_t i = 0; i < j->n_pages; i++)
		if (advise(j, j->page[i], MADV_DONTNEED) || advise(j, j->page[i], MADV_DONTNEED_LOCKED))
			j->page[n++] = j->page[i];
	j->n_pages = n;
	if (!advise(j, v->start, MADV_NORMAL))
		j->n_pages = 0;
}

size_t pages_give_up(struct target *child, struct stopped *by, const struct vmas *maps, const struct site **s, size_t n)
{
	struct job j = {child, by, s, n, calloc(2 * n, sizeof(*j.page)), 0};

	for (size_t m = 0; j.page && m < maps->n; m++) {
		const struct vma *v = &maps->v[m];
		bool any = false;
		size_t left = 0;

		for (size_t i = 0; i < j.n && !any; i++)
			any = is_in(v, s[i]);
		if (!any)
			continue;
		find_pages(&j, v);
		give_up(&j, v);
		for (size_t i = 0; i < j.n; i++)
			if (!is_in(v, s[i]) || !has_page(&j, page_of(s[i]->addr)) ||
			    !has_page(&j, page_of(s[i]->addr + s[i]->size - 1)))
				s[left++] = s[i];
		j.n = left;
	}
	free(j.page);
	return j.n;
}
