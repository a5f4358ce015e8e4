/* SPDX-License-Identifier: MIT */
/*
 * metrics_http.h: metrics by HTTP at /metrics, for Prometheus and the like; from the event loop, without a thread of
 * its own. Who asks often gets the same answer for a second.
 */
#ifndef BPFTIME_METRICS_HTTP_H
#define BPFTIME_METRICS_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <systemd/sd-event.h>

#include "daemon/metrics.h"

struct metrics_http;

#define METRICS_ADDRESS_SIZE 64

/* "127.0.0.1:9464", "[::1]:0" (0: any port). false: that is no address. *is_loopback: only this machine reaches it. */
bool metrics_address__read(const char *text, struct sockaddr_storage *out, bool *is_loopback);

/* metrics must outlive it. Returns 0, or -errno with a sentence in err. */
int metrics_http__new(struct metrics_http **out, sd_event *event, const struct metrics *metrics,
		      const struct sockaddr_storage *address, char *err, size_t err_size);
/* NULL is allowed. */
void metrics_http__free(struct metrics_http *h);
/* Where it listens, with the port that it has. */
const char *metrics_http__address(const struct metrics_http *h);

#endif
