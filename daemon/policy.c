/* SPDX-License-Identifier: MIT */
/*
 * policy.c: reads policy files and answers from them.
 *
 * A file is read into memory whole, checked for who may write it, parsed by json-c, and then walked by tables: one row
 * for each key that an object may have, with the function that takes its value. Whatever is wrong is written down with
 * its line (json_place.h) and reading goes on, so that a person sees all mistakes at once. Any mistake makes the whole
 * policy void.
 *
 * Files are numbered in the order of reading. "Later files win": the lists of a later file are asked before those of an
 * earlier one, and its "default" and "settings" replace theirs. Within a list the first match decides.
 */
#include "policy.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <json-c/json.h>

#include "json_place.h"

#define POLICY_VERSION	 1
#define POLICY_FILE_MAX	 (1l << 20)
#define POLICY_DEPTH_MAX 8
#define COMM_MAX	 15 /* TASK_COMM_LEN without its zero */
#define STEPS_MAX	 4
#define THE_DEFAULT	 "the default"
#define DELETED_SUFFIX	 " (deleted)" /* what the kernel appends to the name of an unlinked file */

enum list_kind { LIST_TOOLS, LIST_TARGETS, N_LISTS };

/* exe, comm: NULL when the rule does not ask for them. */
struct rule {
	char *exe, *comm;
	bool has_uid;
	uid_t uid;
	enum policy_action action;
	char *place; /* "FILE:LINE" */
};

struct rule_list {
	struct rule *rules;
	size_t n;
};

struct setting {
	bool on;
	char *place; /* "FILE:LINE", or NULL: no file says it */
};

struct policy_file {
	struct rule_list lists[N_LISTS];
};

struct policy {
	struct policy_file *files; /* in the order of reading */
	size_t n_files;
	enum policy_action fallback;
	struct setting settings[POLICY_N_SETTINGS];
};

/* The file that is being read. steps lead to the value that is being looked at, for its line. */
struct reader {
	struct policy *policy;
	struct policy_file *file;
	struct rule *rule;
	const char *path, *text;
	struct policy_errors *errors;
	struct json_step steps[STEPS_MAX];
	size_t n_steps;
};

typedef void take_fn(struct reader *r, json_object *value, int arg);

/* One key that an object may have. */
struct key {
	const char *name;
	json_type type;
	take_fn *take; /* where type is json_type_null: of any type, take looks itself */
	int arg;
};

static void *must(void *p)
{
	if (!p)
		abort();
	return p;
}

static void add_error(struct policy_errors *errors, const char *format, va_list args)
{
	char *text;

	if (vasprintf(&text, format, args) < 0)
		abort();
	errors->text = must(reallocarray(errors->text, errors->n + 1, sizeof(*errors->text)));
	errors->text[errors->n++] = text;
}

static void __attribute__((format(printf, 2, 3))) mistake(struct policy_errors *errors, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	add_error(errors, format, args);
	va_end(args);
}

void policy_errors__clear(struct policy_errors *errors)
{
	for (size_t i = 0; i < errors->n; i++)
		free(errors->text[i]);
	free(errors->text);
	*errors = (struct policy_errors){0};
}

/* ---- what is wrong, where ---- */

static unsigned int line_here(const struct reader *r)
{
	return json_place__line(r->text, r->steps, r->n_steps);
}

/* "tools[2].exe" for the steps. */
static void name_here(const struct reader *r, char *out, size_t size)
{
	size_t n = 0;

	out[0] = 0;
	for (size_t i = 0; i < r->n_steps && n < size; i++) {
		const struct json_step *s = &r->steps[i];

		if (s->key)
			n += (size_t)snprintf(out + n, size - n, "%s%s", i ? "." : "", s->key);
		else
			n += (size_t)snprintf(out + n, size - n, "[%zu]", s->index);
	}
}

static void __attribute__((format(printf, 2, 3))) mistake_here(struct reader *r, const char *format, ...)
{
	char where[256], what[512];
	va_list args;

	va_start(args, format);
	vsnprintf(what, sizeof(what), format, args);
	va_end(args);
	name_here(r, where, sizeof(where));
	mistake(r->errors, "%s:%u: %s%s%s", r->path, line_here(r), where, where[0] ? ": " : "", what);
}

