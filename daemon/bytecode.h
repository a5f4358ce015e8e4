/* SPDX-License-Identifier: MIT */
/* bytecode.h: small facts about eBPF bytecode: where it names maps, and the tag by which the kernel knows it. */
#ifndef BPFTIME_BYTECODE_H
#define BPFTIME_BYTECODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <linux/bpf.h>

enum { BPF_TAG_LEN = 8 };

/* The first half of a 64-bit immediate that names a map by descriptor (or, in captures, by id). */
bool insn__names_map(const struct bpf_insn *insn);

/*
 * Whether a program of probe type reads no other registers of its context (struct pt_regs) than those that calls do not
 * preserve, the stack pointer and the instruction pointer. Never true by mistake; false when it cannot be told.
 */
bool bytecode__reads_few_registers(const struct bpf_insn *insns, size_t n);

/*
 * Whether a program of probe type may learn the address of the probed instruction: from its context or by
 * bpf_get_func_ip(). Never false by mistake.
 */
bool bytecode__sees_ip(const struct bpf_insn *insns, size_t n);

/*
 * Whether tag belongs to insns: the kernel's digest over the instructions with the map descriptors zeroed
 * (kernel/bpf/core.c bpf_prog_calc_tag): the first 8 bytes of SHA-256 since Linux 6.18, of SHA-1 before; either is
 * accepted. false, too, when there is no memory for it.
 */
bool bytecode__has_tag(const struct bpf_insn *insns, size_t n, const uint8_t tag[BPF_TAG_LEN]);

#endif
