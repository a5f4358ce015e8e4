/* SPDX-License-Identifier: MIT */
#include "daemon/metrics.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "daemon/log.h"
#include "daemon/openmetrics.h"

#define N(array) (sizeof(array) / sizeof((array)[0]))

static uint64_t of_kind(const struct decisions *d, enum decision_kind kind)
{
	uint64_t n = 0;

	for (int class = 0; class < REASON_N_CLASSES; class ++)
		n += decisions__count(d, kind, class);
	return n;
}

static void write_decisions(FILE *out, const struct decisions *d)
{
	static const struct {
		const char *of;
		enum decision_kind kind;
	} refusals[] = {{"tool", DECISION_REFUSAL}, {"target", DECISION_TARGET_REFUSAL}};
	static const struct {
		const char *to;
		enum decision_kind kind;
	} switches[] = {{"userspace", DECISION_OFFLOAD}, {"kernel", DECISION_HANDBACK}};

	om_family(out, "bpftime_decisions", OM_COUNTER, NULL,
		  "Decisions, by kind; each is a record in the journal (BPFTIME_DECISION).");
	for (int kind = 0; kind < DECISION_N_KINDS; kind++) {
		const struct om_label labels[] = {{"kind", decision_kind__name(kind)}};

		om_count(out, "bpftime_decisions", OM_COUNTER, labels, N(labels), of_kind(d, kind));
	}
	om_family(out, "bpftime_refusals", OM_COUNTER, NULL,
		  "Probes of a tool, or a target of it, that stay in the kernel, by the class of the reason.");
	for (size_t i = 0; i < N(refusals); i++)
		for (int class = REASON_NONE + 1; class < REASON_N_CLASSES; class ++) {
			const struct om_label labels[] = {{"of", refusals[i].of}, {"class", reason_class__name(class)}};

			om_count(out, "bpftime_refusals", OM_COUNTER, labels, N(labels),
				 decisions__count(d, refusals[i].kind, class));
		}
	om_family(out, "bpftime_switch_seconds", OM_HISTOGRAM, "seconds",
		  "How long it took to move probes that share maps; targets run on meanwhile.");
	for (size_t i = 0; i < N(switches); i++) {
		const struct om_label labels[] = {{"to", switches[i].to}};

		om_histogram(out, "bpftime_switch_seconds", labels, N(labels),
			     decisions__durations(d, switches[i].kind));
	}
	om_family(out, "bpftime_journal_dropped_records", OM_COUNTER, NULL,
		  "Records of decisions that the journal did not take, because it was full or stood still.");
	om_count(out, "bpftime_journal_dropped_records", OM_COUNTER, NULL, 0, decisions__dropped(d));
}

static void write_policy(FILE *out, const struct metrics *m)
{
	static const struct {
		const char *result;
		enum decision_kind kind;
	} reloads[] = {{"success", DECISION_POLICY_LOAD}, {"failure", DECISION_POLICY_ERROR}};

	om_family(out, "bpftime_policy_reloads", OM_COUNTER, NULL, "How often the policy was read again, by result.");
	for (size_t i = 0; i < N(reloads); i++) {
		const struct om_label labels[] = {{"result", reloads[i].result}};

		om_count(out, "bpftime_policy_reloads", OM_COUNTER, labels, N(labels),
			 of_kind(m->decisions, reloads[i].kind));
	}
	om_family(out, "bpftime_policy_rules", OM_GAUGE, NULL, "Rules of the policy in force.");
	om_count(out, "bpftime_policy_rules", OM_GAUGE, NULL, 0, policy__rules(*m->policy));
}

static void write_messages(FILE *out)
{
	om_family(out, "bpftime_log_messages", OM_COUNTER, NULL, "Messages other than decisions, by level.");
	for (enum log_level level = LOG_LEVEL_ERROR; level <= LOG_LEVEL_DEBUG; level++) {
		const struct om_label labels[] = {{"level", log_level__name(level)}};

		om_count(out, "bpftime_log_messages", OM_COUNTER, labels, N(labels), log_count(level));
	}
}

static uint64_t resident_bytes(void)
{
	unsigned long long pages = 0;
	FILE *f = fopen("/proc/self/statm", "re");

	if (f && fscanf(f, "%*u %llu", &pages) != 1)
		pages = 0;
	if (f)
		fclose(f);
	return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static uint64_t open_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	const struct dirent *entry;
	uint64_t n = 0;

	while (dir && (entry = readdir(dir)))
		n += entry->d_name[0] != '.';
	if (!dir)
		return 0;
	closedir(dir);
	return n - 1;
}

/* Names as in https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics */
static void write_process(FILE *out)
{
	struct rusage used;

	getrusage(RUSAGE_SELF, &used);
	om_family(out, "process_cpu_seconds", OM_COUNTER, "seconds",
		  "Processor time of bpftimed, without its compiler.");
	om_number(out, "process_cpu_seconds", OM_COUNTER, NULL, 0,
		  (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
			  (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
	om_family(out, "process_resident_memory_bytes", OM_GAUGE, "bytes", "Resident memory of bpftimed.");
	om_count(out, "process_resident_memory_bytes", OM_GAUGE, NULL, 0, resident_bytes());
	om_family(out, "process_open_fds", OM_GAUGE, NULL, "Open descriptors of bpftimed.");
	om_count(out, "process_open_fds", OM_GAUGE, NULL, 0, open_descriptors());
}

char *metrics__text(const struct metrics *m, size_t *len)
{
	const struct om_label build[] = {{"version", BPFTIMED_VERSION}};
	char *text = NULL;
	FILE *out = open_memstream(&text, len);

	if (!out)
		return NULL;
	om_family(out, "bpftime_build", OM_INFO, NULL, "What runs.");
	om_count(out, "bpftime_build", OM_INFO, build, N(build), 1);
	engine__metrics(m->engine, out);
	write_decisions(out, m->decisions);
	write_policy(out, m);
	write_messages(out);
	write_process(out);
	om_end(out);
	if (fclose(out)) {
		free(text);
		return NULL;
	}
	return text;
}
