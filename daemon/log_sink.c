/* SPDX-License-Identifier: MIT */
#include "log_sink.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static struct {
	pthread_mutex_t lock;
	bool is_open, is_socket;
	int fd;
	unsigned long dropped;
} sink = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* O_NONBLOCK is the open file's, which others have, too: so we take another one of the same pipe or terminal. */
static void sink_open(void)
{
	struct stat st;
	int fd = -1;

	sink.is_open = true;
	sink.fd = STDERR_FILENO;
	if (fstat(STDERR_FILENO, &st))
		return;
	sink.is_socket = S_ISSOCK(st.st_mode);
	if (S_ISFIFO(st.st_mode) || S_ISCHR(st.st_mode))
		fd = open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd >= 0)
		sink.fd = fd;
}

static bool put(const char *line, size_t size)
{
	ssize_t n =
		sink.is_socket ? send(sink.fd, line, size, MSG_DONTWAIT | MSG_NOSIGNAL) : write(sink.fd, line, size);

	return n == (ssize_t)size;
}

static bool tell_dropped(const char *prefix)
{
	char line[128];
	int n = snprintf(line, sizeof(line), "%s%lu message(s) could not be written here: nobody read them\n", prefix,
			 sink.dropped);

	return put(line, (size_t)n);
}

void log_sink__write(const char *prefix, const char *line, size_t size)
{
	pthread_mutex_lock(&sink.lock);
	if (!sink.is_open)
		sink_open();
	if (sink.dropped && tell_dropped(prefix))
		sink.dropped = 0;
	if (sink.dropped || !put(line, size))
		sink.dropped++;
	pthread_mutex_unlock(&sink.lock);
}
