/* SPDX-License-Identifier: MIT */
/*
 * replace.h: a tool's program that is replaced (freplace) by its kernel half, which also holds what the tool's program
 * does: see khalf.h. The tool's attachments, links and descriptors stay what and where they are, and a hit runs one
 * program. Programs without BTF have none (bpftrace's of old), and not all kernels allow it.
 */
#ifndef BPFTIME_REPLACE_H
#define BPFTIME_REPLACE_H

#include <stdint.h>

#include "daemon/khalf.h"

/*
 * What khalf_load() needs for a program of this id. -errno: -EOPNOTSUPP when the program has no BTF. To be closed when
 * what replaces it has been attached.
 */
int replace__open(struct khalf_replaced *r, uint32_t prog_id);
void replace__close(struct khalf_replaced *r);
/*
 * From now on replacing_fd is run wherever the program of r is, for which it was loaded, or for one with the same
 * function. Returns a link, whose end brings the program back, or -errno.
 */
int replace__attach(int replacing_fd, const struct khalf_replaced *r);

#endif
