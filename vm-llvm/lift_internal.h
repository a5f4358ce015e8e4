/* SPDX-License-Identifier: MIT */
/* lift_internal.h: the state of lifting that lift.c and lift_call.c share. */
#ifndef BPFTIME_VM_LIFT_INTERNAL_H
#define BPFTIME_VM_LIFT_INTERNAL_H

#include "flow.h"
#include "lift.h"

struct lift {
	LLVMContextRef ctx;
	LLVMModuleRef mod;
	LLVMBuilderRef b;
	LLVMTypeRef i8, i32, i64, ptr, helper_type, sub_type, entry_type;
	const struct vm_compile_opts *opts;
	const struct bpf_insn *insns;
	size_t n;
	struct vm_layout layout;
	struct vm_fact *facts;
	LLVMBasicBlockRef *blocks; /* at leaders */
	uint8_t *skip;		   /* part of a read-add-write that is emitted at its store */
	struct vm_rmw *rmw;	   /* at stores: the sequence that ends there */
	LLVMValueRef *subs;
	uint8_t *in_tree; /* per instruction: part of a tree that has become a switch */
	uint8_t *taken;	  /* per subprogram: its address is taken */
	/*
	 * The program calls what registers hold: such a call may fail, and may nest without a bound that is known
	 * beforehand. So each subprogram gets the number of its frame, and after each call it is looked whether the
	 * program has ended.
	 */
	bool may_fault;
	/* of the function being made; user: first argument of helpers */
	LLVMValueRef fn, env, user, depth, reg[11], stack, base;
	int frame; /* bytes of stack that it uses */
	char *err;
	size_t err_size;
};

LLVMValueRef vm_lift_c64(struct lift *l, uint64_t v);
LLVMValueRef vm_lift_get(struct lift *l, size_t pc, unsigned int reg);
void vm_lift_set(struct lift *l, unsigned int reg, LLVMValueRef v);
/* The function of the library bitcode of that name and type, or NULL. */
LLVMValueRef vm_lift_function(struct lift *l, const char *name, LLVMTypeRef type);

/* lift_call.c: declares the functions and types that calls need. */
void vm_lift_declare(struct lift *l);
/* A member of struct vm_env of the given type, which does not change while the program runs. */
LLVMValueRef vm_lift_env(struct lift *l, size_t offset, LLVMTypeRef type);
/* Calls of every kind; each leaves the builder where the next instruction goes. 0 or -errno with a sentence. */
int vm_lift_helper(struct lift *l, size_t pc);
int vm_lift_local(struct lift *l, size_t pc);
int vm_lift_callx(struct lift *l, size_t pc);
void vm_lift_tail(struct lift *l, size_t pc);
void vm_lift_packet(struct lift *l, size_t pc);
/* lift_switch.c: before a VM_JCC with a constant: if it begins a tree of them, a switch over what most of them mean. */
void vm_lift_switch(struct lift *l, size_t pc);
/* Refuses recursion. */
int vm_lift_check_calls(struct lift *l);

#endif
