/* SPDX-License-Identifier: MIT */
/*
 * policy_read.c: makes a policy from its files.
 *
 * A file is read into memory whole, checked for who may write it, parsed by json-c, and then walked by tables
 * (policy_reader.h). Any mistake makes the whole policy void.
 *
 * "Later files win": the rules of a later file are asked before those of an earlier one, and what it says otherwise
 * replaces what that says. Within a file the lists are asked in the order of enum policy_list.
 */
#include <errno.h>
#include <linux/bpf.h>
#include <fnmatch.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/json_place.h"
#include "daemon/policy_reader.h"
#include "daemon/procfs.h"

#define POLICY_VERSION	 1
#define POLICY_DEPTH_MAX 8
#define COMM_MAX	 15 /* TASK_COMM_LEN without its zero */
#define LIMIT_MAX	 1000000000
#define SHA256_DIGITS	 (SHA256_HEX_SIZE - 1)
#define N_OF(array)	 (sizeof(array) / sizeof((array)[0]))

static const char *const helper_names[] = {
#define NAME_OF_HELPER(name) [BPF_FUNC_##name] = "bpf_" #name
	__BPF_FUNC_MAPPER(NAME_OF_HELPER)};

static const char *const probe_kinds[] = {"uprobe", "uretprobe", NULL};

static void *must(void *p)
{
	if (!p)
		abort();
	return p;
}

/* ---- words ---- */

static void ignore(struct reader *r, json_object *value, int arg)
{
}

static void take_version(struct reader *r, json_object *value, int arg)
{
	if (json_object_get_int64(value) != POLICY_VERSION)
		reader__mistake(r, "this bpftimed reads version %d only", POLICY_VERSION);
}

static void take_default(struct reader *r, json_object *value, int arg)
{
	int action = reader__take_word(r, value, policy_action_names);

	if (action >= 0)
		r->policy->fallback = (enum policy_action)action;
	reader__note_place(r, &r->policy->fallback_place);
}

static void take_action(struct reader *r, json_object *value, int arg)
{
	int action = reader__take_word(r, value, policy_action_names);

	if (action >= 0)
		r->rule->action = (enum policy_action)action;
}

/* ---- what a rule matches ---- */

static bool is_pattern(const char *s)
{
	return strpbrk(s, "*?[") != NULL;
}

static void keep_text(struct reader *r, json_object *value, char **text)
{
	const char *s = json_object_get_string(value);

	if (!*s)
		reader__mistake(r, "must not be empty");
	free(*text);
	*text = must(strdup(s));
}

static void keep_path(struct reader *r, json_object *value, char **text, const char *what)
{
	const char *s = json_object_get_string(value);

	keep_text(r, value, text);
	if (*s && s[0] != '/' && s[0] != '*')
		reader__mistake(r, "\"%s\" matches no %s: a path begins with / (or the pattern with *)", s, what);
}

static void take_exe(struct reader *r, json_object *value, int arg)
{
	keep_path(r, value, &r->match->exe, "executable");
}

static void take_comm(struct reader *r, json_object *value, int arg)
{
	const char *s = json_object_get_string(value);

	keep_text(r, value, &r->match->comm);
	if (!is_pattern(s) && strlen(s) > COMM_MAX)
		reader__mistake(r, "\"%s\" matches no process: the kernel cuts names to %d characters", s, COMM_MAX);
}

static void take_sha256(struct reader *r, json_object *value, int arg)
{
	const char *s = json_object_get_string(value);

	keep_text(r, value, &r->match->sha256);
	if (*s && (strlen(s) != SHA256_DIGITS || strspn(s, "0123456789abcdef") != SHA256_DIGITS))
		reader__mistake(r, "must be %d digits of 0 to 9 and a to f, as sha256sum prints them", SHA256_DIGITS);
}

static void take_unit(struct reader *r, json_object *value, int arg)
{
	const char *s = json_object_get_string(value);

	keep_text(r, value, &r->match->unit);
	if (*s && !is_pattern(s) && !strchr(s, '.'))
		reader__mistake(r, "\"%s\" matches no unit: its name ends in .service, .scope or the like", s);
}

static void take_cgroup(struct reader *r, json_object *value, int arg)
{
	keep_path(r, value, &r->match->cgroup, "control group");
}

