/* SPDX-License-Identifier: MIT */
#include "daemon/digest.h"

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { BLOCK = 64, READ_BLOCKS = 1024 };

/* FIPS 180-4, 5.3.3: of the square roots of the first eight primes. */
#define SHA256_BEGIN 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19

static uint32_t rol(uint32_t x, int n)
{
	return x << n | x >> (32 - n);
}

static uint32_t ror(uint32_t x, int n)
{
	return x >> n | x << (32 - n);
}

/* FIPS 180-4, 6.1.2 */
static void sha1_block(uint32_t h[], const uint8_t *p)
{
	static const uint32_t k[] = {0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6};
	uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4], f, t, word;

	for (int i = 0; i < 16; i++) {
		memcpy(&word, p + i * 4, 4);
		w[i] = be32toh(word);
	}
	for (int i = 16; i < 80; i++)
		w[i] = rol(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
	for (int i = 0; i < 80; i++) {
		f = i < 20 ? (b & c) | (~b & d) : i >= 40 && i < 60 ? (b & c) | (b & d) | (c & d) : b ^ c ^ d;
		t = rol(a, 5) + f + e + k[i / 20] + w[i];
		e = d;
		d = c;
		c = rol(b, 30);
		b = a;
		a = t;
	}
	h[0] += a;
	h[1] += b;
	h[2] += c;
	h[3] += d;
	h[4] += e;
}

/* FIPS 180-4, 6.2.2 */
static void sha256_block(uint32_t h[], const uint8_t *p)
{
	static const uint32_t k[64] = {
		0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
		0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
		0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
		0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
		0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
		0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
		0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
		0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
	};
	uint32_t w[64], v[8], s0, s1, t1, t2, word;

	for (int i = 0; i < 16; i++) {
		memcpy(&word, p + i * 4, 4);
		w[i] = be32toh(word);
	}
	for (int i = 16; i < 64; i++) {
		s0 = ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ w[i - 15] >> 3;
		s1 = ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ w[i - 2] >> 10;
		w[i] = w[i - 16] + s0 + w[i - 7] + s1;
	}
	memcpy(v, h, sizeof(v));
	for (int i = 0; i < 64; i++) {
		s1 = ror(v[4], 6) ^ ror(v[4], 11) ^ ror(v[4], 25);
		t1 = v[7] + s1 + ((v[4] & v[5]) ^ (~v[4] & v[6])) + k[i] + w[i];
		s0 = ror(v[0], 2) ^ ror(v[0], 13) ^ ror(v[0], 22);
		t2 = s0 + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
		memmove(v + 1, v, 7 * sizeof(v[0]));
		v[4] += t1;
		v[0] = t1 + t2;
	}
	for (int i = 0; i < 8; i++)
		h[i] += v[i];
}

/*
 * Both digests pad alike: a one bit, zeros, the length in bits as 64 bits big-endian. rest: what is behind the last
 * whole block of the message, of this size in all.
 */
static void digest_end(const uint8_t *rest, uint64_t size, uint32_t h[], size_t n_words,
		       void (*block)(uint32_t *, const uint8_t *), uint8_t *digest)
{
	uint64_t bits = htobe64(size * 8);
	uint8_t last[2 * BLOCK] = {0};
	size_t n = size % BLOCK, n_last = n + 1 + sizeof(bits) <= BLOCK ? BLOCK : 2 * BLOCK;
	uint32_t word;

	memcpy(last, rest, n);
	last[n] = 0x80;
	memcpy(last + n_last - sizeof(bits), &bits, sizeof(bits));
	for (size_t i = 0; i < n_last; i += BLOCK)
		block(h, last + i);
	for (size_t i = 0; i < n_words; i++) {
		word = htobe32(h[i]);
		memcpy(digest + i * 4, &word, 4);
	}
}

static void digest_all(const uint8_t *p, size_t size, uint32_t h[], size_t n_words,
		       void (*block)(uint32_t *, const uint8_t *), uint8_t *digest)
{
	for (size_t i = 0; i < size / BLOCK; i++)
		block(h, p + i * BLOCK);
	digest_end(p + size / BLOCK * BLOCK, size, h, n_words, block, digest);
}

void sha1(const void *data, size_t size, uint8_t digest[20])
{
	uint32_t h[] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};

	digest_all(data, size, h, 5, sha1_block, digest);
}

void sha256(const void *data, size_t size, uint8_t digest[32])
{
	uint32_t h[] = {SHA256_BEGIN};

	digest_all(data, size, h, 8, sha256_block, digest);
}

/* As many bytes as there are, up to size. */
static ssize_t read_full(int fd, unsigned char *buf, size_t size)
{
	size_t n = 0;

	while (n < size) {
		ssize_t got = read(fd, buf + n, size - n);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (!got)
			break;
		n += (size_t)got;
	}
	return (ssize_t)n;
}

int sha256_of_fd(int fd, char hex[SHA256_HEX_SIZE])
{
	uint8_t buf[READ_BLOCKS * BLOCK], digest[32];
	uint32_t h[] = {SHA256_BEGIN};
	uint64_t size = 0;
	ssize_t got;

	do {
		got = read_full(fd, buf, sizeof(buf));
		if (got < 0)
			return (int)got;
		size += (uint64_t)got;
		for (size_t i = 0; i < (size_t)got / BLOCK; i++)
			sha256_block(h, buf + i * BLOCK);
	} while (got == sizeof(buf));
	digest_end(buf + (size_t)got / BLOCK * BLOCK, size, h, 8, sha256_block, digest);
	for (size_t i = 0; i < sizeof(digest); i++)
		snprintf(hex + 2 * i, 3, "%02x", digest[i]);
	return 0;
}
