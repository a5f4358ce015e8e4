/* SPDX-License-Identifier: MIT */
/*
 * server.c: clients, from accept() to close(), and the table of commands.
 *
 * A client is in one of three states: reading a request, waiting for a tool's state, or being sent a reply. While it
 * waits or is being sent something, nothing more is read from it, so that a client costs at most one request and one
 * reply of memory. Each state has a deadline, renewed by progress; whoever misses it is dropped.
 */
#include "server.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

#include "log.h"

#define CLIENTS_MAX	 64
#define REQUEST_MAX	 4096
#define REQUEST_DEPTH	 4
#define BACKLOG		 64
#define IDLE_USEC	 (10 * 1000000ull)
#define WAIT_LOOK_USEC	 (500 * 1000ull) /* a lost notification heals after this time */
#define WAIT_MAX_SECONDS 86400.0
#define AGAIN_USEC	 (100 * 1000ull)
#define TIMER_SLACK_USEC (1 * 1000ull)
#define ERROR_SIZE	 512
#define GROUPS_MAX	 65536 /* NGROUPS_MAX of the kernel */

enum client_state { CLIENT_READING, CLIENT_WAITING, CLIENT_SENDING };

struct client {
	struct server *server;
	struct client *next;
	sd_event_source *io, *timer;
	int fd;
	bool is_root; /* else it may only look */
	enum client_state state;
	char request[REQUEST_MAX + 1]; /* n_request bytes, without a line end: else it would have been answered */
	size_t n_request;
	char *reply; /* malloc'ed; n_sent of n_reply bytes are out */
	size_t n_reply, n_sent;
	int (*look)(struct client *c); /* while it waits: is it time for an answer? */
	pid_t wait_tool;
	enum status_state wait_state;
	uint64_t wait_from;  /* the number of an event */
	uint64_t wait_until; /* CLOCK_MONOTONIC, microseconds */
};

