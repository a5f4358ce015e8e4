/* SPDX-License-Identifier: MIT */
/* How bpftimed works here, and how much it carries. */
#include <inttypes.h>

#include "cli.h"
#include "client.h"
#include "output.h"

static void print_policy(const json_object *p)
{
	const char *error = member_text(p, "error");

	printf("policy     %" PRId64 " files, %" PRId64 " rules\n", member_number(p, "files"),
	       member_number(p, "rules"));
	if (!*error)
		return;
	printf("           NOT the one on disk, which has ");
	print_text(stdout, error);
	printf("\n");
}

static void print_status(const json_object *o)
{
	printf("bpftimed   ");
	print_text(stdout, member_text(o, "version"));
	printf("\nkernel     %s, lockdown %s\n", member_text(o, "kernel"), member_text(o, "lockdown"));
	printf("hook       %s\n", member_text(o, "hook"));
	printf("switch     %s\n", member_text(o, "switch"));
	printf("holds      %s\n", member_text(o, "holds"));
	if (*member_text(o, "last")) {
		printf("last       ");
		print_text(stdout, member_text(o, "last"));
		printf("\n");
	}
	if (*member_text(o, "metrics"))
		printf("metrics    http://%s/metrics\n", member_text(o, "metrics"));
	printf("tools      %" PRId64 "\n", member_number(o, "tools"));
	printf("targets    %" PRId64 "\n", member_number(o, "targets"));
	printf("probes     %" PRId64 " in userspace, %" PRId64 " in the kernel\n", member_number(o, "probes_userspace"),
	       member_number(o, "probes_kernel"));
	print_policy(json_object_object_get(o, "policy"));
}

enum cli_exit cmd_status(const struct cli_args *args)
{
	json_object *result;
	enum cli_exit code = client_ask(args, client_request("status"), CLIENT_PATIENCE, false, &result);

	if (code == CLI_DONE && args->json)
		print_json(result);
	else if (code == CLI_DONE)
		print_status(result);
	json_object_put(result);
	return code;
}
