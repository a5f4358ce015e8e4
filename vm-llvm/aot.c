// SPDX-License-Identifier: MIT
/*
 * aot.c: a module with, for each program, a function by its name around the lifted code, the data sections as
 * variables, and the table of bpftime-aot.h, whose pointers the code loads where it needs a map or calls a helper.
 *
 * The lifter asks for helpers and map values by functions of known names (vm.h, vm_compile_opts.bitcode); here these
 * are made for the occasion, and inlined.
 */
#include "aot.h"
#include "bpftime-aot.h"
#include "disasm.h"
#include "flat.h"
#include "lift.h"
#include "passes.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <llvm-c/Analysis.h>
#include <llvm-c/Target.h>
#include <llvm-c/TargetMachine.h>

#define DEFAULT_TRIPLE "x86_64-unknown-linux-gnu"
#define PASSES	       "globaldce,default<O2>,globaldce"
#define LAST_PASSES    "function(instcombine<no-verify-fixpoint>,simplifycfg,early-cse,instsimplify,adce),globaldce"
#define FEATURES       (VM_FEATURE_CALLX | VM_FEATURE_FUNC_ADDR)
#define MAX_HELPERS    256

struct aot {
	const struct vm_elf *elf;
	const struct vm_aot_opts *opts;
	LLVMContextRef ctx;
	LLVMModuleRef mod;
	LLVMBuilderRef b;
	LLVMTargetMachineRef tm;
	LLVMTypeRef i32, i64, ptr, map_type, helper_type, prog_type, table_type, call_type, run_type;
	LLVMValueRef maps, helpers, table;
	LLVMValueRef *data; /* per map: the variable, of data sections */
	LLVMValueRef *run;  /* per program: its function */
	uint32_t helper_id[MAX_HELPERS];
	unsigned int n_helpers;
	char diagnostic[256];
	char *err;
	size_t err_size;
};

static pthread_once_t targets_once = PTHREAD_ONCE_INIT;

static void init_targets(void)
{
	LLVMInitializeX86TargetInfo();
	LLVMInitializeX86Target();
	LLVMInitializeX86TargetMC();
	LLVMInitializeX86AsmPrinter();
	LLVMInitializeX86AsmParser();
	LLVMInitializeAArch64TargetInfo();
	LLVMInitializeAArch64Target();
	LLVMInitializeAArch64TargetMC();
	LLVMInitializeAArch64AsmPrinter();
	LLVMInitializeAArch64AsmParser();
}

static void on_diagnostic(LLVMDiagnosticInfoRef info, void *arg)
{
	struct aot *a = arg;
	char *text = LLVMGetDiagInfoDescription(info);

	if (LLVMGetDiagInfoSeverity(info) == LLVMDSError && !a->diagnostic[0])
		snprintf(a->diagnostic, sizeof(a->diagnostic), "%s", text);
	LLVMDisposeMessage(text);
}

/* ---- what the programs need ---- */

static int note_helpers(struct aot *a, const struct vm_elf_prog *p)
{
	for (size_t pc = 0; pc < p->n_insns; pc++) {
		enum vm_kind kind = vm_insn__kind(p->insns + pc, &(const char *){0});
		uint32_t id = (uint32_t)p->insns[pc].imm;
		unsigned int i = 0;

		while (kind == VM_CALL && i < a->n_helpers && a->helper_id[i] != id)
			i++;
		if (kind == VM_CALL && i == a->n_helpers) {
			if (i == MAX_HELPERS)
				return vm_fail(a->err, a->err_size, -E2BIG, "%s: more than %d helpers", p->name,
					       MAX_HELPERS);
			a->helper_id[a->n_helpers++] = id;
		}
		pc += vm_insn__slots(kind) - 1;
	}
	return 0;
}

static int check_programs(struct aot *a)
{
	char why[256] = "";
	int r = 0;

	for (size_t i = 0; !r && i < a->elf->n_progs; i++) {
		const struct vm_elf_prog *p = &a->elf->progs[i];

		r = vm_validate_features(p->insns, p->n_insns, FEATURES, why, sizeof(why));
		if (r)
			return vm_fail(a->err, a->err_size, r, "%s: %s", p->name, why);
		r = note_helpers(a, p);
	}
	return r;
}

/* ---- constants and variables ---- */

static LLVMValueRef number(struct aot *a, uint32_t v)
{
	return LLVMConstInt(a->i32, v, false);
}

