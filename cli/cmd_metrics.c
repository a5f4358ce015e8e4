/* SPDX-License-Identifier: MIT */
/* Everything that can be counted, as OpenMetrics: what bpftimed --metrics-listen serves. */
#include "cli.h"
#include "client.h"
#include "output.h"

enum cli_exit cmd_metrics(const struct cli_args *args)
{
	json_object *text;
	enum cli_exit code = client_ask(args, client_request("metrics"), CLIENT_PATIENCE, false, &text);

	if (code == CLI_DONE)
		fputs(json_object_get_string(text), stdout);
	json_object_put(text);
	return code;
}
