// SPDX-License-Identifier: MIT
/* decode.c: instruction boundaries and relocation, by Zydis. */
#include <stdbool.h>
#include <string.h>
#include <Zydis/Zydis.h>

#include "decode.h"

#define JMP_REL32_SIZE 5
#define JCC_REL32_SIZE 6

static const char *const reasons[DECODE_N] = {
	[DECODE_OK] = "the site can be patched",
	[DECODE_INVALID] = "the bytes at the site are no instruction",
	[DECODE_SHORT] = "the function ends before the five bytes that the jump takes",
	[DECODE_NOP5] = "the site has a five-byte nop, which the kernel itself turns into a call",
	[DECODE_CALL] = "the first five bytes hold a call, which would return into the jump",
	[DECODE_ODD_BRANCH] = "the first five bytes hold a branch that has no long form",
	[DECODE_TRAP] = "the first five bytes hold an instruction that traps or enters the kernel",
	[DECODE_BRANCH_INTO] = "a branch of the function leads into the first five bytes",
	[DECODE_TOO_FAR] = "an operand of the first instructions is out of reach from the stub",
};

const char *decode_reason(enum decode_result r)
{
	return r < DECODE_N ? reasons[r] : "unknown reason";
}

/* Instructions that must stay where they are, or have no business in front of a stub. */
static const ZydisMnemonic stay[] = {
	ZYDIS_MNEMONIC_INT3, ZYDIS_MNEMONIC_INT,   ZYDIS_MNEMONIC_INT1,	   ZYDIS_MNEMONIC_UD0,
	ZYDIS_MNEMONIC_UD1,  ZYDIS_MNEMONIC_UD2,   ZYDIS_MNEMONIC_SYSCALL, ZYDIS_MNEMONIC_SYSENTER,
	ZYDIS_MNEMONIC_HLT,  ZYDIS_MNEMONIC_IRETQ, ZYDIS_MNEMONIC_SYSRET,  ZYDIS_MNEMONIC_XBEGIN,
	ZYDIS_MNEMONIC_IRET, ZYDIS_MNEMONIC_IRETD,
};

static const uint8_t nop5[] = {0x0f, 0x1f, 0x44, 0x00, 0x00};

static bool decode(const uint8_t *code, size_t size, ZydisDecodedInstruction *insn, ZydisDecodedOperand *ops)
{
	static ZydisDecoder decoder;
	static bool ready;

	if (!ready)
		ready = ZYAN_SUCCESS(ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64));
	return ready && ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code, size, insn, ops));
}

static bool is_relative_branch(const ZydisDecodedInstruction *insn)
{
	return (insn->attributes & ZYDIS_ATTRIB_IS_RELATIVE) && insn->raw.imm[0].is_relative;
}

static bool ends_flow(const ZydisDecodedInstruction *insn)
{
	return insn->meta.category == ZYDIS_CATEGORY_RET || insn->meta.category == ZYDIS_CATEGORY_UNCOND_BR;
}

static bool is_jcc(const ZydisDecodedInstruction *insn)
{
	/* 70+cc rel8 and 0f 80+cc rel32; loop and jrcxz have neither */
	return is_relative_branch(insn) &&
	       ((insn->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (insn->opcode & 0xf0) == 0x70) ||
		(insn->opcode_map == ZYDIS_OPCODE_MAP_0F && (insn->opcode & 0xf0) == 0x80));
}

static enum decode_result check(const ZydisDecodedInstruction *insn, const uint8_t *bytes)
{
	if (insn->length == sizeof(nop5) && !memcmp(bytes, nop5, sizeof(nop5)))
		return DECODE_NOP5;
	if (insn->meta.category == ZYDIS_CATEGORY_CALL)
		return DECODE_CALL;
	for (size_t i = 0; i < sizeof(stay) / sizeof(stay[0]); i++)
		if (insn->mnemonic == stay[i])
			return DECODE_TRAP;
	if (is_relative_branch(insn) && insn->mnemonic != ZYDIS_MNEMONIC_JMP && !is_jcc(insn))
		return DECODE_ODD_BRANCH;
	return DECODE_OK;
}