struct server {
	sd_event *event;
	sd_event_source *listen, *changed;
	struct engine *engine;
	const struct decisions *decisions;
	const struct metrics *metrics;
	const char *metrics_address;
	struct client *clients;
	size_t n_clients;
	gid_t readers; /* who is in this group may look; 0: none */
	bool made;     /* the socket's name is ours to remove */
	int spare_fd;  /* given up for a client when there is no other descriptor; or -1 */
	sd_event_source *again;
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

/* ---- replies ---- */

static void keep_spare(struct server *s)
{
	if (s->spare_fd < 0)
		s->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static void client__free(struct client *c)
{
	struct client **at = &c->server->clients;

	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	c->server->n_clients--;
	sd_event_source_disable_unref(c->io);
	sd_event_source_disable_unref(c->timer);
	close(c->fd);
	keep_spare(c->server);
	free(c->reply);
	free(c);
}

/* From here on a function that returns negative has freed the client. */
static int client__drop(struct client *c, int r)
{
	client__free(c);
	return r < 0 ? r : -EPIPE;
}

static int client__arm(struct client *c, enum client_state state, uint32_t events, uint64_t usec)
{
	int r;

	c->state = state;
	r = sd_event_source_set_io_events(c->io, events);
	if (r >= 0)
		r = sd_event_source_set_time_relative(c->timer, usec);
	if (r >= 0)
		r = sd_event_source_set_enabled(c->timer, SD_EVENT_ONESHOT);
	return r < 0 ? client__drop(c, r) : 0;
}

static int client__send(struct client *c)
{
	while (c->n_sent < c->n_reply) {
		ssize_t n = send(c->fd, c->reply + c->n_sent, c->n_reply - c->n_sent, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EAGAIN)
			return client__arm(c, CLIENT_SENDING, EPOLLOUT, IDLE_USEC);
		if (n < 0)
			return client__drop(c, -errno);
		c->n_sent += (size_t)n;
	}
	free(c->reply);
	c->reply = NULL;
	return client__arm(c, CLIENT_READING, EPOLLIN, IDLE_USEC);
}

/* Takes result over. */
static int client__answer(struct client *c, json_object *result, const char *error)
{
	json_object *o = json_object_new_object();
	const char *text;
	size_t len;

	json_object_object_add(o, "ok", json_object_new_boolean(!error));
	if (error)
		json_object_object_add(o, "error", json_object_new_string(error));
	else
		json_object_object_add(o, "result", result);
	text = json_object_to_json_string_length(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &len);
	c->reply = text ? malloc(len + 1) : NULL;
	if (c->reply) {
		memcpy(c->reply, text, len);
		c->reply[len] = '\n';
	}
	json_object_put(o);
	if (!c->reply)
		return client__drop(c, -ENOMEM);
	c->n_reply = len + 1;
	c->n_sent = 0;
	return client__send(c);
}

static int __attribute__((format(printf, 2, 3))) client__refuse(struct client *c, const char *format, ...)
{
	char error[ERROR_SIZE];
	va_list args;

	va_start(args, format);
	vsnprintf(error, sizeof(error), format, args);
	va_end(args);
	return client__answer(c, NULL, error);
}

/* ---- waiting ---- */

static uint64_t now_usec(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

static bool process_exists(pid_t pid)
{
	return !kill(pid, 0) || errno != ESRCH;
}

static int client__wait_on(struct client *c, uint64_t now)
{
	uint64_t left = c->wait_until - now;

	return client__arm(c, CLIENT_WAITING, EPOLLRDHUP, left < WAIT_LOOK_USEC ? left : WAIT_LOOK_USEC);
}

/* Answers when it is so, when it can never be so, or when time is up. */
static int client__look_at_tool(struct client *c)
{
	enum status_state state = engine__tool_state(c->server->engine, c->wait_tool);
	uint64_t now = now_usec();

	if (state == c->wait_state) {
		json_object *o = json_object_new_object();

		json_object_object_add(o, "state", json_object_new_string(status_state__name(state)));
		return client__answer(c, o, NULL);
	}
	if (!process_exists(c->wait_tool))
		return client__refuse(c, "process %d does not exist", c->wait_tool);
	if (now >= c->wait_until && state == STATUS_UNKNOWN)
		return client__refuse(c, "time is up: process %d has no probes that bpftimed knows", c->wait_tool);
	if (now >= c->wait_until && state == STATUS_UNDECIDED)
		return client__refuse(c, "time is up: where the probes of tool %d are to run is not decided yet",
				      c->wait_tool);
	if (now >= c->wait_until)
		return client__refuse(c, "time is up: the state of tool %d is %s, not %s", c->wait_tool,
				      status_state__name(state), status_state__name(c->wait_state));
	return client__wait_on(c, now);
}

/* Answers when there are events, or with none when time is up. */
static int client__look_at_events(struct client *c)
{
	uint64_t now = now_usec();

	if (decisions__next(c->server->decisions) > c->wait_from || now >= c->wait_until)
		return client__answer(c, decisions__events(c->server->decisions, c->wait_from), NULL);
	return client__wait_on(c, now);
}

/* ---- commands ---- */

/* What a request may carry; each command says what it needs. */
struct request {
	pid_t tool;		 /* "tool" */
	enum status_state state; /* "state" */
	double timeout;		 /* "timeout", seconds */
	uint64_t from;		 /* "from", the number of an event */
};

typedef int command_fn(struct client *c, const struct request *rq);

static int cmd_status(struct client *c, const struct request *rq)
{
	json_object *o = engine__status(c->server->engine);
	const char *metrics = c->server->metrics_address;

	json_object_object_add(o, "metrics", metrics ? json_object_new_string(metrics) : NULL);
	return client__answer(c, o, NULL);
}

/* The whole text is one string. */
static int cmd_metrics(struct client *c, const struct request *rq)
{
	size_t len;
	char *text = c->server->metrics ? metrics__text(c->server->metrics, &len) : NULL;
	json_object *o = text ? json_object_new_string_len(text, (int)len) : NULL;

	free(text);
	return client__answer(c, o, o ? NULL : "this bpftimed has no metrics");
}

static int cmd_ps(struct client *c, const struct request *rq)
{
	return client__answer(c, engine__ps(c->server->engine), NULL);
}

static int cmd_top(struct client *c, const struct request *rq)
{
	return client__answer(c, engine__top(c->server->engine, rq->timeout), NULL);
}

static int cmd_explain(struct client *c, const struct request *rq)
{
	char err[ERROR_SIZE] = "";
	json_object *o = engine__explain(c->server->engine, rq->tool, err, sizeof(err));

	return client__answer(c, o, o ? NULL : err);
}

static int cmd_wait(struct client *c, const struct request *rq)
{
	c->wait_tool = rq->tool;
	c->wait_state = rq->state;
	c->wait_until = now_usec() + (uint64_t)(rq->timeout * 1e6);
	c->look = client__look_at_tool;
	return c->look(c);
}

static int cmd_events(struct client *c, const struct request *rq)
{
	if (!c->server->decisions)
		return client__refuse(c, "this bpftimed keeps no events");
	/* Numbers that another one gave mean nothing here. */
	c->wait_from = rq->from <= decisions__next(c->server->decisions) ? rq->from : 0;
	c->wait_until = now_usec() + (uint64_t)(rq->timeout * 1e6);
	c->look = client__look_at_events;
	return c->look(c);
}

static int cmd_handback(struct client *c, const struct request *rq)
{
	char err[ERROR_SIZE] = "";
	int r = engine__handback(c->server->engine, rq->tool, err, sizeof(err));

	return client__answer(c, NULL, r < 0 ? err : NULL);
}

static int cmd_takeover(struct client *c, const struct request *rq)
{
	char err[ERROR_SIZE] = "";
	int r = engine__takeover(c->server->engine, rq->tool, err, sizeof(err));

	return client__answer(c, NULL, r < 0 ? err : NULL);
}

enum needs { NEEDS_TOOL = 1, NEEDS_STATE = 2, NEEDS_TIMEOUT = 4, TAKES_FROM = 8, NEEDS_ROOT = 16 };

static const struct command {
	const char *name;
	command_fn *run;
	unsigned int needs;
} commands[] = {
	{"status", cmd_status, 0},
	{"ps", cmd_ps, 0},
	{"top", cmd_top, NEEDS_TIMEOUT},
	{"explain", cmd_explain, NEEDS_TOOL},
	{"wait", cmd_wait, NEEDS_TOOL | NEEDS_STATE | NEEDS_TIMEOUT},
	{"metrics", cmd_metrics, 0},
	{"events", cmd_events, NEEDS_TIMEOUT | TAKES_FROM},
	{"handback", cmd_handback, NEEDS_TOOL | NEEDS_ROOT},
	{"takeover", cmd_takeover, NEEDS_TOOL | NEEDS_ROOT},
};

/* Reads what the command needs into rq. NULL or a sentence. */
static const char *read_request(json_object *o, unsigned int needs, struct request *rq)
{
	json_object *v;

	if (needs & NEEDS_TOOL) {
		int64_t pid = json_object_object_get_ex(o, "tool", &v) && json_object_is_type(v, json_type_int)
				      ? json_object_get_int64(v)
				      : 0;

		if (pid <= 0 || pid > INT32_MAX)
			return "\"tool\" must be a process id";
		rq->tool = (pid_t)pid;
	}
	if (needs & NEEDS_STATE) {
		rq->state = json_object_object_get_ex(o, "state", &v) && json_object_is_type(v, json_type_string)
				    ? status_state__by_name(json_object_get_string(v))
				    : STATUS_UNKNOWN;
		if (rq->state == STATUS_UNKNOWN)
			return "\"state\" must be offloaded, partly or kernel";
	}
	if (needs & NEEDS_TIMEOUT) {
		rq->timeout = json_object_object_get_ex(o, "timeout", &v) ? json_object_get_double(v) : -1;
		if (!(rq->timeout >= 0 && rq->timeout <= WAIT_MAX_SECONDS))
			return "\"timeout\" must be a number of seconds, at most a day";
	}
	if ((needs & TAKES_FROM) && json_object_object_get_ex(o, "from", &v)) {
		if (!json_object_is_type(v, json_type_int) || json_object_get_int64(v) < 0)
			return "\"from\" must be the number of an event";
		rq->from = json_object_get_uint64(v);
	}
	return NULL;
}

static int client__run(struct client *c, json_object *o)
{
	struct request rq = {0};
	json_object *v = NULL;
	const char *name, *wrong;

	if (!json_object_is_type(o, json_type_object) || !json_object_object_get_ex(o, "command", &v) ||
	    !json_object_is_type(v, json_type_string))
		return client__refuse(c, "a request must be an object with a \"command\"");
	name = json_object_get_string(v);
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (strcmp(commands[i].name, name) != 0)
			continue;
		if ((commands[i].needs & NEEDS_ROOT) && !c->is_root)
			return client__refuse(c, "only root may ask bpftimed for \"%s\"", name);
		wrong = read_request(o, commands[i].needs, &rq);
		if (wrong)
			return client__refuse(c, "%s", wrong);
		if ((commands[i].needs & (NEEDS_TOOL | NEEDS_STATE)) == NEEDS_TOOL && !process_exists(rq.tool))
			return client__refuse(c, "process %d does not exist", rq.tool);
		return commands[i].run(c, &rq);
	}
	return client__refuse(c, "this bpftimed does not know the command \"%.64s\"", name);
}

static int client__parse(struct client *c, const char *line, size_t len)
{
	struct json_tokener *tok = json_tokener_new_ex(REQUEST_DEPTH);
	json_object *o;
	int r;

	if (!tok)
		return client__drop(c, -ENOMEM);
	json_tokener_set_flags(tok, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
	o = json_tokener_parse_ex(tok, line, (int)len);
	json_tokener_free(tok);
	r = o ? client__run(c, o) : client__refuse(c, "a request must be one line of JSON");
	json_object_put(o);
	return r;
}

/* ---- events ---- */

/* Answers the lines that are in the buffer, until one has to wait. */
static int client__read_lines(struct client *c)
{
	while (c->state == CLIENT_READING) {
		char *end = memchr(c->request, '\n', c->n_request), line[REQUEST_MAX + 1];
		size_t len;
		int r;

		if (!end && c->n_request == REQUEST_MAX)
			return client__drop(c, -EMSGSIZE);
		if (!end)
			return 0;
		len = (size_t)(end - c->request);
		memcpy(line, c->request, len + 1);
		c->n_request -= len + 1;
		memmove(c->request, end + 1, c->n_request);
		line[len] = 0;
		r = client__parse(c, line, len + 1);
		if (r < 0)
			return r;
	}
	return 0;
}

static int on_client_io(sd_event_source *source, int fd, uint32_t events, void *arg)
{
	struct client *c = arg;
	ssize_t n;

	if (c->state == CLIENT_WAITING || (events & EPOLLERR)) {
		client__free(c);
		return 0;
	}
	if (c->state == CLIENT_SENDING) {
		if (client__send(c) == 0)
			client__read_lines(c);
		return 0;
	}
	n = recv(fd, c->request + c->n_request, REQUEST_MAX - c->n_request, MSG_DONTWAIT);
	if (n < 0 && errno == EAGAIN)
		return 0;
	if (n <= 0) {
		client__free(c);
		return 0;
	}
	c->n_request += (size_t)n;
	client__read_lines(c);
	return 0;
}

static int on_client_time(sd_event_source *source, uint64_t usec, void *arg)
{
	struct client *c = arg;

	if (c->state != CLIENT_WAITING)
		client__free(c);
	else if (c->look(c) == 0)
		client__read_lines(c);
	return 0;
}

static int on_changed(sd_event_source *source, void *arg)
{
	struct server *s = arg;

	for (struct client *c = s->clients, *next; c; c = next) {
		next = c->next;
		if (c->state == CLIENT_WAITING && c->look(c) == 0)
			client__read_lines(c);
	}
	return 0;
}

/* By its groups when it connected. */
static bool peer_is_in(int fd, gid_t group)
{
	socklen_t size = GROUPS_MAX * sizeof(gid_t);
	gid_t *groups = malloc(size);
	bool found = false;

	if (groups && getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size) == 0)
		for (size_t i = 0; i < size / sizeof(gid_t); i++)
			found |= groups[i] == group;
	free(groups);
	return found;
}

static bool may_look(const struct server *s, int fd, bool *is_root)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len))
		return false;
	*is_root = cred.uid == 0;
	return *is_root || (s->readers && (cred.gid == s->readers || peer_is_in(fd, s->readers)));
}

