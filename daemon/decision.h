/* SPDX-License-Identifier: MIT */
/*
 * decision.h: what bpftimed decides, told once to everybody who wants to know. Whoever decides calls
 * decisions__record(), when the decision is another than before; from there it goes
 *
 *	to the journal, as one record with fields (journalctl BPFTIME_TOOL_PID=42), or as a line to stderr when that is
 *not the journal's; into a ring of the last ones, which `bpftime events` reads; into the counters and histograms of
 *`bpftime metrics`.
 *
 * Kinds, with their ids for `journalctl MESSAGE_ID=`, and the classes of reasons are tables in decision.c;
 * systemd/bpftimed.catalog explains the kinds to administrators. One thread.
 */
#ifndef BPFTIME_DECISION_H
#define BPFTIME_DECISION_H

#include <stdint.h>
#include <stddef.h>
#include <sys/types.h>
#include <json-c/json.h>

#include "daemon/histogram.h"

enum decision_kind {
	DECISION_OFFLOAD,	 /* a group of probes runs in userspace from now on */
	DECISION_REFUSAL,	 /* it stays in the kernel */
	DECISION_HANDBACK,	 /* it ran in userspace, and is the kernel's again */
	DECISION_ADOPT,		 /* it ran in userspace by another bpftimed, and goes on by this one */
	DECISION_RELEASE,	 /* it ran in userspace, and the tool has detached it */
	DECISION_TARGET_OFFLOAD, /* more processes run the probes of a group in userspace */
	DECISION_TARGET_REFUSAL, /* a process does not, or not all of them */
	DECISION_POLICY,	 /* what the policy says of a tool */
	DECISION_POLICY_LOAD,	 /* another policy holds */
	DECISION_POLICY_ERROR,	 /* it has mistakes: the old one goes on to hold */
	DECISION_N_KINDS,
};

/* Of what kind is what was in the way? */
enum reason_class {
	REASON_NONE,
	REASON_POLICY,	    /* the policy */
	REASON_REQUEST,	    /* somebody has asked for it */
	REASON_DEBUGGER,    /* a debugger is at the tool */
	REASON_CLAIMED,	    /* another bpftimed has the tool or the target */
	REASON_UNSUPPORTED, /* it cannot be carried exactly */
	REASON_LIMIT,	    /* it is too much: of memory, of time */
	REASON_BUSY,	    /* not at this moment */
	REASON_INEXACT,	    /* while it was carried something showed that it was not exact */
	REASON_TARGET,	    /* the target is such, or has changed */
	REASON_TOOL,	    /* the tool has changed */
	REASON_END,	    /* bpftimed ends */
	REASON_ERROR,	    /* something failed */
	REASON_N_CLASSES,
};

struct decision_process {
	pid_t pid;
	const char *comm;
	const char *exe; /* NULL: not known */
};

#define DECISION_LIST_MAX 16 /* programs, probes and targets that a record names; of more it has the number */

/* All pointers are the caller's; NULL and 0: it does not apply. */
struct decision {
	enum decision_kind kind;
	enum reason_class class;
	struct decision_process tool;
	const char *program[DECISION_LIST_MAX];
	size_t n_programs;
	const char *probe[DECISION_LIST_MAX]; /* "/usr/bin/x:main" */
	size_t n_probes;		      /* may be more than are named, as may be n_targets */
	struct decision_process target[DECISION_LIST_MAX];
	size_t n_targets;
	const char *reason; /* a sentence */
	const char *rule;   /* of the policy, "FILE:LINE" */
	double seconds;	    /* how long the switch took */
};

struct decisions;

/* changed (may be NULL) is called after every record. NULL: out of memory. */
struct decisions *decisions__new(void (*changed)(void *arg), void *arg);
void decisions__free(struct decisions *d);

/* d NULL: nobody wants to know. */
void decisions__record(struct decisions *d, const struct decision *what);

/* What an errno of a take-over that failed (positive or negative) means. */
enum reason_class reason_class__of(int err);
const char *reason_class__name(enum reason_class class);
const char *decision_kind__name(enum decision_kind kind);

/*
 * {"events": [...], "next": N, "lost": N, "daemon": ID}: those from number `from` on, oldest first. next is what to ask
 * for the next time, lost how many between are not in the ring any more. A number that another bpftimed gave (its ID
 * differs) means nothing. An event: {"number", "time" (seconds since 1970), "kind", "message", "tool": {"pid", "comm",
 * "exe"} or null, "programs": [], "probes": [], "n_probes", "targets": [{"pid", "comm"}], "n_targets", "reason",
 * "class", "rule", "seconds"}.
 */
json_object *decisions__events(const struct decisions *d, uint64_t from);
/* The number that the next one gets. */
uint64_t decisions__next(const struct decisions *d);

uint64_t decisions__count(const struct decisions *d, enum decision_kind kind, enum reason_class class);
/* Of the switches of this kind. */
const struct histogram *decisions__durations(const struct decisions *d, enum decision_kind kind);
/* Records that the journal did not take. */
uint64_t decisions__dropped(const struct decisions *d);

#endif