static LLVMValueRef variable(struct aot *a, LLVMValueRef init, const char *name, bool constant)
{
	LLVMValueRef v = LLVMAddGlobal(a->mod, LLVMTypeOf(init), name);

	LLVMSetInitializer(v, init);
	LLVMSetGlobalConstant(v, constant);
	LLVMSetLinkage(v, LLVMInternalLinkage);
	return v;
}

static LLVMValueRef text(struct aot *a, const char *s)
{
	return variable(a, LLVMConstStringInContext2(a->ctx, s, strlen(s), false), "name", true);
}

static void init_types(struct aot *a)
{
	LLVMTypeRef regs[6];

	a->i32 = LLVMInt32TypeInContext(a->ctx);
	a->i64 = LLVMInt64TypeInContext(a->ctx);
	a->ptr = LLVMPointerTypeInContext(a->ctx, 0);
	regs[0] = a->ptr;
	for (unsigned int i = 1; i < 6; i++)
		regs[i] = a->i64;
	a->call_type = LLVMFunctionType(a->i64, regs, 6, false);
	a->run_type = LLVMFunctionType(a->i64, regs, 2, false);

	/* The structs of bpftime-aot.h, in their order. */
	LLVMTypeRef map[] = {a->ptr, a->i32, a->i32, a->i32, a->i32, a->i32, a->i32, a->ptr};
	LLVMTypeRef helper[] = {a->ptr, a->i32, a->i32, a->ptr};
	LLVMTypeRef prog[] = {a->ptr, a->ptr, a->ptr};
	LLVMTypeRef table[] = {a->i32, a->i32, a->i32, a->i32, a->ptr, a->ptr, a->ptr, a->ptr};

	a->map_type = LLVMStructTypeInContext(a->ctx, map, 8, false);
	a->helper_type = LLVMStructTypeInContext(a->ctx, helper, 4, false);
	a->prog_type = LLVMStructTypeInContext(a->ctx, prog, 3, false);
	a->table_type = LLVMStructTypeInContext(a->ctx, table, 8, false);
}

static LLVMValueRef map_row(struct aot *a, size_t i)
{
	const struct vm_elf_map *m = &a->elf->maps[i];
	LLVMValueRef row[8] = {text(a, m->name),	 number(a, m->type),	    number(a, m->key_size),
			       number(a, m->value_size), number(a, m->max_entries), number(a, m->flags),
			       number(a, m->is_data),	 LLVMConstNull(a->ptr)};

	if (m->is_data) {
		a->data[i] = variable(a, LLVMConstStringInContext2(a->ctx, m->data, m->value_size, true), "data",
				      m->is_constant);
		LLVMSetAlignment(a->data[i], 64);
		row[7] = a->data[i];
	}
	return LLVMConstNamedStruct(a->map_type, row, 8);
}

static LLVMValueRef helper_row(struct aot *a, size_t i)
{
	const char *name = vm_helper_name(a->helper_id[i]);
	LLVMValueRef row[4] = {text(a, name ? name : ""), number(a, a->helper_id[i]), number(a, 0),
			       LLVMConstNull(a->ptr)};

	return LLVMConstNamedStruct(a->helper_type, row, 4);
}

static LLVMValueRef prog_row(struct aot *a, size_t i)
{
	LLVMValueRef row[3] = {text(a, a->elf->progs[i].name), text(a, a->elf->progs[i].section), a->run[i]};

	return LLVMConstNamedStruct(a->prog_type, row, 3);
}

/* A variable that is an array of n such rows. */
static LLVMValueRef rows(struct aot *a, size_t n, LLVMTypeRef type, LLVMValueRef (*row)(struct aot *a, size_t i),
			 const char *name)
{
	LLVMValueRef *all = calloc(n + 1, sizeof(*all)), v;

	if (!all)
		return NULL;
	for (size_t i = 0; i < n; i++)
		all[i] = row(a, i);
	v = variable(a, LLVMConstArray2(type, all, n), name, false);
	free(all);
	return v;
}

static int make_table(struct aot *a)
{
	LLVMValueRef progs = rows(a, a->elf->n_progs, a->prog_type, prog_row, "programs");
	LLVMValueRef table[8] = {number(a, BPFTIME_AOT_VERSION),
				 number(a, (uint32_t)a->elf->n_maps),
				 number(a, a->n_helpers),
				 number(a, (uint32_t)a->elf->n_progs),
				 a->maps,
				 a->helpers,
				 progs,
				 LLVMConstNull(a->ptr)};

	if (!progs)
		return vm_fail(a->err, a->err_size, -ENOMEM, "no memory for the table");
	LLVMSetInitializer(a->table, LLVMConstNamedStruct(a->table_type, table, 8));
	return 0;
}

/* ---- functions that the lifted code calls ---- */