static void turn_away(int fd, const char *why)
{
	char line[ERROR_SIZE];
	int n = snprintf(line, sizeof(line), "{\"ok\":false,\"error\":\"%s\"}\n", why);

	if (send(fd, line, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		log_debug("a client that was turned away did not hear why");
	/* With something unread in it the end of this side would take back what was sent (unix_release_sock()). */
	shutdown(fd, SHUT_RD);
	while (recv(fd, line, sizeof(line), MSG_DONTWAIT) > 0)
		;
	close(fd);
}

static int accept_client(int fd)
{
	return accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
}

static int on_again(sd_event_source *source, uint64_t usec, void *arg)
{
	struct server *s = arg;

	keep_spare(s);
	return sd_event_source_set_enabled(s->listen, SD_EVENT_ON);
}

/* Without descriptors, too, bpftimed says why: to one client at a time. Others wait, and it does not spin for them. */
static int accept_by_spare(struct server *s, int fd)
{
	int conn;

	if (errno != EMFILE && errno != ENFILE)
		return -1;
	if (s->spare_fd >= 0)
		close(s->spare_fd);
	s->spare_fd = -1;
	conn = accept_client(fd);
	if (conn < 0 && sd_event_source_set_enabled(s->listen, SD_EVENT_OFF) >= 0 &&
	    sd_event_source_set_time_relative(s->again, AGAIN_USEC) >= 0)
		sd_event_source_set_enabled(s->again, SD_EVENT_ONESHOT);
	return conn;
}

static int on_listen(sd_event_source *source, int fd, uint32_t events, void *arg)
{
	struct server *s = arg;
	struct client *c;
	bool is_root = false;
	int conn = accept_client(fd), r;

	if (conn < 0)
		conn = accept_by_spare(s, fd);
	if (conn < 0)
		return 0;
	if (!may_look(s, conn, &is_root)) {
		turn_away(conn, s->readers ? "only root and the socket's group may ask bpftimed"
					   : "only root may ask bpftimed");
		return 0;
	}
	if (s->n_clients >= CLIENTS_MAX) {
		turn_away(conn, "bpftimed has too many clients");
		return 0;
	}
	c = calloc(1, sizeof(*c));
	if (!c) {
		close(conn);
		return 0;
	}
	c->server = s;
	c->fd = conn;
	c->is_root = is_root;
	c->next = s->clients;
	s->clients = c;
	s->n_clients++;
	r = sd_event_add_io(s->event, &c->io, conn, EPOLLIN, on_client_io, c);
	if (r >= 0)
		r = sd_event_add_time_relative(s->event, &c->timer, CLOCK_MONOTONIC, IDLE_USEC, TIMER_SLACK_USEC,
					       on_client_time, c);
	if (r < 0)
		client__free(c);
	return 0;
}

/* ---- the server ---- */

static int open_socket(const char *path, char *err, size_t err_size)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	mode_t before;
	int fd, r;

	if (strlen(path) >= sizeof(addr.sun_path)) {
		snprintf(err, err_size, "the path of the control socket, %s, is longer than %zu characters", path,
			 sizeof(addr.sun_path) - 1);
		return -ENAMETOOLONG;
	}
	strcpy(addr.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		goto err_errno;
	unlink(path);
	before = umask(0177);
	r = bind(fd, (struct sockaddr *)&addr, sizeof(addr));
	umask(before);
	if (r == 0)
		r = listen(fd, BACKLOG);
	if (r == 0)
		return fd;
err_errno:
	r = -errno;
	snprintf(err, err_size, "the control socket %s cannot be made: %s", path, strerror(-r));
	if (fd >= 0)
		close(fd);
	return r;
}

/*
 * The socket that systemd made, of those that it passed; -1: there is none. Its name stays systemd's, and so clients
 * that come while this process is restarted wait.
 */
static int passed_socket(const char *path)
{
	int n = sd_listen_fds(1), found = -1;

	for (int fd = SD_LISTEN_FDS_START; fd < SD_LISTEN_FDS_START + n; fd++) {
		if (found < 0 && sd_is_socket_unix(fd, SOCK_STREAM, 1, path, 0) > 0) {
			found = fd;
			continue;
		}
		log_warning("systemd passed a descriptor that is not %s: it is not used", path);
		close(fd);
	}
	if (found >= 0)
		fcntl(found, F_SETFL, fcntl(found, F_GETFL) | O_NONBLOCK);
	return found;
}

/* Whoever made the socket says by its group and mode who may look. */
static gid_t readers_of(const char *path)
{
	struct stat st;

	return !stat(path, &st) && S_ISSOCK(st.st_mode) && (st.st_mode & S_IRWXG) == (S_IRWXG & ~S_IXGRP) ? st.st_gid
													  : 0;
}

int server__new(struct server **out, sd_event *event, struct engine *engine, const char *path, char *err,
		size_t err_size)
{
	struct server *s = calloc(1, sizeof(*s));
	int fd, r;

	*out = NULL;
	if (!s) {
		snprintf(err, err_size, "no memory for the control socket");
		return -ENOMEM;
	}
	s->event = sd_event_ref(event);
	s->engine = engine;
	s->spare_fd = -1;
	keep_spare(s);
	fd = passed_socket(path);
	s->made = fd < 0;
	if (s->made)
		fd = open_socket(path, err, err_size);
	if (fd < 0) {
		s->made = false;
		server__free(s);
		return fd;
	}
	snprintf(s->path, sizeof(s->path), "%s", path);
	if (!s->made)
		s->readers = readers_of(path);
	r = sd_event_add_io(event, &s->listen, fd, EPOLLIN, on_listen, s);
	if (r < 0)
		close(fd);
	else
		r = sd_event_source_set_io_fd_own(s->listen, 1);
	if (r >= 0)
		r = sd_event_add_time_relative(event, &s->again, CLOCK_MONOTONIC, 0, TIMER_SLACK_USEC, on_again, s);
	if (r >= 0)
		r = sd_event_source_set_enabled(s->again, SD_EVENT_OFF);
	if (r >= 0)
		r = sd_event_add_defer(event, &s->changed, on_changed, s);
	if (r >= 0)
		r = sd_event_source_set_enabled(s->changed, SD_EVENT_OFF);
	if (r < 0) {
		snprintf(err, err_size, "the control socket %s cannot be served: %s", path, strerror(-r));
		server__free(s);
		return r;
	}
	*out = s;
	return 0;
}

void server__free(struct server *s)
{
	if (!s)
		return;
	for (struct client *c = s->clients, *next; c; c = next) {
		next = c->next;
		client__free(c);
	}
	sd_event_source_disable_unref(s->listen);
	sd_event_source_disable_unref(s->again);
	sd_event_source_disable_unref(s->changed);
	if (s->spare_fd >= 0)
		close(s->spare_fd);
	if (s->made)
		unlink(s->path);
	sd_event_unref(s->event);
	free(s);
}

void server__set_sources(struct server *s, const struct decisions *decisions, const struct metrics *metrics,
			 const char *metrics_address)
{
	s->decisions = decisions;
	s->metrics = metrics;
	s->metrics_address = metrics_address;
}

void server__changed(struct server *s)
{
	sd_event_source_set_enabled(s->changed, SD_EVENT_ONESHOT);
}
