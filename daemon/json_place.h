/* SPDX-License-Identifier: MIT */
/*
 * json_place.h: where in a JSON text a value stands. json-c forgets this once it has parsed; a person who is told of a
 * mistake wants the line.
 */
#ifndef BPFTIME_JSON_PLACE_H
#define BPFTIME_JSON_PLACE_H

#include <stddef.h>

/* One step down: into the member `key` of an object, or, when key is NULL, into element `index` of an array. */
struct json_step {
	const char *key;
	size_t index;
};

/*
 * The line, from 1, of what the steps lead to: for a member the line of its key. Of members with the same key the last
 * one counts, as in json-c. text must be a zero-terminated text that json-c accepted; a path that leads nowhere gives
 * the line of the last step that could be made. Keys written with escapes are not recognised.
 */
unsigned int json_place__line(const char *text, const struct json_step *steps, size_t n_steps);

/*
 * A key that an object of the text has a second time: where it stands that time, from its quote to behind the closing
 * one, with the length in *len. NULL: there is none. text as above.
 */
const char *json_place__repeated_key(const char *text, size_t *len);

/* The line, from 1, of the byte at offset. */
unsigned int json_place__line_at(const char *text, size_t offset);

#endif
