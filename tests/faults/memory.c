/* SPDX-License-Identifier: MIT */
/*
 * memory.so: allocations that fail. FAULT_FILE, 4 bytes, says how many succeed for one that fails, on average; 0: all
 * succeed. It may be written at any time. Preloaded.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static const volatile uint32_t *one_of;
static uint64_t state = 88172645463325252ull;

static void __attribute__((constructor)) begin(void)
{
	const char *name = getenv("FAULT_FILE");
	int fd = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
	void *p = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(*one_of), PROT_READ, MAP_SHARED, fd, 0);

	if (fd >= 0)
		close(fd);
	if (p != MAP_FAILED)
		one_of = p;
	state += (uint64_t)getpid() << 32;
}

/* G. Marsaglia, Xorshift RNGs (2003). Threads may get the same number: so what. */
static bool fails(void)
{
	uint32_t n = one_of ? *one_of : 0;

	if (!n)
		return false;
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	if (state % n)
		return false;
	errno = ENOMEM;
	return true;
}

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t size);

void *malloc(size_t size)
{
	return fails() ? NULL : __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
	return fails() ? NULL : __libc_calloc(n, size);
}

void *realloc(void *p, size_t size)
{
	return fails() ? NULL : __libc_realloc(p, size);
}