static void take_container(struct reader *r, json_object *value, int arg)
{
	keep_text(r, value, &r->match->container);
}

static void take_pid_namespace(struct reader *r, json_object *value, int arg)
{
	static const char *const words[] = {"host", "other", NULL};
	struct policy_match *m = r->match;
	json_type type = json_object_get_type(value);
	int word;

	m->has_pid_ns = true;
	m->pid_ns = procfs_pid_ns(getpid());
	if (type == json_type_int) {
		if (json_object_get_int64(value) < 1 || json_object_get_int64(value) > UINT32_MAX)
			reader__mistake(r, "must be the inode of a PID namespace, as ls -i /proc/PID/ns/pid shows it");
		m->pid_ns = (uint32_t)json_object_get_int64(value);
	} else if (type == json_type_string) {
		word = reader__take_word(r, value, words);
		m->is_other_pid_ns = word == 1;
	} else {
		reader__mistake(r, "must be \"host\", \"other\" or the inode of a PID namespace, not %s",
				json_type_words(type));
	}
}

static void take_user(struct reader *r, json_object *value, int arg)
{
	json_type type = json_object_get_type(value);
	const struct passwd *pw;
	unsigned long long number;
	const char *s;
	char *end;

	r->match->has_uid = true;
	if (type != json_type_int && type != json_type_string) {
		reader__mistake(r, "must be a user's name or number, not %s", json_type_words(type));
		return;
	}
	s = json_object_get_string(value);
	number = strtoull(s, &end, 10);
	if (*s >= '0' && *s <= '9' && !*end && number < UINT32_MAX) {
		r->match->uid = (uid_t)number;
		return;
	}
	pw = type == json_type_string ? getpwnam(s) : NULL;
	if (pw)
		r->match->uid = pw->pw_uid;
	else
		reader__mistake(r, "there is no user \"%s\"", s);
}

#define MATCH_KEYS                                                                                                     \
	{"exe", json_type_string, take_exe, 0}, {"sha256", json_type_string, take_sha256, 0},                          \
		{"comm", json_type_string, take_comm, 0}, {"user", json_type_null, take_user, 0},                      \
		{"unit", json_type_string, take_unit, 0},                                                              \
	{                                                                                                              \
		"cgroup", json_type_string, take_cgroup, 0                                                             \
	}

#define TARGET_KEYS                                                                                                    \
	MATCH_KEYS, {"container", json_type_string, take_container, 0},                                                \
	{                                                                                                              \
		"pid_namespace", json_type_null, take_pid_namespace, 0                                                 \
	}

static const struct key tool_keys[] = {MATCH_KEYS, {0}};
static const struct key target_keys[] = {TARGET_KEYS, {0}};

/* Where a key was mistyped (there were n_before mistakes before that), that is said already. */
static void need_a_key(struct reader *r, json_object *object, const struct key *keys, size_t n_before)
{
	char known[256] = "";
	size_t n = 0;

	if (r->errors->n > n_before)
		return;
	for (const struct key *k = keys; k->name && n < sizeof(known); k++) {
		if (json_object_object_get_ex(object, k->name, NULL))
			return;
		n += (size_t)snprintf(known + n, sizeof(known) - n, "%s\"%s\"", n ? ", " : "", k->name);
	}
	reader__mistake(r, "needs one of the keys %s", known);
}

static void take_match(struct reader *r, json_object *value, int is_target)
{
	const struct key *keys = is_target ? target_keys : tool_keys;
	size_t n_before = r->errors->n;

	r->match = is_target ? &r->rule->target : &r->rule->tool;
	*(is_target ? &r->rule->has_target : &r->rule->has_tool) = true;
	reader__take_object(r, value, keys);
	need_a_key(r, value, keys, n_before);
}

static void take_file_of_probe(struct reader *r, json_object *value, int arg)
{
	keep_path(r, value, &r->rule->probe.file, "file");
}

static void take_symbol(struct reader *r, json_object *value, int arg)
{
	keep_text(r, value, &r->rule->probe.symbol);
}

static void take_kind(struct reader *r, json_object *value, int arg)
{
	int kind = reader__take_word(r, value, probe_kinds);

	if (kind >= 0) {
		free(r->rule->probe.kind);
		r->rule->probe.kind = must(strdup(probe_kinds[kind]));
	}
}

