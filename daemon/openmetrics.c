/* SPDX-License-Identifier: MIT */
#include "daemon/openmetrics.h"

#include <inttypes.h>

#include "daemon/utf8.h"

#define LABEL_SIZE 8192
#define MAX_LABELS 16
#define BOUND_SIZE 32

static const struct {
	const char *name, *suffix;
} types[] = {
	[OM_GAUGE] = {"gauge", ""},
	[OM_COUNTER] = {"counter", "_total"},
	[OM_HISTOGRAM] = {"histogram", ""},
	[OM_INFO] = {"info", "_info"},
};

/* ABNF escaped-string: in label values and in HELP. */
static void put_escaped(FILE *out, const char *text)
{
	char clean[LABEL_SIZE];

	utf8_clean(text, clean, sizeof(clean));
	for (const char *c = clean; *c; c++) {
		if (*c == '\n')
			fputs("\\n", out);
		else if (*c == '"' || *c == '\\')
			fprintf(out, "\\%c", *c);
		else
			fputc(*c, out);
	}
}

void om_family(FILE *out, const char *name, enum om_type type, const char *unit, const char *help)
{
	fprintf(out, "# TYPE %s %s\n", name, types[type].name);
	if (unit)
		fprintf(out, "# UNIT %s %s\n", name, unit);
	fprintf(out, "# HELP %s ", name);
	put_escaped(out, help);
	fputc('\n', out);
}

void om_labels(FILE *out, const struct om_label *labels, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		fprintf(out, "%c%s=\"", i ? ',' : '{', labels[i].name);
		put_escaped(out, labels[i].value);
		fputc('"', out);
	}
	if (n)
		fputc('}', out);
}

static void begin(FILE *out, const char *name, const char *suffix, const struct om_label *labels, size_t n)
{
	fprintf(out, "%s%s", name, suffix);
	om_labels(out, labels, n);
	fputc(' ', out);
}

void om_number(FILE *out, const char *name, enum om_type type, const struct om_label *labels, size_t n, double value)
{
	begin(out, name, types[type].suffix, labels, n);
	fprintf(out, "%.9g\n", value);
}

void om_count(FILE *out, const char *name, enum om_type type, const struct om_label *labels, size_t n, uint64_t value)
{
	begin(out, name, types[type].suffix, labels, n);
	fprintf(out, "%" PRIu64 "\n", value);
}

void om_histogram(FILE *out, const char *name, const struct om_label *labels, size_t n, const struct histogram *h)
{
	struct om_label all[MAX_LABELS + 1];
	uint64_t up_to = 0;
	char bound[BOUND_SIZE];

	if (n > MAX_LABELS)
		return;
	for (size_t i = 0; i < n; i++)
		all[i] = labels[i];
	all[n] = (struct om_label){"le", bound};
	for (size_t i = 0; i <= HISTOGRAM_BOUNDS; i++) {
		up_to += h->bucket[i];
		if (i < HISTOGRAM_BOUNDS)
			/* Canonical: 1.0, not 1. */
			snprintf(bound, sizeof(bound), histogram_bounds[i] < 1 ? "%g" : "%.1f", histogram_bounds[i]);
		else
			snprintf(bound, sizeof(bound), "+Inf");
		begin(out, name, "_bucket", all, n + 1);
		fprintf(out, "%" PRIu64 "\n", up_to);
	}
	begin(out, name, "_count", labels, n);
	fprintf(out, "%" PRIu64 "\n", up_to);
	begin(out, name, "_sum", labels, n);
	fprintf(out, "%.9g\n", h->sum);
}

void om_end(FILE *out)
{
	fputs("# EOF\n", out);
}
