/* SPDX-License-Identifier: MIT */
/* Returns as soon as a tool is in a state: for scripts and tests. */
#include <string.h>

#include "cli.h"
#include "client.h"
#include "output.h"

/* The daemon answers when time is up; only one that hangs needs more. */
#define EXTRA_PATIENCE 5.0

enum cli_exit cmd_wait(const struct cli_args *args)
{
	static const char *const states[] = {"offloaded", "partly", "kernel"};
	json_object *request, *result;
	enum cli_exit code;
	bool known = false;

	for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++)
		known |= strcmp(args->state, states[i]) == 0;
	if (!known) {
		cli_complain("'%s' is no state: offloaded, partly and kernel are", args->state);
		return CLI_USAGE;
	}
	if (!args->tool) {
		cli_complain("wait: --tool PID is missing");
		return CLI_USAGE;
	}
	request = client_request("wait");
	json_object_object_add(request, "tool", json_object_new_int(args->tool));
	json_object_object_add(request, "state", json_object_new_string(args->state));
	json_object_object_add(request, "timeout", json_object_new_double(args->timeout));
	code = client_ask(args, request, args->timeout + EXTRA_PATIENCE, false, &result);
	if (code == CLI_DONE && args->json) {
		json_object_object_add(result, "tool", json_object_new_int(args->tool));
		print_json(result);
	}
	json_object_put(result);
	return code;
}