static void take_probe(struct reader *r, json_object *value, int arg)
{
	static const struct key keys[] = {
		{"file", json_type_string, take_file_of_probe, 0},
		{"symbol", json_type_string, take_symbol, 0},
		{"kind", json_type_string, take_kind, 0},
		{0},
	};

	size_t n_before = r->errors->n;

	r->rule->has_probe = true;
	r->policy->asks_for_probes = true;
	reader__take_object(r, value, keys);
	need_a_key(r, value, keys, n_before);
}

/* ---- what it grants ---- */

static void take_grant(struct reader *r, json_object *value, int grant)
{
	r->terms->grant[grant].on = json_object_get_boolean(value);
	reader__note_place(r, &r->terms->grant[grant].place);
}

static void free_helpers(struct policy_terms *t)
{
	for (size_t i = 0; i < t->n_helpers; i++)
		free(t->helpers[i]);
	free(t->helpers);
	t->helpers = NULL;
	t->n_helpers = 0;
}

static void check_helper(struct reader *r, const char *pattern)
{
	char hint[128];

	for (size_t i = 0; i < N_OF(helper_names); i++)
		if (helper_names[i] && fnmatch(pattern, helper_names[i], 0) == 0)
			return;
	reader__mistake(r, "there is no helper \"%s\"%s", pattern,
			did_you_mean(pattern, helper_names, N_OF(helper_names), hint, sizeof(hint)));
}

static void take_helpers(struct reader *r, json_object *value, int arg)
{
	struct policy_terms *t = r->terms;
	size_t n = json_object_array_length(value);

	free_helpers(t);
	reader__note_place(r, &t->helpers_place);
	t->helpers = must(calloc(n + 1, sizeof(*t->helpers)));
	for (size_t i = 0; i < n; i++) {
		json_object *one = json_object_array_get_idx(value, i);

		reader__push(r, NULL, i);
		if (json_object_is_type(one, json_type_string)) {
			t->helpers[t->n_helpers++] = must(strdup(json_object_get_string(one)));
			check_helper(r, json_object_get_string(one));
		} else {
			reader__mistake(r, "must be a string, not %s", json_type_words(json_object_get_type(one)));
		}
		reader__pop(r);
	}
}

static void take_limit(struct reader *r, json_object *value, int limit)
{
	int64_t n = json_object_get_int64(value), least = limit == POLICY_COMPILE_SECONDS;

	if (n < least || n > LIMIT_MAX)
		reader__mistake(r, "must be from %lld to %d", (long long)least, LIMIT_MAX);
	r->terms->limit[limit].value = (uint64_t)n;
	reader__note_place(r, &r->terms->limit[limit].place);
}

/* Keys that have tables of names of their own; terms become those of what is being read. */
static void take_grants(struct reader *r, json_object *value, int arg)
{
	struct key keys[POLICY_N_GRANTS + 2] = {{0}};

	for (int i = 0; i < POLICY_N_GRANTS; i++)
		keys[i] = (struct key){policy_grant_names[i], json_type_boolean, take_grant, i};
	keys[POLICY_N_GRANTS] = (struct key){"helpers", json_type_array, take_helpers, 0};
	r->terms = r->rule ? &r->rule->terms : &r->policy->terms;
	reader__take_object(r, value, keys);
}

static void take_limits(struct reader *r, json_object *value, int arg)
{
	struct key keys[POLICY_N_LIMITS + 1] = {{0}};
	int n = 0;

	for (int i = 0; i < POLICY_N_LIMITS; i++)
		if (!r->rule || i != POLICY_SHARED_MEMORY_MIB)
			keys[n++] = (struct key){policy_limit_names[i], json_type_int, take_limit, i};
	r->terms = r->rule ? &r->rule->terms : &r->policy->terms;
	reader__take_object(r, value, keys);
}

/* ---- rules and files ---- */

static void take_tool_of_rule(struct reader *r, json_object *value, int arg)
{
	take_match(r, value, 0);
}

static void take_target_of_rule(struct reader *r, json_object *value, int arg)
{
	take_match(r, value, 1);
}

