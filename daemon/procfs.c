/* SPDX-License-Identifier: MIT */
#include "daemon/procfs.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int read_file(pid_t pid, const char *name, char *buf, size_t size)
{
	char path[64];
	size_t n;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	f = fopen(path, "re");
	if (!f)
		return -errno;
	n = fread(buf, 1, size - 1, f);
	fclose(f);
	buf[n] = 0;
	return n ? 0 : -ESRCH;
}

struct stat_fields {
	char state;
	long threads;
	unsigned long long start;
};

/* stat(5), counted after the last ')': a comm may hold anything. */
static int read_stat(pid_t pid, struct stat_fields *f)
{
	char buf[1024], *p;

	if (read_file(pid, "stat", buf, sizeof(buf)))
		return -ESRCH;
	p = strrchr(buf, ')');
	if (!p || sscanf(p + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %ld %*d %llu",
			 &f->state, &f->threads, &f->start) != 3)
		return -ESRCH;
	return 0;
}

uint64_t procfs_start_time(pid_t pid)
{
	struct stat_fields f;

	/* A zombie with other threads is one whose first thread has ended. */
	return read_stat(pid, &f) || (f.state == 'Z' && f.threads <= 1) ? 0 : f.start;
}

long procfs_threads(pid_t pid)
{
	struct stat_fields f;

	return read_stat(pid, &f) ? 0 : f.threads;
}

void procfs_comm(pid_t pid, char *comm, size_t size)
{
	if (read_file(pid, "comm", comm, size))
		comm[0] = 0;
	comm[strcspn(comm, "\n")] = 0;
}

void procfs_exe(pid_t pid, char *exe, size_t size)
{
	char path[64];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/exe", pid);
	n = readlink(path, exe, size - 1);
	exe[n > 0 ? n : 0] = 0;
}

static int status_field(pid_t pid, const char *field, unsigned long *value)
{
	char buf[4096], *p;

	if (read_file(pid, "status", buf, sizeof(buf)))
		return -ESRCH;
	p = strstr(buf, field);
	if (!p)
		return -ENOENT;
	*value = strtoul(p + strlen(field), NULL, 10);
	return 0;
}

int procfs_uid(pid_t pid, uid_t *uid)
{
	unsigned long value;
	int err = status_field(pid, "\nUid:", &value);

	if (!err)
		*uid = (uid_t)value;
	return err;
}

int procfs_only_user(pid_t pid, uid_t *uid)
{
	unsigned int real, effective, saved, fs;
	char buf[4096], *p;

	if (read_file(pid, "status", buf, sizeof(buf)))
		return -ESRCH;
	p = strstr(buf, "\nUid:");
	if (!p || sscanf(p, "\nUid: %u %u %u %u", &real, &effective, &saved, &fs) != 4)
		return -ESRCH;
	*uid = real;
	return real == effective && real == saved && real == fs ? 0 : -EXDEV;
}

pid_t procfs_tracer(pid_t pid)
{
	unsigned long value;

	return status_field(pid, "\nTracerPid:", &value) ? 0 : (pid_t)value;
}

pid_t procfs_parent(pid_t pid)
{
	unsigned long value;

	return status_field(pid, "\nPPid:", &value) ? 0 : (pid_t)value;
}

pid_t procfs_innermost_pid(pid_t pid)
{
	char buf[4096], *p;
	long value = 0;

	if (read_file(pid, "status", buf, sizeof(buf)))
		return 0;
	p = strstr(buf, "\nNSpid:");
	for (p = p ? p + strlen("\nNSpid:") : NULL; p && *p == '\t';)
		value = strtol(p + 1, &p, 10);
	return (pid_t)value;
}

uint32_t procfs_pid_ns(pid_t pid)
{
	char path[64];
	struct stat st;

	snprintf(path, sizeof(path), "/proc/%d/ns/pid", pid);
	return stat(path, &st) ? 0 : (uint32_t)st.st_ino;
}

/* "N:CONTROLLERS:PATH"; cgroups(7). Version 2 is "0::PATH". */
static bool is_systemds(const char *line)
{
	const char *controllers = strchr(line, ':');

	return controllers && (!strncmp(controllers, "::", 2) || !strncmp(controllers, ":name=systemd:", 14));
}

void procfs_cgroup(pid_t pid, char *cgroup, size_t size)
{
	char buf[8192], *line, *rest;

	cgroup[0] = 0;
	if (read_file(pid, "cgroup", buf, sizeof(buf)))
		return;
	for (line = strtok_r(buf, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest))
		if (is_systemds(line) && (!cgroup[0] || !strcmp(cgroup, "/")))
			snprintf(cgroup, size, "%s", strchr(strchr(line, ':') + 1, ':') + 1);
}
