/* SPDX-License-Identifier: MIT */
/* Policy files, without a daemon: their mistakes, what they come to together, and which rule decides. */
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "daemon/policy.h"
#include "output.h"

/* ---- check ---- */

static void print_check_json(const struct policy *p, const struct policy_errors *errors)
{
	json_object *o = json_object_new_object(), *list = json_object_new_array();

	json_object_object_add(o, "ok", json_object_new_boolean(p != NULL));
	json_object_object_add(o, "files", p ? json_object_new_uint64(policy__files(p)) : NULL);
	json_object_object_add(o, "rules", p ? json_object_new_uint64(policy__rules(p)) : NULL);
	for (size_t i = 0; i < errors->n; i++)
		json_object_array_add(list, json_object_new_string(errors->text[i]));
	json_object_object_add(o, "errors", list);
	print_json(o);
	json_object_put(o);
}

static void complain_of(const struct policy_errors *errors)
{
	for (size_t i = 0; i < errors->n; i++)
		cli_complain("%s", errors->text[i]);
}

static enum cli_exit check(const struct cli_args *args)
{
	struct policy_errors errors = {0};
	struct policy *p = NULL;
	enum cli_exit code;

	if (args->n_words > 1)
		policy__load_files(args->words + 1, (size_t)args->n_words - 1, &p, &errors);
	else
		policy__load(args->policy_dir, &p, &errors);
	if (args->json)
		print_check_json(p, &errors);
	else if (p)
		printf("No mistakes: %zu files, %zu rules.\n", policy__files(p), policy__rules(p));
	else
		complain_of(&errors);
	code = p ? CLI_DONE : CLI_NO;
	policy_errors__clear(&errors);
	policy__free(p);
	return code;
}

/* That of the folders; NULL and complaints when it has mistakes. */
static struct policy *load(const struct cli_args *args)
{
	struct policy_errors errors = {0};
	struct policy *p = NULL;

	policy__load(args->policy_dir, &p, &errors);
	complain_of(&errors);
	policy_errors__clear(&errors);
	return p;
}

/* ---- show ---- */

static void print_member(const char *name, json_object *o)
{
	json_object *value = json_object_object_get(o, "value");

	printf("  %-28s %s (", name, value ? json_object_to_json_string_ext(value, JSON_C_TO_STRING_PLAIN) : "none");
	print_text(stdout, member_text(o, "place"));
	printf(")\n");
}

static void print_policy(const json_object *all)
{
	json_object *files = json_object_object_get(all, "files"), *rules = json_object_object_get(all, "rules");

	printf("Files:\n");
	for (size_t i = 0; i < json_object_array_length(files); i++) {
		const json_object *f = json_object_array_get_idx(files, i);

		printf("  %-9s ", member_text(f, "state"));
		print_text(stdout, member_text(f, "path"));
		printf("\n");
	}
	printf("Rules, in the order in which they are asked:\n");
	for (size_t i = 0; i < json_object_array_length(rules); i++) {
		const json_object *r = json_object_array_get_idx(rules, i);

		printf("  ");
		print_text(stdout, member_text(r, "place"));
		printf(": %s: ", member_text(r, "list"));
		print_text(stdout,
			   json_object_to_json_string_ext(json_object_object_get(r, "rule"),
							  JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE));
		printf("\n");
	}
	printf("What no rule matches:\n");
	print_member("default", json_object_object_get(all, "default"));
	printf("Settings:\n");
	json_object_object_foreach(json_object_object_get(all, "settings"), setting, s)
	{
		print_member(setting, s);
	}
	printf("Limits:\n");
	json_object_object_foreach(json_object_object_get(all, "limits"), limit, l)
	{
		print_member(limit, l);
	}
}

static enum cli_exit show(const struct cli_args *args)
{
	struct policy *p = load(args);
	json_object *o;

	if (!p)
		return CLI_NO;
	o = policy__json(p);
	if (args->json)
		print_json(o);
	else
		print_policy(o);
	json_object_put(o);
	policy__free(p);
	return CLI_DONE;
}

/* ---- explain ---- */

static bool is_number(const char *word)
{
	return *word && strspn(word, "0123456789") == strlen(word);
}

static bool read_subject(const char *what, const char *word, bool may_be_file, struct subject *s)
{
	pid_t pid;

	if (may_be_file && *word == '/') {
		subject__of_file(s, word);
		return true;
	}
	if (may_be_file && !is_number(word)) {
		cli_complain("policy explain: --%s '%s' is neither a process id nor a path that begins with /", what,
			     word);
		return false;
	}
	if (!cli_read_pid(word, &pid))
		return false;
	if (subject__of_process(s, pid))
		return true;
	cli_complain("there is no process %d", pid);
	return false;
}

