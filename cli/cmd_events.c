/* SPDX-License-Identifier: MIT */
/* What bpftimed has decided, oldest first, and with --follow what it decides from now on. */
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "cli.h"
#include "client.h"
#include "output.h"

#define ROUND_SECONDS  20.0 /* a question waits so long for the next event */
#define EXTRA_PATIENCE 10.0
#define TIME_SIZE      32

static void format_time(double seconds, char *out, size_t size)
{
	time_t whole = (time_t)seconds;
	struct tm tm;
	size_t n;

	localtime_r(&whole, &tm);
	n = strftime(out, size, "%F %T", &tm);
	snprintf(out + n, size - n, ".%03d", (int)((seconds - (double)whole) * 1000));
}

static bool is_wanted(const struct cli_args *args, const json_object *event)
{
	json_object *tool;

	if (!args->tool)
		return true;
	return json_object_object_get_ex(event, "tool", &tool) && member_number(tool, "pid") == args->tool;
}

static void show(const struct cli_args *args, json_object *event)
{
	char when[TIME_SIZE];
	json_object *time;

	if (args->json) {
		print_json_line(event);
		return;
	}
	json_object_object_get_ex(event, "time", &time);
	format_time(json_object_get_double(time), when, sizeof(when));
	printf("%s  %-14s  ", when, member_text(event, "kind"));
	print_text(stdout, member_text(event, "message"));
	fputc('\n', stdout);
}

static void show_all(const struct cli_args *args, const json_object *answer)
{
	if (member_number(answer, "lost"))
		cli_complain("%" PRId64 " events before these are not kept any more", member_number(answer, "lost"));
	for (size_t i = 0; i < member_length(answer, "events"); i++)
		if (is_wanted(args, member_element(answer, "events", i)))
			show(args, member_element(answer, "events", i));
	fflush(stdout);
}

enum cli_exit cmd_events(const struct cli_args *args)
{
	int64_t from = 0;
	double timeout = 0;
	enum cli_exit code;

	do {
		json_object *request = client_request("events"), *answer;

		json_object_object_add(request, "from", json_object_new_int64(from));
		json_object_object_add(request, "timeout", json_object_new_double(timeout));
		code = client_ask(args, request, timeout + EXTRA_PATIENCE, false, &answer);
		if (code == CLI_DONE)
			show_all(args, answer);
		from = member_number(answer, "next");
		timeout = ROUND_SECONDS;
		json_object_put(answer);
	} while (code == CLI_DONE && args->follow && !ferror(stdout));
	return code;
}
