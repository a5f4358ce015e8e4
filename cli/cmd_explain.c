/* SPDX-License-Identifier: MIT */
/* One tool in sentences: where each probe runs, into which processes it goes, since when, and why not. */
#include <inttypes.h>
#include <string.h>

#include "cli.h"
#include "client.h"
#include "output.h"

#define PLACE_SIZE 4400
#define SPAN_SIZE  32

static void print_since(const json_object *o)
{
	json_object *since;
	char text[SPAN_SIZE];

	if (!json_object_object_get_ex(o, "since", &since) || !since)
		return;
	span(json_object_get_double(since), text, sizeof(text));
	printf(" (for %s)", text);
}

/* "in processes 12, 14" */
static void print_targets(const json_object *probe)
{
	size_t n = member_length(probe, "targets");

	if (n == 0)
		printf(", into no process yet");
	for (size_t i = 0; i < n; i++)
		printf("%s%" PRId64,
		       i	? ", "
		       : n == 1 ? ", in process "
				: ", in processes ",
		       json_object_get_int64(member_element(probe, "targets", i)));
}

static void print_probe(const json_object *probe)
{
	char place[PLACE_SIZE];

	probe_place(probe, place, sizeof(place));
	printf("\n%s ", member_text(probe, "kind"));
	print_text(stdout, place);
	printf(", program ");
	print_text(stdout, member_text(probe, "program"));
	if (strcmp(member_text(probe, "state"), "userspace") == 0) {
		printf("\n  runs in userspace");
		print_since(probe);
		print_targets(probe);
		printf(": %" PRId64 " hits\n", member_number(probe, "hits"));
		if (*member_text(probe, "switched_by")) {
			printf("  switched by: ");
			print_text(stdout, member_text(probe, "switched_by"));
			printf("\n");
		}
		if (json_object_get_boolean(json_object_object_get(probe, "adopted")))
			printf("  since then: a bpftimed that was killed; this one goes on\n");
	} else {
		printf("\n  runs in the kernel");
		print_since(probe);
		printf(": ");
		print_text(stdout, *member_text(probe, "reason") ? member_text(probe, "reason") : "no reason is known");
		printf("\n");
	}
	for (size_t i = 0; i < member_length(probe, "refused"); i++) {
		const json_object *r = member_element(probe, "refused", i);

		printf("  not in process %" PRId64 ": ", member_number(r, "pid"));
		print_text(stdout, member_text(r, "reason"));
		printf("\n");
	}
}

static void print_tool(const json_object *tool)
{
	size_t n = member_length(tool, "probes"), userspace = 0;

	for (size_t i = 0; i < n; i++)
		userspace += strcmp(member_text(member_element(tool, "probes", i), "state"), "userspace") == 0;
	printf("Tool %" PRId64 " (", member_number(tool, "pid"));
	print_text(stdout, member_text(tool, "comm"));
	printf("): %s", member_text(tool, "state"));
	print_since(tool);
	printf(". Of its %zu probes %zu run in userspace.\n", n, userspace);
	for (size_t i = 0; i < n; i++)
		print_probe(member_element(tool, "probes", i));
}

enum cli_exit cmd_explain(const struct cli_args *args)
{
	json_object *request, *result;
	enum cli_exit code;
	pid_t tool;

	if (!cli_read_pid(args->words[0], &tool))
		return CLI_USAGE;
	request = client_request("explain");
	json_object_object_add(request, "tool", json_object_new_int(tool));
	code = client_ask(args, request, CLIENT_PATIENCE, false, &result);
	if (code == CLI_DONE && args->json)
		print_json(result);
	else if (code == CLI_DONE)
		print_tool(result);
	json_object_put(result);
	return code;
}
