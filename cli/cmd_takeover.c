/* SPDX-License-Identifier: MIT */
/* Undoes `bpftime handback`: what can run in userspace does so again when this returns. */
#include "cli.h"
#include "client.h"

enum cli_exit cmd_takeover(const struct cli_args *args)
{
	json_object *request, *result;
	enum cli_exit code;
	pid_t tool;

	if (!cli_read_pid(args->words[0], &tool))
		return CLI_USAGE;
	request = client_request("takeover");
	json_object_object_add(request, "tool", json_object_new_int(tool));
	code = client_ask(args, request, CLIENT_PATIENCE, false, &result);
	json_object_put(result);
	return code;
}
