/* SPDX-License-Identifier: MIT */
#include "log.h"
#include "log_sink.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#define LINE_SIZE 2048

static const struct {
	const char *name;
	const char *prefix;
} levels[] = {
	[LOG_LEVEL_ERROR] = {"error", SD_ERR},
	[LOG_LEVEL_WARNING] = {"warning", SD_WARNING},
	[LOG_LEVEL_INFO] = {"info", SD_INFO},
	[LOG_LEVEL_DEBUG] = {"debug", SD_DEBUG},
};

static enum log_level threshold = LOG_LEVEL_INFO;
static uint64_t said[sizeof(levels) / sizeof(levels[0])];

void log_set_level(enum log_level level)
{
	threshold = level;
}

bool log_level_by_name(const char *name, enum log_level *out)
{
	for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++) {
		if (strcmp(name, levels[i].name) == 0) {
			*out = i;
			return true;
		}
	}
	return false;
}

/* JOURNAL_STREAM is "device:inode" of the stream that systemd made; stderr may have been redirected since. */
bool log_is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long dev, ino;
	struct stat st;

	return stream && sscanf(stream, "%llu:%llu", &dev, &ino) == 2 && fstat(STDERR_FILENO, &st) == 0 &&
	       st.st_dev == dev && st.st_ino == ino;
}

bool log_passes(enum log_level level)
{
	return level <= threshold;
}

uint64_t log_count(enum log_level level)
{
	return __atomic_load_n(&said[level], __ATOMIC_RELAXED);
}

const char *log_level__name(enum log_level level)
{
	return levels[level].name;
}

void log_clean(char *line)
{
	for (char *c = line; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			*c = ' ';
}

void log_at_v(enum log_level level, const char *format, va_list args)
{
	const char *prefix = log_is_journal() ? levels[level].prefix : "bpftimed: ";
	char line[LINE_SIZE];
	int n;

	__atomic_fetch_add(&said[level], 1, __ATOMIC_RELAXED);
	if (!log_passes(level))
		return;
	n = snprintf(line, sizeof(line) - 1, "%s", prefix);
	vsnprintf(line + n, sizeof(line) - 1 - (size_t)n, format, args);
	log_clean(line);
	n = (int)strlen(line);
	line[n] = '\n';
	log_sink__write(prefix, line, (size_t)n + 1);
}

void log_at(enum log_level level, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	log_at_v(level, format, args);
	va_end(args);
}