static const char *type_name(json_type type)
{
	static const char *const names[] = {
		[json_type_null] = "null",	  [json_type_boolean] = "true or false",
		[json_type_double] = "a number",  [json_type_int] = "a whole number",
		[json_type_object] = "an object", [json_type_array] = "a list",
		[json_type_string] = "a string",
	};

	return names[type];
}

/* ---- walking an object by its table ---- */

static void push_step(struct reader *r, const char *key, size_t index)
{
	if (r->n_steps < STEPS_MAX)
		r->steps[r->n_steps] = (struct json_step){key, index};
	r->n_steps++;
}

static void pop_step(struct reader *r)
{
	r->n_steps--;
}

static void list_keys(const struct key *keys, char *out, size_t size)
{
	size_t n = 0;

	for (const struct key *k = keys; k->name && n < size; k++)
		n += (size_t)snprintf(out + n, size - n, "%s%s", k == keys ? "" : ", ", k->name);
}

static void take_object(struct reader *r, json_object *object, const struct key *keys)
{
	json_object_object_foreach(object, name, value)
	{
		const struct key *k = keys;
		json_type type = json_object_get_type(value);

		push_step(r, name, 0);
		while (k->name && strcmp(k->name, name) != 0)
			k++;
		if (!k->name) {
			char known[256];

			list_keys(keys, known, sizeof(known));
			mistake_here(r, "unknown key; known here are %s", known);
		} else if (k->type != json_type_null && k->type != type) {
			mistake_here(r, "must be %s, not %s", type_name(k->type), type_name(type));
		} else {
			k->take(r, value, k->arg);
		}
		pop_step(r);
	}
}

/* ---- values ---- */

static void take_version(struct reader *r, json_object *value, int arg)
{
	if (json_object_get_int64(value) != POLICY_VERSION)
		mistake_here(r, "this bpftimed reads version %d only", POLICY_VERSION);
}

static void action_of(struct reader *r, json_object *value, enum policy_action *out)
{
	const char *s = json_object_get_string(value);

	if (strcmp(s, "offload") == 0)
		*out = POLICY_OFFLOAD;
	else if (strcmp(s, "kernel") == 0)
		*out = POLICY_KERNEL;
	else
		mistake_here(r, "must be \"offload\" or \"kernel\", not \"%s\"", s);
}

static void take_default(struct reader *r, json_object *value, int arg)
{
	action_of(r, value, &r->policy->fallback);
}

static void take_action(struct reader *r, json_object *value, int arg)
{
	action_of(r, value, &r->rule->action);
}

static void take_exe(struct reader *r, json_object *value, int arg)
{
	const char *s = json_object_get_string(value);

	if (s[0] != '/' && s[0] != '*')
		mistake_here(r, "\"%s\" matches no executable: a path begins with / (or the pattern with *)", s);
	free(r->rule->exe);
	r->rule->exe = must(strdup(s));
}

static void take_comm(struct reader *r, json_object *value, int arg)
{
	const char *s = json_object_get_string(value);

	if (!*s)
		mistake_here(r, "must not be empty");
	else if (!strpbrk(s, "*?[") && strlen(s) > COMM_MAX)
		mistake_here(r, "\"%s\" matches no process: the kernel cuts names to %d characters", s, COMM_MAX);
	free(r->rule->comm);
	r->rule->comm = must(strdup(s));
}

static void take_user(struct reader *r, json_object *value, int arg)
{
	json_type type = json_object_get_type(value);
	const struct passwd *pw;
	unsigned long long number;
	const char *s;
	char *end;

	r->rule->has_uid = true;
	if (type != json_type_int && type != json_type_string) {
		mistake_here(r, "must be a user's name or number, not %s", type_name(type));
		return;
	}
	s = json_object_get_string(value);
	number = strtoull(s, &end, 10);
	if (*s >= '0' && *s <= '9' && !*end && number < UINT32_MAX) {
		r->rule->uid = (uid_t)number;
		return;
	}
	pw = type == json_type_string ? getpwnam(s) : NULL;
	if (pw)
		r->rule->uid = pw->pw_uid;
	else
		mistake_here(r, "there is no user \"%s\"", s);
}