static LLVMValueRef begin(struct aot *a, const char *name, LLVMTypeRef type)
{
	LLVMValueRef fn = LLVMAddFunction(a->mod, name, type);

	LLVMSetLinkage(fn, LLVMInternalLinkage);
	LLVMAddAttributeAtIndex(
		fn, LLVMAttributeFunctionIndex,
		LLVMCreateEnumAttribute(a->ctx, LLVMGetEnumAttributeKindForName("alwaysinline", 12), 0));
	LLVMPositionBuilderAtEnd(a->b, LLVMAppendBasicBlockInContext(a->ctx, fn, ""));
	return fn;
}

/* The pointer that is member `member` of row i of an array. */
static LLVMValueRef load_member(struct aot *a, LLVMValueRef array, LLVMTypeRef row, size_t i, unsigned int member)
{
	LLVMValueRef at = LLVMConstInt(a->i64, i, false);

	at = LLVMBuildGEP2(a->b, row, array, &at, 1, "");
	return LLVMBuildLoad2(a->b, a->ptr, LLVMBuildStructGEP2(a->b, row, at, member, ""), "");
}

/* uint64_t bpf_helper_N(void *env, r1 ... r5): through the table. */
static void make_helper(struct aot *a, unsigned int i)
{
	LLVMValueRef args[6], fn, user;
	char name[32];

	snprintf(name, sizeof(name), "bpf_helper_%u", a->helper_id[i]);
	fn = begin(a, name, a->call_type);
	user = LLVMBuildStructGEP2(a->b, a->table_type, a->table, 7, "");
	args[0] = LLVMBuildLoad2(a->b, a->ptr, user, "");
	for (unsigned int k = 1; k < 6; k++)
		args[k] = LLVMGetParam(fn, k);
	LLVMBuildRet(a->b,
		     LLVMBuildCall2(a->b, a->call_type, load_member(a, a->helpers, a->helper_type, i, 3), args, 6, ""));
}

/* uint64_t bpf_map_value(void *env, uint32_t i, uint32_t off): the address of data, or what stands for a map. */
static void make_map_value(struct aot *a)
{
	LLVMTypeRef types[3] = {a->ptr, a->i32, a->i32};
	LLVMValueRef fn = begin(a, "bpf_map_value", LLVMFunctionType(a->i64, types, 3, false)), choose, v, off;
	LLVMBasicBlockRef none = LLVMAppendBasicBlockInContext(a->ctx, fn, "");

	choose = LLVMBuildSwitch(a->b, LLVMGetParam(fn, 1), none, (unsigned int)a->elf->n_maps);
	LLVMPositionBuilderAtEnd(a->b, none);
	LLVMBuildRet(a->b, LLVMConstInt(a->i64, 0, false));
	for (size_t i = 0; i < a->elf->n_maps; i++) {
		LLVMBasicBlockRef block = LLVMAppendBasicBlockInContext(a->ctx, fn, "");

		LLVMAddCase(choose, number(a, (uint32_t)i), block);
		LLVMPositionBuilderAtEnd(a->b, block);
		v = a->data[i] ? a->data[i] : load_member(a, a->maps, a->map_type, i, 7);
		v = LLVMBuildPtrToInt(a->b, v, a->i64, "");
		off = LLVMBuildZExt(a->b, LLVMGetParam(fn, 2), a->i64, "");
		LLVMBuildRet(a->b, a->data[i] ? LLVMBuildAdd(a->b, v, off, "") : v);
	}
}

/* ---- programs ---- */

/* A map's token, which the lifter would leave a number, is asked for like an address. */
static struct bpf_insn *copy_program(const struct vm_elf_prog *p)
{
	struct bpf_insn *insns = malloc(p->n_insns * sizeof(*insns));

	for (size_t pc = 0; insns && pc < p->n_insns; pc++) {
		insns[pc] = p->insns[pc];
		if (insns[pc].code != (BPF_LD | BPF_IMM | BPF_DW))
			continue;
		if (insns[pc].src_reg == BPF_PSEUDO_MAP_FD)
			insns[pc].src_reg = BPF_PSEUDO_MAP_VALUE;
		pc++;
		insns[pc] = p->insns[pc];
	}
	return insns;
}

