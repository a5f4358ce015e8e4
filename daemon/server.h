/* SPDX-License-Identifier: MIT */
/*
 * server.h: the control socket: one JSON object per line asks, one JSON line answers.
 *
 *	{"command": "ps"}		      {"ok": true, "result": [...]}
 *	{"command": "explain", "tool": 42}    {"ok": false, "error": "process 42 does not exist"}
 *
 * Commands and what they take are one table in server.c. Root is served (SO_PEERCRED), and, where systemd made the
 *socket (LISTEN_FDS) with mode 0660, who is in its group, with the commands that change nothing. Nothing that a client
 *does or omits holds the daemon up: sockets do not block, buffers and clients are bounded, idle ones are dropped.
 */
#ifndef BPFTIME_SERVER_H
#define BPFTIME_SERVER_H

#include <stddef.h>
#include <systemd/sd-event.h>

#include "decision.h"
#include "engine.h"
#include "metrics.h"

#define SERVER_SOCKET_NAME "control.sock"

struct server;

/*
 * Listens at path: on the socket that systemd passed, else on one that replaces what is there: the caller holds the
 * lock of the runtime folder. engine stays the caller's and must outlive the server. Returns 0 or -errno with a
 * sentence in err.
 */
int server__new(struct server **out, sd_event *event, struct engine *engine, const char *path, char *err,
		size_t err_size);
/* Drops all clients and removes the socket when it made it. NULL is allowed. */
void server__free(struct server *s);

/*
 * Where `bpftime events` and `bpftime metrics` read; and where metrics are served by HTTP, or NULL, for `bpftime
 * status`. All stays the caller's and must outlive the server.
 */
void server__set_sources(struct server *s, const struct decisions *decisions, const struct metrics *metrics,
			 const char *metrics_address);
/* Tools may have changed, or something was decided: answers the clients that wait for it, a moment later from the event
 * loop. */
void server__changed(struct server *s);

#endif
