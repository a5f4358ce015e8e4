/* SPDX-License-Identifier: MIT */
/* Which probes fire how often, busiest first, again and again. With --json one line per look. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"
#include "client.h"
#include "output.h"

#define PLACE_SIZE   4400
#define CLEAR_SCREEN "\033[H\033[2J"

/* One probe at one look. */
struct sample {
	int64_t tool;
	const char *comm, *state, *kind;
	char place[PLACE_SIZE];
	int64_t hits;
	double rate; /* hits per second since the look before; 0 at the first */
};

struct look {
	json_object *tools; /* owns the strings of the samples */
	struct sample *samples;
	size_t n;
	double time;
};

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void look__clear(struct look *l)
{
	json_object_put(l->tools);
	free(l->samples);
	*l = (struct look){0};
}

static const struct sample *find_before(const struct look *before, const struct sample *s)
{
	for (size_t i = 0; i < before->n; i++)
		if (before->samples[i].tool == s->tool && strcmp(before->samples[i].kind, s->kind) == 0 &&
		    strcmp(before->samples[i].place, s->place) == 0)
			return &before->samples[i];
	return NULL;
}

static int busiest_first(const void *a, const void *b)
{
	const struct sample *x = a, *y = b;

	return x->rate != y->rate ? (x->rate < y->rate) - (x->rate > y->rate)
				  : (x->hits < y->hits) - (x->hits > y->hits);
}

static enum cli_exit look__take(struct look *l, const struct cli_args *args, const struct look *before)
{
	enum cli_exit code = client_ask(args, client_request("ps"), CLIENT_PATIENCE, false, &l->tools);
	size_t n = 0;

	if (code != CLI_DONE)
		return code;
	l->time = now();
	for (size_t i = 0; i < json_object_array_length(l->tools); i++)
		n += member_length(json_object_array_get_idx(l->tools, i), "probes");
	l->samples = calloc(n + 1, sizeof(*l->samples));
	if (!l->samples)
		return CLI_NO;
	for (size_t i = 0; i < json_object_array_length(l->tools); i++) {
		const json_object *tool = json_object_array_get_idx(l->tools, i);

		for (size_t k = 0; k < member_length(tool, "probes"); k++) {
			const json_object *probe = member_element(tool, "probes", k);
			struct sample *s = &l->samples[l->n++];
			const struct sample *old;

			s->tool = member_number(tool, "pid");
			s->comm = member_text(tool, "comm");
			s->state = member_text(probe, "state");
			s->kind = member_text(probe, "kind");
			s->hits = member_number(probe, "hits");
			probe_place(probe, s->place, sizeof(s->place));
			old = find_before(before, s);
			if (old && s->hits > old->hits && l->time > before->time)
				s->rate = (double)(s->hits - old->hits) / (l->time - before->time);
		}
	}
	qsort(l->samples, l->n, sizeof(*l->samples), busiest_first);
	return CLI_DONE;
}

static void look__print(const struct look *l)
{
	static const char *const headings[] = {"HITS/S", "HITS", "TOOL", "COMMAND", "RUNS IN", "KIND", "PROBE"};
	struct table *t = table__new(headings, sizeof(headings) / sizeof(headings[0]));

	table__align_right(t, 1u << 0 | 1u << 1 | 1u << 2);
	for (size_t i = 0; i < l->n; i++) {
		const struct sample *s = &l->samples[i];
		char rate[32], hits[24], pid[24];
		const char *cells[] = {rate, hits, pid, s->comm, s->state, s->kind, s->place};

		snprintf(rate, sizeof(rate), "%.0f", s->rate);
		snprintf(hits, sizeof(hits), "%" PRId64, s->hits);
		snprintf(pid, sizeof(pid), "%" PRId64, s->tool);
		table__add(t, cells);
	}
	if (isatty(STDOUT_FILENO))
		fputs(CLEAR_SCREEN, stdout);
	table__print(t);
	fflush(stdout);
	table__free(t);
}

static void look__print_json(const struct look *l)
{
	json_object *list = json_object_new_array();

	for (size_t i = 0; i < l->n; i++) {
		const struct sample *s = &l->samples[i];
		json_object *o = json_object_new_object();

		json_object_object_add(o, "pid", json_object_new_int64(s->tool));
		json_object_object_add(o, "comm", json_object_new_string(s->comm));
		json_object_object_add(o, "probe", json_object_new_string(s->place));
		json_object_object_add(o, "kind", json_object_new_string(s->kind));
		json_object_object_add(o, "state", json_object_new_string(s->state));
		json_object_object_add(o, "hits", json_object_new_int64(s->hits));
		json_object_object_add(o, "hits_per_second", json_object_new_double(s->rate));
		json_object_array_add(list, o);
	}
	print_json_line(list);
	json_object_put(list);
}

enum cli_exit cmd_top(const struct cli_args *args)
{
	struct look before = {0}, l = {0};
	enum cli_exit code = CLI_DONE;

	for (unsigned long i = 0; !args->count || i < args->count; i++) {
		struct timespec pause = {.tv_sec = (time_t)args->interval};

		pause.tv_nsec = (long)((args->interval - (double)pause.tv_sec) * 1e9);
		if (i && clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL))
			break;
		code = look__take(&l, args, &before);
		if (code != CLI_DONE)
			break;
		if (args->json)
			look__print_json(&l);
		else
			look__print(&l);
		look__clear(&before);
		before = l;
		l = (struct look){0};
	}
	look__clear(&before);
	look__clear(&l);
	return code;
}
