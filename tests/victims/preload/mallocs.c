// SPDX-License-Identifier: MIT
/*
 * mallocs: for LD_PRELOAD: counts the calls of malloc() of each process, by standing in front of the C library's. The C
 * library itself calls malloc() by its name nearly everywhere, so that the counts are those of a probe at its malloc().
 *
 * MALLOCS names a file of one 64-bit counter for each process number, which is mapped: the counts are there whenever
 * and however a process ends or executes another program.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MOST_PIDS (1ul << 22) /* PID_MAX_LIMIT */

static void *(*real_malloc)(size_t size);
static void *(*real_realloc)(void *old, size_t size);
static void *(*real_aligned)(size_t alignment, size_t size);
static _Atomic uint64_t *counts;
static _Atomic uint64_t before; /* calls while we look for the above: in the constructor, by one thread */

static void find_real(void)
{
	if (!real_malloc)
		real_malloc = (void *(*)(size_t))dlsym(RTLD_NEXT, "malloc");
	if (!real_realloc)
		real_realloc = (void *(*)(void *, size_t))dlsym(RTLD_NEXT, "realloc");
	if (!real_aligned)
		real_aligned = (void *(*)(size_t, size_t))dlsym(RTLD_NEXT, "aligned_alloc");
}

__attribute__((constructor)) static void find_counts(void)
{
	const char *path = getenv("MALLOCS");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *p;

	if (fd < 0)
		return;
	p = mmap(NULL, MOST_PIDS * sizeof(*counts), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (p == MAP_FAILED)
		return;
	counts = p;
	counts[syscall(SYS_getpid)] += before;
}

static void count(void)
{
	/* Not what getpid() says: after vfork() and clone() there are several processes in one memory. */
	if (counts)
		counts[syscall(SYS_getpid)]++;
	else
		before++;
}

void *malloc(size_t size)
{
	find_real();
	count();
	return real_malloc(size);
}

/* glibc's own, of what is new or needs no alignment, is by malloc(), but not by the name that stands here. */
void *realloc(void *old, size_t size)
{
	find_real();
	if (!old)
		count();
	return real_realloc(old, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
	find_real();
	if (alignment <= 2 * sizeof(void *))
		count();
	return real_aligned(alignment, size);
}

void *memalign(size_t alignment, size_t size)
{
	return aligned_alloc(alignment, size);
}

int posix_memalign(void **out, size_t alignment, size_t size)
{
	void *p;

	if (!alignment || (alignment & (alignment - 1)) || alignment % sizeof(void *))
		return EINVAL;
	p = aligned_alloc(alignment, size);
	if (!p)
		return ENOMEM;
	*out = p;
	return 0;
}
