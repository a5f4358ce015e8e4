/* SPDX-License-Identifier: MIT */
/* uprobe.h: attaching a program to a uprobe by a perf event and a link, which works on every kernel since 5.15. */
#ifndef BPFTIME_UPROBE_H
#define BPFTIME_UPROBE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct uprobe_opts {
	const char *path; /* of the file, as the process root_pid sees it */
	pid_t root_pid;
	uint64_t ino; /* checked when not zero */
	uint64_t offset;
	bool is_return;
	pid_t pid; /* -1: every process */
	uint64_t cookie;
	int prog_fd;
};

/* 0 or -errno. Both descriptors belong to the caller; the kernel takes some milliseconds. */
int uprobe__attach(const struct uprobe_opts *opts, int *event_fd, int *link_fd);

/* Does this kernel have links for many uprobes, whose programs are of this expected_attach_type and may return
 * anything? */
#define UPROBE_LINK_TYPE 48 /* BPF_TRACE_UPROBE_MULTI */
bool uprobe__has_links(void);
/* One for n places in a file, of every process; opts: offset and cookie are those of the arrays. Its fd or -errno. */
int uprobe__attach_many(const struct uprobe_opts *opts, const uint64_t *offsets, const uint64_t *cookies, uint32_t n);

void uprobe__detach(int *event_fd, int *link_fd);

#endif
