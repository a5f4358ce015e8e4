/* SPDX-License-Identifier: MIT */
/*
 * metrics_http.c: libmicrohttpd is loaded when somebody wants to be served, and not linked: with all that it needs it
 * is as large as everything else that bpftimed has in memory (private_libs.h).
 */
#include "daemon/metrics_http.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>

#include "daemon/openmetrics.h"

#define METRICS_PATH "/metrics"
#define CONNECTIONS  16
#define IDLE_SECONDS 10
#define MEMORY	     8192 /* of a connection: the head of a request */
#define KEEP_NS	     1000000000ull
#define SLACK_USEC   1000
#define PORT_MAX     65535

/* The functions of the library. */
struct mhd {
	typeof(&MHD_start_daemon) start_daemon;
	typeof(&MHD_stop_daemon) stop_daemon;
	typeof(&MHD_run) run;
	typeof(&MHD_get_timeout) get_timeout;
	typeof(&MHD_get_daemon_info) get_daemon_info;
	typeof(&MHD_create_response_from_buffer) create_response_from_buffer;
	typeof(&MHD_add_response_header) add_response_header;
	typeof(&MHD_queue_response) queue_response;
	typeof(&MHD_destroy_response) destroy_response;
};

static const struct {
	const char *name;
	size_t offset;
} symbols[] = {
	{"MHD_start_daemon", offsetof(struct mhd, start_daemon)},
	{"MHD_stop_daemon", offsetof(struct mhd, stop_daemon)},
	{"MHD_run", offsetof(struct mhd, run)},
	{"MHD_get_timeout", offsetof(struct mhd, get_timeout)},
	{"MHD_get_daemon_info", offsetof(struct mhd, get_daemon_info)},
	{"MHD_create_response_from_buffer", offsetof(struct mhd, create_response_from_buffer)},
	{"MHD_add_response_header", offsetof(struct mhd, add_response_header)},
	{"MHD_queue_response", offsetof(struct mhd, queue_response)},
	{"MHD_destroy_response", offsetof(struct mhd, destroy_response)},
};

struct metrics_http {
	const struct metrics *metrics;
	void *library;
	struct mhd mhd;
	struct MHD_Daemon *daemon;
	sd_event_source *io, *timer;
	struct MHD_Response *kept; /* the last answer */
	uint64_t kept_at;	   /* CLOCK_MONOTONIC ns */
	char address[METRICS_ADDRESS_SIZE];
};

/* ---- addresses ---- */

static bool read_port(const char *text, in_port_t *out)
{
	char *end;
	unsigned long port = strtoul(text, &end, 10);

	*out = htons((in_port_t)port);
	return *text >= '0' && *text <= '9' && !*end && port <= PORT_MAX;
}

static bool is_loopback_v6(const struct in6_addr *a)
{
	return IN6_IS_ADDR_LOOPBACK(a) || (IN6_IS_ADDR_V4MAPPED(a) && a->s6_addr[12] == IN_LOOPBACKNET);
}

bool metrics_address__read(const char *text, struct sockaddr_storage *out, bool *is_loopback)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)out;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
	const char *colon = strrchr(text, ':');
	char host[INET6_ADDRSTRLEN];
	bool brackets = text[0] == '[' && colon && colon > text + 1 && colon[-1] == ']';
	size_t n = colon ? (size_t)(colon - text) - (brackets ? 2 : 0) : 0;

	memset(out, 0, sizeof(*out));
	if (!n || n >= sizeof(host))
		return false;
	memcpy(host, text + brackets, n);
	host[n] = 0;
	if (brackets) {
		v6->sin6_family = AF_INET6;
		if (inet_pton(AF_INET6, host, &v6->sin6_addr) != 1)
			return false;
		*is_loopback = is_loopback_v6(&v6->sin6_addr);
		return read_port(colon + 1, &v6->sin6_port);
	}
	v4->sin_family = AF_INET;
	if (inet_pton(AF_INET, host, &v4->sin_addr) != 1)
		return false;
	*is_loopback = ntohl(v4->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
	return read_port(colon + 1, &v4->sin_port);
}

static void write_address(const struct sockaddr_storage *address, unsigned int port, char *out, size_t size)
{
	char host[INET6_ADDRSTRLEN] = "?";

	if (address->ss_family == AF_INET6)
		inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)address)->sin6_addr, host, sizeof(host));
	else
		inet_ntop(AF_INET, &((const struct sockaddr_in *)address)->sin_addr, host, sizeof(host));
	snprintf(out, size, address->ss_family == AF_INET6 ? "[%s]:%u" : "%s:%u", host, port);
}

/* ---- answers ---- */

static enum MHD_Result answer_text(const struct metrics_http *h, struct MHD_Connection *c, unsigned int status,
				   const char *text)
{
	struct MHD_Response *r = h->mhd.create_response_from_buffer(strlen(text), (void *)text, MHD_RESPMEM_PERSISTENT);
	enum MHD_Result ret;

	if (!r)
		return MHD_NO;
	h->mhd.add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, "text/plain; charset=utf-8");
	if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
		h->mhd.add_response_header(r, MHD_HTTP_HEADER_ALLOW, MHD_HTTP_METHOD_GET ", " MHD_HTTP_METHOD_HEAD);
	ret = h->mhd.queue_response(c, status, r);
	h->mhd.destroy_response(r);
	return ret;
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void forget_kept(struct metrics_http *h)
{
	if (h->kept)
		h->mhd.destroy_response(h->kept);
	h->kept = NULL;
}

