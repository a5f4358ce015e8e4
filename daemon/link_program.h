/* SPDX-License-Identifier: MIT */
#ifndef BPFTIME_LINK_PROGRAM_H
#define BPFTIME_LINK_PROGRAM_H

#include <bpf/bpf.h>
#include <errno.h>

/* A descriptor, the caller's, of the program that this link runs; or -errno. */
static inline int link_program(int link_fd)
{
	struct bpf_link_info info = {0};
	__u32 len = sizeof(info);
	int fd;

	if (bpf_obj_get_info_by_fd(link_fd, &info, &len))
		return -errno;
	fd = bpf_prog_get_fd_by_id(info.prog_id);
	return fd < 0 ? -errno : fd;
}

#endif
