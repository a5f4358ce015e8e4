/* SPDX-License-Identifier: MIT */
/*
 * policy_reader.h: walks the JSON of a policy file by tables: one row for each key that an object may have, with the
 * function that takes its value. Whatever is wrong is written down with its place and reading goes on, so that a person
 * sees all mistakes at once.
 */
#ifndef BPFTIME_POLICY_READER_H
#define BPFTIME_POLICY_READER_H

#include "daemon/json_place.h"
#include "daemon/policy_impl.h"

#define STEPS_MAX 8

/* The rules of one list of one file. */
struct file_list {
	struct policy_rule *rules;
	size_t n;
};

/* The file that is being read. steps lead to the value that is being looked at, for its place. */
struct reader {
	struct policy *policy;
	struct file_list lists[POLICY_N_LISTS];
	struct policy_rule *rule;
	struct policy_match *match; /* of the rule: of its tool, or its target */
	struct policy_terms *terms; /* the rule's, or the policy's */
	const char *path, *text;
	struct policy_errors *errors;
	struct json_step steps[STEPS_MAX];
	size_t n_steps;
};

typedef void take_fn(struct reader *r, json_object *value, int arg);

/* One key that an object may have. */
struct key {
	const char *name;
	json_type type;
	take_fn *take; /* where type is json_type_null: of any type, take looks itself */
	int arg;
};

/* "FILE:LINE" of what is being looked at, in the place of what is there. */
void reader__note_place(const struct reader *r, char **place);
/* Something is wrong with it. */
void reader__mistake(struct reader *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* One step down, to a member or, where key is NULL, an element; and up again. */
void reader__push(struct reader *r, const char *key, size_t index);
void reader__pop(struct reader *r);
/* Gives the value of each key to its row. keys ends with a row without a name. */
void reader__take_object(struct reader *r, json_object *object, const struct key *keys);
/* Which of these words a string is (NULL behind the last); -1 with a mistake. */
int reader__take_word(struct reader *r, json_object *value, const char *const *words);

/* "true or false", "a list". */
const char *json_type_words(json_type type);
/* "; did you mean "x"?", or nothing, into out. */
const char *did_you_mean(const char *word, const char *const *known, size_t n, char *out, size_t size);

#endif
