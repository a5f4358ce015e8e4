/* SPDX-License-Identifier: MIT */
/* The version of this bpftime, and of the daemon when one answers. */
#include "cli.h"
#include "client.h"
#include "output.h"

enum cli_exit cmd_version(const struct cli_args *args)
{
	json_object *status, *o;
	const char *daemon = NULL;

	if (client_ask(args, client_request("status"), CLIENT_PATIENCE, true, &status) == CLI_DONE)
		daemon = member_text(status, "version");
	if (args->json) {
		o = json_object_new_object();
		json_object_object_add(o, "version", json_object_new_string(BPFTIMED_VERSION));
		json_object_object_add(o, "daemon", daemon ? json_object_new_string(daemon) : NULL);
		print_json(o);
		json_object_put(o);
	} else {
		printf("bpftime %s\nbpftimed %s\n", BPFTIMED_VERSION, daemon ? daemon : "is not reachable");
	}
	json_object_put(status);
	return CLI_DONE;
}