enum decode_result decode_site(const uint8_t *code, size_t size, size_t patch, struct decoded *out)
{
	memset(out, 0, sizeof(*out));
	while (out->covered < patch) {
		ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
		ZydisDecodedInstruction insn;
		enum decode_result r;

		if (out->covered >= size)
			return DECODE_SHORT;
		if (!decode(code + out->covered, size - out->covered, &insn, ops))
			return out->covered ? DECODE_SHORT : DECODE_INVALID;
		r = check(&insn, code + out->covered);
		if (r)
			return r;
		out->boundary_mask |= (uint16_t)(1u << out->covered);
		out->covered += insn.length;
		if (ends_flow(&insn) && out->covered < patch)
			return DECODE_SHORT;
	}
	return DECODE_OK;
}

enum decode_result decode_branches(const uint8_t *func, size_t size, size_t site_off, const struct decoded *d)
{
	for (size_t at = 0; at < size;) {
		ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
		ZydisDecodedInstruction insn;
		int64_t to;

		if (!decode(func + at, size - at, &insn, ops)) {
			at++; /* data between code: find the next instruction */
			continue;
		}
		to = (int64_t)at + insn.length + insn.raw.imm[0].value.s - (int64_t)site_off;
		if (is_relative_branch(&insn) && to > 0 && to < (int64_t)d->covered)
			return DECODE_BRANCH_INTO;
		at += insn.length;
	}
	return DECODE_OK;
}

/* Writes the distance from behind the field at out to target. */
static bool put_rel32(uint8_t *out, uint64_t next, uint64_t target)
{
	int64_t rel = (int64_t)(target - next);
	int32_t rel32 = (int32_t)rel;

	memcpy(out, &rel32, sizeof(rel32));
	return rel == rel32;
}

static bool is_rip_relative(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops)
{
	for (int i = 0; i < insn->operand_count; i++)
		if (ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY && ops[i].mem.base == ZYDIS_REGISTER_RIP)
			return true;
	return false;
}

static bool relocate_one(const uint8_t *in, const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *ops,
			 uint64_t from, uint64_t to, uint8_t *out, size_t *size)
{
	uint64_t next = from + insn->length;

	if (is_relative_branch(insn)) {
		uint64_t target = next + (uint64_t)insn->raw.imm[0].value.s;

		if (insn->mnemonic == ZYDIS_MNEMONIC_JMP) {
			out[0] = 0xe9;
			*size = JMP_REL32_SIZE;
		} else {
			out[0] = 0x0f;
			out[1] = 0x80 | (insn->opcode & 0x0f);
			*size = JCC_REL32_SIZE;
		}
		return put_rel32(out + *size - 4, to + *size, target);
	}
	memcpy(out, in, insn->length);
	*size = insn->length;
	if (!is_rip_relative(insn, ops))
		return true;
	return put_rel32(out + insn->raw.disp.offset, to + insn->length, next + (uint64_t)insn->raw.disp.value);
}

enum decode_result decode_relocate(const uint8_t *code, const struct decoded *d, uint64_t from, uint64_t to,
				   uint8_t *out, size_t *out_size)
{
	size_t n = 0;

	for (size_t at = 0; at < d->covered;) {
		ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
		ZydisDecodedInstruction insn;
		size_t size;

		if (!decode(code + at, d->covered - at, &insn, ops))
			return DECODE_INVALID;
		if (!relocate_one(code + at, &insn, ops, from + at, to + n, out + n, &size))
			return DECODE_TOO_FAR;
		n += size;
		at += insn.length;
	}
	out[n] = 0xe9;
	if (!put_rel32(out + n + 1, to + n + JMP_REL32_SIZE, from + d->covered))
		return DECODE_TOO_FAR;
	*out_size = n + JMP_REL32_SIZE;
	return DECODE_OK;
}
