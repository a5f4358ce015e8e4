/* SPDX-License-Identifier: MIT */
#include "daemon/subject.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/procfs.h"

#define CONTAINER_ID_DIGITS 64

bool subject__of_process(struct subject *s, pid_t pid)
{
	*s = (struct subject){.pid = pid};
	s->has_uid = !procfs_uid(pid, &s->uid);
	procfs_comm(pid, s->comm, sizeof(s->comm));
	procfs_exe(pid, s->exe, sizeof(s->exe));
	return s->has_uid;
}

void subject__of_file(struct subject *s, const char *exe)
{
	const char *slash = strrchr(exe, '/');

	*s = (struct subject){.has_uid = true};
	snprintf(s->exe, sizeof(s->exe), "%s", exe);
	snprintf(s->comm, sizeof(s->comm), "%.*s", (int)sizeof(s->comm) - 1, slash ? slash + 1 : exe);
}

/* ---- the hash of an executable ---- */

/* A file with the same of all these has not been written since. */
struct hashed_file {
	dev_t dev;
	ino_t ino;
	off_t size;
	struct timespec written, changed;
	char sha256[SHA256_HEX_SIZE];
};

#define N_HASHED 64u

static struct hashed_file hashed[N_HASHED];
static unsigned int next_hashed;

static bool is_same_file(const struct hashed_file *f, const struct stat *st)
{
	return f->dev == st->st_dev && f->ino == st->st_ino && f->size == st->st_size &&
	       !memcmp(&f->written, &st->st_mtim, sizeof(f->written)) &&
	       !memcmp(&f->changed, &st->st_ctim, sizeof(f->changed));
}

static bool hash_file(int fd, char hex[SHA256_HEX_SIZE])
{
	struct hashed_file *f;
	struct stat st;

	if (fstat(fd, &st) || !S_ISREG(st.st_mode))
		return false;
	for (f = hashed; f < hashed + N_HASHED; f++) {
		if (f->sha256[0] && is_same_file(f, &st)) {
			memcpy(hex, f->sha256, SHA256_HEX_SIZE);
			return true;
		}
	}
	if (sha256_of_fd(fd, hex))
		return false;
	f = &hashed[next_hashed++ % N_HASHED];
	*f = (struct hashed_file){st.st_dev, st.st_ino, st.st_size, st.st_mtim, st.st_ctim, ""};
	memcpy(f->sha256, hex, SHA256_HEX_SIZE);
	return true;
}

const char *subject__sha256(struct subject *s)
{
	char path[64];
	int fd;

	if (!s->has_sha256) {
		s->has_sha256 = true;
		snprintf(path, sizeof(path), "/proc/%d/exe", s->pid);
		fd = open(s->pid ? path : s->exe, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
		if (fd < 0 || !hash_file(fd, s->sha256))
			s->sha256[0] = 0;
		if (fd >= 0)
			close(fd);
	}
	return s->sha256[0] ? s->sha256 : NULL;
}

/* ---- what its control group says ---- */

/* The next component of the path, its length in *len; NULL at the end. */
static const char *next_component(const char *path, size_t *len)
{
	path += strspn(path, "/");
	*len = strcspn(path, "/");
	return *len ? path : NULL;
}

static bool ends_with(const char *s, size_t len, const char *end)
{
	return len > strlen(end) && !memcmp(s + len - strlen(end), end, strlen(end));
}

/* systemd's cg_path_get_unit(): the first component that is not a slice. */
const char *cgroup_unit(const char *cgroup, char out[SUBJECT_NAME_SIZE])
{
	static const char *const kinds[] = {".service", ".scope", ".socket", ".mount", ".swap"};
	size_t len;

	for (const char *c = cgroup; (c = next_component(c, &len)); c += len) {
		if (ends_with(c, len, ".slice") || (len == 2 && !memcmp(c, "..", 2)))
			continue;
		for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
			if (!ends_with(c, len, kinds[i]))
				continue;
			snprintf(out, SUBJECT_NAME_SIZE, "%.*s", (int)(len - (*c == '_')), c + (*c == '_'));
			return out;
		}
		return NULL;
	}
	return NULL;
}

static bool is_id(const char *s, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (!isxdigit((unsigned char)s[i]))
			return false;
	return len == CONTAINER_ID_DIGITS;
}

/* "\x2d", as systemd escapes names. */
static void copy_unescaped(char out[SUBJECT_NAME_SIZE], const char *s, size_t len)
{
	size_t n = 0;

	for (size_t i = 0; i < len && n + 1 < SUBJECT_NAME_SIZE; i++) {
		char digits[3] = "";

		if (len - i >= 4 && !memcmp(s + i, "\\x", 2)) {
			memcpy(digits, s + i + 2, 2);
			i += 3;
			out[n++] = (char)strtoul(digits, NULL, 16);
		} else {
			out[n++] = s[i];
		}
	}
	out[n] = 0;
}

/* How managers of containers name the control groups that they make. */
static const struct {
	const char *before, *behind;
	bool is_id; /* of 64 digits; else a name that systemd has escaped */
} container_names[] = {
	{"", "", true}, /* docker, containerd without systemd */
	{"docker-", ".scope", true},
	{"libpod-", ".scope", true}, /* podman */
	{"crio-", ".scope", true},
	{"cri-containerd-", ".scope", true},
	{"machine-", ".scope", false}, /* systemd-machined */
	{"systemd-nspawn@", ".service", false},
	{"lxc.payload.", "", false},
};

/* The outermost: that one the host knows. */
const char *cgroup_container(const char *cgroup, char out[SUBJECT_NAME_SIZE])
{
	size_t len;

	for (const char *c = cgroup; (c = next_component(c, &len)); c += len) {
		for (size_t i = 0; i < sizeof(container_names) / sizeof(container_names[0]); i++) {
			size_t before = strlen(container_names[i].before), behind = strlen(container_names[i].behind);

			if (len <= before + behind || memcmp(c, container_names[i].before, before) != 0 ||
			    memcmp(c + len - behind, container_names[i].behind, behind) != 0)
				continue;
			if (container_names[i].is_id && !is_id(c + before, len - before - behind))
				continue;
			copy_unescaped(out, c + before, len - before - behind);
			return out;
		}
	}
	return NULL;
}

const char *subject__cgroup(struct subject *s)
{
	if (!s->has_cgroup && s->pid)
		procfs_cgroup(s->pid, s->cgroup, sizeof(s->cgroup));
	s->has_cgroup = true;
	return s->cgroup[0] ? s->cgroup : NULL;
}

const char *subject__unit(struct subject *s, char out[SUBJECT_NAME_SIZE])
{
	const char *cgroup = subject__cgroup(s);

	return cgroup ? cgroup_unit(cgroup, out) : NULL;
}

const char *subject__container(struct subject *s, char out[SUBJECT_NAME_SIZE])
{
	const char *cgroup = subject__cgroup(s);

	return cgroup ? cgroup_container(cgroup, out) : NULL;
}

uint32_t subject__pid_ns(const struct subject *s)
{
	return s->pid ? procfs_pid_ns(s->pid) : 0;
}
