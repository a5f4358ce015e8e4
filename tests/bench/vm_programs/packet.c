// SPDX-License-Identifier: MIT
/* Parses packets: Ethernet with up to two tags, IPv4 with options or IPv6, TCP or UDP; counts what is for each port. */
#include "program.h"

#define PACKETS 64
#define SIZE	128
#define PORTS	16

enum { IPV4 = 0x0800, IPV6 = 0x86dd, TAG = 0x8100, OUTER_TAG = 0x88a8, TCP = 6, UDP = 17 };

struct data {
	u8 packet[PACKETS][SIZE];
	u64 by_port[PORTS];
	u64 bad;
};

static inline __attribute__((always_inline)) u16 be16(const u8 *p)
{
	return (u16)(p[0] << 8 | p[1]);
}

PROGRAM
{
	u64 sum = 0;

	for (u32 i = 0; i < PACKETS; i++) {
		const u8 *b = data.packet[i];
		u32 at = 14, proto, port;
		u16 type = be16(b + 12);

		if (type == TAG || type == OUTER_TAG) {
			type = be16(b + 16);
			at += 4;
			if (type == TAG) {
				type = be16(b + 20);
				at += 4;
			}
		}
		if (type == IPV4) {
			u32 length = (b[at] & 15) * 4;

			if (length < 20 || b[at] >> 4 != 4) {
				data.bad++;
				continue;
			}
			proto = b[at + 9];
			at += length;
		} else if (type == IPV6) {
			proto = b[at + 6];
			at += 40;
		} else {
			data.bad++;
			continue;
		}
		if (proto != TCP && proto != UDP) {
			data.bad++;
			continue;
		}
		port = be16(b + at + 2);
		data.by_port[port & (PORTS - 1)]++;
		sum += port + be16(b + at);
	}
	return sum;
}

static void put16(u8 *p, u32 v)
{
	p[0] = (u8)(v >> 8);
	p[1] = (u8)v;
}

PREPARE
{
	u64 seed = BENCH_SEED;

	for (u32 i = 0; i < PACKETS; i++) {
		u8 *b = data.packet[i];
		u32 kind = (u32)bench_random(&seed), at = 12;

		for (u32 k = 0; k < SIZE; k++)
			b[k] = (u8)bench_random(&seed);
		if ((kind & 7) < 3) { /* one tag, sometimes two */
			put16(b + at, TAG);
			at += 4;
			if ((kind & 7) == 0) {
				put16(b + at, TAG);
				at += 4;
			}
		}
		put16(b + at, kind & 8 ? IPV6 : kind & 0x70 ? IPV4 : 0x0806);
		b[at + 2] = kind & 8 ? 0x60 : 0x45 + (kind >> 8 & 1);
		b[at + 2 + (kind & 8 ? 6 : 9)] = kind & 0x600 ? (kind & 0x800 ? TCP : UDP) : 1;
	}
}
