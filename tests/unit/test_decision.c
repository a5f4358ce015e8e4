/* SPDX-License-Identifier: MIT */
/* Decisions: the ring, the counters, the sentences, and the form of a record for the journal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/decision.h"
#include "daemon/journal.h"
#include "daemon/log.h"

static int new_decisions(void **state)
{
	/* Not on the test's output. */
	log_set_level(LOG_LEVEL_ERROR);
	unsetenv("JOURNAL_STREAM");
	*state = decisions__new(NULL, NULL);
	return !*state;
}

static int free_decisions(void **state)
{
	decisions__free(*state);
	return 0;
}

static const struct decision handback = {
	.kind = DECISION_HANDBACK,
	.class = REASON_REQUEST,
	.tool = {.pid = 7, .comm = "tool", .exe = "/usr/bin/tool"},
	.probe = {"/usr/bin/x:main"},
	.n_probes = 40,
	.reason = "somebody has asked for it",
	.seconds = 0.002,
};

static json_object *event(struct decisions *d, uint64_t n)
{
	json_object *all = decisions__events(d, n), *list, *o;

	assert_true(json_object_object_get_ex(all, "events", &list));
	o = json_object_get(json_object_array_get_idx(list, 0));
	json_object_put(all);
	return o;
}

static const char *text(json_object *o, const char *key)
{
	return json_object_get_string(json_object_object_get(o, key));
}

static void form_of_an_event(void **state)
{
	json_object *o;

	decisions__record(*state, &handback);
	o = event(*state, 0);
	assert_string_equal(text(o, "kind"), "handback");
	assert_string_equal(text(o, "class"), "request");
	assert_string_equal(text(o, "message"), "tool (7): handed back: somebody has asked for it");
	assert_string_equal(text(o, "tool"), "{ \"pid\": 7, \"comm\": \"tool\", \"exe\": \"\\/usr\\/bin\\/tool\" }");
	assert_string_equal(text(o, "probes"), "[ \"\\/usr\\/bin\\/x:main\" ]");
	assert_string_equal(text(o, "n_probes"), "40");
	assert_string_equal(text(o, "seconds"), "0.002000");
	assert_null(text(o, "rule"));
	json_object_put(o);
}

static void sentences(void **state)
{
	static const struct {
		struct decision what;
		const char *message;
	} cases[] = {
		{{.kind = DECISION_OFFLOAD, .tool = {7, "tool", NULL}, .n_probes = 3, .n_targets = 2},
		 "tool (7): 3 probe(s) now run in userspace in 2 process(es)"},
		{{.kind = DECISION_OFFLOAD, .tool = {7, "tool", NULL}, .n_probes = 1},
		 "tool (7): 1 probe(s) now run in userspace"},
		{{.kind = DECISION_TARGET_REFUSAL,
		  .tool = {7, "tool", NULL},
		  .target = {{9, "x", NULL}},
		  .n_targets = 1,
		  .reason = "because"},
		 "tool (7): stays in the kernel in process 9 (x): because"},
		{{.kind = DECISION_REFUSAL, .tool = {7, "a\nb\033", NULL}, .reason = "be\ncause"},
		 "a b  (7): stays in the kernel: be cause"},
		{{.kind = DECISION_POLICY_LOAD, .reason = "policy reloaded"}, "policy reloaded"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		json_object *o;

		decisions__record(*state, &cases[i].what);
		o = event(*state, i);
		assert_string_equal(text(o, "message"), cases[i].message);
		json_object_put(o);
	}
}

static int64_t number(struct decisions *d, uint64_t from, const char *key)
{
	json_object *o = decisions__events(d, from), *v;
	int64_t n;

	assert_true(json_object_object_get_ex(o, key, &v));
	n = json_object_is_type(v, json_type_array) ? (int64_t)json_object_array_length(v) : json_object_get_int64(v);
	json_object_put(o);
	return n;
}

static void the_ring_is_bounded(void **state)
{
	assert_int_equal(number(*state, 0, "events"), 0);
	assert_int_equal(number(*state, 0, "next"), 0);
	for (int i = 0; i < 1500; i++)
		decisions__record(*state, &handback);
	assert_int_equal(number(*state, 0, "events"), 1024);
	assert_int_equal(number(*state, 0, "lost"), 1500 - 1024);
	assert_int_equal(number(*state, 1000, "events"), 500);
	assert_int_equal(number(*state, 1000, "lost"), 0);
	assert_int_equal(number(*state, 1500, "events"), 0);
	assert_int_equal(number(*state, 1500, "next"), 1500);
}

static void counters(void **state)
{
	const struct histogram *h = decisions__durations(*state, DECISION_HANDBACK);

	decisions__record(*state, &handback);
	decisions__record(*state, &handback);
	assert_int_equal(decisions__count(*state, DECISION_HANDBACK, REASON_REQUEST), 2);
	assert_int_equal(decisions__count(*state, DECISION_HANDBACK, REASON_POLICY), 0);
	assert_int_equal(h->count, 2);
	assert_true(h->sum > 0.0039 && h->sum < 0.0041);
	for (size_t i = 0; i < HISTOGRAM_BOUNDS; i++)
		assert_int_equal(h->bucket[i], histogram_bounds[i] == 0.003 ? 2 : 0);
	decisions__record(NULL, &handback);
}

static void names_and_classes(void **state)
{
	for (int k = 0; k < DECISION_N_KINDS; k++)
		assert_non_null(decision_kind__name(k));
	for (int c = 0; c < REASON_N_CLASSES; c++)
		assert_non_null(reason_class__name(c));
	assert_int_equal(reason_class__of(-EOPNOTSUPP), REASON_UNSUPPORTED);
	assert_int_equal(reason_class__of(EAGAIN), REASON_BUSY);
	assert_int_equal(reason_class__of(-ENOMEM), REASON_LIMIT);
	assert_int_equal(reason_class__of(-EIO), REASON_ERROR);
}

static void fields_of_the_journal(void **state)
{
	static const char expected[] = "A=1\nB\n\x05\0\0\0\0\0\0\0x\ny=z\nC=\n";
	char *record = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&record, &len);

	journal_field(f, "A", "1");
	journal_field(f, "B", "x\ny=z");
	journal_field(f, "C", "");
	fclose(f);
	assert_int_equal(len, sizeof(expected) - 1);
	assert_memory_equal(record, expected, len);
	free(record);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(form_of_an_event, new_decisions, free_decisions),
		cmocka_unit_test_setup_teardown(sentences, new_decisions, free_decisions),
		cmocka_unit_test_setup_teardown(the_ring_is_bounded, new_decisions, free_decisions),
		cmocka_unit_test_setup_teardown(counters, new_decisions, free_decisions),
		cmocka_unit_test(names_and_classes),
		cmocka_unit_test(fields_of_the_journal),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
