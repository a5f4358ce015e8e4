/* SPDX-License-Identifier: MIT */
/*
 * log.h: what bpftimed says: one line per message on stderr. When stderr is the journal's stream (systemd sets
 * JOURNAL_STREAM), lines carry the priority prefix of sd-daemon(3); else they begin with "bpftimed: ".
 */
#ifndef BPFTIME_LOG_H
#define BPFTIME_LOG_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>

enum log_level {
	LOG_LEVEL_ERROR = 0,
	LOG_LEVEL_WARNING = 1,
	LOG_LEVEL_INFO = 2,
	LOG_LEVEL_DEBUG = 3,
};

/* Messages above this level are dropped; LOG_LEVEL_INFO until set. */
void log_set_level(enum log_level level);
/* "error", "warning", "info", "debug"; false for another name. */
bool log_level_by_name(const char *name, enum log_level *out);
const char *log_level__name(enum log_level level);
bool log_passes(enum log_level level);

/* Messages of this level since the start, dropped ones too. */
uint64_t log_count(enum log_level level);
/* Is stderr the journal's? */
bool log_is_journal(void);
/* What could end a line, or control a terminal, becomes a space. */
void log_clean(char *line);

void log_at(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
void log_at_v(enum log_level level, const char *format, va_list args) __attribute__((format(printf, 2, 0)));

#define log_error(...)	 log_at(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_at(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...)	 log_at(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)	 log_at(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
