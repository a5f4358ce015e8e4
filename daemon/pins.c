/* SPDX-License-Identifier: MIT */
#include "daemon/pins.h"

#include <bpf/bpf.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

static char dir[PATH_MAX];
static bool keeps; /* see pins__keep() */

static bool is_bpffs(const char *path)
{
	struct statfs fs;

	return !statfs(path, &fs) && fs.f_type == BPF_FS_MAGIC;
}

/* The guard of a daemon that was killed holds this lock until it has done its work. */
static void wait_for_guard(const char *runtime_dir)
{
	int fd = open(runtime_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return;
	while (flock(fd, LOCK_EX) && errno == EINTR)
		;
	close(fd);
}

/* What is mounted here is seen by others, too, and is still there when this process has ended. */
static bool mounts_stay(void)
{
	struct stat ours, first;

	return stat("/proc/self/ns/mnt", &ours) || stat("/proc/1/ns/mnt", &first) ||
	       (ours.st_dev == first.st_dev && ours.st_ino == first.st_ino);
}

int pins__open(const char *runtime_dir, char *err, size_t err_size)
{
	int ret;

	wait_for_guard(runtime_dir);
	snprintf(dir, sizeof(dir), "%s/bpf", runtime_dir);
	if (mkdir(dir, 0700) && errno != EEXIST)
		goto err_dir;
	/* Targets need what is pinned when we have been killed. */
	if (!is_bpffs(dir) && !mounts_stay()) {
		snprintf(err, err_size,
			 "this process has a mount namespace of its own, and a BPF file system that it mounts would "
			 "end with "
			 "it: mount one at %s where process 1 sees it",
			 dir);
		dir[0] = 0;
		return -EXDEV;
	}
	if (!is_bpffs(dir) && mount("bpftimed", dir, "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700")) {
		ret = -errno;
		rmdir(dir);
		errno = -ret;
		goto err_dir;
	}
	return 0;
err_dir:
	ret = -errno;
	snprintf(err, err_size, "no BPF file system can be mounted at %s: %s", dir, strerror(-ret));
	dir[0] = 0;
	return ret;
}

void pins__close(bool (*stays)(const char *name))
{
	if (!dir[0])
		return;
	if (!pins__clear(stays)) {
		umount2(dir, MNT_DETACH);
		rmdir(dir);
	}
	dir[0] = 0;
}

const char *pins__dir(void)
{
	return dir[0] ? dir : NULL;
}

static void path_of(char *path, const char *name, va_list ap)
{
	int n = snprintf(path, PATH_MAX, "%s/", dir);

	vsnprintf(path + n, PATH_MAX - (size_t)n, name, ap);
}

int pins__add(int fd, const char *name, ...)
{
	char path[PATH_MAX];
	va_list ap;

	if (!dir[0])
		return 0;
	va_start(ap, name);
	path_of(path, name, ap);
	va_end(ap);
	unlink(path);
	return bpf_obj_pin(fd, path) ? -errno : 0;
}

void pins__drop(const char *name, ...)
{
	char path[PATH_MAX];
	va_list ap;

	if (!dir[0] || keeps)
		return;
	va_start(ap, name);
	path_of(path, name, ap);
	va_end(ap);
	unlink(path);
}

void pins__keep(bool on)
{
	keeps = on;
}

int pins__get(const char *name, ...)
{
	char path[PATH_MAX];
	va_list ap;
	int fd;

	if (!dir[0])
		return -ENOENT;
	va_start(ap, name);
	path_of(path, name, ap);
	va_end(ap);
	fd = bpf_obj_get(path);
	return fd < 0 ? -errno : fd;
}

void pins__each(void (*cb)(const char *name, void *arg), void *arg)
{
	DIR *d = dir[0] ? opendir(dir) : NULL;
	struct dirent *e;

	if (!d)
		return;
	while ((e = readdir(d)))
		if (e->d_name[0] != '.')
			cb(e->d_name, arg);
	closedir(d);
}

struct clearing {
	bool (*stays)(const char *name);
	size_t n;
};

static void drop_one(const char *name, void *arg)
{
	struct clearing *c = arg;

	if (c->stays && c->stays(name))
		c->n++;
	else
		pins__drop("%s", name);
}

size_t pins__clear(bool (*stays)(const char *name))
{
	struct clearing c = {stays, 0};

	pins__each(drop_one, &c);
	return c.n;
}
