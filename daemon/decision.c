/* SPDX-License-Identifier: MIT */
#include "daemon/decision.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <systemd/sd-id128.h>

#include "daemon/journal.h"
#include "daemon/log.h"
#include "daemon/utf8.h"

#define RING_SIZE    1024u
#define TEXT_SIZE    1024 /* of one member of an event, in bytes */
#define MESSAGE_SIZE 1600

/* ids are as in systemd/bpftimed.catalog, and never change. */
static const struct kind {
	const char *name, *id;
	enum log_level level;
	const char *says; /* in the message, between who it is about and the reason */
} kinds[DECISION_N_KINDS] = {
	[DECISION_OFFLOAD] = {"offload", "2ebe480d891548b1bb229bd4a1864ade", LOG_LEVEL_INFO, "now run in userspace"},
	[DECISION_REFUSAL] = {"refusal", "570ea3c669c04a658c308dd9d431922a", LOG_LEVEL_INFO, "stays in the kernel"},
	[DECISION_HANDBACK] = {"handback", "fcd2fd5048564ccaaba9032427a88ec0", LOG_LEVEL_INFO, "handed back"},
	[DECISION_ADOPT] = {"adopt", "fcf3900ed265441f97958d4817d56acb", LOG_LEVEL_INFO, "goes on in userspace"},
	[DECISION_RELEASE] = {"release", "2d28d3bd10c148c7a8450751f6da6a19", LOG_LEVEL_INFO, "no longer carried"},
	[DECISION_TARGET_OFFLOAD] = {"target-offload", "5fee23dbdc904a78b0b02418ce09ed5f", LOG_LEVEL_INFO,
				     "now run in userspace"},
	[DECISION_TARGET_REFUSAL] = {"target-refusal", "f0c9a5806faf49059d15d671c795a3b6", LOG_LEVEL_INFO,
				     "stays in the kernel"},
	[DECISION_POLICY] = {"policy", "6a1584be77fb4bb1823da9aefefd21c5", LOG_LEVEL_INFO, NULL},
	[DECISION_POLICY_LOAD] = {"policy-load", "5e48629723cc48b0a44747203ba4d570", LOG_LEVEL_INFO, NULL},
	[DECISION_POLICY_ERROR] = {"policy-error", "c43a7d65fa4e4922925575d4d7bc20cf", LOG_LEVEL_ERROR, NULL},
};

static const char *const class_names[REASON_N_CLASSES] = {
	[REASON_NONE] = "none",		[REASON_POLICY] = "policy",   [REASON_REQUEST] = "request",
	[REASON_DEBUGGER] = "debugger", [REASON_CLAIMED] = "claimed", [REASON_UNSUPPORTED] = "unsupported",
	[REASON_LIMIT] = "limit",	[REASON_BUSY] = "busy",	      [REASON_INEXACT] = "inexact",
	[REASON_TARGET] = "target",	[REASON_TOOL] = "tool",	      [REASON_END] = "end",
	[REASON_ERROR] = "error",
};

static const struct {
	int err;
	enum reason_class class;
} errnos[] = {
	{0, REASON_NONE},
	{EOPNOTSUPP, REASON_UNSUPPORTED},
	{EINVAL, REASON_UNSUPPORTED},
	{EPERM, REASON_UNSUPPORTED},
	{EACCES, REASON_UNSUPPORTED},
	{EBUSY, REASON_BUSY},
	{EAGAIN, REASON_BUSY},
	{ETIMEDOUT, REASON_BUSY},
	{E2BIG, REASON_LIMIT},
	{ENOMEM, REASON_LIMIT},
	{ENOSPC, REASON_LIMIT},
	{EDQUOT, REASON_LIMIT},
	{EMFILE, REASON_LIMIT},
	{ENFILE, REASON_LIMIT},
	{EALREADY, REASON_CLAIMED},
};

/* Journal priorities, as in syslog(3). */
static const char *const priorities[] = {
	[LOG_LEVEL_ERROR] = "3", [LOG_LEVEL_WARNING] = "4", [LOG_LEVEL_INFO] = "6", [LOG_LEVEL_DEBUG] = "7"};

struct decisions {
	void (*changed)(void *arg);
	void *changed_arg;
	json_object *ring[RING_SIZE]; /* number n is at n % RING_SIZE */
	uint64_t next;
	char id[SD_ID128_STRING_MAX];
	int journal_fd; /* or -errno */
	uint64_t dropped;
	uint64_t count[DECISION_N_KINDS][REASON_N_CLASSES];
	struct histogram durations[DECISION_N_KINDS];
};

enum reason_class reason_class__of(int err)
{
	for (size_t i = 0; i < sizeof(errnos) / sizeof(errnos[0]); i++)
		if (errnos[i].err == abs(err))
			return errnos[i].class;
	return REASON_ERROR;
}

const char *reason_class__name(enum reason_class class)
{
	return class_names[class];
}

const char *decision_kind__name(enum decision_kind kind)
{
	return kinds[kind].name;
}

