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

static struct subject process(const char *exe, const char *comm, uid_t uid)
{
	struct subject s = {.has_uid = true, .uid = uid};

	snprintf(s.exe, sizeof(s.exe), "%s", exe ? exe : "");
	snprintf(s.comm, sizeof(s.comm), "%s", comm);
	return s;
}

static struct policy_verdict ask(const struct policy *p, struct subject tool, struct subject target, const char *file,
				 const char *symbol, const char *kind)
{
	const struct policy_probe probe = {.file = file, .symbol = symbol, .kind = kind};

	return policy__decide(p, &(struct policy_query){&tool, &target, &probe});
}

/* A tool of root's in a process that no rule of these tests names, and the other way round. */
static enum policy_action of_tool(const struct policy *p, const char *exe, const char *comm, uid_t uid,
				  const char **why)
{
	struct policy_verdict v =
		ask(p, process(exe, comm, uid), process("/app", "app", 4242), "/app", "work", "uprobe");

	if (why)
		*why = v.rule;
	return v.action;
}

static enum policy_action of_target(const struct policy *p, const char *exe, const char *comm, uid_t uid)
{
	return ask(p, process("/sbin/t", "t", 0), process(exe, comm, uid), "/app", "work", "uprobe").action;
}

static bool grants(const struct policy *p, enum policy_grant grant, const char **why)
{
	struct policy_verdict v =
		ask(p, process("/sbin/t", "t", 0), process("/app", "app", 4242), "/app", "work", "uprobe");

	return policy_verdict__grants(&v, grant, why);
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
	assert_int_equal(of_tool(p, "/usr/bin/bpftrace", "bpftrace", 0, &why), POLICY_OFFLOAD);
	assert_string_equal(why, "the default");
	assert_int_equal(of_target(p, NULL, "x", 1000), POLICY_OFFLOAD);
	assert_true(grants(p, POLICY_STOP_TOOLS, &why));
	assert_string_equal(why, "the default");
	assert_false(grants(p, POLICY_SHARE_ACROSS_USERS, NULL));
	assert_true(grants(p, POLICY_WRITABLE_CODE, NULL));
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
	assert_int_equal(of_tool(p, "/usr/bin/bpftrace", "bpftrace", 0, &why), POLICY_OFFLOAD);
	assert_string_equal(why, "the default"); /* of the target nothing is said */
	assert_int_equal(of_tool(p, "/usr/bin/bpftrace", "bpftrace", 1000, &why), POLICY_KERNEL);
	assert_non_null(strstr(why, "/a.json:4"));
	assert_int_equal(of_tool(p, "/opt/x", "odd", 0, &why), POLICY_KERNEL);
	assert_non_null(strstr(why, "/a.json:5"));
	assert_int_equal(of_tool(p, "/opt/x", "even", 0, NULL), POLICY_OFFLOAD);
	assert_int_equal(of_tool(p, NULL, "odd", 0, NULL), POLICY_KERNEL);
	assert_int_equal(of_tool(p, NULL, "bpftrace", 0, NULL), POLICY_OFFLOAD);
	assert_int_equal(of_target(p, "/usr/bin/x", "odd", 0), POLICY_OFFLOAD);
	assert_int_equal(of_target(p, "/usr/bin/x", "x", 33), POLICY_KERNEL);
	policy__free(p);
}

static void an_upgraded_executable_is_the_same(void **state)
{
	struct policy *p;

	need_root();
	put("a.json", "{\"version\":1,\"tools\":[{\"exe\":\"/usr/bin/tool\",\"action\":\"kernel\"}]}");
	p = load();
	assert_int_equal(of_tool(p, "/usr/bin/tool (deleted)", "tool", 0, NULL), POLICY_KERNEL);
	assert_int_equal(of_tool(p, "/usr/bin/tool2", "tool", 0, NULL), POLICY_OFFLOAD);
	policy__free(p);
}

