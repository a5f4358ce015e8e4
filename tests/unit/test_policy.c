/* SPDX-License-Identifier: MIT */
/* Policy files: what rules decide, and how every mistake is named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/json_place.h"
#include "daemon/policy.h"

/* A policy folder of its own for each test. */
static char dir[64];

static int make_dir(void **state)
{
	if (geteuid() != 0)
		return 0;
	strcpy(dir, "/tmp/test_policy.XXXXXX");
	return mkdtemp(dir) ? chmod(dir, 0755) : -1;
}

static void path_of(const char *name, char *out, size_t size)
{
	snprintf(out, size, "%s/%s", dir, name);
}

static void put(const char *name, const char *text)
{
	char path[128];
	FILE *f;

	path_of(name, path, sizeof(path));
	f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
	assert_int_equal(chmod(path, 0644), 0);
}

static int remove_dir(void **state)
{
	char command[128];

	if (geteuid() != 0)
		return 0;
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command);
}

/* Files that others than root own are refused: without root there is nothing to test. */
static void need_root(void)
{
	if (geteuid() != 0)
		skip();
}

static struct policy *load(void)
{
	struct policy_errors errors = {0};
	struct policy *p;
	int r;

	need_root();
	r = policy__load(dir, &p, &errors);
	for (size_t i = 0; i < errors.n; i++)
		print_message("%s\n", errors.text[i]);
	assert_int_equal(r, 0);
	assert_int_equal(errors.n, 0);
	return p;
}

static void no_policy_offloads(void **state)
{
	struct policy_errors errors = {0};
	struct policy *p;
	const char *why;

	assert_int_equal(policy__load("/nonexistent/policy.d", &p, &errors), 0);
	assert_int_equal(policy__tool(p, "/usr/bin/bpftrace", "bpftrace", 0, &why), POLICY_OFFLOAD);
	assert_string_equal(why, "the default");
	assert_int_equal(policy__target(p, NULL, "x", 1000, NULL), POLICY_OFFLOAD);
	assert_true(policy__setting(p, POLICY_STOP_TOOLS, &why));
	assert_string_equal(why, "the default");
	assert_false(policy__setting(p, POLICY_SHARE_ACROSS_USERS, NULL));
	assert_true(policy__setting(p, POLICY_WRITABLE_CODE, NULL));
	policy__free(p);
}

static void first_match_in_a_list_decides(void **state)
{
	struct policy *p;
	const char *why;

	need_root();
	put("a.json", "{ \"version\": 1,\n"
		      "  \"tools\": [\n"
		      "    { \"exe\": \"/usr/bin/bpf*\", \"user\": \"root\", \"action\": \"offload\" },\n"
		      "    { \"exe\": \"/usr/bin/*\", \"action\": \"kernel\" },\n"
		      "    { \"comm\": \"odd\", \"action\": \"kernel\" } ],\n"
		      "  \"targets\": [ { \"user\": 33, \"action\": \"kernel\" } ] }\n");
	p = load();
	assert_int_equal(policy__files(p), 1);
	assert_int_equal(policy__rules(p), 4);
	assert_int_equal(policy__tool(p, "/usr/bin/bpftrace", "bpftrace", 0, &why), POLICY_OFFLOAD);
	assert_non_null(strstr(why, "/a.json:3"));
	assert_int_equal(policy__tool(p, "/usr/bin/bpftrace", "bpftrace", 1000, &why), POLICY_KERNEL);
	assert_non_null(strstr(why, "/a.json:4"));
	assert_int_equal(policy__tool(p, "/opt/x", "odd", 0, &why), POLICY_KERNEL);
	assert_non_null(strstr(why, "/a.json:5"));
	assert_int_equal(policy__tool(p, "/opt/x", "even", 0, NULL), POLICY_OFFLOAD);
	assert_int_equal(policy__tool(p, NULL, "odd", 0, NULL), POLICY_KERNEL);
	assert_int_equal(policy__tool(p, NULL, "bpftrace", 0, NULL), POLICY_OFFLOAD);
	assert_int_equal(policy__target(p, "/usr/bin/x", "odd", 0, NULL), POLICY_OFFLOAD);
	assert_int_equal(policy__target(p, "/usr/bin/x", "x", 33, NULL), POLICY_KERNEL);
	policy__free(p);
}

static void an_upgraded_executable_is_the_same(void **state)
{
	struct policy *p;

	need_root();
	put("a.json", "{\"version\":1,\"tools\":[{\"exe\":\"/usr/bin/tool\",\"action\":\"kernel\"}]}");
	p = load();
	assert_int_equal(policy__tool(p, "/usr/bin/tool (deleted)", "tool", 0, NULL), POLICY_KERNEL);
	assert_int_equal(policy__tool(p, "/usr/bin/tool2", "tool", 0, NULL), POLICY_OFFLOAD);
	policy__free(p);
}

