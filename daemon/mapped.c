/* SPDX-License-Identifier: MIT */
#include "daemon/mapped.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <sys/mman.h>

void *mapped__array(int fd, size_t least, size_t *size, uint32_t *id)
{
	struct bpf_map_info info = {0};
	uint32_t len = sizeof(info);
	void *memory;

	if (bpf_obj_get_info_by_fd(fd, &info, &len))
		return NULL;
	if (info.value_size < least) {
		errno = EINVAL;
		return NULL;
	}
	memory = mmap(NULL, PAGE_ROUND(info.value_size), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		return NULL;
	/* A guard that is started later does not keep a tool's map. */
	madvise(memory, PAGE_ROUND(info.value_size), MADV_DONTFORK);
	if (size)
		*size = info.value_size;
	if (id)
		*id = info.id;
	return memory;
}

uint32_t mapped__id(int fd)
{
	struct bpf_map_info info = {0};
	uint32_t len = sizeof(info);

	return fd >= 0 && !bpf_obj_get_info_by_fd(fd, &info, &len) ? info.id : 0;
}

void mapped__end(void *memory, size_t size)
{
	if (memory)
		munmap(memory, PAGE_ROUND(size));
}
