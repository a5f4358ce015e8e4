/* SPDX-License-Identifier: MIT */
/*
 * disasm.h: the text of an instruction, in the notation of the kernel: what its verifier logs and `bpftool prog dump
 * xlated` prints (print_bpf_insn() in kernel/bpf/disasm.c). Any 8 bytes have a text: what is no instruction is BUG_
 * with its opcode. All functions are safe to call from several threads.
 */
#ifndef BPFTIME_VM_DISASM_H
#define BPFTIME_VM_DISASM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <linux/bpf.h>

/* Enough for any instruction without the names that a struct vm_names gives. */
#define VM_DISASM_SIZE 128

/* Names for what is only a number in an instruction. Each function may be missing, and may return NULL: no name. */
struct vm_names {
	size_t sz; /* sizeof(struct vm_names) of the caller */
	/* Of the map with this number, in an immediate of kind BPF_PSEUDO_MAP_FD or BPF_PSEUDO_MAP_VALUE. */
	const char *(*map)(void *arg, int32_t imm);
	/* Of the subprogram that begins at instruction pc. */
	const char *(*sub)(void *arg, size_t pc);
	void *arg;
};

/*
 * The text of insns[pc] into out, always with its end, cut off when size is too small: "(b7) r0 = 0". The second slot
 * of a 64-bit immediate belongs to the first and is read when it is there. names may be NULL. Returns how many slots
 * the instruction takes: 1 or 2.
 */
size_t vm_disasm(const struct bpf_insn *insns, size_t n_insns, size_t pc, const struct vm_names *names, char *out,
		 size_t size);

/* The name of a helper of the kernel: "bpf_map_lookup_elem" of 1. NULL: there is none that this header knows. */
const char *vm_helper_name(uint32_t id);

#endif