static void later_files_win(void **state)
{
	struct policy *p;
	const char *why;

	need_root();
	put("10-a.json",
	    "{\"version\":1,\"default\":\"kernel\",\"settings\":{\"stop_tools\":false,\"writable_code\":true},"
	    "\"targets\":[{\"comm\":\"app\",\"action\":\"offload\"}],"
	    "\"tools\":[{\"comm\":\"x\",\"action\":\"offload\"},{\"comm\":\"y\",\"action\":\"offload\"}]}");
	put("20-b.json", "{\"version\":1,\n\"settings\":{\"writable_code\":false},"
			 "\"tools\":[{\"comm\":\"x\",\"action\":\"kernel\"}]}");
	put("30-c.txt", "this is no policy file");
	put(".40-d.json", "nor is this");
	p = load();
	assert_int_equal(policy__files(p), 2);
	assert_int_equal(of_tool(p, "/x", "x", 0, NULL), POLICY_KERNEL);
	assert_int_equal(of_tool(p, "/x", "y", 0, NULL), POLICY_OFFLOAD);
	assert_int_equal(of_tool(p, "/x", "z", 0, NULL), POLICY_KERNEL);
	assert_false(grants(p, POLICY_STOP_TOOLS, &why));
	assert_non_null(strstr(why, "/10-a.json:1"));
	assert_false(grants(p, POLICY_WRITABLE_CODE, &why));
	assert_non_null(strstr(why, "/20-b.json:2"));
	policy__free(p);
}

/* ---- rules ---- */

/* Who decides: the line of the rule in a.json, 0 the default. */
static unsigned int line_of(struct policy_verdict v)
{
	const char *colon = strrchr(v.rule, ':');

	return colon ? (unsigned int)atoi(colon + 1) : 0;
}

static void a_rule_asks_for_tool_target_and_probe(void **state)
{
	struct subject tool = process("/usr/bin/bpftrace", "bpftrace", 0), other = process("/opt/t", "t", 0);
	struct subject app = process("/srv/app", "app", 33), sshd = process("/usr/sbin/sshd", "sshd", 0);
	struct policy_verdict v;
	struct policy *p;

	need_root();
	put("a.json",
	    "{ \"version\": 1, \"default\": \"kernel\", \"rules\": [\n"
	    "{ \"tool\": {\"comm\": \"bpf*\"}, \"target\": {\"exe\": \"/usr/sbin/*\"}, \"action\": \"kernel\" },\n"
	    "{ \"tool\": {\"comm\": \"bpf*\"}, \"probe\": {\"symbol\": \"SSL_*\"}, \"action\": \"observe\" },\n"
	    "{ \"tool\": {\"comm\": \"bpf*\"}, \"probe\": {\"file\": \"/lib/*\", \"kind\": \"uretprobe\"}, "
	    "\"action\": \"kernel\" },\n"
	    "{ \"tool\": {\"user\": \"root\", \"comm\": \"bpf*\"}, \"target\": {\"user\": 33}, \"action\": \"offload\" "
	    "},\n"
	    "{ \"comment\": \"matches all\", \"probe\": {\"symbol\": \"work\"}, \"action\": \"offload\" } ] }");
	p = load();
	v = ask(p, tool, sshd, "/lib/x", "work", "uprobe");
	assert_int_equal(v.action, POLICY_KERNEL);
	assert_int_equal(line_of(v), 2);
	v = ask(p, tool, app, "/lib/x", "SSL_read", "uretprobe");
	assert_int_equal(v.action, POLICY_OBSERVE);
	assert_int_equal(line_of(v), 3);
	v = ask(p, tool, app, "/lib/x", "work", "uretprobe");
	assert_int_equal(v.action, POLICY_KERNEL);
	assert_int_equal(line_of(v), 4);
	v = ask(p, tool, app, "/lib/x", NULL, "uprobe");
	assert_int_equal(v.action, POLICY_OFFLOAD);
	assert_int_equal(line_of(v), 5);
	v = ask(p, other, sshd, "/x", "work", "uprobe");
	assert_int_equal(v.action, POLICY_OFFLOAD);
	assert_int_equal(line_of(v), 6);
	v = ask(p, other, sshd, "/x", "other", "uprobe");
	assert_int_equal(v.action, POLICY_KERNEL);
	assert_int_equal(line_of(v), 1); /* "default" */
	assert_true(policy__asks_for_probes(p));
	policy__free(p);
}

/* "5o6k": the verdicts that there can be, by line and action. */
static bool note_verdict(const struct policy_verdict *v, void *arg)
{
	char *out = arg;

	sprintf(out + strlen(out), "%u%c", line_of(*v), policy_action_names[v->action][0]);
	return false;
}

