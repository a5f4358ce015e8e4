/* SPDX-License-Identifier: MIT */
#include "daemon/policy_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "daemon/json_place.h"

#define POLICY_FILE_MAX (1l << 20)
#define DEV_NULL	makedev(1, 3)

static void *must(void *p)
{
	if (!p)
		abort();
	return p;
}

void policy_errors__add(struct policy_errors *errors, const char *format, ...)
{
	va_list args;
	char *text;

	va_start(args, format);
	if (vasprintf(&text, format, args) < 0)
		abort();
	va_end(args);
	errors->text = must(reallocarray(errors->text, errors->n + 1, sizeof(*errors->text)));
	errors->text[errors->n++] = text;
}

void policy_errors__clear(struct policy_errors *errors)
{
	for (size_t i = 0; i < errors->n; i++)
		free(errors->text[i]);
	free(errors->text);
	*errors = (struct policy_errors){0};
}

/* ---- one file ---- */

static bool others_can_write(const struct stat *st)
{
	return st->st_uid != 0 || (st->st_mode & S_IWOTH) || ((st->st_mode & S_IWGRP) && st->st_gid != 0);
}

static char *read_text(int fd, const char *path, struct policy_errors *errors)
{
	char *text = must(calloc(1, POLICY_FILE_MAX + 1));
	ssize_t n = 0, got;

	while (n < POLICY_FILE_MAX && (got = read(fd, text + n, (size_t)(POLICY_FILE_MAX - n))) != 0) {
		if (got < 0) {
			policy_errors__add(errors, "%s: cannot be read: %s", path, strerror(errno));
			free(text);
			return NULL;
		}
		n += got;
	}
	if (strlen(text) != (size_t)n) {
		struct json_position at = json_place__position(text, strlen(text));

		policy_errors__add(errors, "%s:%u:%u: holds a zero byte", path, at.line, at.column);
		free(text);
		return NULL;
	}
	return text;
}

char *policy_file__read(const char *path, struct policy_errors *errors, bool *untrusted)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	char *text = NULL;
	struct stat st;

	if (fd < 0) {
		policy_errors__add(errors, "%s: cannot be opened: %s", path, strerror(errno));
		return NULL;
	}
	if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
		policy_errors__add(errors, "%s: is not a file", path);
	} else if (others_can_write(&st)) {
		policy_errors__add(errors,
				   "%s: refused, because others than root could write it: make it belong to root, mode "
				   "0644",
				   path);
		*untrusted = true;
	} else if (st.st_size > POLICY_FILE_MAX) {
		policy_errors__add(errors, "%s: is larger than %ld bytes", path, POLICY_FILE_MAX);
	} else {
		text = read_text(fd, path, errors);
	}
	close(fd);
	return text;
}

/* ---- folders ---- */

static bool is_mask(const char *path)
{
	struct stat st;

	return !stat(path, &st) &&
	       ((S_ISREG(st.st_mode) && !st.st_size) || (S_ISCHR(st.st_mode) && st.st_rdev == DEV_NULL));
}

void policy_files__add(struct policy_file_list *list, const char *path)
{
	struct policy_file *f;
	const char *slash;

	list->file = must(reallocarray(list->file, list->n + 1, sizeof(*list->file)));
	f = &list->file[list->n++];
	f->path = must(strdup(path));
	slash = strrchr(f->path, '/');
	f->name = slash ? slash + 1 : f->path;
	f->state = POLICY_FILE_READ;
}

void policy_files__clear(struct policy_file_list *list)
{
	for (size_t i = 0; i < list->n; i++)
		free(list->file[i].path);
	free(list->file);
	*list = (struct policy_file_list){0};
}

const char *policy_dirs__append(const char *dirs, const char *dir)
{
	char *both;

	if (asprintf(&both, "%s%s%s", dirs ? dirs : "", dirs ? ":" : "", dir) < 0)
		abort();
	return both;
}

static bool is_policy_name(const char *name)
{
	const char *dot = strrchr(name, '.');

	return name[0] != '.' && dot && strcmp(dot, ".json") == 0;
}

static int add_folder(const char *dir, struct policy_file_list *list, struct policy_errors *errors)
{
	DIR *d = opendir(dir);
	struct dirent *entry;
	struct stat st;
	int err = 0;

	if (!d && errno == ENOENT)
		return 0;
	if (!d || fstat(dirfd(d), &st)) {
		err = -errno;
		policy_errors__add(errors, "%s: cannot be read: %s", dir, strerror(-err));
	} else if (others_can_write(&st)) {
		err = -EPERM;
		policy_errors__add(errors,
				   "%s: refused, because others than root could put files there: make it belong to "
				   "root, mode 0755",
				   dir);
	}
	while (!err && (entry = readdir(d))) {
		char path[PATH_MAX];

		if (!is_policy_name(entry->d_name))
			continue;
		snprintf(path, sizeof(path), "%s/%s", dir, entry->d_name);
		policy_files__add(list, path);
	}
	if (d)
		closedir(d);
	return err;
}

/* Stable, and there are few: later folders stay behind earlier ones. */
static void sort_by_name(struct policy_file_list *list)
{
	for (size_t i = 1; i < list->n; i++) {
		struct policy_file f = list->file[i];
		size_t k = i;

		for (; k && strcmp(list->file[k - 1].name, f.name) > 0; k--)
			list->file[k] = list->file[k - 1];
		list->file[k] = f;
	}
}

int policy_files__find(const char *dirs, struct policy_file_list *out, struct policy_errors *errors)
{
	char *all = must(strdup(dirs)), *rest;
	int err = 0;

	*out = (struct policy_file_list){0};
	for (char *dir = strtok_r(all, ":", &rest); dir; dir = strtok_r(NULL, ":", &rest)) {
		int one = add_folder(dir, out, errors);

		err = err ? err : one;
	}
	free(all);
	sort_by_name(out);
	for (size_t i = 0; i < out->n; i++) {
		if (i + 1 < out->n && !strcmp(out->file[i].name, out->file[i + 1].name))
			out->file[i].state = POLICY_FILE_REPLACED;
		else if (is_mask(out->file[i].path))
			out->file[i].state = POLICY_FILE_MASK;
	}
	return err;
}