struct decisions *decisions__new(void (*changed)(void *arg), void *arg)
{
	struct decisions *d = calloc(1, sizeof(*d));
	sd_id128_t id;

	if (!d)
		return NULL;
	d->changed = changed;
	d->changed_arg = arg;
	if (sd_id128_randomize(&id) >= 0)
		sd_id128_to_string(id, d->id);
	d->journal_fd = journal_open();
	return d;
}

void decisions__free(struct decisions *d)
{
	if (!d)
		return;
	for (size_t i = 0; i < RING_SIZE; i++)
		json_object_put(d->ring[i]);
	if (d->journal_fd >= 0)
		close(d->journal_fd);
	free(d);
}

/* ---- the sentence ---- */

struct sentence {
	char text[MESSAGE_SIZE];
	size_t n;
};

static void __attribute__((format(printf, 2, 3))) say(struct sentence *s, const char *format, ...)
{
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(s->text + s->n, sizeof(s->text) - s->n, format, args);
	va_end(args);
	s->n = n < 0 || s->n + (size_t)n >= sizeof(s->text) ? sizeof(s->text) - 1 : s->n + (size_t)n;
}

static size_t named(size_t n)
{
	return n < DECISION_LIST_MAX ? n : DECISION_LIST_MAX;
}

/* "bpftrace (12): 3 probe(s) now run in userspace, in 2 process(es)", "x (12): handed back: ..." */
static void describe(struct sentence *s, const struct decision *what)
{
	const char *before = "";

	if (what->tool.pid) {
		say(s, "%s (%d)", what->tool.comm, what->tool.pid);
		before = ": ";
	}
	if (kinds[what->kind].says) {
		say(s, "%s", before);
		if (what->kind == DECISION_OFFLOAD || what->kind == DECISION_TARGET_OFFLOAD)
			say(s, "%zu probe(s) ", what->n_probes);
		say(s, "%s", kinds[what->kind].says);
		before = ": ";
	}
	if (what->n_targets == 1)
		say(s, " in process %d (%s)", what->target[0].pid, what->target[0].comm);
	else if (what->n_targets)
		say(s, " in %zu process(es)", what->n_targets);
	if (what->reason)
		say(s, "%s%s", before, what->reason);
	log_clean(s->text);
}

/* ---- the journal ---- */

static void add_number(FILE *record, const char *name, size_t n)
{
	char text[24];

	snprintf(text, sizeof(text), "%zu", n);
	journal_field(record, name, text);
}

static void add_text(FILE *record, const char *name, const char *value)
{
	if (value && *value)
		journal_field(record, name, value);
}

static void add_processes(FILE *record, const char *what, const struct decision_process *p, size_t n)
{
	char name[32];

	for (size_t i = 0; i < n; i++) {
		if (!p[i].pid)
			continue;
		snprintf(name, sizeof(name), "BPFTIME_%s_PID", what);
		add_number(record, name, (size_t)p[i].pid);
		snprintf(name, sizeof(name), "BPFTIME_%s_COMM", what);
		add_text(record, name, p[i].comm);
		snprintf(name, sizeof(name), "BPFTIME_%s_EXE", what);
		add_text(record, name, p[i].exe);
	}
}

/* What goes wrong while it is carried, an administrator is to see. */
static enum log_level level_of(const struct decision *what)
{
	return what->class == REASON_INEXACT ? LOG_LEVEL_WARNING : kinds[what->kind].level;
}

/* systemd.journal-fields(7); bpftimed(8) lists ours. */
static void fill_record(FILE *record, const struct decision *what, const char *message)
{
	const struct kind *k = &kinds[what->kind];

	journal_field(record, "MESSAGE", message);
	journal_field(record, "MESSAGE_ID", k->id);
	journal_field(record, "PRIORITY", priorities[level_of(what)]);
	journal_field(record, "SYSLOG_IDENTIFIER", "bpftimed");
	journal_field(record, "BPFTIME_DECISION", k->name);
	add_processes(record, "TOOL", &what->tool, 1);
	for (size_t i = 0; i < named(what->n_programs); i++)
		add_text(record, "BPFTIME_PROGRAM", what->program[i]);
	for (size_t i = 0; i < named(what->n_probes); i++)
		add_text(record, "BPFTIME_PROBE", what->probe[i]);
	if (what->n_probes)
		add_number(record, "BPFTIME_PROBES", what->n_probes);
	add_processes(record, "TARGET", what->target, named(what->n_targets));
	if (what->n_targets)
		add_number(record, "BPFTIME_TARGETS", what->n_targets);
	add_text(record, "BPFTIME_REASON", what->reason);
	if (what->class != REASON_NONE)
		journal_field(record, "BPFTIME_REASON_CLASS", class_names[what->class]);
	add_text(record, "BPFTIME_POLICY_RULE", what->rule);
	if (what->seconds > 0)
		add_number(record, "BPFTIME_DURATION_USEC", (size_t)(what->seconds * 1e6));
}

