/* SPDX-License-Identifier: MIT */
/* The JSON that commands show: its form, and that it is JSON whatever processes call themselves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "daemon/status.h"

static const pid_t targets[] = {12, 14};
static const struct status_refused refused[] = {{16, "process 16 is traced by gdb (15)"}};

static const struct status_probe probes[] = {
	{.kind = "uprobe",
	 .path = "/usr/bin/x",
	 .offset = 0x1234,
	 .symbol = "main",
	 .program = "on_call",
	 .userspace = true,
	 .hits = UINT64_MAX,
	 .targets = targets,
	 .n_targets = 2,
	 .since = 1.5,
	 .refused = refused,
	 .n_refused = 1},
	{.kind = "uretprobe",
	 .path = "/usr/bin/x",
	 .offset = 0x1234,
	 .program = "on_return",
	 .reason = "a sentence",
	 .since = -1},
};

static const struct status_probe with_tracepoint[] = {
	{.kind = "uprobe", .path = "/usr/bin/x", .symbol = "main", .program = "on_main", .userspace = true},
	{.kind = "tracepoint", .path = "sched:sched_switch", .program = "on_switch", .is_tracepoint = true},
};

static void state_follows_from_probes(void **state)
{
	assert_int_equal(status_tool__state(&(struct status_tool){.probes = probes, .n_probes = 1}), STATUS_OFFLOADED);
	assert_int_equal(status_tool__state(&(struct status_tool){.probes = probes, .n_probes = 2}), STATUS_PARTLY);
	assert_int_equal(status_tool__state(&(struct status_tool){.probes = probes + 1, .n_probes = 1}), STATUS_KERNEL);
	assert_int_equal(status_tool__state(&(struct status_tool){.n_probes = 0}), STATUS_KERNEL);
	assert_int_equal(status_tool__state(&(struct status_tool){.probes = with_tracepoint, .n_probes = 2}),
			 STATUS_OFFLOADED);
	assert_int_equal(status_tool__state(&(struct status_tool){.probes = with_tracepoint + 1, .n_probes = 1}),
			 STATUS_KERNEL);
}

static void names_of_states(void **state)
{
	for (int s = STATUS_KERNEL; s <= STATUS_OFFLOADED; s++)
		assert_int_equal(status_state__by_name(status_state__name(s)), s);
	assert_int_equal(status_state__by_name("unknown"), STATUS_UNKNOWN);
	assert_int_equal(status_state__by_name(""), STATUS_UNKNOWN);
	assert_int_equal(status_state__by_name(NULL), STATUS_UNKNOWN);
}

static void expect_json(json_object *o, const char *expected)
{
	assert_string_equal(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE),
			    expected);
	json_object_put(o);
}

static void form_of_a_tool(void **state)
{
	const struct status_tool tool = {.pid = 7, .comm = "bpftrace", .probes = probes, .n_probes = 2, .since = 3};

	expect_json(status_tool__json(&tool, false),
		    "{\"pid\":7,\"comm\":\"bpftrace\",\"state\":\"partly\",\"probes\":["
		    "{\"kind\":\"uprobe\",\"path\":\"/usr/bin/"
		    "x\",\"offset\":4660,\"symbol\":\"main\",\"program\":\"on_call\","
		    "\"state\":\"userspace\",\"reason\":null,\"hits\":18446744073709551615,\"targets\":[12,14]},"
		    "{\"kind\":\"uretprobe\",\"path\":\"/usr/bin/"
		    "x\",\"offset\":4660,\"symbol\":null,\"program\":\"on_return\","
		    "\"state\":\"kernel\",\"reason\":\"a sentence\",\"hits\":0,\"targets\":[]}]}");
	expect_json(status_tool__json(
			    &(struct status_tool){.pid = 7, .comm = "x", .probes = probes, .n_probes = 1, .since = 3},
			    true),
		    "{\"pid\":7,\"comm\":\"x\",\"state\":\"offloaded\",\"since\":3.000,\"probes\":["
		    "{\"kind\":\"uprobe\",\"path\":\"/usr/bin/"
		    "x\",\"offset\":4660,\"symbol\":\"main\",\"program\":\"on_call\","
		    "\"state\":\"userspace\",\"reason\":null,\"hits\":18446744073709551615,\"targets\":[12,14],"
		    "\"since\":1.500,\"switched_by\":null,\"adopted\":false,\"refused\":[{\"pid\":16,\"reason\":"
		    "\"process 16 is traced "
		    "by gdb (15)\"}]}]}");
}

static void form_of_the_daemon(void **state)
{
	json_object *o = status_daemon__json(&(struct status_daemon){
		.hook = "tracepoint", .way = "freplace", .holds = "links", .tools = 1, .targets = 4});
	static const char *const keys[] = {
		"version",	    "hook",	     "switch",	"holds", "kernel", "lockdown", "tools", "tools_carried",
		"probes_userspace", "probes_kernel", "targets", "last",	 "policy"};

	assert_int_equal(json_object_object_length(o), sizeof(keys) / sizeof(keys[0]));
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		assert_true(json_object_object_get_ex(o, keys[i], NULL));
	json_object_put(o);
}

static void names_that_are_no_utf8(void **state)
{
	static const struct {
		const char *name, *shown;
	} cases[] = {
		{"caf\xc3\xa9", "caf\xc3\xa9"},
		{"\xff", "\xef\xbf\xbd"},
		{"a\xc3", "a\xef\xbf\xbd"},
		{"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
		{"\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80"},
		{"\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		json_object *o = status_tool__json(&(struct status_tool){.pid = 1, .comm = cases[i].name}, false);

		assert_string_equal(json_object_get_string(json_object_object_get(o, "comm")), cases[i].shown);
		json_object_put(o);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(state_follows_from_probes),
		cmocka_unit_test(names_of_states),
		cmocka_unit_test(form_of_a_tool),
		cmocka_unit_test(form_of_the_daemon),
		cmocka_unit_test(names_that_are_no_utf8),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
