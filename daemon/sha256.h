/* SPDX-License-Identifier: MIT */
/* sha256.h: SHA-256 of a file (FIPS 180-4, section 6.2). */
#ifndef BPFTIME_SHA256_H
#define BPFTIME_SHA256_H

#define SHA256_HEX_SIZE 65 /* with the zero at its end */

/* Reads fd from where it stands to its end. 0 and lower-case digits, or -errno of the read that failed. */
int sha256_of_fd(int fd, char hex[SHA256_HEX_SIZE]);

#endif
