/* SPDX-License-Identifier: MIT */
/*
 * doctor.h: what `bpftime doctor` looks at. A check reads the host, or what bpftimed says of it, and says in a sentence
 * what follows for offloading. The table of checks is in doctor_checks.c; to add one is to add a row and a test.
 */
#ifndef BPFTIME_CLI_DOCTOR_H
#define BPFTIME_CLI_DOCTOR_H

#include <json-c/json.h>

#include "cli.h"

enum doctor_level {
	DOCTOR_OK,	/* as it should be */
	DOCTOR_NOTE,	/* good to know; costs no offload */
	DOCTOR_WARNING, /* something will stay in the kernel, or cost more than it had to */
	DOCTOR_ERROR,	/* bpftimed cannot work */
};

struct doctor {
	const struct cli_args *args;
	json_object *host;   /* bpftimed --host, or NULL */
	json_object *status; /* of the daemon that runs, or NULL */
	json_object *ps;     /* the same */
	json_object *found;  /* array of {"check", "level", "says"} */
	const char *check;   /* the one that runs */
	enum doctor_level worst;
};

struct doctor_check {
	const char *name;
	void (*run)(struct doctor *d);
};

/* The last has no name. */
extern const struct doctor_check doctor_checks[];

const char *doctor_level__name(enum doctor_level level);
/* A sentence of the check that runs. */
void doctor__say(struct doctor *d, enum doctor_level level, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#endif
