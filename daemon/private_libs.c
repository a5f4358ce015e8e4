/* SPDX-License-Identifier: MIT */
#include "daemon/private_libs.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/exec_memfd.h"

#define PRELOAD	     "LD_PRELOAD"
#define MAX_LIBS     32
#define NAME_MAX_LEN 32

/* A library that is preloaded stands for one of the same name that the program needs: see ld.so(8). */
struct libs {
	int fd[MAX_LIBS]; /* in the order in which they were loaded */
	int n, err;
};

static char libc_env[64];

/* -errno or a descriptor, which stays open over exec. */
static int copy(const char *path)
{
	int from = open(path, O_RDONLY | O_CLOEXEC), to = -1, err = 0;
	struct stat st;
	off_t at = 0;

	if (from < 0)
		return -errno;
	to = exec_memfd(strrchr(path, '/') + 1, 0);
	if (to < 0 || fstat(from, &st))
		err = -errno;
	while (!err && at < st.st_size) {
		ssize_t n = sendfile(to, from, &at, (size_t)(st.st_size - at));

		if (n <= 0)
			err = n ? -errno : -EIO;
	}
	close(from);
	if (err && to >= 0)
		close(to);
	return err ? err : to;
}

/* All but the program itself, the vdso, which has no path, and the loader, which is there before any of them. */
static int add(struct dl_phdr_info *info, size_t size, void *arg)
{
	const char *name = strrchr(info->dlpi_name, '/');
	struct libs *libs = arg;
	int fd;

	if (!name || !strncmp(name, "/ld-", 4))
		return 0;
	fd = libs->n < MAX_LIBS ? copy(info->dlpi_name) : -E2BIG;
	if (fd < 0)
		libs->err = fd;
	else
		libs->fd[libs->n++] = fd;
	return fd < 0;
}

/* A debugger, too, finds the file under this name. */
static void name_of(int fd, char name[NAME_MAX_LEN])
{
	snprintf(name, NAME_MAX_LEN, "/proc/%d/fd/%d", getpid(), fd);
}

/* In the program that was executed once more. The copies stay open: their names are known. */
static void settle(const char *list)
{
	char name[NAME_MAX_LEN], what[PATH_MAX];
	ssize_t n;
	int fd;

	for (; sscanf(list, "/proc/%*d/fd/%d", &fd) == 1; list += *list == ':') {
		name_of(fd, name);
		n = readlink(name, what, sizeof(what) - 1);
		what[n > 0 ? n : 0] = 0;
		fcntl(fd, F_SETFD, FD_CLOEXEC);
		if (strstr(what, ":libc.so."))
			snprintf(libc_env, sizeof(libc_env), PRELOAD "=%s", name);
		list += strcspn(list, ":");
	}
	unsetenv(PRELOAD);
}

static int execute(char **argv, const struct libs *libs)
{
	char self[PATH_MAX], name[NAME_MAX_LEN], list[MAX_LIBS * NAME_MAX_LEN] = "";
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	size_t len = 0;

	if (n < 0)
		return -errno;
	self[n] = 0;
	for (int i = 0; i < libs->n; i++) {
		name_of(libs->fd[i], name);
		len += (size_t)snprintf(list + len, sizeof(list) - len, "%s%s", i ? ":" : "", name);
	}
	if (setenv(PRELOAD, list, 1))
		return -errno;
	execv(self, argv);
	n = -errno;
	unsetenv(PRELOAD);
	return (int)n;
}

int private_libs__enter(char **argv)
{
	const char *preload = getenv(PRELOAD);
	struct libs libs = {.n = 0};
	int pid, fd;

#ifdef __SANITIZE_ADDRESS__
	return 0; /* its runtime wants to be loaded from where it was linked */
#endif
	if (preload) {
		if (sscanf(preload, "/proc/%d/fd/%d", &pid, &fd) == 2 && pid == getpid())
			settle(preload);
		return 0;
	}
	dl_iterate_phdr(add, &libs);
	if (!libs.err)
		libs.err = execute(argv, &libs);
	for (int i = 0; i < libs.n; i++)
		close(libs.fd[i]);
	return libs.err;
}

char **private_libs__environment(void)
{
	static char *with[] = {libc_env, NULL};

	return libc_env[0] ? with : with + 1;
}