/* uint64_t NAME(void *ctx, uint64_t r2), around vm_entry(r1, r2, env). */
static LLVMValueRef wrap(struct aot *a, const char *name, LLVMValueRef entry)
{
	LLVMTypeRef env_type = LLVMArrayType2(LLVMInt8TypeInContext(a->ctx), sizeof(struct vm_env));
	LLVMValueRef fn = LLVMAddFunction(a->mod, name, a->run_type), args[3];

	LLVMPositionBuilderAtEnd(a->b, LLVMAppendBasicBlockInContext(a->ctx, fn, ""));
	args[2] = LLVMBuildAlloca(a->b, env_type, "");
	LLVMSetAlignment(args[2], 8);
	LLVMBuildMemSet(a->b, args[2], LLVMConstInt(LLVMInt8TypeInContext(a->ctx), 0, false),
			LLVMConstInt(a->i64, sizeof(struct vm_env), false), 8);
	args[0] = LLVMBuildPtrToInt(a->b, LLVMGetParam(fn, 0), a->i64, "");
	args[1] = LLVMGetParam(fn, 1);
	LLVMBuildRet(a->b, LLVMBuildCall2(a->b, LLVMGlobalGetValueType(entry), entry, args, 3, ""));
	return fn;
}

static int lift_program(struct aot *a, size_t i)
{
	const struct vm_compile_opts o = {
		.sz = sizeof(o), .env_calls = 1, .verified = a->opts->verified, .native = 1, .features = FEATURES};
	const struct vm_elf_prog *p = &a->elf->progs[i];
	struct bpf_insn *insns = copy_program(p);
	char why[256] = "", name[32];
	LLVMValueRef entry;
	int r;

	if (!insns)
		return vm_fail(a->err, a->err_size, -ENOMEM, "no memory for %zu instructions", p->n_insns);
	if (LLVMGetNamedFunction(a->mod, p->name) || LLVMGetNamedGlobal(a->mod, p->name))
		r = vm_fail(why, sizeof(why), -EINVAL, "the name is taken twice; another --name, or another program");
	else
		r = vm_lift(a->mod, insns, p->n_insns, &o, why, sizeof(why));
	free(insns);
	if (r)
		return vm_fail(a->err, a->err_size, r, "%s: %s", p->name, why);
	entry = LLVMGetNamedFunction(a->mod, VM_ENTRY_NAME);
	snprintf(name, sizeof(name), VM_ENTRY_NAME "_%zu", i);
	LLVMSetValueName2(entry, name, strlen(name));
	LLVMSetLinkage(entry, LLVMInternalLinkage);
	a->run[i] = wrap(a, p->name, entry);
	return 0;
}

static void add_string(struct aot *a, LLVMValueRef fn, const char *key, const char *value)
{
	LLVMAddAttributeAtIndex(fn, LLVMAttributeFunctionIndex,
				LLVMCreateStringAttribute(a->ctx, key, strlen(key), value, strlen(value)));
}

static void add_enum(struct aot *a, LLVMValueRef fn, const char *name)
{
	unsigned int kind = LLVMGetEnumAttributeKindForName(name, strlen(name));

	LLVMAddAttributeAtIndex(fn, LLVMAttributeFunctionIndex, LLVMCreateEnumAttribute(a->ctx, kind, 0));
}

static void set_attributes(struct aot *a)
{
	char *cpu = LLVMGetTargetMachineCPU(a->tm), *features = LLVMGetTargetMachineFeatureString(a->tm);

	for (LLVMValueRef fn = LLVMGetFirstFunction(a->mod); fn; fn = LLVMGetNextFunction(fn)) {
		if (LLVMIsDeclaration(fn))
			continue;
		add_string(a, fn, "target-cpu", cpu);
		add_string(a, fn, "target-features", features);
		add_enum(a, fn, "nounwind");
		add_enum(a, fn, "null_pointer_is_valid");
	}
	LLVMDisposeMessage(cpu);
	LLVMDisposeMessage(features);
}

/* ---- all of it ---- */

static int make_module(struct aot *a)
{
	int r = 0;

	init_types(a);
	a->data = calloc(a->elf->n_maps + 1, sizeof(*a->data));
	a->run = calloc(a->elf->n_progs + 1, sizeof(*a->run));
	a->maps = a->data ? rows(a, a->elf->n_maps, a->map_type, map_row, "maps") : NULL;
	a->helpers = rows(a, a->n_helpers, a->helper_type, helper_row, "helpers");
	if (!a->data || !a->run || !a->maps || !a->helpers)
		return vm_fail(a->err, a->err_size, -ENOMEM, "no memory for the table");
	a->table = LLVMAddGlobal(a->mod, a->table_type, a->opts->table);
	for (unsigned int i = 0; i < a->n_helpers; i++)
		make_helper(a, i);
	make_map_value(a);
	for (size_t i = 0; !r && i < a->elf->n_progs; i++)
		r = lift_program(a, i);
	return r ? r : make_table(a);
}

