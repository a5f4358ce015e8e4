/* SPDX-License-Identifier: MIT */
/*
 * status.h: the data that `bpftime status`, `ps` and `explain` show, and its form as JSON. The engine fills the structs
 * when asked; the JSON is what goes over the control socket and what --json prints.
 *
 * status: {"version", "hook", "switch", "holds", "kernel", "lockdown", "tools", "tools_carried", "probes_userspace",
 * "probes_kernel", "targets", "last", "policy": {"files", "rules", "error"}}: of the policy that holds; error: why the
 * one on disk does not, or null
 *
 * ps: [{"pid", "comm", "state", "probes": [{"kind", "path", "offset", "symbol", "program", "state", "reason", "hits",
 * "targets": [pid, ...]}]}]
 *
 * explain: one element of ps, with "since" (seconds, or null) in the tool and in each probe, and in each probe
 * "refused": [{"pid", "reason"}]: the processes into which it does not go, and "adopted": it goes on from a bpftimed
 * that was killed.
 */
#ifndef BPFTIME_STATUS_H
#define BPFTIME_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <json-c/json.h>

enum status_state {
	STATUS_UNKNOWN = 0,   /* no such tool */
	STATUS_KERNEL = 1,    /* every probe of it runs in the kernel */
	STATUS_PARTLY = 2,    /* some probes run in userspace */
	STATUS_OFFLOADED = 3, /* all probes run in userspace, but for tracepoints */
	STATUS_UNDECIDED = 4, /* bpftimed has yet to try some of them; nothing can wait for this */
};

/* "offloaded", ...; and back: STATUS_UNKNOWN for a name that is none. */
const char *status_state__name(enum status_state state);
enum status_state status_state__by_name(const char *name);

/* A process into which a probe does not go, and why. */
struct status_refused {
	pid_t pid;
	const char *reason; /* a sentence */
};

/* All pointers belong to the caller and may be NULL where the comment allows. */
struct status_probe {
	const char *kind;     /* "uprobe", "uretprobe", "tracepoint", ... */
	const char *path;     /* of the probed file */
	uint64_t offset;      /* in the file */
	const char *symbol;   /* NULL: none known */
	const char *program;  /* name of the BPF program */
	bool is_tracepoint;   /* it cannot run in userspace; path says which */
	bool userspace;	      /* where it runs */
	const char *reason;   /* a sentence; NULL when it runs in userspace */
	const char *switched; /* by which way it is switched; NULL: it is in the kernel */
	bool adopted;	      /* since then another bpftimed was killed, and this one goes on */
	uint64_t hits;	      /* in userspace */
	const pid_t *targets; /* processes in which it runs in userspace */
	size_t n_targets;
	double since; /* seconds ago that it came to where it runs; negative: not known */
	const struct status_refused *refused;
	size_t n_refused;
};

struct status_tool {
	pid_t pid;
	const char *comm;
	const struct status_probe *probes;
	size_t n_probes;
	double since; /* seconds ago that its state last changed; negative: not known */
};

struct status_daemon {
	const char *hook;     /* where calls of bpf() on the tools' maps are met: carriers__hook() */
	const char *way;      /* how the truth moves where there is a choice: "freplace", or "the opening gate" */
	const char *holds;    /* what keeps int3s at the instructions that a jump covers: "links", or "perf events" */
	const char *lockdown; /* "none", "integrity", "confidentiality"; NULL: read it from the kernel */
	size_t tools, tools_carried; /* carried: some probe of it runs in userspace */
	size_t probes_userspace, probes_kernel, targets;
	size_t policy_files, policy_rules; /* that the policy was made of which holds */
	const char *policy_error;	   /* why the one on disk does not; NULL: it is that */
	const char *last; /* what became of what a bpftimed that was killed had left; NULL: there was nothing */
};

/* The state of a tool follows from its probes; a tool without probes is in the kernel. */
enum status_state status_tool__state(const struct status_tool *tool);
json_object *status_tool__json(const struct status_tool *tool, bool explain);
/* Adds version, kernel and, when NULL, lockdown by itself. */
json_object *status_daemon__json(const struct status_daemon *d);

#endif
