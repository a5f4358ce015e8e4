/* SPDX-License-Identifier: MIT */
/*
 * policy.h: what the administrator allows: which probes of which tools run in userspace in which targets, by which
 * means, and how much of everything.
 *
 * A policy is read from the *.json files of several folders (policy_files.h, bpftimed-policy(5)). It is immutable once
 * loaded; a reload makes a new one. Nothing here is thread safe.
 */
#ifndef BPFTIME_POLICY_H
#define BPFTIME_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <json-c/json.h>

#include "daemon/subject.h"

/* Folders of policy files, separated by colons, those that win last. */
#define POLICY_DEFAULT_DIRS BPFTIMED_PREFIX "/lib/bpftimed/policy.d:/run/bpftimed/policy.d:/etc/bpftimed/policy.d"

struct policy;

enum policy_action {
	POLICY_OFFLOAD = 0,
	POLICY_OBSERVE = 1, /* only say what would be done */
	POLICY_KERNEL = 2,
};

/* What a cautious site may forbid. */
enum policy_grant {
	POLICY_STOP_TOOLS = 0,	     /* the tool may be stopped for a moment */
	POLICY_SHARE_ACROSS_USERS,   /* targets of several users may share the memory of one group */
	POLICY_WRITABLE_CODE,	     /* the code of targets may be written: the jumps */
	POLICY_WRITABLE_DIRECT_MAPS, /* the tool's memory-mapped arrays, in targets of other users than the tool's */
	POLICY_READ_TARGET_MEMORY,   /* programs may read it */
	POLICY_WRITE_TARGET_MEMORY,  /* programs may write it */
	POLICY_CHANGE_RETURN_VALUES, /* programs may change what a function returns */
	POLICY_N_GRANTS,
};

enum policy_limit {
	POLICY_SHARED_MEMORY_MIB = 0, /* in all: of the host, not of a rule */
	POLICY_SHARED_MEMORY_PER_TOOL_MIB,
	POLICY_PROBES_PER_TARGET,
	POLICY_TARGETS_PER_TOOL,
	POLICY_TARGET_STOP_MS,
	POLICY_COMPILE_SECONDS,
	POLICY_N_LIMITS,
};

#define POLICY_NO_LIMIT UINT64_MAX

extern const char *const policy_action_names[]; /* at its enum policy_action */
extern const char *const policy_grant_names[];	/* keys of "settings" and "grants" */
extern const char *const policy_limit_names[];	/* keys of "limits" */

/* Every mistake found, one sentence each: "FILE:LINE:COLUMN: KEY: what is wrong". Zero-initialise; clear when done. */
struct policy_errors {
	char **text;
	size_t n;
};

void policy_errors__clear(struct policy_errors *errors);

/*
 * Reads all *.json files of the folders (POLICY_DEFAULT_DIRS). A folder that does not exist is an empty one: the
 * default policy, which offloads. Returns 0 and a policy that the caller frees, or -EINVAL (mistakes in files), -EPERM
 * (a file that others than root could write), or another -errno; then errors holds at least one sentence and *out is
 * NULL.
 */
int policy__load(const char *dirs, struct policy **out, struct policy_errors *errors);
/* The same for these files, in this order. */
int policy__load_files(char *const *paths, size_t n, struct policy **out, struct policy_errors *errors);
void policy__free(struct policy *p);

/* ---- answers ---- */

struct policy_probe {
	const char *file;
	const char *real_file; /* the same with links resolved; NULL: not known */
	const char *symbol;    /* NULL: it has none */
	const char *kind;      /* "uprobe" or "uretprobe"; NULL: any */
};

/* What is asked about; NULL: any. */
struct policy_query {
	struct subject *tool, *target;
	const struct policy_probe *probe;
};

/* A decision. Lives as long as the policy. */
struct policy_verdict {
	enum policy_action action;
	const char *rule; /* that decided: "FILE:LINE", or "the default" */
	const struct policy *policy;
	const struct policy_terms *terms; /* of the rule; NULL: those of the policy */
	json_object *unsure;		  /* the rule, when it may or may not match; else NULL */
};

/* Nothing of the query may be NULL, but for the probe's parts. */
struct policy_verdict policy__decide(const struct policy *p, const struct policy_query *q);
/*
 * Calls cb for every verdict that there can be as far as the query says, in the order of the rules, until it returns
 * true; and returns that.
 */
bool policy__each(const struct policy *p, const struct policy_query *q,
		  bool (*cb)(const struct policy_verdict *v, void *arg), void *arg);

/* *why (may be NULL) gets who says so: "FILE:LINE", or "the default". */
bool policy_verdict__grants(const struct policy_verdict *v, enum policy_grant grant, const char **why);
bool policy_verdict__grants_helper(const struct policy_verdict *v, const char *helper, const char **why);
/* POLICY_NO_LIMIT: there is none. */
uint64_t policy_verdict__limit(const struct policy_verdict *v, enum policy_limit limit, const char **why);
/* The same number for verdicts that mean the same, whoever says it; where the rule may not match, for the same rules.
 */
uint64_t policy_verdict__fingerprint(const struct policy_verdict *v);
/* Of the host. */
uint64_t policy__limit(const struct policy *p, enum policy_limit limit, const char **why);

/* Does any rule ask for a property of the probe? If not, all probes of a tool in a process have one verdict. */
bool policy__asks_for_probes(const struct policy *p);
/* How many files and rules it was made of. */
size_t policy__files(const struct policy *p);
size_t policy__rules(const struct policy *p);

/*
 * The policy as `bpftime policy show --json` prints it: {"files": [{"path", "state"}], "rules": [{"place", "list",
 * "rule"}], "default": {"value", "place"}, "settings": {KEY: {"value", "place"}}, "limits": the same}. The caller's.
 */
json_object *policy__json(const struct policy *p);

#endif
