/* SPDX-License-Identifier: MIT */
#include "json_place.h"

#include <stdbool.h>
#include <string.h>

static const char *skip_space(const char *s)
{
	return s + strspn(s, " \t\r\n");
}

/* s is at the opening quote; returns behind the closing one. */
static const char *skip_string(const char *s)
{
	for (s++; *s && *s != '"'; s++)
		if (*s == '\\' && s[1])
			s++;
	return *s ? s + 1 : s;
}

/* Behind the value that begins at s: a string, a word or number, or all of an object or array. */
static const char *skip_value(const char *s)
{
	int depth = 0;

	do {
		s = skip_space(s);
		if (*s == '"') {
			s = skip_string(s);
		} else if (*s == '{' || *s == '[') {
			depth++;
			s++;
		} else if (*s == '}' || *s == ']') {
			depth--;
			s++;
		} else if (depth > 0 && (*s == ',' || *s == ':')) {
			s++;
		} else {
			size_t word = strcspn(s, " \t\r\n,:[]{}\"");

			if (word == 0)
				return s;
			s += word;
		}
	} while (depth > 0 && *s);
	return s;
}

/*
 * s is at '{' or '['. Sets *at to where the step's member or element begins (a member: its key) and returns where its
 * value begins, or NULL.
 */
static const char *step_into(const char *s, const struct json_step *step, const char **at)
{
	const char *found = NULL, *begin;
	bool object = *s == '{';
	size_t index = 0;

	if ((*s != '{' && *s != '[') || object != (step->key != NULL))
		return NULL;
	for (s = skip_space(s + 1); *s && *s != '}' && *s != ']'; s = skip_space(s + (*s == ','))) {
		bool wanted = index++ == step->index;

		begin = s;
		if (object) {
			const char *end = skip_string(s);
			size_t len = (size_t)(end - s) >= 2 ? (size_t)(end - s) - 2 : 0;

			wanted = len == strlen(step->key) && memcmp(s + 1, step->key, len) == 0;
			s = skip_space(end);
			s = skip_space(s + (*s == ':'));
		}
		if (wanted) {
			*at = begin;
			found = s;
		}
		begin = s;
		s = skip_space(skip_value(s));
		if (s == begin)
			break;
	}
	return found;
}

/* s is at '{'. Does the object have what is written at key before that, too? */
static bool has_key_before(const char *s, const char *key, size_t len)
{
	for (s = skip_space(s + 1); s < key; s = skip_space(s + (*s == ','))) {
		const char *end = skip_string(s);

		if ((size_t)(end - s) == len && memcmp(s, key, len) == 0)
			return true;
		s = skip_space(end);
		s = skip_space(skip_value(skip_space(s + (*s == ':'))));
	}
	return false;
}

const char *json_place__repeated_key(const char *text, size_t nth, size_t *len)
{
	const char *s = text;

	while (*s) {
		const char *object = s, *end;

		if (*s == '"')
			s = skip_string(s);
		else
			s++;
		if (*object != '{')
			continue;
		/* Its own keys; those of the objects in it when their turn comes. */
		for (const char *key = skip_space(s); *key == '"'; key = skip_space(end + (*end == ','))) {
			end = skip_string(key);
			*len = (size_t)(end - key);
			if (has_key_before(object, key, *len) && !nth--)
				return key;
			end = skip_space(end);
			end = skip_space(skip_value(skip_space(end + (*end == ':'))));
		}
	}
	return NULL;
}

struct json_position json_place__position(const char *text, size_t offset)
{
	struct json_position at = {1, 1};

	for (size_t i = 0; i < offset && text[i]; i++) {
		bool is_inside = ((unsigned char)text[i] & 0xc0) == 0x80; /* a character of UTF-8 */

		at.column += !is_inside;
		if (text[i] == '\n')
			at = (struct json_position){at.line + 1, 1};
	}
	return at;
}

struct json_position json_place__of(const char *text, const struct json_step *steps, size_t n_steps)
{
	const char *value = skip_space(text), *at = value;

	for (size_t i = 0; i < n_steps && value; i++)
		value = step_into(value, &steps[i], &at);
	return json_place__position(text, (size_t)(at - text));
}