static void what_is_not_known_may_match(void **state)
{
	struct subject tool = process("/usr/bin/bpftrace", "bpftrace", 0), app = process("/srv/app", "app", 33);
	char out[64] = "";
	struct policy *p;

	need_root();
	put("a.json", "{ \"version\": 1, \"rules\": [\n"
		      "{ \"tool\": {\"comm\": \"x\"}, \"action\": \"kernel\" },\n"
		      "{ \"target\": {\"comm\": \"app\"}, \"action\": \"observe\" },\n"
		      "{ \"probe\": {\"kind\": \"uretprobe\"}, \"action\": \"kernel\" } ],\n"
		      "\"tools\": [ { \"comm\": \"bpftrace\", \"action\": \"offload\" } ], \"targets\": [\n"
		      "{ \"comm\": \"a*\", \"action\": \"offload\" },\n"
		      "{ \"comm\": \"s*\", \"action\": \"kernel\" } ] }");
	p = load();
	assert_false(policy__each(p, &(struct policy_query){.tool = &tool}, note_verdict, out));
	assert_string_equal(out, "3o4k6o7k0o");
	out[0] = 0;
	policy__each(p, &(struct policy_query){.tool = &tool, .target = &app}, note_verdict, out);
	assert_string_equal(out, "3o");
	out[0] = 0;
	policy__each(p, &(struct policy_query){.target = &app}, note_verdict, out);
	assert_string_equal(out, "2k3o");
	policy__free(p);
}

static void what_a_process_is_matched_by(void **state)
{
	struct policy_probe probe = {.file = "/x"};
	struct subject self, boxed = process("/srv/app", "app", 33);
	char text[512];
	struct policy *p;

	need_root();
	assert_true(subject__of_process(&self, getpid()));
	boxed.has_cgroup = true;
	strcpy(boxed.cgroup, "/system.slice/systemd-nspawn@db.service/payload");
	snprintf(text, sizeof(text),
		 "{ \"version\": 1, \"rules\": [\n"
		 "{ \"tool\": {\"sha256\": \"%s\"}, \"target\": {\"container\": \"d?\"}, \"action\": \"observe\" },\n"
		 "{ \"tool\": {\"unit\": \"*.service\"}, \"target\": {\"pid_namespace\": \"host\"}, \"action\": "
		 "\"kernel\" },\n"
		 "{ \"target\": {\"pid_namespace\": \"other\"}, \"action\": \"kernel\" },\n"
		 "{ \"target\": {\"cgroup\": \"/system.slice/*\"}, \"action\": \"kernel\" } ] }",
		 subject__sha256(&self));
	put("a.json", text);
	p = load();
	assert_int_equal(line_of(policy__decide(p, &(struct policy_query){&self, &boxed, &probe})), 2);
	assert_int_equal(line_of(policy__decide(p, &(struct policy_query){&boxed, &self, &probe})), 3);
	assert_int_equal(line_of(policy__decide(p, &(struct policy_query){&boxed, &boxed, &probe})), 5);
	policy__free(p);
}

static void grants_and_limits_are_the_rules_or_the_policys(void **state)
{
	struct policy_verdict v;
	struct policy *p;
	const char *why;

	need_root();
	put("a.json",
	    "{ \"version\": 1, \"settings\": {\n\"read_target_memory\": false, \"helpers\": [\"bpf_map_*\"]},\n"
	    "\"limits\": { \"probes_per_target\": 5, \"shared_memory_mib\": 64 },\n"
	    "\"rules\": [ { \"tool\": {\"comm\": \"t\"}, \"action\": \"offload\",\n"
	    "\"grants\": {\"read_target_memory\": true, \"helpers\": [ \"*\" ]}, \"limits\": {\"probes_per_target\": "
	    "7} } ] }");
	p = load();
	v = ask(p, process("/t", "t", 0), process("/app", "app", 1), "/app", "work", "uprobe");
	assert_true(policy_verdict__grants(&v, POLICY_READ_TARGET_MEMORY, &why));
	assert_non_null(strstr(why, ":5"));
	assert_true(policy_verdict__grants_helper(&v, "bpf_ktime_get_ns", NULL));
	assert_int_equal(policy_verdict__limit(&v, POLICY_PROBES_PER_TARGET, NULL), 7);
	v = ask(p, process("/u", "u", 0), process("/app", "app", 1), "/app", "work", "uprobe");
	assert_false(policy_verdict__grants(&v, POLICY_READ_TARGET_MEMORY, &why));
	assert_non_null(strstr(why, ":2"));
	assert_true(policy_verdict__grants(&v, POLICY_STOP_TOOLS, &why));
	assert_string_equal(why, "the default");
	assert_true(policy_verdict__grants_helper(&v, "bpf_map_lookup_elem", NULL));
	assert_false(policy_verdict__grants_helper(&v, "bpf_ktime_get_ns", &why));
	assert_non_null(strstr(why, ":2"));
	assert_int_equal(policy_verdict__limit(&v, POLICY_PROBES_PER_TARGET, NULL), 5);
	assert_true(policy_verdict__limit(&v, POLICY_TARGETS_PER_TOOL, NULL) == POLICY_NO_LIMIT);
	assert_int_equal(policy__limit(p, POLICY_SHARED_MEMORY_MIB, NULL), 64);
	policy__free(p);
}

