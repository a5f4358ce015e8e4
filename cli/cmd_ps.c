/* SPDX-License-Identifier: MIT */
/* Tools, one line for each of their probes. */
#include <inttypes.h>

#include "cli.h"
#include "client.h"
#include "output.h"

#define PLACE_SIZE 4400

static void add_tool(struct table *t, const json_object *tool)
{
	char pid[16], place[PLACE_SIZE], hits[24], targets[24];
	size_t n = member_length(tool, "probes");
	const char *cells[] = {pid,    member_text(tool, "comm"), member_text(tool, "state"), "", "", place, hits,
			       targets};

	snprintf(pid, sizeof(pid), "%" PRId64, member_number(tool, "pid"));
	place[0] = hits[0] = targets[0] = 0;
	if (n == 0)
		table__add(t, cells);
	for (size_t i = 0; i < n; i++) {
		const json_object *probe = member_element(tool, "probes", i);

		cells[3] = member_text(probe, "state");
		cells[4] = member_text(probe, "kind");
		probe_place(probe, place, sizeof(place));
		snprintf(hits, sizeof(hits), "%" PRId64, member_number(probe, "hits"));
		snprintf(targets, sizeof(targets), "%zu", member_length(probe, "targets"));
		table__add(t, cells);
	}
}

static void print_tools(const json_object *tools)
{
	static const char *const headings[] = {"TOOL", "COMMAND", "STATE", "RUNS IN",
					       "KIND", "PROBE",	  "HITS",  "TARGETS"};
	struct table *t;

	if (json_object_array_length(tools) == 0) {
		puts("No tool has probes.");
		return;
	}
	t = table__new(headings, sizeof(headings) / sizeof(headings[0]));
	table__align_right(t, 1u << 0 | 1u << 6 | 1u << 7);
	for (size_t i = 0; i < json_object_array_length(tools); i++)
		add_tool(t, json_object_array_get_idx(tools, i));
	table__print(t);
	table__free(t);
}

enum cli_exit cmd_ps(const struct cli_args *args)
{
	json_object *result;
	enum cli_exit code = client_ask(args, client_request("ps"), CLIENT_PATIENCE, false, &result);

	if (code == CLI_DONE && args->json)
		print_json(result);
	else if (code == CLI_DONE)
		print_tools(result);
	json_object_put(result);
	return code;
}
