/* SPDX-License-Identifier: MIT */
/*
 * policy_files.h: which files make up a policy. Several folders are merged as systemd does with its drop-ins: of files
 * with the same name the one in the later folder counts; when that is empty, or a link to /dev/null, none does.
 */
#ifndef BPFTIME_POLICY_FILES_H
#define BPFTIME_POLICY_FILES_H

#include <stdbool.h>
#include <stddef.h>

#include "daemon/policy.h"

enum policy_file_state {
	POLICY_FILE_READ = 0,
	POLICY_FILE_REPLACED = 1, /* by one of the same name in a later folder */
	POLICY_FILE_MASK = 2,	  /* empty, or a link to /dev/null: hides those of the same name */
};

struct policy_file {
	char *path;
	const char *name; /* in path */
	enum policy_file_state state;
};

struct policy_file_list {
	struct policy_file *file; /* in the order of their names; of the same name, that of the earlier folder first */
	size_t n;
};

/*
 * The files of these folders (POLICY_DEFAULT_DIRS). 0, or -EPERM (a folder into which others than root could put
 * files) or another -errno with a mistake. Clear it in either case.
 */
int policy_files__find(const char *dirs, struct policy_file_list *out, struct policy_errors *errors);
void policy_files__clear(struct policy_file_list *list);
void policy_files__add(struct policy_file_list *list, const char *path);

/* Folders with one more behind them, which wins; dirs may be NULL. Never freed: for options. */
const char *policy_dirs__append(const char *dirs, const char *dir);

/*
 * The whole file as a zero-terminated text that the caller frees, or NULL with a mistake. *untrusted: others than root
 * could have written it.
 */
char *policy_file__read(const char *path, struct policy_errors *errors, bool *untrusted);

/* Writes one down. */
void policy_errors__add(struct policy_errors *errors, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
