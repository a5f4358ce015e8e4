/* SPDX-License-Identifier: MIT */
/*
 * policy.h: what the administrator allows: which tools are offloaded, into which targets, by which means.
 *
 * A policy is read from the *.json files of one folder, in the order of their names (bpftimed-policy(5)). It is
 * immutable once loaded; a reload makes a new one. Nothing here is thread safe.
 */
#ifndef BPFTIME_POLICY_H
#define BPFTIME_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct policy;

enum policy_action {
	POLICY_OFFLOAD = 0,
	POLICY_KERNEL = 1,
};

/* What a cautious site may forbid, host-wide. */
enum policy_setting {
	POLICY_STOP_TOOLS = 0,	       /* a tool may be stopped for a moment: to be a target of probes itself */
	POLICY_SHARE_ACROSS_USERS = 1, /* targets of several users may share the memory of one group */
	POLICY_WRITABLE_CODE = 2,      /* the code of targets may be written: the jumps */
	POLICY_N_SETTINGS,
};

/* Every mistake found, one sentence each: "FILE:LINE: KEY: what is wrong". Zero-initialise; clear when done. */
struct policy_errors {
	char **text;
	size_t n;
};

void policy_errors__clear(struct policy_errors *errors);

/*
 * Reads all *.json files of dir. A folder that does not exist is an empty one: the default policy, which offloads.
 * Returns 0 and a policy that the caller frees, or -EINVAL (mistakes in files), -EPERM (a file that others than root
 * could write), or another -errno; then errors holds at least one sentence and *out is NULL.
 */
int policy__load(const char *dir, struct policy **out, struct policy_errors *errors);
/* The same for these files, in this order. */
int policy__load_files(char *const *paths, size_t n, struct policy **out, struct policy_errors *errors);
void policy__free(struct policy *p);

/*
 * May this process's programs be offloaded (tool), may it be given the agent (target)? exe is the path of its
 * executable, comm its name, uid its real user; exe may be NULL when it cannot be told: then no rule with "exe"
 * matches. *why (may be NULL) gets the rule that decided, "FILE:LINE" of it, or "the default"; it lives as long as the
 * policy.
 */
enum policy_action policy__tool(const struct policy *p, const char *exe, const char *comm, uid_t uid, const char **why);
enum policy_action policy__target(const struct policy *p, const char *exe, const char *comm, uid_t uid,
				  const char **why);

/* *why: as above, the place of the setting. */
bool policy__setting(const struct policy *p, enum policy_setting setting, const char **why);
/* How many files and rules it was made of. */
size_t policy__files(const struct policy *p);
size_t policy__rules(const struct policy *p);

#endif