static void take_setting(struct reader *r, json_object *value, int setting)
{
	struct setting *s = &r->policy->settings[setting];

	s->on = json_object_get_boolean(value);
	free(s->place);
	if (asprintf(&s->place, "%s:%u", r->path, line_here(r)) < 0)
		abort();
}

static void take_rules(struct reader *r, json_object *value, int list)
{
	static const struct key keys[] = {
		{"exe", json_type_string, take_exe, 0},
		{"comm", json_type_string, take_comm, 0},
		{"user", json_type_null, take_user, 0},
		{"action", json_type_string, take_action, 0},
		{0},
	};
	struct rule_list *l = &r->file->lists[list];
	size_t n = json_object_array_length(value);

	l->rules = must(calloc(n + 1, sizeof(*l->rules)));
	l->n = n;
	for (size_t i = 0; i < n; i++) {
		json_object *o = json_object_array_get_idx(value, i);

		push_step(r, NULL, i);
		r->rule = &l->rules[i];
		if (asprintf(&r->rule->place, "%s:%u", r->path, line_here(r)) < 0)
			abort();
		if (!json_object_is_type(o, json_type_object)) {
			mistake_here(r, "must be an object, not %s", type_name(json_object_get_type(o)));
		} else {
			take_object(r, o, keys);
			if (!json_object_object_get_ex(o, "action", NULL))
				mistake_here(r, "a rule needs the key \"action\"");
			if (!json_object_object_get_ex(o, "exe", NULL) && !json_object_object_get_ex(o, "comm", NULL) &&
			    !json_object_object_get_ex(o, "user", NULL))
				mistake_here(r, "a rule needs one of the keys \"exe\", \"comm\", \"user\"");
		}
		pop_step(r);
	}
}

static void take_settings(struct reader *r, json_object *value, int arg)
{
	static const struct key keys[] = {
		{"stop_tools", json_type_boolean, take_setting, POLICY_STOP_TOOLS},
		{"share_across_users", json_type_boolean, take_setting, POLICY_SHARE_ACROSS_USERS},
		{"writable_code", json_type_boolean, take_setting, POLICY_WRITABLE_CODE},
		{0},
	};

	take_object(r, value, keys);
}

static void take_file(struct reader *r, json_object *root)
{
	static const struct key keys[] = {
		{"version", json_type_int, take_version, 0},
		{"tools", json_type_array, take_rules, LIST_TOOLS},
		{"targets", json_type_array, take_rules, LIST_TARGETS},
		{"default", json_type_string, take_default, 0},
		{"settings", json_type_object, take_settings, 0},
		{0},
	};

	if (!json_object_is_type(root, json_type_object)) {
		mistake_here(r, "must be an object, not %s", type_name(json_object_get_type(root)));
		return;
	}
	take_object(r, root, keys);
	if (!json_object_object_get_ex(root, "version", NULL))
		mistake_here(r, "version: this key is missing; it must be %d", POLICY_VERSION);
}

/* ---- files ---- */

/* The whole file as a zero-terminated text, or NULL with a mistake. *untrusted: others than root could have written it.
 */
