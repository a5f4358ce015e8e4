/* SPDX-License-Identifier: MIT */
/* adopt_impl.h: what adopt.c, adopt_group.c and adopt_host.c share. */
#ifndef BPFTIME_ADOPT_IMPL_H
#define BPFTIME_ADOPT_IMPL_H

#include <json-c/json.h>
#include <stddef.h>

#include "agent/adopt.h"
#include "daemon/engine_impl.h"
#include "daemon/observe.h"

/* A process that has ended, or executed another program. Fork children may have its places still. */
struct orphaned {
	struct orphaned *next;
	pid_t pid;
	struct target_record target;
	uint64_t start_time;
	struct site_record *site;
	size_t n_sites;
	json_object *places; /* as of record__host(); the adoption's */
};

struct adoption {
	json_object *state;
	struct engine *e;
	struct obs_scan scan;
	struct orphaned *orphaned;
	uint64_t begin; /* CLOCK_MONOTONIC ns */
	char *why;	/* for adopt__fail() */
	size_t why_size;
};

/* Returns err. */
__attribute__((format(printf, 3, 4))) int adopt__fail(struct adoption *a, int err, const char *format, ...);

/* The group of this record, in the engine's list, with its tool and probes. 0, also when it is none to go on with. */
int adopt__group(struct adoption *a, json_object *o);
/* The process of this record, in the list of hosts. 0, also when it has ended: then it is orphaned. */
int adopt__host(struct adoption *a, json_object *o);
/* What its threads had counted for themselves goes to their groups. */
void adopt__settle_orphan(struct engine *e, const struct orphaned *o);
/* They are forgotten again; nothing is done to them. */
void adopt__leave_hosts(struct engine *e);
void adopt__leave_groups(struct engine *e);

struct group *adopt__find_group(struct engine *e, unsigned int id);

#endif
