/* SPDX-License-Identifier: MIT */
/*
 * log_sink.h: standard error, without ever waiting for who reads it. Threads of targets may wait for the daemon while
 * it speaks: a full journal, a pipe that nobody reads or a stopped terminal must not stop it.
 */
#ifndef BPFTIME_LOG_SINK_H
#define BPFTIME_LOG_SINK_H

#include <stddef.h>

/*
 * Writes a line of size bytes, PIPE_BUF at most, or drops it. The first one that can be written again is preceded by
 * one, with the same prefix, that says how many were dropped. Any thread may call it.
 */
void log_sink__write(const char *prefix, const char *line, size_t size);

#endif
