/* SPDX-License-Identifier: MIT */
/*
 * Which probes fire how often, and what a hit costs, busiest first, again and again. With --json one line per look.
 *
 * What a hit costs is known from samples (engine__top()): processor time in the code of the probe's program, by its
 * hits, and to this the time in the agent's code around programs, by all hits. Both since top began, and only when
 * there are enough samples to say something.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"
#include "client.h"
#include "output.h"

#define PLACE_SIZE    4400
#define CLEAR_SCREEN  "\033[H\033[2J"
#define EXTRA_SECONDS 5.0 /* sampling goes on for so long when we are late */
#define MOST_SECONDS  3600.0
#define LEAST_SAMPLES 20 /* fewer are off by more than a fifth, mostly */
#define MOST_TARGETS  2	 /* named in a line */
#define LINES_AROUND  4	 /* of the screen, besides probes */

/* One probe at one look. */
struct sample {
	int64_t tool;
	const char *comm, *state, *kind, *program;
	const json_object *probe;
	char place[PLACE_SIZE];
	int64_t hits, program_ns;
	double rate; /* hits per second since the look before; 0 at the first */
	double ns;   /* of a hit; negative: not known */
};

struct look {
	json_object *answer; /* owns the strings of the samples */
	struct sample *samples;
	size_t n, n_tools;
	int64_t entry_ns, sample_ns;
	double time;
};

/* Of one program, or of all: since top began. */
struct cost {
	char *program;
	int64_t hits, ns;
};

struct costs {
	struct cost all, *of;
	size_t n;
};

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void look__clear(struct look *l)
{
	json_object_put(l->answer);
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

/* ---- what a hit costs ---- */

/* What is new since then; what was made anew meanwhile has begun at 0. */
static int64_t since(int64_t then, int64_t value)
{
	return value >= then ? value - then : value;
}

static struct cost *cost_of(struct costs *c, const char *program)
{
	struct cost *more;

	for (size_t i = 0; i < c->n; i++)
		if (strcmp(c->of[i].program, program) == 0)
			return &c->of[i];
	more = reallocarray(c->of, c->n + 1, sizeof(*c->of));
	if (!more)
		return NULL;
	c->of = more;
	c->of[c->n] = (struct cost){.program = strdup(program)};
	return c->of[c->n].program ? &c->of[c->n++] : NULL;
}

static void costs__clear(struct costs *c)
{
	for (size_t i = 0; i < c->n; i++)
		free(c->of[i].program);
	free(c->of);
}

static bool is_counted(const struct look *l, size_t i)
{
	for (size_t k = 0; k < i; k++)
		if (strcmp(l->samples[k].program, l->samples[i].program) == 0)
			return true;
	return false;
}

static void costs__add(struct costs *c, const struct look *before, const struct look *l)
{
	c->all.ns += since(before->entry_ns, l->entry_ns);
	for (size_t i = 0; i < l->n; i++) {
		const struct sample *s = &l->samples[i], *old = find_before(before, s);
		struct cost *of = *s->program ? cost_of(c, s->program) : NULL;
		bool same = old && strcmp(old->program, s->program) == 0;

		if (!of)
			continue;
		of->hits += since(same ? old->hits : 0, s->hits);
		c->all.hits += since(same ? old->hits : 0, s->hits);
		if (!is_counted(l, i))
			of->ns += since(same ? old->program_ns : 0, s->program_ns);
	}
}

static void tell_costs(struct costs *c, struct look *l)
{
	for (size_t i = 0; i < l->n; i++) {
		struct sample *s = &l->samples[i];
		const struct cost *of = *s->program ? cost_of(c, s->program) : NULL;
		double around;

		if (!of || !of->hits || !l->sample_ns)
			continue;
		around = (double)c->all.ns / (double)c->all.hits;
		if ((double)of->ns + around * (double)of->hits < (double)LEAST_SAMPLES * (double)l->sample_ns)
			continue;
		s->ns = (double)of->ns / (double)of->hits + around;
	}
}

/* ---- a look ---- */

static enum cli_exit ask(struct look *l, const struct cli_args *args)
{
	json_object *request = client_request("top"), *o;
	enum cli_exit code;

	json_object_object_add(
		request, "timeout",
		json_object_new_double(args->interval < MOST_SECONDS ? args->interval + EXTRA_SECONDS : MOST_SECONDS));
	code = client_ask(args, request, CLIENT_PATIENCE, false, &o);
	l->answer = o;
	l->time = now();
	l->entry_ns = member_number(o, "entry_ns");
	l->sample_ns = member_number(o, "sample_ns");
	l->n_tools = member_length(o, "tools");
	return code;
}

static enum cli_exit look__take(struct look *l, const struct cli_args *args, const struct look *before,
				struct costs *costs)
{
	enum cli_exit code = ask(l, args);
	size_t n = 0;

	if (code != CLI_DONE)
		return code;
	for (size_t i = 0; i < l->n_tools; i++)
		n += member_length(member_element(l->answer, "tools", i), "probes");
	l->samples = calloc(n + 1, sizeof(*l->samples));
	if (!l->samples)
		return CLI_NO;
	for (size_t i = 0; i < l->n_tools; i++) {
		const json_object *tool = member_element(l->answer, "tools", i);

		for (size_t k = 0; k < member_length(tool, "probes"); k++) {
			const json_object *probe = member_element(tool, "probes", k);
			struct sample *s = &l->samples[l->n++];
			const struct sample *old;

			s->probe = probe;
			s->tool = member_number(tool, "pid");
			s->comm = member_text(tool, "comm");
			s->state = member_text(probe, "state");
			s->kind = member_text(probe, "kind");
			s->hits = member_number(probe, "hits");
			s->program = member_text(probe, "program_id");
			s->program_ns = member_number(probe, "program_ns");
			s->ns = -1;
			probe_place(probe, s->place, sizeof(s->place));
			old = find_before(before, s);
			if (old && s->hits > old->hits && l->time > before->time)
				s->rate = (double)(s->hits - old->hits) / (l->time - before->time);
		}
	}
	if (before->answer)
		costs__add(costs, before, l);
	tell_costs(costs, l);
	qsort(l->samples, l->n, sizeof(*l->samples), busiest_first);
	return CLI_DONE;
}

/* ---- showing ---- */

/* "4711", "12, 14", "3 processes" */
static void write_targets(const json_object *probe, char *out, size_t size)
{
	size_t n = member_length(probe, "targets"), at = 0;

	if (n > MOST_TARGETS) {
		snprintf(out, size, "%zu processes", n);
		return;
	}
	out[0] = 0;
	for (size_t i = 0; i < n; i++)
		at += (size_t)snprintf(out + at, size - at, "%s%" PRId64, i ? ", " : "",
				       json_object_get_int64(member_element(probe, "targets", i)));
	if (!n)
		snprintf(out, size, "-");
}

static size_t shown_lines(const struct look *l)
{
	struct winsize w;

	if (!isatty(STDOUT_FILENO) || ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) || w.ws_row <= LINES_AROUND)
		return l->n;
	return l->n < (size_t)w.ws_row - LINES_AROUND ? l->n : (size_t)w.ws_row - LINES_AROUND;
}