static int run_passes(struct aot *a, const char *passes)
{
	return vm_passes__run(a->mod, passes, a->tm, true, a->err, a->err_size);
}

static int optimise(struct aot *a)
{
	char *why = NULL;
	int r = 0;

	if (LLVMVerifyModule(a->mod, LLVMReturnStatusAction, &why))
		r = vm_fail(a->err, a->err_size, -EIO, "the programs were lifted to invalid IR: %s", why);
	LLVMDisposeMessage(why);
	if (!r)
		r = run_passes(a, VM_FLAT_PASSES);
	if (r)
		return r;
	vm_flat__settle(a->mod);
	r = run_passes(a, PASSES);
	if (r)
		return r;
	vm_flat__lower(a->mod);
	/* Only now LLVM sees what is read of .rodata. */
	return run_passes(a, LAST_PASSES);
}

static int emit(struct aot *a, void **object, size_t *size)
{
	LLVMMemoryBufferRef buf = NULL;
	char *why = NULL;
	int r = 0;

	if (LLVMTargetMachineEmitToMemoryBuffer(a->tm, a->mod, LLVMObjectFile, &why, &buf) || a->diagnostic[0])
		r = vm_fail(a->err, a->err_size, -EIO, "LLVM cannot generate code: %s",
			    a->diagnostic[0] ? a->diagnostic
			    : why	     ? why
					     : "");
	LLVMDisposeMessage(why);
	if (!r) {
		*size = LLVMGetBufferSize(buf);
		*object = malloc(*size);
		if (*object)
			memcpy(*object, LLVMGetBufferStart(buf), *size);
		else
			r = vm_fail(a->err, a->err_size, -ENOMEM, "no memory for %zu bytes of code", *size);
	}
	if (buf)
		LLVMDisposeMemoryBuffer(buf);
	return r;
}

static int choose_target(struct aot *a)
{
	const char *triple = a->opts->triple ? a->opts->triple : DEFAULT_TRIPLE, *cpu = a->opts->cpu;
	bool native = cpu && !strcmp(cpu, "native");
	char *host = native ? LLVMGetHostCPUName() : NULL, *features = native ? LLVMGetHostCPUFeatures() : NULL;
	LLVMTargetDataRef layout;
	LLVMTargetRef target;
	char *why = NULL;

	if ((strncmp(triple, "x86_64-", 7) && strncmp(triple, "aarch64-", 8)) ||
	    LLVMGetTargetFromTriple(triple, &target, &why)) {
		vm_fail(a->err, a->err_size, 0, "code for '%s' cannot be made%s%s", triple, why ? ": " : "",
			why ? why : "; x86_64-linux-gnu and aarch64-linux-gnu can");
		LLVMDisposeMessage(why);
		LLVMDisposeMessage(host);
		LLVMDisposeMessage(features);
		return -EOPNOTSUPP;
	}
	a->tm = LLVMCreateTargetMachine(target, triple,
					native ? host
					: cpu  ? cpu
					       : "",
					native ? features : "", LLVMCodeGenLevelDefault, LLVMRelocPIC,
					LLVMCodeModelSmall);
	LLVMDisposeMessage(host);
	LLVMDisposeMessage(features);
	layout = LLVMCreateTargetDataLayout(a->tm);
	LLVMSetModuleDataLayout(a->mod, layout);
	LLVMSetTarget(a->mod, triple);
	LLVMDisposeTargetData(layout);
	return 0;
}

int vm_aot_compile(const struct vm_elf *elf, const struct vm_aot_opts *opts, void **object, size_t *size, char *err,
		   size_t err_size)
{
	struct aot a = {.elf = elf, .opts = opts, .err = err, .err_size = err_size};
	int r;

	*object = NULL;
	pthread_once(&targets_once, init_targets);
	a.ctx = LLVMContextCreate();
	LLVMContextSetDiagnosticHandler(a.ctx, on_diagnostic, &a);
	a.mod = LLVMModuleCreateWithNameInContext("programs", a.ctx);
	a.b = LLVMCreateBuilderInContext(a.ctx);
	r = check_programs(&a);
	if (!r)
		r = choose_target(&a);
	if (!r)
		r = make_module(&a);
	if (!r) {
		set_attributes(&a);
		r = optimise(&a);
	}
	if (!r)
		r = emit(&a, object, size);
	LLVMDisposeBuilder(a.b);
	LLVMDisposeModule(a.mod);
	if (a.tm)
		LLVMDisposeTargetMachine(a.tm);
	LLVMContextDispose(a.ctx);
	free(a.data);
	free(a.run);
	return r;
}
