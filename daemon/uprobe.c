/* SPDX-License-Identifier: MIT */
#include "daemon/uprobe.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <limits.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int pmu_type(void)
{
	FILE *f = fopen("/sys/bus/event_source/devices/uprobe/type", "re");
	int type = -ENOENT;

	if (!f)
		return -errno;
	if (fscanf(f, "%d", &type) != 1)
		type = -EINVAL;
	fclose(f);
	return type;
}

/* The file may be in another mount namespace, or have another file mounted or renamed over it: the inode decides. */
static int find_file(const struct uprobe_opts *opts, char *path, size_t size)
{
	struct stat st;

	for (int i = 0; i < 2; i++) {
		if (i == 0)
			snprintf(path, size, "/proc/%d/root%s", opts->root_pid, opts->path);
		else
			snprintf(path, size, "%s", opts->path);
		if (!stat(path, &st) && (!opts->ino || st.st_ino == opts->ino))
			return 0;
	}
	return -ENOENT;
}

int uprobe__attach(const struct uprobe_opts *opts, int *event_fd, int *link_fd)
{
	LIBBPF_OPTS(bpf_link_create_opts, link_opts, .perf_event.bpf_cookie = opts->cookie);
	char path[PATH_MAX + 32];
	struct perf_event_attr attr = {.size = sizeof(attr), .config = opts->is_return};
	int type = pmu_type();
	int err;

	if (type < 0)
		return type;
	err = find_file(opts, path, sizeof(path));
	if (err)
		return err;
	attr.type = (uint32_t)type;
	attr.uprobe_path = (uintptr_t)path;
	attr.probe_offset = opts->offset;
	*event_fd =
		(int)syscall(SYS_perf_event_open, &attr, opts->pid, opts->pid < 0 ? 0 : -1, -1, PERF_FLAG_FD_CLOEXEC);
	if (*event_fd < 0)
		return -errno;
	*link_fd = bpf_link_create(opts->prog_fd, *event_fd, BPF_PERF_EVENT, &link_opts);
	if (*link_fd < 0) {
		err = -errno;
		close(*event_fd);
		*event_fd = -1;
		return err;
	}
	ioctl(*event_fd, PERF_EVENT_IOC_ENABLE, 0);
	return 0;
}

void uprobe__detach(int *event_fd, int *link_fd)
{
	if (*link_fd >= 0)
		close(*link_fd);
	if (*event_fd >= 0)
		close(*event_fd);
	*link_fd = *event_fd = -1;
}
