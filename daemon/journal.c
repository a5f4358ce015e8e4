/* SPDX-License-Identifier: MIT */
#include "journal.h"

#include <endian.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define JOURNAL_SOCKET "/run/systemd/journal/socket"
#define SEND_BUFFER    (1 << 20)

void journal_field(FILE *record, const char *name, const char *value)
{
	size_t len = strlen(value);
	uint64_t le = htole64(len);

	if (!strchr(value, '\n')) {
		fprintf(record, "%s=%s\n", name, value);
		return;
	}
	fprintf(record, "%s\n", name);
	fwrite(&le, sizeof(le), 1, record);
	fwrite(value, 1, len, record);
	fputc('\n', record);
}

int journal_open(void)
{
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), size = SEND_BUFFER;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	return fd;
}

int journal_send(int fd, const char *record, size_t len)
{
	const struct sockaddr_un to = {.sun_family = AF_UNIX, .sun_path = JOURNAL_SOCKET};

	return sendto(fd, record, len, MSG_NOSIGNAL | MSG_DONTWAIT, (const struct sockaddr *)&to, sizeof(to)) < 0
		       ? -errno
		       : 0;
}