static void look__print(const struct look *l, double interval)
{
	static const char *const headings[] = {"HITS/S",  "NS/HIT",  "HITS", "TOOL", "COMMAND",
					       "RUNS IN", "TARGETS", "KIND", "PROBE"};
	struct table *t = table__new(headings, sizeof(headings) / sizeof(headings[0]));
	size_t n = shown_lines(l);

	table__align_right(t, 1u << 0 | 1u << 1 | 1u << 2 | 1u << 3);
	for (size_t i = 0; i < n; i++) {
		const struct sample *s = &l->samples[i];
		bool counts = strcmp(s->state, "userspace") == 0;
		char rate[32], ns[32], hits[24], pid[24], targets[48];
		const char *cells[] = {rate, ns, hits, pid, s->comm, s->state, targets, s->kind, s->place};

		snprintf(rate, sizeof(rate), counts ? "%.0f" : "-", s->rate);
		snprintf(ns, sizeof(ns), s->ns >= 0 ? "%.1f" : "-", s->ns);
		snprintf(hits, sizeof(hits), "%" PRId64, s->hits);
		snprintf(pid, sizeof(pid), "%" PRId64, s->tool);
		write_targets(s->probe, targets, sizeof(targets));
		table__add(t, cells);
	}
	if (isatty(STDOUT_FILENO))
		printf(CLEAR_SCREEN "bpftime top: %zu tool(s), %zu probe(s), every %g s\n\n", l->n_tools, l->n,
		       interval);
	table__print(t);
	fflush(stdout);
	table__free(t);
}

static void look__print_json(const struct look *l)
{
	json_object *list = json_object_new_array();

	for (size_t i = 0; i < l->n; i++) {
		const struct sample *s = &l->samples[i];
		json_object *o = json_object_new_object(), *targets = NULL;

		json_object_object_get_ex(s->probe, "targets", &targets);
		json_object_object_add(o, "pid", json_object_new_int64(s->tool));
		json_object_object_add(o, "comm", json_object_new_string(s->comm));
		json_object_object_add(o, "probe", json_object_new_string(s->place));
		json_object_object_add(o, "kind", json_object_new_string(s->kind));
		json_object_object_add(o, "state", json_object_new_string(s->state));
		json_object_object_add(o, "targets", json_object_get(targets));
		json_object_object_add(o, "hits", json_object_new_int64(s->hits));
		json_object_object_add(o, "hits_per_second", json_object_new_double(s->rate));
		json_object_object_add(o, "ns_per_hit", s->ns >= 0 ? json_object_new_double(s->ns) : NULL);
		json_object_array_add(list, o);
	}
	print_json_line(list);
	json_object_put(list);
}

enum cli_exit cmd_top(const struct cli_args *args)
{
	struct look before = {0}, l = {0};
	struct costs costs = {0};
	enum cli_exit code = CLI_DONE;

	for (unsigned long i = 0; !args->count || i < args->count; i++) {
		struct timespec pause = {.tv_sec = (time_t)args->interval};

		pause.tv_nsec = (long)((args->interval - (double)pause.tv_sec) * 1e9);
		if (i && clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL))
			break;
		code = look__take(&l, args, &before, &costs);
		if (code != CLI_DONE)
			break;
		if (args->json)
			look__print_json(&l);
		else
			look__print(&l, args->interval);
		look__clear(&before);
		before = l;
		l = (struct look){0};
	}
	look__clear(&before);
	look__clear(&l);
	costs__clear(&costs);
	return code;
}