static void later_files_win(void **state)
{
	struct policy *p;
	const char *why;

	need_root();
	put("10-a.json",
	    "{\"version\":1,\"default\":\"kernel\",\"settings\":{\"stop_tools\":false,\"writable_code\":true},"
	    "\"tools\":[{\"comm\":\"x\",\"action\":\"offload\"},{\"comm\":\"y\",\"action\":\"offload\"}]}");
	put("20-b.json", "{\"version\":1,\n\"settings\":{\"writable_code\":false},"
			 "\"tools\":[{\"comm\":\"x\",\"action\":\"kernel\"}]}");
	put("30-c.txt", "this is no policy file");
	put(".40-d.json", "nor is this");
	p = load();
	assert_int_equal(policy__files(p), 2);
	assert_int_equal(policy__tool(p, "/x", "x", 0, NULL), POLICY_KERNEL);
	assert_int_equal(policy__tool(p, "/x", "y", 0, NULL), POLICY_OFFLOAD);
	assert_int_equal(policy__tool(p, "/x", "z", 0, NULL), POLICY_KERNEL);
	assert_false(policy__setting(p, POLICY_STOP_TOOLS, &why));
	assert_non_null(strstr(why, "/10-a.json:1"));
	assert_false(policy__setting(p, POLICY_WRITABLE_CODE, &why));
	assert_non_null(strstr(why, "/20-b.json:2"));
	policy__free(p);
}

/* ---- mistakes ---- */

static const struct {
	const char *text;
	const char *line; /* "" : none is told */
	const char *says; /* the key, or what is wrong */
} mistakes[] = {
	{"", ":1:", "ends too early"},
	{"{\n\"version\": 1,\n", ":3:", "ends too early"},
	{"{\n\"version\": 1,\n!}", ":3:", "not JSON"},
	{"{\"version\": 1} x", ":1:", "not JSON"},
	{"[]", ":1:", "must be an object, not a list"},
	{"null", ":1:", "must be an object, not null"},
	{"{}", ":1:", "version: this key is missing"},
	{"{\n\"version\": 2}", ":2:", "version: this bpftimed reads version 1 only"},
	{"{\"version\": \"1\"}", ":1:", "version: must be a whole number, not a string"},
	{"{\"version\": 1,\n\n\"tool\": []}", ":3:", "tool: unknown key"},
	{"{\"version\": 1,\n\"tools\": {}}", ":2:", "tools: must be a list, not an object"},
	{"{\"version\": 1,\n\"default\": \"maybe\"}", ":2:", "default: must be \"offload\" or \"kernel\""},
	{"{\"version\": 1,\n\"default\": null}", ":2:", "default: must be a string, not null"},
	{"{\"version\": 1,\n\"settings\": {\n\"stop_tools\": 1}}", ":3:", "settings.stop_tools: must be true or false"},
	{"{\"version\": 1,\n\"settings\": {\n\"stop_tool\": true}}", ":3:", "settings.stop_tool: unknown key"},
	{"{\"version\": 1, \"tools\": [\n1]}", ":2:", "tools[0]: must be an object"},
	{"{\"version\": 1, \"tools\": [\n{\"comm\": \"a\"}]}", ":2:", "needs the key \"action\""},
	{"{\"version\": 1, \"tools\": [\n{\"action\": \"kernel\"}]}", ":2:", "needs one of the keys"},
	{"{\"version\": 1, \"tools\": [\n{\"comm\": \"a\",\n\"action\": \"x\"}]}", ":3:", "tools[0].action: must be"},
	{"{\"version\": 1, \"targets\": [{\"comm\": \"a\", \"action\": \"kernel\"},\n{\"action\": "
	 "\"kernel\",\n\"exe\": \"x\"}]}",
	 ":3:", "targets[1].exe: \"x\" matches no executable"},
	{"{\"version\": 1, \"tools\": [{\"action\": \"kernel\",\n\"comm\": \"longer-than-fifteen\"}]}",
	 ":2:", "15 characters"},
	{"{\"version\": 1, \"tools\": [{\"action\": \"kernel\",\n\"user\": \"no such user\"}]}",
	 ":2:", "there is no user"},
	{"{\"version\": 1, \"tools\": [{\"action\": \"kernel\",\n\"user\": true}]}",
	 ":2:", "tools[0].user: must be a user"},
	{"{\"version\": 1, \"tools\": [{\"action\": \"kernel\",\n\"user\": null}]}",
	 ":2:", "tools[0].user: must be a user"},
	{"{\"version\": 1, \"tools\": [{\"action\": \"kernel\",\n\"user\": -1}]}", ":2:", "there is no user \"-1\""},
	{"{\"version\": 1,\n\"version\": 1}", ":2:", "version: this key is there twice"},
	{"{\"version\": 1, \"tools\": [{\"comm\": \"comm\", \"action\": \"kernel\"},\n{\"comm\": \"a\", \"action\": "
	 "\"kernel\",\n\"comm\": \"b\"}]}",
	 ":3:", "comm: this key is there twice"},
	{"{\"version\": 1, \"tools\": [[[[[[[[[[]]]]]]]]]]}", ":1:", "not JSON"},
	{"{\"version\": 1, \"default\": \"\xff\"}", ":1:", "not JSON"},
};

