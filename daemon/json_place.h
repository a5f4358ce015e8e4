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

/* From 1; columns are characters. */
struct json_position {
	unsigned int line, column;
};

/*
 * Where that stands to which the steps lead: of a member its key. Of members with the same key the last one counts, as
 * in json-c. text must be a zero-terminated text that json-c accepted; of a path that leads nowhere it is the place of
 * the last step that could be made. Keys written with escapes are not recognised.
 */
struct json_position json_place__of(const char *text, const struct json_step *steps, size_t n_steps);

/*
 * Of the keys that an object of the text has had before, the nth, from 0: where it stands, from its quote to behind the
 * closing one, with the length in *len. NULL: there are not so many. text as above.
 */
const char *json_place__repeated_key(const char *text, size_t nth, size_t *len);

/* Of the byte at offset. */
struct json_position json_place__position(const char *text, size_t offset);

#endif
