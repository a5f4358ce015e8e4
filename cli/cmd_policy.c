/* SPDX-License-Identifier: MIT */
/* Looks for mistakes in policy files, without a daemon: those given, or those in the policy folder. */
#include <string.h>

#include "cli.h"
#include "daemon/policy.h"
#include "output.h"

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

enum cli_exit cmd_policy(const struct cli_args *args)
{
	struct policy_errors errors = {0};
	struct policy *p = NULL;
	enum cli_exit code;

	if (strcmp(args->words[0], "check") != 0) {
		cli_complain("policy: '%s' is not known here: only 'check' is", args->words[0]);
		return CLI_USAGE;
	}
	if (args->n_words > 1)
		policy__load_files(args->words + 1, (size_t)args->n_words - 1, &p, &errors);
	else
		policy__load(args->policy_dir, &p, &errors);

	if (args->json)
		print_check_json(p, &errors);
	else if (p)
		printf("No mistakes: %zu files, %zu rules.\n", policy__files(p), policy__rules(p));
	else
		for (size_t i = 0; i < errors.n; i++)
			cli_complain("%s", errors.text[i]);
	code = p ? CLI_DONE : CLI_NO;
	policy_errors__clear(&errors);
	policy__free(p);
	return code;
}