/* 0, or -errno: nothing was sent. */
static int send_record(struct decisions *d, const struct decision *what, const char *message)
{
	char *text = NULL;
	size_t len = 0;
	FILE *record;
	int r;

	if (d->journal_fd < 0)
		return d->journal_fd;
	record = open_memstream(&text, &len);
	if (!record)
		return -ENOMEM;
	fill_record(record, what, message);
	r = fclose(record) ? -ENOMEM : journal_send(d->journal_fd, text, len);
	free(text);
	return r;
}

static void tell(struct decisions *d, const struct decision *what, const char *message)
{
	enum log_level level = level_of(what);

	if (log_is_journal() && log_passes(level)) {
		int r = send_record(d, what, message);

		d->dropped += r == -EAGAIN;
		if (!r || r == -EAGAIN)
			return;
	}
	log_at(level, "%s", message);
}

/* ---- the ring ---- */

static json_object *text(const char *s)
{
	char out[TEXT_SIZE];

	return s && *s ? json_object_new_string_len(out, (int)utf8_clean(s, out, sizeof(out))) : NULL;
}

static json_object *texts(const char *const *s, size_t n)
{
	json_object *list = json_object_new_array();

	for (size_t i = 0; i < n; i++)
		if (s[i])
			json_object_array_add(list, text(s[i]));
	return list;
}

static json_object *process(const struct decision_process *p, bool is_tool)
{
	json_object *o = p->pid ? json_object_new_object() : NULL;

	if (!o)
		return NULL;
	json_object_object_add(o, "pid", json_object_new_int(p->pid));
	json_object_object_add(o, "comm", text(p->comm));
	if (is_tool)
		json_object_object_add(o, "exe", text(p->exe));
	return o;
}

static json_object *number(double value, const char *format)
{
	char shown[40];

	snprintf(shown, sizeof(shown), format, value);
	return json_object_new_double_s(value, shown);
}

static json_object *event_json(uint64_t n, const struct decision *what, const char *message)
{
	json_object *o = json_object_new_object(), *targets = json_object_new_array();
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	for (size_t i = 0; i < named(what->n_targets); i++)
		json_object_array_add(targets, process(&what->target[i], false));
	json_object_object_add(o, "number", json_object_new_uint64(n));
	json_object_object_add(o, "time", number((double)now.tv_sec + (double)now.tv_nsec / 1e9, "%.6f"));
	json_object_object_add(o, "kind", text(kinds[what->kind].name));
	json_object_object_add(o, "message", text(message));
	json_object_object_add(o, "tool", process(&what->tool, true));
	json_object_object_add(o, "programs", texts(what->program, named(what->n_programs)));
	json_object_object_add(o, "probes", texts(what->probe, named(what->n_probes)));
	json_object_object_add(o, "n_probes", json_object_new_uint64(what->n_probes));
	json_object_object_add(o, "targets", targets);
	json_object_object_add(o, "n_targets", json_object_new_uint64(what->n_targets));
	json_object_object_add(o, "reason", text(what->reason));
	json_object_object_add(o, "class", what->class == REASON_NONE ? NULL : text(class_names[what->class]));
	json_object_object_add(o, "rule", text(what->rule));
	json_object_object_add(o, "seconds", what->seconds > 0 ? number(what->seconds, "%.6f") : NULL);
	return o;
}

void decisions__record(struct decisions *d, const struct decision *what)
{
	struct sentence s = {0};
	json_object **slot;

	if (!d)
		return;
	describe(&s, what);
	tell(d, what, s.text);
	d->count[what->kind][what->class]++;
	if (what->seconds > 0)
		histogram__add(&d->durations[what->kind], what->seconds);
	slot = &d->ring[d->next % RING_SIZE];
	json_object_put(*slot);
	*slot = event_json(d->next, what, s.text);
	d->next++;
	if (d->changed)
		d->changed(d->changed_arg);
}

json_object *decisions__events(const struct decisions *d, uint64_t from)
{
	uint64_t oldest = d->next > RING_SIZE ? d->next - RING_SIZE : 0, first = from > oldest ? from : oldest;
	json_object *o = json_object_new_object(), *list = json_object_new_array();

	for (uint64_t n = first; n < d->next; n++)
		json_object_array_add(list, json_object_get(d->ring[n % RING_SIZE]));
	json_object_object_add(o, "events", list);
	json_object_object_add(o, "next", json_object_new_uint64(d->next));
	json_object_object_add(o, "lost", json_object_new_uint64(from < oldest ? oldest - from : 0));
	json_object_object_add(o, "daemon", text(d->id));
	return o;
}

uint64_t decisions__next(const struct decisions *d)
{
	return d->next;
}

uint64_t decisions__count(const struct decisions *d, enum decision_kind kind, enum reason_class class)
{
	return d->count[kind][class];
}

const struct histogram *decisions__durations(const struct decisions *d, enum decision_kind kind)
{
	return &d->durations[kind];
}

uint64_t decisions__dropped(const struct decisions *d)
{
	return d->dropped;
}
