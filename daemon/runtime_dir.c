/* SPDX-License-Identifier: MIT */
#include "runtime_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "agent/clock.h"
#include "daemon/procfs.h"

#define LOCK_NAME "lock"

#define HOLDER_US 300000   /* what a holder is waited for: it may be ending, */
#define ENDING_US 10000000 /* and what one that certainly is, or of which a tracer is left */

struct runtime_dir {
	char *path, *lock_path;
	int lock_fd;
	bool made;
};

static int make_dir(struct runtime_dir *d, char *err, size_t err_size)
{
	struct stat st;
	int r;

	if (mkdir(d->path, 0755) == 0) {
		d->made = true;
	} else if (errno != EEXIST) {
		r = -errno;
		snprintf(err, err_size, "the runtime folder %s cannot be made: %s", d->path, strerror(-r));
		return r;
	}
	if (stat(d->path, &st) || !S_ISDIR(st.st_mode)) {
		snprintf(err, err_size, "%s is not a folder", d->path);
		return -ENOTDIR;
	}
	if (st.st_uid != geteuid() || (st.st_mode & (S_IWGRP | S_IWOTH))) {
		snprintf(err, err_size,
			 "others than root could put files into the runtime folder %s: make it belong to root, mode "
			 "0755",
			 d->path);
		return -EPERM;
	}
	return 0;
}

/* Who holds the lock, by the pid that the holder wrote into it; or 0. */
static pid_t holder(const struct runtime_dir *d)
{
	char text[16] = "";
	ssize_t n = pread(d->lock_fd, text, sizeof(text) - 1, 0);

	text[n > 0 ? n : 0] = 0;
	return atoi(text);
}

static int busy(const struct runtime_dir *d, char *err, size_t err_size)
{
	pid_t pid = holder(d);
	char who[48] = "";

	if (pid > 0)
		snprintf(who, sizeof(who), " (process %d)", pid);
	snprintf(err, err_size, "another bpftimed%s is running with the runtime folder %s", who, d->path);
	return -EBUSY;
}

/* A process that has been killed has no executable any more some time before it has closed what it has open. */
static bool is_ending(pid_t pid)
{
	char exe[8];

	procfs_exe(pid, exe, sizeof(exe));
	return !exe[0];
}

/*
 * The holder removes the file when it leaves. Whoever had opened that file before then gets a lock on a file without a
 * name, which keeps nobody out; so look whether the name still means this file, else try again.
 */
static int take_lock(struct runtime_dir *d, char *err, size_t err_size)
{
	const struct timespec step = {.tv_nsec = 20000000};
	int64_t begin = clock_us(), waited;
	struct stat mine, named;
	int r;

	for (;; nanosleep(&step, NULL)) {
		d->lock_fd = open(d->lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (d->lock_fd < 0) {
			r = -errno;
			snprintf(err, err_size, "%s cannot be opened: %s", d->lock_path, strerror(-r));
			return r;
		}
		if (flock(d->lock_fd, LOCK_EX | LOCK_NB)) {
			waited = clock_us() - begin;
			r = waited < HOLDER_US || (waited < ENDING_US && is_ending(holder(d))) ? 0
											       : busy(d, err, err_size);
			close(d->lock_fd);
			d->lock_fd = -1;
			if (r)
				return r;
			continue;
		}
		if (fstat(d->lock_fd, &mine) == 0 && stat(d->lock_path, &named) == 0 && mine.st_dev == named.st_dev &&
		    mine.st_ino == named.st_ino)
			return 0;
		close(d->lock_fd);
	}
}

int runtime_dir__enter(struct runtime_dir **out, const char *path, char *err, size_t err_size)
{
	struct runtime_dir *d = calloc(1, sizeof(*d));
	int r = -ENOMEM;

	*out = NULL;
	if (!d)
		return r;
	d->lock_fd = -1;
	d->path = strdup(path);
	if (!d->path || asprintf(&d->lock_path, "%s/" LOCK_NAME, path) < 0) {
		snprintf(err, err_size, "no memory");
		d->lock_path = NULL;
		goto err_dir;
	}
	r = make_dir(d, err, err_size);
	if (r < 0)
		goto err_dir;
	r = take_lock(d, err, err_size);
	if (r < 0)
		goto err_dir;
	if (ftruncate(d->lock_fd, 0) || dprintf(d->lock_fd, "%d\n", getpid()) < 0) {
		r = -errno;
		snprintf(err, err_size, "%s cannot be written: %s", d->lock_path, strerror(-r));
		goto err_dir;
	}
	*out = d;
	return 0;
err_dir:
	runtime_dir__leave(d);
	return r;
}

void runtime_dir__leave(struct runtime_dir *d)
{
	if (!d)
		return;
	if (d->lock_fd >= 0 && d->lock_path) {
		unlink(d->lock_path);
		close(d->lock_fd);
	}
	if (d->made)
		rmdir(d->path);
	free(d->lock_path);
	free(d->path);
	free(d);
}