static struct MHD_Response *metrics_response(struct metrics_http *h)
{
	size_t len;
	char *text;

	if (h->kept && now_ns() - h->kept_at < KEEP_NS)
		return h->kept;
	forget_kept(h);
	text = metrics__text(h->metrics, &len);
	if (!text)
		return NULL;
	h->kept = h->mhd.create_response_from_buffer(len, text, MHD_RESPMEM_MUST_FREE);
	if (!h->kept) {
		free(text);
		return NULL;
	}
	h->mhd.add_response_header(h->kept, MHD_HTTP_HEADER_CONTENT_TYPE, OM_CONTENT_TYPE);
	h->kept_at = now_ns();
	return h->kept;
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *c, const char *url, const char *method,
				  const char *version, const char *data, size_t *data_size, void **request)
{
	struct metrics_http *h = arg;
	struct MHD_Response *r;

	if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
		return answer_text(h, c, MHD_HTTP_METHOD_NOT_ALLOWED, "Only GET and HEAD are answered.\n");
	if (strcmp(url, METRICS_PATH) != 0)
		return answer_text(h, c, MHD_HTTP_NOT_FOUND, "There is only " METRICS_PATH ".\n");
	r = metrics_response(h);
	if (!r)
		return answer_text(h, c, MHD_HTTP_INTERNAL_SERVER_ERROR, "Out of memory.\n");
	return h->mhd.queue_response(c, MHD_HTTP_OK, r);
}

/* ---- the event loop ---- */

static void work(struct metrics_http *h)
{
	MHD_UNSIGNED_LONG_LONG ms;

	h->mhd.run(h->daemon);
	if (h->mhd.get_timeout(h->daemon, &ms) != MHD_YES) {
		sd_event_source_set_enabled(h->timer, SD_EVENT_OFF);
		return;
	}
	sd_event_source_set_time_relative(h->timer, ms * 1000);
	sd_event_source_set_enabled(h->timer, SD_EVENT_ONESHOT);
}

static int on_io(sd_event_source *source, int fd, uint32_t events, void *arg)
{
	work(arg);
	return 0;
}

static int on_time(sd_event_source *source, uint64_t usec, void *arg)
{
	work(arg);
	return 0;
}

static int add_events(struct metrics_http *h, sd_event *event)
{
	const union MHD_DaemonInfo *info = h->mhd.get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD);
	int r = info ? sd_event_add_io(event, &h->io, info->epoll_fd, EPOLLIN, on_io, h) : -EOPNOTSUPP;

	if (r >= 0)
		r = sd_event_add_time_relative(event, &h->timer, CLOCK_MONOTONIC, 0, SLACK_USEC, on_time, h);
	return r;
}

#define LIBRARY "libmicrohttpd.so.12"

static int load(struct metrics_http *h, char *err, size_t err_size)
{
	h->library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
	if (!h->library) {
		snprintf(err, err_size, "metrics cannot be served without " LIBRARY " (package libmicrohttpd12): %s",
			 dlerror());
		return -ENOPKG;
	}
	for (size_t i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++) {
		void *function = dlsym(h->library, symbols[i].name);

		if (!function) {
			snprintf(err, err_size, "metrics cannot be served: " LIBRARY " has no %s", symbols[i].name);
			return -ENOPKG;
		}
		memcpy((char *)&h->mhd + symbols[i].offset, &function, sizeof(function));
	}
	return 0;
}

int metrics_http__new(struct metrics_http **out, sd_event *event, const struct metrics *metrics,
		      const struct sockaddr_storage *address, char *err, size_t err_size)
{
	struct metrics_http *h = calloc(1, sizeof(*h));
	const union MHD_DaemonInfo *info;
	const unsigned int flags = MHD_USE_EPOLL | (address->ss_family == AF_INET6 ? MHD_USE_IPv6 : 0);
	int r;

	*out = NULL;
	if (!h)
		return -ENOMEM;
	h->metrics = metrics;
	r = load(h, err, err_size);
	if (r < 0) {
		metrics_http__free(h);
		return r;
	}
	errno = 0;
	h->daemon =
		h->mhd.start_daemon(flags, 0, NULL, NULL, on_request, h, MHD_OPTION_SOCK_ADDR, address,
				    MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT,
				    IDLE_SECONDS, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)MEMORY, MHD_OPTION_END);
	r = h->daemon ? add_events(h, event) : errno ? -errno : -EIO;
	if (r < 0) {
		write_address(address, ntohs(((const struct sockaddr_in *)address)->sin_port), h->address,
			      sizeof(h->address));
		snprintf(err, err_size, "metrics cannot be served at %s: %s", h->address, strerror(-r));
		metrics_http__free(h);
		return r;
	}
	info = h->mhd.get_daemon_info(h->daemon, MHD_DAEMON_INFO_BIND_PORT);
	write_address(address, info ? info->port : 0, h->address, sizeof(h->address));
	*out = h;
	return 0;
}

void metrics_http__free(struct metrics_http *h)
{
	if (!h)
		return;
	sd_event_source_disable_unref(h->io);
	sd_event_source_disable_unref(h->timer);
	if (h->daemon)
		h->mhd.stop_daemon(h->daemon);
	forget_kept(h);
	if (h->library)
		dlclose(h->library);
	free(h);
}

const char *metrics_http__address(const struct metrics_http *h)
{
	return h->address;
}
