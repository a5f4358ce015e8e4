/* SPDX-License-Identifier: MIT */
/* digest.h: SHA-1 and SHA-256 (FIPS 180-4, 6.1 and 6.2), of programs, which the kernel tags by them, and of files. */
#ifndef BPFTIME_DIGEST_H
#define BPFTIME_DIGEST_H

#include <stddef.h>
#include <stdint.h>

#define SHA256_HEX_SIZE 65 /* with the zero at its end */

void sha1(const void *data, size_t size, uint8_t digest[20]);
void sha256(const void *data, size_t size, uint8_t digest[32]);
/* Reads fd from where it stands to its end. 0 and lower-case digits, or -errno of the read that failed. */
int sha256_of_fd(int fd, char hex[SHA256_HEX_SIZE]);

#endif
