/* SPDX-License-Identifier: MIT */
/* bytecode.c: see bytecode.h. */
#include "bytecode.h"

#include <asm/ptrace.h>
#include <endian.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 64 };

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

/* Both digests pad alike: a one bit, zeros, the length in bits as 64 bits big-endian. */
static void digest_all(const uint8_t *p, size_t size, uint32_t h[], size_t n_words,
		       void (*block)(uint32_t *, const uint8_t *), uint8_t *digest)
{
	uint64_t bits = htobe64((uint64_t)size * 8);
	uint8_t last[2 * BLOCK] = {0};
	size_t rest = size % BLOCK, n_last = rest + 1 + sizeof(bits) <= BLOCK ? BLOCK : 2 * BLOCK;
	uint32_t word;

	for (size_t i = 0; i < size / BLOCK; i++)
		block(h, p + i * BLOCK);
	if (rest)
		memcpy(last, p + size - rest, rest);
	last[rest] = 0x80;
	memcpy(last + n_last - sizeof(bits), &bits, sizeof(bits));
	for (size_t i = 0; i < n_last; i += BLOCK)
		block(h, last + i);
	for (size_t i = 0; i < n_words; i++) {
		word = htobe32(h[i]);
		memcpy(digest + i * 4, &word, 4);
	}
}

void sha1(const void *data, size_t size, uint8_t digest[20])
{
	uint32_t h[] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};

	digest_all(data, size, h, 5, sha1_block, digest);
}

void sha256(const void *data, size_t size, uint8_t digest[32])
{
	uint32_t h[] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

	digest_all(data, size, h, 8, sha256_block, digest);
}

bool insn__names_map(const struct bpf_insn *insn)
{
	return insn->code == (BPF_LD | BPF_IMM | BPF_DW) &&
	       (insn->src_reg == BPF_PSEUDO_MAP_FD || insn->src_reg == BPF_PSEUDO_MAP_VALUE);
}

bool bytecode__has_tag(const struct bpf_insn *insns, size_t n, const uint8_t tag[BPF_TAG_LEN])
{
	struct bpf_insn *copy = calloc(n ? n : 1, sizeof(*copy));
	uint8_t digest[32];
	bool same;

	if (!copy)
		return false;
	memcpy(copy, insns, n * sizeof(*copy));
	for (size_t i = 0; i + 1 < n; i++) {
		if (insn__names_map(&copy[i])) {
			copy[i].imm = 0;
			copy[i + 1].imm = 0;
		}
	}
	sha256(copy, n * sizeof(*copy), digest);
	same = !memcmp(digest, tag, BPF_TAG_LEN);
	if (!same) {
		sha1(copy, n * sizeof(*copy), digest);
		same = !memcmp(digest, tag, BPF_TAG_LEN);
	}
	free(copy);
	return same;
}

static bool is_few(int off)
{
	return (off >= (int)offsetof(struct pt_regs, r11) && off <= (int)offsetof(struct pt_regs, rdi) + 7) ||
	       (off >= (int)offsetof(struct pt_regs, rip) && off <= (int)offsetof(struct pt_regs, rip) + 7) ||
	       (off >= (int)offsetof(struct pt_regs, rsp) && off <= (int)offsetof(struct pt_regs, rsp) + 7);
}

/* Registers that hold the context anywhere in the program, as a set of bits; r1 does at its start. */
static unsigned int context_registers(const struct bpf_insn *insns, size_t n)
{
	unsigned int set = 1u << BPF_REG_1, before;

	do {
		before = set;
		for (size_t i = 0; i < n; i++)
			if (insns[i].code == (BPF_ALU64 | BPF_MOV | BPF_X) && (set >> insns[i].src_reg & 1))
				set |= 1u << insns[i].dst_reg;
	} while (set != before);
	return set;
}

/* The verifier lets a program read its context at constant offsets from an unchanged pointer only. */
bool bytecode__reads_few_registers(const struct bpf_insn *insns, size_t n)
{
	unsigned int context = context_registers(insns, n);

	for (size_t i = 0; i < n; i++) {
		const struct bpf_insn *p = &insns[i];
		int class = BPF_CLASS(p->code);

		if (p->code == (BPF_LD | BPF_IMM | BPF_DW)) {
			if (p->src_reg == BPF_PSEUDO_FUNC)
				return false;
			i++;
		} else if (p->code == (BPF_JMP | BPF_CALL) && p->src_reg != 0) {
			return false;
		} else if (class == BPF_LDX && (context >> p->src_reg & 1) && !is_few(p->off)) {
			return false;
		} else if (class == BPF_STX && (context >> p->src_reg & 1) && p->dst_reg == BPF_REG_10) {
			return false; /* it may come back in any register */
		} else if ((class == BPF_ALU64 || class == BPF_ALU) && BPF_OP(p->code) != BPF_MOV &&
			   (context & ~(1u << BPF_REG_1) & 1u << p->dst_reg)) {
			return false; /* a changed pointer */
		}
	}
	return true;
}

static bool reads_ip(const struct bpf_insn *p)
{
	static const int sizes[] = {[BPF_W >> 3] = 4, [BPF_H >> 3] = 2, [BPF_B >> 3] = 1, [BPF_DW >> 3] = 8};
	int ip = offsetof(struct pt_regs, rip), size = sizes[BPF_SIZE(p->code) >> 3];

	return p->off < ip + 8 && p->off + size > ip;
}

/* Those that read memory, which may be the context's. */
static bool reads_memory(int helper)
{
	return helper == BPF_FUNC_probe_read || helper == BPF_FUNC_probe_read_str ||
	       helper == BPF_FUNC_probe_read_kernel || helper == BPF_FUNC_probe_read_kernel_str;
}

bool bytecode__sees_ip(const struct bpf_insn *insns, size_t n)
{
	/* The first argument's register holds other things, too. */
	unsigned int context = context_registers(insns, n), only = context & ~(1u << BPF_REG_1);

	for (size_t i = 0; i < n; i++) {
		const struct bpf_insn *p = &insns[i];
		int class = BPF_CLASS(p->code);

		/* A changed pointer, or one that is kept in a map. */
		if ((class == BPF_ALU64 || class == BPF_ALU) && BPF_OP(p->code) != BPF_MOV && (only >> p->dst_reg & 1))
			return true;
		if (class == BPF_STX && (only >> p->src_reg & 1) && p->dst_reg != BPF_REG_10)
			return true;
		/* It may have been on the stack, and come back in any register. */
		if (class == BPF_STX && (context >> p->src_reg & 1) && p->dst_reg == BPF_REG_10)
			context = (1u << BPF_REG_10) - 1;
	}
	for (size_t i = 0; i < n; i++) {
		const struct bpf_insn *p = &insns[i];
		int class = BPF_CLASS(p->code);

		if (p->code == (BPF_LD | BPF_IMM | BPF_DW)) {
			if (p->src_reg == BPF_PSEUDO_FUNC)
				return true;
			i++;
		} else if (p->code == (BPF_JMP | BPF_CALL)) {
			if (p->src_reg || p->imm == BPF_FUNC_get_func_ip ||
			    (reads_memory(p->imm) && (context >> BPF_REG_3 & 1)))
				return true;
		} else if (class == BPF_LDX && (context >> p->src_reg & 1) && reads_ip(p)) {
			return true;
		}
	}
	return false;
}
