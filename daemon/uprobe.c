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
#include <sys/utsname.h>
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

/* ---- many at once ---- */

#define MULTI_RETURN 1u /* BPF_F_UPROBE_MULTI_RETURN */

/* Before 6.13 what the program returns could take the breakpoint away (uprobe_multi_link_handler()). */
bool uprobe__has_links(void)
{
	struct utsname u;
	int major, minor;

	return !uname(&u) && sscanf(u.release, "%d.%d", &major, &minor) == 2 &&
	       (major > 6 || (major == 6 && minor >= 13));
}

/* struct bpf_attr of BPF_LINK_CREATE for it, newer than Debian's headers. */
struct multi_create {
	uint32_t prog, target, attach_type, flags;
	uint64_t path, offsets, ref_ctr_offsets, cookies;
	uint32_t n, multi_flags, pid, pad;
};

int uprobe__attach_many(const struct uprobe_opts *opts, const uint64_t *offsets, const uint64_t *cookies, uint32_t n)
{
	char path[PATH_MAX + 32];
	struct multi_create c = {
		.prog = (uint32_t)opts->prog_fd,
		.attach_type = UPROBE_LINK_TYPE,
		.path = (uintptr_t)path,
		.offsets = (uintptr_t)offsets,
		.cookies = (uintptr_t)cookies,
		.n = n,
		.multi_flags = opts->is_return ? MULTI_RETURN : 0,
	};
	int fd = find_file(opts, path, sizeof(path));

	if (!fd)
		fd = (int)syscall(SYS_bpf, BPF_LINK_CREATE, &c, sizeof(c));
	return fd == -1 ? -errno : fd;
}

void uprobe__detach(int *event_fd, int *link_fd)
{
	if (*link_fd >= 0)
		close(*link_fd);
	if (*event_fd >= 0)
		close(*event_fd);
	*link_fd = *event_fd = -1;
}
