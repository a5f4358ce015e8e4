/* SPDX-License-Identifier: MIT */
/* policy_impl.h: a policy's insides, for policy.c and what reads it. */
#ifndef BPFTIME_POLICY_IMPL_H
#define BPFTIME_POLICY_IMPL_H

#include "daemon/policy.h"
#include "daemon/policy_files.h"

#define POLICY_THE_DEFAULT "the default"

/* Of processes. What is NULL, or not there, is not asked for. Texts are patterns, but for the hash. */
struct policy_match {
	char *exe, *sha256, *comm, *unit, *cgroup, *container;
	bool has_uid, has_pid_ns;
	uid_t uid;
	bool is_other_pid_ns; /* than pid_ns: any */
	uint32_t pid_ns;
};

struct policy_probe_match {
	char *file, *symbol, *kind;
};

/* What a file says of one of them. place: "FILE:LINE"; NULL: it says nothing. */
struct policy_terms {
	struct {
		char *place;
		bool on;
	} grant[POLICY_N_GRANTS];
	struct {
		char *place;
		uint64_t value;
	} limit[POLICY_N_LIMITS];
	char *helpers_place;
	char **helpers; /* patterns */
	size_t n_helpers;
};

/* A rule of "tools" or "targets" says something about one of the two only: offloading needs both. */
enum policy_list { POLICY_RULES, POLICY_TOOLS, POLICY_TARGETS, POLICY_N_LISTS };

struct policy_rule {
	enum policy_list list;
	bool has_tool, has_target, has_probe;
	struct policy_match tool, target;
	struct policy_probe_match probe;
	enum policy_action action;
	struct policy_terms terms;
	char *place;	   /* "FILE:LINE" */
	json_object *json; /* as it was written */
};

struct policy {
	struct policy_rule *rules; /* in the order in which they are asked */
	size_t n_rules;
	enum policy_action fallback;
	char *fallback_place;
	struct policy_terms terms;
	struct policy_file_list files;
	bool asks_for_probes;
};

#endif
