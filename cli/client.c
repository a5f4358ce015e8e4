/* SPDX-License-Identifier: MIT */
#include "client.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define SOCKET_NAME "control.sock"
#define CHUNK	    65536
#define REPLY_MAX   (256u << 20)

/* A conversation: where, until when, and whether to complain. */
struct talk {
	struct sockaddr_un addr;
	int fd;
	double until;
	bool quiet;
};

json_object *client_request(const char *command)
{
	json_object *o = json_object_new_object();

	json_object_object_add(o, "command", json_object_new_string(command));
	return o;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static enum cli_exit unreachable(const struct talk *t, const char *what)
{
	if (!t->quiet)
		cli_complain("bpftimed does not answer at %s: %s", t->addr.sun_path, what);
	return CLI_UNREACHABLE;
}

static enum cli_exit connect_to(struct talk *t, const char *runtime_dir)
{
	int n;

	t->addr.sun_family = AF_UNIX;
	n = snprintf(t->addr.sun_path, sizeof(t->addr.sun_path), "%s/" SOCKET_NAME, runtime_dir);
	if ((size_t)n >= sizeof(t->addr.sun_path))
		return unreachable(t, "the path is too long for a socket");
	t->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (t->fd < 0)
		return unreachable(t, strerror(errno));
	if (connect(t->fd, (struct sockaddr *)&t->addr, sizeof(t->addr)) == 0)
		return CLI_DONE;
	switch (errno) {
	case ENOENT:
	case ECONNREFUSED:
		return unreachable(t, "it is not running (systemctl start bpftimed), or with another --runtime-dir");
	case EACCES:
		return unreachable(t, "only root may ask it (and the group of the socket where systemd has made it)");
	default:
		return unreachable(t, strerror(errno));
	}
}

static bool wait_for(const struct talk *t, short events)
{
	struct pollfd p = {.fd = t->fd, .events = events};
	double left = t->until - now();
	int r = poll(&p, 1, left > 0 ? (int)(left * 1000) + 1 : 0);

	if (r == 0)
		errno = ETIMEDOUT;
	return r > 0;
}

static bool send_all(const struct talk *t, const char *text, size_t len)
{
	while (len) {
		ssize_t n = send(t->fd, text, len, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EAGAIN && wait_for(t, POLLOUT))
			continue;
		if (n < 0)
			return false;
		text += n;
		len -= (size_t)n;
	}
	return true;
}

/* One line, zero-terminated instead of its end; malloc'ed. NULL with errno (EPIPE: the daemon closed). */
static char *receive_line(const struct talk *t)
{
	char *text = NULL, *end;
	size_t size = 0;

	for (;;) {
		char *more = realloc(text, size + CHUNK);
		ssize_t n;

		if (!more)
			break;
		text = more;
		if (!wait_for(t, POLLIN))
			break;
		n = recv(t->fd, text + size, CHUNK, 0);
		if (n <= 0) {
			errno = n ? errno : EPIPE;
			break;
		}
		end = memchr(text + size, '\n', (size_t)n);
		if (end) {
			*end = 0;
			return text;
		}
		size += (size_t)n;
		if (size > REPLY_MAX) {
			errno = EMSGSIZE;
			break;
		}
	}
	free(text);
	return NULL;
}

static enum cli_exit read_reply(const struct talk *t, const char *line, json_object **result)
{
	json_object *o = json_tokener_parse(line), *ok, *v = NULL;
	enum cli_exit code = CLI_DONE;

	if (!json_object_object_get_ex(o, "ok", &ok)) {
		code = unreachable(t, "what answered there is not bpftimed");
	} else if (json_object_get_boolean(ok)) {
		json_object_object_get_ex(o, "result", &v);
		*result = json_object_get(v);
	} else {
		json_object_object_get_ex(o, "error", &v);
		if (!t->quiet)
			cli_complain("%s", v ? json_object_get_string(v) : "bpftimed said no, and not why");
		code = CLI_NO;
	}
	json_object_put(o);
	return code;
}

enum cli_exit client_ask(const struct cli_args *args, json_object *request, double patience, bool quiet,
			 json_object **result)
{
	struct talk t = {.fd = -1, .until = now() + patience, .quiet = quiet};
	enum cli_exit code = connect_to(&t, args->runtime_dir);
	char *line = NULL;
	const char *text;

	*result = NULL;
	if (code != CLI_DONE)
		goto out;
	text = json_object_to_json_string_ext(request, JSON_C_TO_STRING_PLAIN);
	/* Who is turned away is told so before anything is read. */
	if ((send_all(&t, text, strlen(text)) && send_all(&t, "\n", 1)) || errno == EPIPE)
		line = receive_line(&t);
	if (line)
		code = read_reply(&t, line, result);
	else
		code = unreachable(&t, errno == EPIPE ? "it ended the conversation" : strerror(errno));
out:
	free(line);
	if (t.fd >= 0)
		close(t.fd);
	json_object_put(request);
	return code;
}
