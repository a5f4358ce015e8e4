/* SPDX-License-Identifier: MIT */
/*
 * engine.h: the engine of bpftimed as the shell around it (main.c, server.c) sees it. The engine observes the kernel,
 * decides what can run in userspace, and makes it so; the shell reads options and policy, serves the control socket and
 * ends the process. The engine registers what it waits for with the caller's event loop and does its work from there.
 *
 * One thread. JSON objects that are returned belong to the caller (json_object_put()); their shapes are in status.h.
 */
#ifndef BPFTIME_ENGINE_H
#define BPFTIME_ENGINE_H

#include <stddef.h>
#include <stdio.h>
#include <sys/types.h>
#include <json-c/json.h>
#include <systemd/sd-event.h>

#include "decision.h"
#include "policy.h"
#include "status.h"

struct engine;

struct engine_opts {
	size_t sz;		 /* sizeof(struct engine_opts) of the caller */
	const char *runtime_dir; /* exists, belongs to root; the engine may keep files of its own in it */
	const char *libexec_dir; /* where bpftimed-jit is */
	char **compiler_env;	 /* with what environment it is executed; stays the caller's. NULL: an empty one */
	/* Called, from the event loop, whenever a tool's state may have changed: waiting clients are looked at again.
	 */
	void (*changed)(void *arg);
	void *changed_arg;
	struct decisions *decisions; /* what is decided is recorded there; stays the caller's. NULL: it is not */
};

/*
 * Call before the runtime folder is entered: a bpftimed of another version that was killed hands back itself what it
 * has left there, if it can.
 */
void engine__before(const char *runtime_dir);

/*
 * Loads the kernel-side programs and begins to work. policy stays the caller's and must live until engine__set_policy()
 * or engine__free(). Returns 0 or -errno with a sentence in err.
 */
int engine__new(struct engine **out, sd_event *event, const struct policy *policy, const struct engine_opts *opts,
		char *err, size_t err_size);
/* Frees what is left; call engine__handback_all() before. NULL is allowed. */
void engine__free(struct engine *e);

/*
 * Takes away what a bpftimed that was killed has left in the runtime folder and in processes, and begins nothing. 0;
 * -EBUSY when a debugger holds a thread where nothing can be taken away (it stays for another time), -EPROTO when it
 * was of another version; or -errno. Each with a sentence in err.
 */
int engine__recover(const char *runtime_dir, char *err, size_t err_size);

/* Gives every probe back to the kernel and takes over no more. Returns 0, or -errno when one could not be. */
int engine__handback_all(struct engine *e);

/* The new policy holds from now on; what it forbids and runs in userspace is handed back. The old one is unused on
 * return. */
int engine__set_policy(struct engine *e, const struct policy *policy);

/* A reload has failed: the old policy holds, and status says why. Until the next engine__set_policy(). Copied. */
void engine__keep_policy(struct engine *e, const char *why);

json_object *engine__status(struct engine *e); /* object: see status.h */
json_object *engine__ps(struct engine *e);     /* array of tools */
/*
 * For `bpftime top`: {"tools": as engine__ps(), "entry_ns", "sample_ns"}, each probe with "program_id" (a string that
 * is the same for probes that run the same code) and "program_ns". While somebody asks, for `seconds` after each time,
 * the processors are sampled: *_ns are sums of processor time, in steps of sample_ns, that targets have spent in code
 * around programs, and in the program's code; since sampling began. sample_ns is 0 where it cannot be done.
 */
json_object *engine__top(struct engine *e, double seconds);
/* One tool, explained, or NULL with a sentence in err when no tool has this pid. */
json_object *engine__explain(struct engine *e, pid_t tool, char *err, size_t err_size);

/*
 * What this kernel offers, without an engine: {"kernel", "lockdown", "preempt", "btf", "raw_tracepoints", "uprobes",
 * "missing" (what keeps bpftimed from working, a sentence, or null), "hook", "observing_hook", "freplace", "holds"}.
 * Programs are loaded and attached for a moment to find out.
 */
json_object *engine__host(void);
/* What the engine has to tell as OpenMetrics, whole families. */
void engine__metrics(struct engine *e, FILE *out);

/* STATUS_UNKNOWN when no tool has this pid (yet); STATUS_UNDECIDED while some probe of it is still to be tried. */
enum status_state engine__tool_state(struct engine *e, pid_t tool);

/*
 * Hands one tool's probes back to the kernel and keeps them there until engine__takeover(). Both return 0 when it is
 * done (takeover: when everything that can run in userspace does), or -errno with a sentence in err.
 */
int engine__handback(struct engine *e, pid_t tool, char *err, size_t err_size);
int engine__takeover(struct engine *e, pid_t tool, char *err, size_t err_size);

#endif
