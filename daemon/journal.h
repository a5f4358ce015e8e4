/* SPDX-License-Identifier: MIT */
/*
 * journal.h: records of several fields for systemd's journal, by its native protocol
 * (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/): one datagram a record. Unlike sd_journal_sendv() this never waits: a
 * journal that is full or stopped must not hold up who may be holding threads.
 */
#ifndef BPFTIME_JOURNAL_H
#define BPFTIME_JOURNAL_H

#include <stddef.h>
#include <stdio.h>

/* Appends one field to a record. name is of capitals, digits and underscores; value may hold anything but zeros. */
void journal_field(FILE *record, const char *name, const char *value);
/* A socket for records, or -errno. */
int journal_open(void);
/* Sends a whole record: 0, -EAGAIN when the journal takes no more now, or another -errno. */
int journal_send(int fd, const char *record, size_t len);

#endif