/* [KIND:]FILE:SYMBOL; cuts the word. */
static bool read_probe(char *word, struct policy_probe *probe)
{
	static const char *const kinds[] = {"uprobe", "uretprobe"};
	char *symbol;

	*probe = (struct policy_probe){0};
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		size_t len = strlen(kinds[i]);

		if (strncmp(word, kinds[i], len) != 0 || word[len] != ':')
			continue;
		probe->kind = kinds[i];
		word += len + 1;
		break;
	}
	symbol = strrchr(word, ':');
	if (*word != '/' || !symbol) {
		cli_complain("policy explain: '%s' is not FILE:SYMBOL with a path that begins with /", word);
		return false;
	}
	*symbol++ = 0;
	probe->file = word;
	probe->real_file = realpath(word, NULL);
	probe->symbol = *symbol ? symbol : NULL;
	return true;
}

static json_object *sourced(json_object *value, const char *place)
{
	json_object *o = json_object_new_object();

	json_object_object_add(o, "value", value);
	json_object_object_add(o, "place", json_object_new_string(place));
	return o;
}

static bool add_verdict(const struct policy_verdict *v, void *arg)
{
	json_object *o = json_object_new_object(), *grants = json_object_new_object(),
		    *limits = json_object_new_object();
	const char *place;

	for (int i = 0; i < POLICY_N_GRANTS; i++) {
		bool on = policy_verdict__grants(v, i, &place);

		json_object_object_add(grants, policy_grant_names[i], sourced(json_object_new_boolean(on), place));
	}
	for (int i = 0; i < POLICY_N_LIMITS; i++) {
		uint64_t limit = policy_verdict__limit(v, i, &place);

		if (limit != POLICY_NO_LIMIT)
			json_object_object_add(limits, policy_limit_names[i],
					       sourced(json_object_new_uint64(limit), place));
	}
	json_object_object_add(o, "action", json_object_new_string(policy_action_names[v->action]));
	json_object_object_add(o, "rule", json_object_new_string(v->rule));
	json_object_object_add(o, "grants", grants);
	json_object_object_add(o, "limits", limits);
	json_object_array_add(arg, o);
	return false;
}

static void print_verdict(const json_object *v)
{
	printf("%s, by ", member_text(v, "action"));
	print_text(stdout, member_text(v, "rule"));
	printf("\n");
	if (strcmp(member_text(v, "action"), "offload") != 0)
		return;
	json_object_object_foreach(json_object_object_get(v, "grants"), grant, g)
	{
		if (json_object_get_boolean(json_object_object_get(g, "value")))
			continue;
		printf("  not granted: %s (", grant);
		print_text(stdout, member_text(g, "place"));
		printf(")\n");
	}
	json_object_object_foreach(json_object_object_get(v, "limits"), limit, l)
	{
		printf("  limit: %s %s (", limit, json_object_to_json_string(json_object_object_get(l, "value")));
		print_text(stdout, member_text(l, "place"));
		printf(")\n");
	}
}

static enum cli_exit explain(const struct cli_args *args)
{
	struct subject tool, target;
	struct policy_probe probe;
	struct policy_query q = {0};
	json_object *verdicts;
	struct policy *p;

	if (!args->which_tool) {
		cli_complain("policy explain: --tool is missing");
		return CLI_USAGE;
	}
	if (!read_subject("tool", args->which_tool, true, &tool) ||
	    (args->which_target && !read_subject("target", args->which_target, false, &target)) ||
	    (args->probe && !read_probe((char *)args->probe, &probe)))
		return CLI_USAGE;
	p = load(args);
	if (!p)
		return CLI_NO;
	q.tool = &tool;
	q.target = args->which_target ? &target : NULL;
	q.probe = args->probe ? &probe : NULL;
	verdicts = json_object_new_array();
	policy__each(p, &q, add_verdict, verdicts);
	if (args->json)
		print_json(verdicts);
	else if (json_object_array_length(verdicts) > 1)
		printf("That depends on what is not told; the first that applies of:\n");
	for (size_t i = 0; !args->json && i < json_object_array_length(verdicts); i++)
		print_verdict(json_object_array_get_idx(verdicts, i));
	json_object_put(verdicts);
	policy__free(p);
	return CLI_DONE;
}

static const struct {
	const char *name;
	enum cli_exit (*run)(const struct cli_args *args);
	bool takes_words, takes_query;
} verbs[] = {
	{"check", check, true, false},
	{"show", show, false, false},
	{"explain", explain, false, true},
};

enum cli_exit cmd_policy(const struct cli_args *args)
{
	bool has_query = args->which_tool || args->which_target || args->probe;

	for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++) {
		if (strcmp(args->words[0], verbs[i].name) != 0)
			continue;
		if (args->n_words > 1 && !verbs[i].takes_words) {
			cli_complain("policy %s: '%s' is one argument too many", verbs[i].name, args->words[1]);
			return CLI_USAGE;
		}
		if (has_query && !verbs[i].takes_query) {
			cli_complain("policy %s: --tool, --target and --probe are for policy explain", verbs[i].name);
			return CLI_USAGE;
		}
		return verbs[i].run(args);
	}
	cli_complain("policy: '%s' is not known here: only 'check', 'show' and 'explain' are", args->words[0]);
	return CLI_USAGE;
}