static char *read_file(const char *path, struct policy_errors *errors, bool *untrusted)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;
	char *text = NULL;
	ssize_t n = 0, got;

	if (fd < 0) {
		mistake(errors, "%s: cannot be opened: %s", path, strerror(errno));
		return NULL;
	}
	if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
		mistake(errors, "%s: is not a file", path);
		goto out;
	}
	if (st.st_uid != 0 || (st.st_mode & S_IWOTH) || ((st.st_mode & S_IWGRP) && st.st_gid != 0)) {
		mistake(errors,
			"%s: refused, because others than root could write it: make it belong to root, mode 0644",
			path);
		*untrusted = true;
		goto out;
	}
	if (st.st_size > POLICY_FILE_MAX) {
		mistake(errors, "%s: is larger than %ld bytes", path, POLICY_FILE_MAX);
		goto out;
	}
	text = must(calloc(1, POLICY_FILE_MAX + 1));
	while (n < POLICY_FILE_MAX && (got = read(fd, text + n, (size_t)(POLICY_FILE_MAX - n))) != 0) {
		if (got < 0) {
			mistake(errors, "%s: cannot be read: %s", path, strerror(errno));
			free(text);
			text = NULL;
			goto out;
		}
		n += got;
	}
	if (strlen(text) != (size_t)n) {
		mistake(errors, "%s:%u: holds a zero byte", path, json_place__line_at(text, strlen(text)));
		free(text);
		text = NULL;
	}
out:
	close(fd);
	return text;
}