static const struct key rule_keys[POLICY_N_LISTS][16] = {
	[POLICY_RULES] =
		{
			{"comment", json_type_string, ignore, 0},
			{"tool", json_type_object, take_tool_of_rule, 0},
			{"target", json_type_object, take_target_of_rule, 0},
			{"probe", json_type_object, take_probe, 0},
			{"action", json_type_string, take_action, 0},
			{"grants", json_type_object, take_grants, 0},
			{"limits", json_type_object, take_limits, 0},
			{0},
		},
	[POLICY_TOOLS] = {MATCH_KEYS,
			  {"action", json_type_string, take_action, 0},
			  {"comment", json_type_string, ignore, 0},
			  {0}},
	[POLICY_TARGETS] = {TARGET_KEYS,
			    {"action", json_type_string, take_action, 0},
			    {"comment", json_type_string, ignore, 0},
			    {0}},
};

static void take_rule(struct reader *r, json_object *o, enum policy_list list)
{
	struct policy_rule *rule = r->rule;
	size_t n_before = r->errors->n;

	rule->list = list;
	rule->json = json_object_get(o);
	reader__note_place(r, &rule->place);
	if (!json_object_is_type(o, json_type_object)) {
		reader__mistake(r, "must be an object, not %s", json_type_words(json_object_get_type(o)));
		return;
	}
	rule->has_tool = list == POLICY_TOOLS;
	rule->has_target = list == POLICY_TARGETS;
	r->match = list == POLICY_TARGETS ? &rule->target : &rule->tool;
	reader__take_object(r, o, rule_keys[list]);
	if (list != POLICY_RULES)
		need_a_key(r, o, list == POLICY_TARGETS ? target_keys : tool_keys, n_before);
	if (!json_object_object_get_ex(o, "action", NULL))
		reader__mistake(r, "a rule needs the key \"action\"");
}

static void take_rules(struct reader *r, json_object *value, int list)
{
	struct file_list *l = &r->lists[list];

	l->n = json_object_array_length(value);
	l->rules = must(calloc(l->n + 1, sizeof(*l->rules)));
	for (size_t i = 0; i < l->n; i++) {
		reader__push(r, NULL, i);
		r->rule = &l->rules[i];
		take_rule(r, json_object_array_get_idx(value, i), (enum policy_list)list);
		r->rule = NULL;
		reader__pop(r);
	}
}

static void take_file(struct reader *r, json_object *root)
{
	static const struct key keys[] = {
		{"$schema", json_type_string, ignore, 0},
		{"version", json_type_int, take_version, 0},
		{"comment", json_type_string, ignore, 0},
		{"rules", json_type_array, take_rules, POLICY_RULES},
		{"tools", json_type_array, take_rules, POLICY_TOOLS},
		{"targets", json_type_array, take_rules, POLICY_TARGETS},
		{"default", json_type_string, take_default, 0},
		{"settings", json_type_object, take_grants, 0},
		{"limits", json_type_object, take_limits, 0},
		{0},
	};

	if (!json_object_is_type(root, json_type_object)) {
		reader__mistake(r, "must be an object, not %s", json_type_words(json_object_get_type(root)));
		return;
	}
	reader__take_object(r, root, keys);
	if (!json_object_object_get_ex(root, "version", NULL))
		reader__mistake(r, "version: this key is missing; it must be %d", POLICY_VERSION);
}

