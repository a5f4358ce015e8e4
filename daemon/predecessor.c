/* SPDX-License-Identifier: MIT */
#include "daemon/predecessor.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/exec_memfd.h"
#include "daemon/log.h"
#include "daemon/state.h"

#define COPY_NAME "bpftimed"
#define IS_COPY	  "BPFTIME_IS_PREDECESSOR" /* set for the copy: it is not to look for one in turn */

static int copy_all(int from, int to)
{
	struct stat st;
	off_t at = 0;

	if (fstat(from, &st))
		return -errno;
	while (at < st.st_size) {
		ssize_t n = sendfile(to, from, &at, (size_t)(st.st_size - at));

		if (n <= 0)
			return n ? -errno : -EIO;
	}
	return 0;
}

static void copy_path(char *path, const char *runtime_dir, const char *end)
{
	snprintf(path, PATH_MAX, "%s/" COPY_NAME "%s", runtime_dir, end);
}

int predecessor__keep(const char *runtime_dir)
{
	int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), to = -1, err = 0;
	char path[PATH_MAX], unfinished[PATH_MAX];

	copy_path(path, runtime_dir, "");
	copy_path(unfinished, runtime_dir, ".new");
	unlink(unfinished);
	if (from >= 0)
		to = open(unfinished, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (to < 0)
		err = -errno;
	if (!err)
		err = copy_all(from, to);
	if (!err && rename(unfinished, path))
		err = -errno;
	if (err)
		unlink(unfinished);
	if (to >= 0)
		close(to);
	if (from >= 0)
		close(from);
	return err;
}

void predecessor__drop(const char *runtime_dir)
{
	char path[PATH_MAX];

	copy_path(path, runtime_dir, "");
	unlink(path);
}

/* -1 when others than root could have put something into it. */
static int open_folder(const char *runtime_dir)
{
	int dir = open(runtime_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct stat st;

	if (dir < 0)
		return -1;
	if (!fstat(dir, &st) && st.st_uid == geteuid() && !(st.st_mode & (S_IWGRP | S_IWOTH)))
		return dir;
	close(dir);
	return -1;
}

static bool is_of_other(int dir)
{
	int fd = openat(dir, STATE_NAME, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	json_object *o = fd < 0 ? NULL : json_object_from_fd(fd);
	bool is_other = o && state__is_of_other(o);

	if (fd >= 0)
		close(fd);
	if (o)
		json_object_put(o);
	return is_other;
}

/* /run is often mounted so that nothing in it can be executed. */
static int executable_copy(int dir)
{
	int from = openat(dir, COPY_NAME, O_RDONLY | O_NOFOLLOW | O_CLOEXEC), to, err;

	if (from < 0)
		return -errno;
	to = exec_memfd("bpftimed-predecessor", MFD_CLOEXEC);
	err = to < 0 ? -errno : copy_all(from, to);
	close(from);
	if (err && to >= 0)
		close(to);
	return err ? err : to;
}

static int execute(int fd, const char *runtime_dir)
{
	char *const argv[] = {"bpftimed", "--recover", "--runtime-dir", (char *)runtime_dir, NULL};
	char *const envp[] = {IS_COPY "=1", NULL};
	int status = 0;
	pid_t pid = fork();

	if (!pid) {
		fexecve(fd, argv, envp);
		_exit(127);
	}
	if (pid < 0)
		return -errno;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return WIFEXITED(status) && !WEXITSTATUS(status) ? 0 : -ECHILD;
}

void predecessor__recover(const char *runtime_dir)
{
	int dir = getenv(IS_COPY) ? -1 : open_folder(runtime_dir), fd, err;

	if (dir < 0)
		return;
	if (!is_of_other(dir)) {
		close(dir);
		return;
	}
	fd = executable_copy(dir);
	close(dir);
	err = fd < 0 ? fd : execute(fd, runtime_dir);
	if (fd >= 0)
		close(fd);
	if (err)
		log_warning("the bpftimed that was killed was of another version, and cannot hand back itself: %s",
			    strerror(-err));
	else
		log_info("the bpftimed that was killed was of another version, and has handed back itself");
}
