/* SPDX-License-Identifier: MIT */
#include "daemon/policy_reader.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/nearest.h"

#define KEYS_MAX 32 /* of one object */

/* ---- what is wrong, where ---- */

static struct json_position place_here(const struct reader *r)
{
	return json_place__of(r->text, r->steps, r->n_steps);
}

void reader__note_place(const struct reader *r, char **place)
{
	free(*place);
	if (asprintf(place, "%s:%u", r->path, place_here(r).line) < 0)
		abort();
}

/* "rules[2].tool.exe" for the steps. */
static void name_here(const struct reader *r, char *out, size_t size)
{
	size_t n = 0;

	out[0] = 0;
	for (size_t i = 0; i < r->n_steps && n < size; i++) {
		const struct json_step *s = &r->steps[i];

		if (s->key)
			n += (size_t)snprintf(out + n, size - n, "%s%s", i ? "." : "", s->key);
		else
			n += (size_t)snprintf(out + n, size - n, "[%zu]", s->index);
	}
}

void reader__mistake(struct reader *r, const char *format, ...)
{
	struct json_position at = place_here(r);
	char where[256], what[1024];
	va_list args;

	va_start(args, format);
	vsnprintf(what, sizeof(what), format, args);
	va_end(args);
	name_here(r, where, sizeof(where));
	policy_errors__add(r->errors, "%s:%u:%u: %s%s%s", r->path, at.line, at.column, where, where[0] ? ": " : "",
			   what);
}

const char *json_type_words(json_type type)
{
	static const char *const names[] = {
		[json_type_null] = "null",	  [json_type_boolean] = "true or false",
		[json_type_double] = "a number",  [json_type_int] = "a whole number",
		[json_type_object] = "an object", [json_type_array] = "a list",
		[json_type_string] = "a string",
	};

	return names[type];
}

const char *did_you_mean(const char *word, const char *const *known, size_t n, char *out, size_t size)
{
	const char *nearest = nearest_word(word, known, n);

	out[0] = 0;
	if (nearest)
		snprintf(out, size, "; did you mean \"%s\"?", nearest);
	return out;
}

/* ---- walking an object by its table ---- */

void reader__push(struct reader *r, const char *key, size_t index)
{
	if (r->n_steps == STEPS_MAX)
		abort();
	r->steps[r->n_steps++] = (struct json_step){key, index};
}

void reader__pop(struct reader *r)
{
	r->n_steps--;
}

static void unknown_key(struct reader *r, const char *name, const struct key *keys)
{
	const char *names[KEYS_MAX];
	char known[512], hint[128];
	size_t len = 0, n = 0;

	known[0] = 0;
	for (const struct key *k = keys; k->name && n < KEYS_MAX && len < sizeof(known); k++) {
		len += (size_t)snprintf(known + len, sizeof(known) - len, "%s%s", n ? ", " : "", k->name);
		names[n++] = k->name;
	}
	reader__mistake(r, "unknown key%s; known here are %s", did_you_mean(name, names, n, hint, sizeof(hint)), known);
}

void reader__take_object(struct reader *r, json_object *object, const struct key *keys)
{
	json_object_object_foreach(object, name, value)
	{
		const struct key *k = keys;
		json_type type = json_object_get_type(value);

		reader__push(r, name, 0);
		while (k->name && strcmp(k->name, name) != 0)
			k++;
		if (!k->name)
			unknown_key(r, name, keys);
		else if (k->type != json_type_null && k->type != type)
			reader__mistake(r, "must be %s, not %s", json_type_words(k->type), json_type_words(type));
		else
			k->take(r, value, k->arg);
		reader__pop(r);
	}
}

/* ---- words ---- */

static size_t n_words(const char *const *words)
{
	size_t n = 0;

	while (words[n])
		n++;
	return n;
}

int reader__take_word(struct reader *r, json_object *value, const char *const *words)
{
	const char *s = json_object_get_string(value);
	size_t n = n_words(words), len = 0;
	char known[256], hint[128];

	for (size_t i = 0; i < n; i++)
		if (strcmp(words[i], s) == 0)
			return (int)i;
	known[0] = 0;
	for (size_t i = 0; i < n && len < sizeof(known); i++)
		len += (size_t)snprintf(known + len, sizeof(known) - len, "%s\"%s\"",
					!i	    ? ""
					: i + 1 < n ? ", "
						    : " or ",
					words[i]);
	reader__mistake(r, "must be %s, not \"%s\"%s", known, s, did_you_mean(s, words, n, hint, sizeof(hint)));
	return -1;
}
