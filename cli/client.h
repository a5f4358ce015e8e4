/* SPDX-License-Identifier: MIT */
/*
 * client.h: one question to bpftimed over its control socket (daemon/server.h).
 */
#ifndef BPFTIME_CLI_CLIENT_H
#define BPFTIME_CLI_CLIENT_H

#include <json-c/json.h>

#include "cli.h"

/* A request for the command. The caller adds what it takes and gives it to client_ask(). */
json_object *client_request(const char *command);

/*
 * Sends request, which it takes over, and waits patience seconds at most for the reply. CLI_DONE: *result is the
 * caller's (NULL when the command has none). CLI_NO: the daemon said no; CLI_UNREACHABLE: no daemon answered; either
 * with a complaint, unless quiet.
 */
enum cli_exit client_ask(const struct cli_args *args, json_object *request, double patience, bool quiet,
			 json_object **result);

/* How long a daemon may take for a question that needs no waiting. */
#define CLIENT_PATIENCE 30.0

#endif