/* ---- folders ---- */

static void put_in(const char *folder, const char *name, const char *text)
{
	char path[128];

	path_of(folder, path, sizeof(path));
	mkdir(path, 0755);
	snprintf(path, sizeof(path), "%s/%s", folder, name);
	put(path, text);
}

static void a_later_folder_replaces_files_by_name(void **state)
{
	static const char keeps_x[] = "{\"version\":1,\"tools\":[{\"comm\":\"x\",\"action\":\"kernel\"}]}";
	static const char keeps_y[] = "{\"version\":1,\"tools\":[{\"comm\":\"y\",\"action\":\"kernel\"}]}";
	struct policy_errors errors = {0};
	char dirs[512], path[128];
	struct policy *p;

	need_root();
	snprintf(dirs, sizeof(dirs), "%s/vendor:%s/none:%s/run:%s/admin", dir, dir, dir, dir);
	put_in("vendor", "10.json", keeps_x);
	put_in("vendor", "20.json", "this is no JSON, and nobody reads it");
	put_in("run", "20.json", keeps_x);
	put_in("admin", "10.json", keeps_y);
	assert_int_equal(policy__load(dirs, &p, &errors), 0);
	assert_int_equal(policy__files(p), 2);
	assert_int_equal(of_tool(p, "/x", "x", 0, NULL), POLICY_KERNEL);
	assert_int_equal(of_tool(p, "/y", "y", 0, NULL), POLICY_KERNEL);
	policy__free(p);

	put_in("admin", "20.json", "");
	assert_int_equal(policy__load(dirs, &p, &errors), 0);
	assert_int_equal(policy__files(p), 1);
	assert_int_equal(of_tool(p, "/x", "x", 0, NULL), POLICY_OFFLOAD);
	policy__free(p);

	path_of("admin/10.json", path, sizeof(path));
	assert_int_equal(unlink(path), 0);
	assert_int_equal(symlink("/dev/null", path), 0);
	assert_int_equal(policy__load(dirs, &p, &errors), 0);
	assert_int_equal(policy__files(p), 0);
	assert_int_equal(of_tool(p, "/y", "y", 0, NULL), POLICY_OFFLOAD);
	policy__free(p);
}

/* ---- mistakes ---- */

