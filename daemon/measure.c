/* SPDX-License-Identifier: MIT */
/* measure.c: the engine's part of `bpftime metrics`. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "daemon/kernel_features.h"
#include "daemon/openmetrics.h"
#include "daemon/report.h"

#define N(array) (sizeof(array) / sizeof((array)[0]))

/* A sample of a family that has one for each probe. */
struct hits {
	char *labels;
	uint64_t n;
};

struct hits_list {
	struct hits *hits;
	size_t n, room;
};

static char *probe_labels(const struct status_tool *t, const struct status_probe *p)
{
	char pid[16], offset[32], *text = NULL;
	const struct om_label labels[] = {{"tool_pid", pid},
					  {"tool", t->comm},
					  {"kind", p->kind},
					  {"path", p->path},
					  {"symbol", p->symbol ? p->symbol : ""},
					  {"offset", offset},
					  {"program", p->program}};
	size_t len;
	FILE *f = open_memstream(&text, &len);

	snprintf(pid, sizeof(pid), "%d", t->pid);
	snprintf(offset, sizeof(offset), "0x%" PRIx64, p->offset);
	if (!f)
		return NULL;
	om_labels(f, labels, N(labels));
	fclose(f);
	return text;
}

static void add_hits(struct hits_list *all, const struct status_tool *t, const struct status_probe *p)
{
	char *labels;

	if (all->n == all->room) {
		size_t room = all->room ? 2 * all->room : 64;
		struct hits *more = realloc(all->hits, room * sizeof(*more));

		if (!more)
			return;
		all->hits = more;
		all->room = room;
	}
	labels = probe_labels(t, p);
	if (labels)
		all->hits[all->n++] = (struct hits){labels, p->hits};
}

static int by_labels(const void *a, const void *b)
{
	return strcmp(((const struct hits *)a)->labels, ((const struct hits *)b)->labels);
}

/* A tool may attach a program twice to one instruction: these are one sample. */
static void write_hits(FILE *out, struct hits_list *all)
{
	om_family(out, "bpftime_probe_hits", OM_COUNTER, NULL,
		  "Hits that were served in userspace, by probe; since it was last taken over anew.");
	if (all->n)
		qsort(all->hits, all->n, sizeof(*all->hits), by_labels);
	for (size_t i = 0; i < all->n; i++) {
		if (i + 1 < all->n && strcmp(all->hits[i].labels, all->hits[i + 1].labels) == 0)
			all->hits[i + 1].n += all->hits[i].n;
		else
			fprintf(out, "bpftime_probe_hits_total%s %" PRIu64 "\n", all->hits[i].labels, all->hits[i].n);
	}
	for (size_t i = 0; i < all->n; i++)
		free(all->hits[i].labels);
	free(all->hits);
}

static void write_tools(struct engine *e, FILE *out)
{
	struct hits_list hits = {0};
	uint64_t tools = 0, probes[2] = {0};

	for (const struct tool *t = e->tools; t; t = t->next) {
		struct report *r = report__new(e, t);
		const struct status_tool *s = r ? report__tool(r) : NULL;

		tools += s && s->n_probes;
		for (size_t i = 0; s && i < s->n_probes; i++) {
			probes[s->probes[i].userspace]++;
			if (!s->probes[i].is_tracepoint)
				add_hits(&hits, s, &s->probes[i]);
		}
		report__free(r);
	}
	om_family(out, "bpftime_tools", OM_GAUGE, NULL, "Processes that have probes.");
	om_count(out, "bpftime_tools", OM_GAUGE, NULL, 0, tools);
	om_family(out, "bpftime_probes", OM_GAUGE, NULL, "Probes, by where they run.");
	for (int userspace = 0; userspace < 2; userspace++) {
		const struct om_label labels[] = {{"state", userspace ? "userspace" : "kernel"}};

		om_count(out, "bpftime_probes", OM_GAUGE, labels, N(labels), probes[userspace]);
	}
	write_hits(out, &hits);
}

static void write_groups(struct engine *e, FILE *out)
{
	enum { IN_KERNEL, BUILDING, IN_USERSPACE, N_STATES };
	static const char *const names[N_STATES] = {"kernel", "building", "userspace"};
	uint64_t n[N_STATES] = {0}, shared = 0, targets = 0;

	for (const struct group *g = e->groups; g; g = g->next) {
		n[g->state == GROUP_SHARED ? IN_USERSPACE : g->building ? BUILDING : IN_KERNEL]++;
		shared += g->arena ? g->arena_size : 0;
	}
	for (const struct host *h = e->hosts.list; h; h = h->next)
		targets += host__has_open_place(h);
	om_family(out, "bpftime_groups", OM_GAUGE, NULL, "Sets of probes that share maps, by where they run.");
	for (int i = 0; i < N_STATES; i++) {
		const struct om_label labels[] = {{"state", names[i]}};

		om_count(out, "bpftime_groups", OM_GAUGE, labels, N(labels), n[i]);
	}
	om_family(out, "bpftime_targets", OM_GAUGE, NULL, "Processes in which probes run in userspace.");
	om_count(out, "bpftime_targets", OM_GAUGE, NULL, 0, targets);
	om_family(out, "bpftime_shared_memory_bytes", OM_GAUGE, "bytes",
		  "Memory that holds the maps of tools for kernel and targets.");
	om_count(out, "bpftime_shared_memory_bytes", OM_GAUGE, NULL, 0, shared);
}

static void write_host(struct engine *e, FILE *out)
{
	struct utsname u = {0};
	const struct om_label labels[] = {{"kernel", u.release},
					  {"hook", carriers__hook(e->carriers)},
					  {"switch", kernel_features__can_replace() ? "freplace" : "the opening gate"},
					  {"holds", agent_holds_are_links() ? "links" : "perf events"}};

	uname(&u);
	om_family(out, "bpftime_host", OM_INFO, NULL, "On what kernel bpftimed works, and how.");
	om_count(out, "bpftime_host", OM_INFO, labels, N(labels), 1);
}

void engine__metrics(struct engine *e, FILE *out)
{
	struct histogram built;

	write_host(e, out);
	write_tools(e, out);
	write_groups(e, out);
	builder__durations(e->builder, &built);
	om_family(
		out, "bpftime_compile_seconds", OM_HISTOGRAM, "seconds",
		"How long it took to compile a set of probes' programs and have the kernel verify their kernel half.");
	om_histogram(out, "bpftime_compile_seconds", NULL, 0, &built);
	om_family(out, "bpftime_held_seconds", OM_HISTOGRAM, "seconds",
		  "How long threads that hit a probe had to wait while it was moved.");
	om_histogram(out, "bpftime_held_seconds", NULL, 0, &e->sw.held);
}
