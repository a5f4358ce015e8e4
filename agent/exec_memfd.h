/* SPDX-License-Identifier: MIT */
/* exec_memfd.h: files in memory that may be executed. */
#ifndef BPFTIME_AGENT_EXEC_MEMFD_H
#define BPFTIME_AGENT_EXEC_MEMFD_H

#include <errno.h>
#include <sys/mman.h>

#ifndef MFD_EXEC /* <linux/memfd.h>, since Linux 6.3 */
#define MFD_EXEC 0x0010U
#endif

/* memfd_create(), which includers enable, whatever the host's vm.memfd_noexec says where it allows that. */
static inline int exec_memfd(const char *name, unsigned int flags)
{
	int fd = memfd_create(name, flags | MFD_EXEC);

	/* Before Linux 6.3 every one was executable. */
	return fd < 0 && errno == EINVAL ? memfd_create(name, flags) : fd;
}

#endif