static const struct {
	const char *text;
	const char *line; /* "" : none is told */
	const char *says; /* the key, or what is wrong */
} mistakes[] = {
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
	{"{\"version\": 1,\n\"default\": \"maybe\"}", ":2:", "default: must be \"offload\", \"observe\" or \"kernel\""},
	{"{\"version\": 1,\n  \"setings\": {}}", ":2:3:", "setings: unknown key; did you mean \"settings\"?"},
	{"{\"version\": 1,\n\"default\": \"ofload\"}", ":2:1:", "did you mean \"offload\"?"},
	{"{\"version\": 1, \"rules\": [\n{\"tool\": {\"exe\": \"/x\"}}]}",
	 ":2:1:", "rules[0]: a rule needs the key \"action\""},
	{"{\"version\": 1, \"rules\": [{\"action\": \"kernel\",\n\"tool\": {}}]}",
	 ":2:1:", "rules[0].tool: needs one of the keys"},
	{"{\"version\": 1, \"rules\": [{\"action\": \"kernel\",\n\"tool\": {\"container\": \"x\"}, \"probe\": "
	 "{\"symbol\": \"a\"}}]}",
	 ":2:10:", "rules[0].tool.container: unknown key"},
	{"{\"version\": 1, \"rules\": [{\"action\": \"kernel\", \"target\": {\n\"sha256\": \"12ab\"}}]}",
	 ":2:1:", "64 digits"},
	{"{\"version\": 1, \"rules\": [{\"action\": \"kernel\", \"target\": {\n\"unit\": \"ssh\"}}]}",
	 ":2:1:", "matches no unit"},
	{"{\"version\": 1, \"rules\": [{\"action\": \"kernel\", \"target\": {\n\"pid_namespace\": \"hosts\"}}]}",
	 ":2:1:", "did you mean \"host\"?"},
	{"{\"version\": 1, \"rules\": [{\"action\": \"kernel\", \"target\": {\n\"pid_namespace\": 0}}]}",
	 ":2:1:", "inode"},
	{"{\"version\": 1, \"rules\": [{\"action\": \"kernel\", \"probe\": {\n\"kind\": \"kprobe\"}}]}",
	 ":2:1:", "must be \"uprobe\" or \"uretprobe\""},
	{"{\"version\": 1, \"rules\": [{\"action\": \"offload\", \"grants\": {\n\"helpers\": [\"bpf_map_*\", "
	 "\"bpf_probe_raed\"]}}]}",
	 ":2:26:",
	 "rules[0].grants.helpers[1]: there is no helper \"bpf_probe_raed\"; did you mean \"bpf_probe_read\"?"},
	{"{\"version\": 1, \"rules\": [{\"action\": \"offload\", \"limits\": {\n\"shared_memory_mib\": 1}}]}",
	 ":2:1:", "unknown key"},
	{"{\"version\": 1, \"limits\": {\n\"targets_per_tool\": -1}}", ":2:1:", "must be from 0 to"},
	{"{\"version\": 1, \"limits\": {\n\"compile_seconds\": 0}}", ":2:1:", "must be from 1 to"},
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
	put("d.json", "{\"version\": 1, \"version\": 1, \"tools\": [{\"comm\": \"a\", \"comm\": \"b\", \"action\": "
		      "\"kernel\"}]}");
	assert_int_equal(policy__load(dir, &p, &errors), -EINVAL);
	assert_int_equal(errors.n, 5);
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

static void places_of_values(void **state)
{
	static const char text[] =
		"{ \"a\": [ 1,\n  \"x]}\\\"\",\n  { \"b\": null,\n    \"a\": {} } ],\n \"c\": true,\n \"c\": 2 }";
	static const struct {
		struct json_step steps[3];
		size_t n;
		unsigned int line, column;
	} cases[] = {
		{{{0}}, 0, 1, 1},
		{{{"a", 0}}, 1, 1, 3},
		{{{"a", 0}, {NULL, 0}}, 2, 1, 10},
		{{{"a", 0}, {NULL, 1}}, 2, 2, 3},
		{{{"a", 0}, {NULL, 2}}, 2, 3, 3},
		{{{"a", 0}, {NULL, 2}, {"a", 0}}, 3, 4, 5},
		{{{"c", 0}}, 1, 6, 2},
		{{{"none", 0}}, 1, 1, 1},
		{{{"a", 0}, {NULL, 9}}, 2, 1, 3},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct json_position at = json_place__of(text, cases[i].steps, cases[i].n);

		assert_int_equal(at.line, cases[i].line);
		assert_int_equal(at.column, cases[i].column);
	}
}

int main(void)
{
#define TEST_IN_DIR(f) cmocka_unit_test_setup_teardown(f, make_dir, remove_dir)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_policy_offloads),
		TEST_IN_DIR(first_match_in_a_list_decides),
		TEST_IN_DIR(an_upgraded_executable_is_the_same),
		TEST_IN_DIR(later_files_win),
		TEST_IN_DIR(a_rule_asks_for_tool_target_and_probe),
		TEST_IN_DIR(what_is_not_known_may_match),
		TEST_IN_DIR(what_a_process_is_matched_by),
		TEST_IN_DIR(grants_and_limits_are_the_rules_or_the_policys),
		TEST_IN_DIR(a_later_folder_replaces_files_by_name),
		TEST_IN_DIR(every_mistake_is_named),
		TEST_IN_DIR(all_mistakes_at_once),
		TEST_IN_DIR(others_must_not_write),
		TEST_IN_DIR(what_is_no_file_is_refused),
		cmocka_unit_test(places_of_values),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