static void every_mistake_is_named(void **state)
{
	need_root();
	for (size_t i = 0; i < sizeof(mistakes) / sizeof(mistakes[0]); i++) {
		struct policy_errors errors = {0};
		struct policy *p = NULL;

		put("bad.json", mistakes[i].text);
		assert_int_equal(policy__load(dir, &p, &errors), -EINVAL);
		assert_null(p);
		assert_int_equal(errors.n, 1);
		if (!strstr(errors.text[0], "/bad.json:") || !strstr(errors.text[0], mistakes[i].line) ||
		    !strstr(errors.text[0], mistakes[i].says))
			fail_msg("for %s\nit says: %s", mistakes[i].text, errors.text[0]);
		policy_errors__clear(&errors);
	}
}

static void all_mistakes_at_once(void **state)
{
	struct policy_errors errors = {0};
	struct policy *p;

	need_root();
	put("a.json", "{\"version\": 1, \"x\": 1, \"y\": 2}");
	put("b.json", "{\"version\": 1, \"z\": 3}");
	put("c.json", "{\"version\": 1}");
	assert_int_equal(policy__load(dir, &p, &errors), -EINVAL);
	assert_int_equal(errors.n, 3);
	policy_errors__clear(&errors);
}

static void others_must_not_write(void **state)
{
	struct policy_errors errors = {0};
	struct policy *p;
	char path[128];

	need_root();
	put("a.json", "{\"version\": 1}");
	path_of("a.json", path, sizeof(path));
	assert_int_equal(chmod(path, 0666), 0);
	assert_int_equal(policy__load(dir, &p, &errors), -EPERM);
	assert_int_equal(errors.n, 1);
	assert_non_null(strstr(errors.text[0], "others than root"));
	policy_errors__clear(&errors);

	assert_int_equal(chmod(path, 0644), 0);
	assert_int_equal(chown(path, 65534, 0), 0);
	assert_int_equal(policy__load(dir, &p, &errors), -EPERM);
	policy_errors__clear(&errors);

	assert_int_equal(chown(path, 0, 0), 0);
	assert_int_equal(chmod(dir, 0777), 0);
	assert_int_equal(policy__load(dir, &p, &errors), -EPERM);
	policy_errors__clear(&errors);
}

static void what_is_no_file_is_refused(void **state)
{
	struct policy_errors errors = {0};
	struct policy *p;
	char path[128];

	need_root();
	path_of("a.json", path, sizeof(path));
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(policy__load(dir, &p, &errors), -EINVAL);
	assert_non_null(strstr(errors.text[0], "is not a file"));
	policy_errors__clear(&errors);
}

/* ---- places ---- */

static void lines_of_values(void **state)
{
	static const char text[] =
		"{ \"a\": [ 1,\n  \"x]}\\\"\",\n  { \"b\": null,\n    \"a\": {} } ],\n \"c\": true,\n \"c\": 2 }";
	static const struct {
		struct json_step steps[3];
		size_t n;
		unsigned int line;
	} cases[] = {
		{{{0}}, 0, 1},
		{{{"a", 0}}, 1, 1},
		{{{"a", 0}, {NULL, 0}}, 2, 1},
		{{{"a", 0}, {NULL, 1}}, 2, 2},
		{{{"a", 0}, {NULL, 2}}, 2, 3},
		{{{"a", 0}, {NULL, 2}, {"a", 0}}, 3, 4},
		{{{"c", 0}}, 1, 6},
		{{{"none", 0}}, 1, 1},
		{{{"a", 0}, {NULL, 9}}, 2, 1},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		assert_int_equal(json_place__line(text, cases[i].steps, cases[i].n), cases[i].line);
}

int main(void)
{
#define TEST_IN_DIR(f) cmocka_unit_test_setup_teardown(f, make_dir, remove_dir)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_policy_offloads),
		TEST_IN_DIR(first_match_in_a_list_decides),
		TEST_IN_DIR(an_upgraded_executable_is_the_same),
		TEST_IN_DIR(later_files_win),
		TEST_IN_DIR(every_mistake_is_named),
		TEST_IN_DIR(all_mistakes_at_once),
		TEST_IN_DIR(others_must_not_write),
		TEST_IN_DIR(what_is_no_file_is_refused),
		cmocka_unit_test(lines_of_values),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