static json_object *parse(const char *path, const char *text, struct policy_errors *errors)
{
	struct json_tokener *tok = must(json_tokener_new_ex(POLICY_DEPTH_MAX));
	size_t len = strlen(text);
	enum json_tokener_error e;
	struct json_position at;
	json_object *root;

	json_tokener_set_flags(tok, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
	root = json_tokener_parse_ex(tok, text, (int)len + 1); /* with its zero, at which an unfinished text is seen */
	e = json_tokener_get_error(tok);
	at = json_place__position(text, json_tokener_get_parse_end(tok));
	if (e == json_tokener_continue || e == json_tokener_error_parse_eof)
		policy_errors__add(errors, "%s:%u:%u: the text ends too early", path, at.line, at.column);
	else if (e != json_tokener_success)
		policy_errors__add(errors, "%s:%u:%u: not JSON: %s", path, at.line, at.column,
				   json_tokener_error_desc(e));
	else if (!root)
		policy_errors__add(errors, "%s:1:1: must be an object, not null", path);
	json_tokener_free(tok);
	return root;
}

/* In front of those that are there. */
static void add_rules(struct policy *p, struct file_list *lists)
{
	size_t n = 0, at = 0;

	for (int i = 0; i < POLICY_N_LISTS; i++)
		n += lists[i].n;
	p->rules = must(reallocarray(p->rules, p->n_rules + n + 1, sizeof(*p->rules)));
	memmove(p->rules + n, p->rules, p->n_rules * sizeof(*p->rules));
	for (int i = 0; i < POLICY_N_LISTS; i++) {
		if (lists[i].n)
			memcpy(p->rules + at, lists[i].rules, lists[i].n * sizeof(*p->rules));
		at += lists[i].n;
		free(lists[i].rules);
	}
	p->n_rules += n;
}

static void find_repeated_keys(const char *path, const char *text, struct policy_errors *errors)
{
	const char *again;
	size_t len;

	for (size_t i = 0; (again = json_place__repeated_key(text, i, &len)); i++) {
		struct json_position at = json_place__position(text, (size_t)(again - text));

		policy_errors__add(errors, "%s:%u:%u: %.*s: this key is there twice", path, at.line, at.column,
				   (int)len - 2, again + 1);
	}
}

/* true: it is not to be trusted. */
static bool read_policy_file(struct policy *p, const char *path, struct policy_errors *errors)
{
	struct reader r = {.policy = p, .path = path, .errors = errors};
	bool untrusted = false;
	json_object *root;
	char *text = policy_file__read(path, errors, &untrusted);

	if (!text)
		return untrusted;
	root = parse(path, text, errors);
	if (root) {
		find_repeated_keys(path, text, errors);
		r.text = text;
		take_file(&r, root);
		add_rules(p, r.lists);
	}
	json_object_put(root);
	free(text);
	return false;
}

static void set_defaults(struct policy *p)
{
	p->fallback = POLICY_OFFLOAD;
	for (int i = 0; i < POLICY_N_GRANTS; i++)
		p->terms.grant[i].on = i != POLICY_SHARE_ACROSS_USERS;
}

/* Takes the list. */
static int load_list(struct policy_file_list *list, struct policy **out, struct policy_errors *errors)
{
	struct policy *p = must(calloc(1, sizeof(*p)));
	size_t n_before = errors->n;
	bool untrusted = false;

	*out = NULL;
	p->files = *list;
	*list = (struct policy_file_list){0};
	set_defaults(p);
	for (size_t i = 0; i < p->files.n; i++)
		if (p->files.file[i].state == POLICY_FILE_READ)
			untrusted |= read_policy_file(p, p->files.file[i].path, errors);
	if (errors->n > n_before) {
		policy__free(p);
		return untrusted ? -EPERM : -EINVAL;
	}
	*out = p;
	return 0;
}

int policy__load_files(char *const *paths, size_t n, struct policy **out, struct policy_errors *errors)
{
	struct policy_file_list list = {0};

	for (size_t i = 0; i < n; i++)
		policy_files__add(&list, paths[i]);
	return load_list(&list, out, errors);
}

int policy__load(const char *dirs, struct policy **out, struct policy_errors *errors)
{
	struct policy_file_list list;
	int err = policy_files__find(dirs, &list, errors);

	*out = NULL;
	if (!err)
		err = load_list(&list, out, errors);
	policy_files__clear(&list);
	return err;
}

/* ---- the end ---- */

static void free_terms(struct policy_terms *t)
{
	for (int i = 0; i < POLICY_N_GRANTS; i++)
		free(t->grant[i].place);
	for (int i = 0; i < POLICY_N_LIMITS; i++)
		free(t->limit[i].place);
	free_helpers(t);
	free(t->helpers_place);
}

static void free_match(struct policy_match *m)
{
	char *const texts[] = {m->exe, m->sha256, m->comm, m->unit, m->cgroup, m->container};

	for (size_t i = 0; i < N_OF(texts); i++)
		free(texts[i]);
}

static void free_rule(struct policy_rule *r)
{
	free_match(&r->tool);
	free_match(&r->target);
	free(r->probe.file);
	free(r->probe.symbol);
	free(r->probe.kind);
	free_terms(&r->terms);
	free(r->place);
	json_object_put(r->json);
}

void policy__free(struct policy *p)
{
	if (!p)
		return;
	for (size_t i = 0; i < p->n_rules; i++)
		free_rule(&p->rules[i]);
	free(p->rules);
	free(p->fallback_place);
	free_terms(&p->terms);
	policy_files__clear(&p->files);
	free(p);
}
