/* SPDX-License-Identifier: MIT */
/*
 * subject.h: a process as rules of the policy see it. What takes long to find out (the hash of its executable) or is
 * rarely asked for is found out when the first rule asks, and kept as long as the subject. Not thread safe.
 */
#ifndef BPFTIME_SUBJECT_H
#define BPFTIME_SUBJECT_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/digest.h"

#define SUBJECT_NAME_SIZE 256

struct subject {
	pid_t pid;	    /* 0: it is no process yet, only its executable is known */
	char exe[PATH_MAX]; /* empty when it cannot be told */
	char comm[16];
	bool has_uid;
	uid_t uid; /* real */
	/* Found out when asked for: */
	bool has_sha256, has_cgroup;
	char sha256[SHA256_HEX_SIZE];
	char cgroup[PATH_MAX];
};

/* false: there is no such process. */
bool subject__of_process(struct subject *s, pid_t pid);
/* What the file would be when root ran it. */
void subject__of_file(struct subject *s, const char *exe);

/* Lower-case digits, or NULL when the executable cannot be read. */
const char *subject__sha256(struct subject *s);
/* As /proc/PID/cgroup names it; NULL: not known. */
const char *subject__cgroup(struct subject *s);
/* Those below write into out, and return it or NULL: none, or not known. */
/* The unit of the system's systemd to which the control group belongs: of a user's service, that user's manager. */
const char *subject__unit(struct subject *s, char out[SUBJECT_NAME_SIZE]);
/* The name or id by which its container's manager has named the control group. */
const char *subject__container(struct subject *s, char out[SUBJECT_NAME_SIZE]);
/* Inode of its PID namespace, or 0. */
uint32_t subject__pid_ns(const struct subject *s);

/* The same of a control group's path. */
const char *cgroup_unit(const char *cgroup, char out[SUBJECT_NAME_SIZE]);
const char *cgroup_container(const char *cgroup, char out[SUBJECT_NAME_SIZE]);

#endif
