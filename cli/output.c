/* SPDX-License-Identifier: MIT */
#include "output.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct table {
	size_t n_columns, n_rows;
	unsigned int right;
	char **cells; /* n_rows * n_columns; the first row has the headings */
};

const char *member_text(const json_object *o, const char *key)
{
	json_object *v;
	const char *text = json_object_object_get_ex(o, key, &v) && v ? json_object_get_string(v) : NULL;

	return text ? text : "";
}

int64_t member_number(const json_object *o, const char *key)
{
	json_object *v;

	return json_object_object_get_ex(o, key, &v) ? json_object_get_int64(v) : 0;
}

size_t member_length(const json_object *o, const char *key)
{
	json_object *v;

	return json_object_object_get_ex(o, key, &v) && json_object_is_type(v, json_type_array)
		       ? json_object_array_length(v)
		       : 0;
}

json_object *member_element(const json_object *o, const char *key, size_t i)
{
	return json_object_array_get_idx(json_object_object_get(o, key), i);
}

void print_json(json_object *o)
{
	puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED |
						       JSON_C_TO_STRING_NOSLASHESCAPE));
}

void print_json_line(json_object *o)
{
	puts(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
	fflush(stdout);
}

static bool controls(const char *c)
{
	unsigned char a = (unsigned char)c[0], b = (unsigned char)c[1];

	/* C0, DEL, and C1 as UTF-8 */
	return a < ' ' || a == 0x7f || (a == 0xc2 && b >= 0x80 && b < 0xa0);
}

void print_text(FILE *to, const char *text)
{
	for (; *text; text++)
		fputc(controls(text) ? '?' : *text, to);
}

void probe_place(const json_object *probe, char *out, size_t size)
{
	const char *path = member_text(probe, "path"), *symbol = member_text(probe, "symbol");
	json_object *offset = NULL;

	if (*symbol)
		snprintf(out, size, "%s:%s", path, symbol);
	else if (json_object_object_get_ex(probe, "offset", &offset) && !offset)
		snprintf(out, size, "%s", path); /* a tracepoint */
	else
		snprintf(out, size, "%s:0x%" PRIx64, path, (uint64_t)member_number(probe, "offset"));
}

void span(double seconds, char *out, size_t size)
{
	static const struct {
		double from, unit;
		const char *name;
	} units[] = {{172800, 86400, "days"}, {7200, 3600, "h"}, {120, 60, "min"}, {0, 1, "s"}};
	size_t i = 0;

	while (seconds < units[i].from && units[i].unit > 1)
		i++;
	snprintf(out, size, "%.*f %s", seconds < 10 ? 1 : 0, seconds / units[i].unit, units[i].name);
}

/* ---- tables ---- */

static void *must(void *p)
{
	if (!p)
		abort();
	return p;
}

void table__add(struct table *t, const char *const *cells)
{
	t->cells = must(reallocarray(t->cells, (t->n_rows + 1) * t->n_columns, sizeof(*t->cells)));
	for (size_t i = 0; i < t->n_columns; i++)
		t->cells[t->n_rows * t->n_columns + i] = must(strdup(cells[i]));
	t->n_rows++;
}

struct table *table__new(const char *const *headings, size_t n_columns)
{
	struct table *t = must(calloc(1, sizeof(*t)));

	t->n_columns = n_columns;
	table__add(t, headings);
	return t;
}

void table__align_right(struct table *t, unsigned int columns)
{
	t->right = columns;
}

static size_t shown_width(const char *text)
{
	size_t n = 0;

	for (; *text; text++)
		n += ((unsigned char)*text & 0xc0) != 0x80;
	return n;
}

static size_t column_width(const struct table *t, size_t column)
{
	size_t widest = 0;

	for (size_t row = 0; row < t->n_rows; row++) {
		size_t w = shown_width(t->cells[row * t->n_columns + column]);

		widest = w > widest ? w : widest;
	}
	return widest;
}

void table__print(const struct table *t)
{
	for (size_t row = 0; row < t->n_rows; row++) {
		for (size_t i = 0; i < t->n_columns; i++) {
			const char *cell = t->cells[row * t->n_columns + i];
			int pad = (int)(column_width(t, i) - shown_width(cell));
			bool right = t->right & (1u << i), last = i + 1 == t->n_columns;

			printf("%*s", right ? pad : 0, "");
			print_text(stdout, cell);
			printf("%*s", right || last ? 0 : pad, "");
			fputs(last ? "\n" : "  ", stdout);
		}
	}
}

void table__free(struct table *t)
{
	for (size_t i = 0; i < t->n_rows * t->n_columns; i++)
		free(t->cells[i]);
	free(t->cells);
	free(t);
}