static json_object *parse(const char *path, const char *text, struct policy_errors *errors)
{
	struct json_tokener *tok = must(json_tokener_new_ex(POLICY_DEPTH_MAX));
	size_t len = strlen(text), end;
	json_object *root;
	enum json_tokener_error e;

	json_tokener_set_flags(tok, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
	root = json_tokener_parse_ex(tok, text, (int)len + 1); /* with its zero, at which an unfinished text is seen */
	e = json_tokener_get_error(tok);
	end = json_tokener_get_parse_end(tok);
	if (e == json_tokener_continue || e == json_tokener_error_parse_eof)
		mistake(errors, "%s:%u: the text ends too early", path, json_place__line_at(text, len));
	else if (e != json_tokener_success)
		mistake(errors, "%s:%u: not JSON: %s", path, json_place__line_at(text, end),
			json_tokener_error_desc(e));
	else if (!root)
		mistake(errors, "%s:1: must be an object, not null", path);
	json_tokener_free(tok);
	return root;
}

static bool read_policy_file(struct policy *p, const char *path, struct policy_errors *errors)
{
	struct reader r = {.policy = p, .path = path, .errors = errors};
	bool untrusted = false;
	json_object *root;
	char *text = read_file(path, errors, &untrusted);

	if (!text)
		return untrusted;
	root = parse(path, text, errors);
	if (root) {
		size_t len;
		const char *again = json_place__repeated_key(text, &len);

		if (again)
			mistake(errors, "%s:%u: %.*s: this key is there twice", path,
				json_place__line_at(text, (size_t)(again - text)), (int)len - 2, again + 1);
		p->files = must(reallocarray(p->files, p->n_files + 1, sizeof(*p->files)));
		p->files[p->n_files] = (struct policy_file){0};
		r.file = &p->files[p->n_files++];
		r.text = text;
		take_file(&r, root);
	}
	json_object_put(root);
	free(text);
	return false;
}

int policy__load_files(char *const *paths, size_t n, struct policy **out, struct policy_errors *errors)
{
	struct policy *p = must(calloc(1, sizeof(*p)));
	size_t n_before = errors->n;
	bool untrusted = false;

	*out = NULL;
	p->fallback = POLICY_OFFLOAD;
	p->settings[POLICY_STOP_TOOLS].on = true;
	p->settings[POLICY_WRITABLE_CODE].on = true;
	for (size_t i = 0; i < n; i++)
		untrusted |= read_policy_file(p, paths[i], errors);
	if (errors->n > n_before) {
		policy__free(p);
		return untrusted ? -EPERM : -EINVAL;
	}
	*out = p;
	return 0;
}

static int is_policy_name(const struct dirent *d)
{
	const char *dot = strrchr(d->d_name, '.');

	return d->d_name[0] != '.' && dot && strcmp(dot, ".json") == 0;
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

int policy__load(const char *dir, struct policy **out, struct policy_errors *errors)
{
	struct dirent **names = NULL;
	char **paths = NULL;
	struct stat st;
	int n, r;

	*out = NULL;
	n = scandir(dir, &names, is_policy_name, by_bytes);
	if (n < 0 && errno == ENOENT)
		return policy__load_files(NULL, 0, out, errors);
	if (n < 0 || stat(dir, &st)) {
		r = -errno;
		mistake(errors, "%s: cannot be read: %s", dir, strerror(-r));
		goto out;
	}
	if (st.st_uid != 0 || (st.st_mode & S_IWOTH) || ((st.st_mode & S_IWGRP) && st.st_gid != 0)) {
		mistake(errors,
			"%s: refused, because others than root could put files there: make it belong to root, mode "
			"0755",
			dir);
		r = -EPERM;
		goto out;
	}
	paths = must(calloc((size_t)n + 1, sizeof(*paths)));
	for (int i = 0; i < n; i++)
		if (asprintf(&paths[i], "%s/%s", dir, names[i]->d_name) < 0)
			abort();
	r = policy__load_files(paths, (size_t)n, out, errors);
	for (int i = 0; i < n; i++)
		free(paths[i]);
	free(paths);
out:
	for (int i = 0; i < n; i++)
		free(names[i]);
	free(names);
	return r;
}

static void rule_list__free(struct rule_list *l)
{
	for (size_t i = 0; i < l->n; i++) {
		free(l->rules[i].exe);
		free(l->rules[i].comm);
		free(l->rules[i].place);
	}
	free(l->rules);
}

void policy__free(struct policy *p)
{
	if (!p)
		return;
	for (size_t i = 0; i < p->n_files; i++)
		for (int k = 0; k < N_LISTS; k++)
			rule_list__free(&p->files[i].lists[k]);
	free(p->files);
	for (int i = 0; i < POLICY_N_SETTINGS; i++)
		free(p->settings[i].place);
	free(p);
}

/* ---- answers ---- */

/* A package upgrade unlinks an executable under a running process: it is the same program still. */
static bool exe_matches(const char *pattern, const char *exe)
{
	size_t len = strlen(exe), suffix = strlen(DELETED_SUFFIX);
	char kept[4096];

	if (fnmatch(pattern, exe, 0) == 0)
		return true;
	if (len <= suffix || len - suffix >= sizeof(kept) || strcmp(exe + len - suffix, DELETED_SUFFIX) != 0)
		return false;
	snprintf(kept, sizeof(kept), "%.*s", (int)(len - suffix), exe);
	return fnmatch(pattern, kept, 0) == 0;
}

static bool rule_matches(const struct rule *rule, const char *exe, const char *comm, uid_t uid)
{
	if (rule->exe && (!exe || !exe_matches(rule->exe, exe)))
		return false;
	if (rule->comm && (!comm || fnmatch(rule->comm, comm, 0) != 0))
		return false;
	return !rule->has_uid || rule->uid == uid;
}

static enum policy_action ask(const struct policy *p, enum list_kind list, const char *exe, const char *comm, uid_t uid,
			      const char **why)
{
	for (size_t i = p->n_files; i-- > 0;) {
		const struct rule_list *l = &p->files[i].lists[list];

		for (size_t k = 0; k < l->n; k++) {
			if (!rule_matches(&l->rules[k], exe, comm, uid))
				continue;
			if (why)
				*why = l->rules[k].place;
			return l->rules[k].action;
		}
	}
	if (why)
		*why = THE_DEFAULT;
	return p->fallback;
}

enum policy_action policy__tool(const struct policy *p, const char *exe, const char *comm, uid_t uid, const char **why)
{
	return ask(p, LIST_TOOLS, exe, comm, uid, why);
}

enum policy_action policy__target(const struct policy *p, const char *exe, const char *comm, uid_t uid,
				  const char **why)
{
	return ask(p, LIST_TARGETS, exe, comm, uid, why);
}

bool policy__setting(const struct policy *p, enum policy_setting setting, const char **why)
{
	const struct setting *s = &p->settings[setting];

	if (why)
		*why = s->place ? s->place : THE_DEFAULT;
	return s->on;
}

size_t policy__files(const struct policy *p)
{
	return p->n_files;
}

size_t policy__rules(const struct policy *p)
{
	size_t n = 0;

	for (size_t i = 0; i < p->n_files; i++)
		for (int k = 0; k < N_LISTS; k++)
			n += p->files[i].lists[k].n;
	return n;
}
