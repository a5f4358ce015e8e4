// SPDX-License-Identifier: MIT
/*
 * jit.c: from a module of IR to bytes that can be mapped anywhere.
 *
 * The library bitcode is the module; the program is lifted into it (lift.c), blobs become constants, everything but the
 * entry becomes internal and is inlined, and after optimisation nothing may be left but functions and constants: no
 * variables, no declarations. Code generation is held to general registers, without red zone, jump tables, constant
 * pools or calls that the compiler invents, because the result runs in the middle of foreign functions, on their
 * stacks. Native code, which is called as any function is, may use all that the CPU has.
 */
#include "flat.h"
#include "lift.h"
#include "object.h"
#include "passes.h"
#include "vm.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <llvm-c/Analysis.h>
#include <llvm-c/BitReader.h>
#include <llvm-c/Target.h>
#include <llvm-c/TargetMachine.h>

#define TRIPLE	 "x86_64-unknown-linux-gnu"
#define FEATURES "-x87,-mmx,-sse,-sse2,-sse3,-ssse3,-sse4.1,-sse4.2,-avx,-avx2,-avx512f"

/* Beyond the frame that LLVM reports: return address, frame pointer, and room for what it may count otherwise. */
#define FRAME_EXTRA 24

/*
 * From this many instructions on, no passes whose time grows faster than the program: those that vectorise straight
 * code and find values that are computed twice anywhere, and what with AVX-512 chooses between mask and general
 * registers (X86DomainReassignment: 13 s for 10,000 instructions).
 */
#define LARGE	 1000
#define NO_MASKS ",-avx512f"

/* LLVM says how large a frame is in a remark: for every function that exceeds this attribute's value. */
#define STACK_ATTRIBUTE "warn-stack-size"
#define STACK_MESSAGE	"stack frame size (%zu) exceeds limit (%*u) in function '%127[^']'"

struct frame {
	LLVMValueRef fn;
	size_t size;
	size_t total; /* with everything it calls; 0: not known yet */
	bool busy;
};

struct jit {
	LLVMContextRef ctx;
	LLVMModuleRef mod;
	LLVMTargetMachineRef tm;
	LLVMMemoryBufferRef object;
	const struct vm_compile_opts *opts;
	char *cpu, *features; /* LLVM's, when the code is for this CPU only */
	bool large;	      /* at least LARGE instructions */
	struct frame *frames;
	size_t n_frames;
	char diagnostic[256]; /* the first error that LLVM reported */
	char *err;
	size_t err_size;
};

static pthread_once_t llvm_once = PTHREAD_ONCE_INIT;
static LLVMTargetRef llvm_target;

static void llvm_init(void)
{
	char *why = NULL;

	LLVMInitializeX86TargetInfo();
	LLVMInitializeX86Target();
	LLVMInitializeX86TargetMC();
	LLVMInitializeX86AsmPrinter();
	LLVMInitializeX86AsmParser();
	if (LLVMGetTargetFromTriple(TRIPLE, &llvm_target, &why))
		LLVMDisposeMessage(why);
}

static void on_diagnostic(LLVMDiagnosticInfoRef info, void *arg)
{
	struct jit *j = arg;
	char *text = LLVMGetDiagInfoDescription(info), name[128];
	size_t size;

	const char *at = strstr(text, "stack frame size"); /* a source position stands before it */

	if (at && sscanf(at, STACK_MESSAGE, &size, name) == 2) {
		for (size_t i = 0; i < j->n_frames; i++)
			if (!strcmp(LLVMGetValueName2(j->frames[i].fn, &(size_t){0}), name))
				j->frames[i].size = size;
	} else if (LLVMGetDiagInfoSeverity(info) == LLVMDSError && !j->diagnostic[0]) {
		snprintf(j->diagnostic, sizeof(j->diagnostic), "%s", text);
	}
	LLVMDisposeMessage(text);
}

/* ---- the module ---- */

static int load_library(struct jit *j, const struct vm_compile_opts *o)
{
	LLVMTargetDataRef layout;
	LLVMMemoryBufferRef buf;

	if (o->bitcode_size) {
		buf = LLVMCreateMemoryBufferWithMemoryRange(o->bitcode, o->bitcode_size, "library", false);
		int failed = LLVMParseBitcodeInContext2(j->ctx, buf, &j->mod);

		LLVMDisposeMemoryBuffer(buf);
		if (failed)
			return vm_fail(j->err, j->err_size, -EINVAL, "the library bitcode cannot be read: %s",
				       j->diagnostic);
	} else {
		j->mod = LLVMModuleCreateWithNameInContext("program", j->ctx);
	}
	layout = LLVMCreateTargetDataLayout(j->tm);
	LLVMSetModuleDataLayout(j->mod, layout);
	LLVMSetTarget(j->mod, TRIPLE);
	LLVMDisposeTargetData(layout);
	return 0;
}

static void define_blob(struct jit *j, const struct vm_blob *blob)
{
	LLVMValueRef old = LLVMGetNamedGlobal(j->mod, blob->name), new, init;

	if (!old)
		return; /* the library does not use it */
	init = LLVMConstStringInContext2(j->ctx, blob->data, blob->size, true);
	new = LLVMAddGlobal(j->mod, LLVMTypeOf(init), "constant");
	LLVMSetInitializer(new, init);
	LLVMSetGlobalConstant(new, true);
	LLVMSetLinkage(new, LLVMInternalLinkage);
	LLVMSetAlignment(new, 16);
	LLVMReplaceAllUsesWith(old, new);
	LLVMDeleteGlobal(old);
}

static void add_string(struct jit *j, LLVMValueRef fn, const char *key, const char *value)
{
	LLVMAddAttributeAtIndex(fn, LLVMAttributeFunctionIndex,
				LLVMCreateStringAttribute(j->ctx, key, strlen(key), value, strlen(value)));
}

static unsigned int enum_kind(const char *name)
{
	return LLVMGetEnumAttributeKindForName(name, strlen(name));
}

static void add_enum(struct jit *j, LLVMValueRef fn, const char *name)
{
	LLVMAddAttributeAtIndex(fn, LLVMAttributeFunctionIndex, LLVMCreateEnumAttribute(j->ctx, enum_kind(name), 0));
}

/* Code that runs in the middle of foreign functions, on their stacks. */
static void set_foreign(struct jit *j, LLVMValueRef fn)
{
	add_string(j, fn, "target-cpu", "x86-64");
	add_string(j, fn, "target-features", FEATURES);
	add_string(j, fn, "tune-cpu", "generic");
	add_string(j, fn, "no-jump-tables", "true");
	add_string(j, fn, "frame-pointer", "all");
	add_enum(j, fn, "noredzone");
	add_enum(j, fn, "noimplicitfloat");
}

/* Code that is called as any function is. */
static void set_native(struct jit *j, LLVMValueRef fn)
{
	add_string(j, fn, "target-cpu", j->cpu);
	add_string(j, fn, "target-features", j->features ? j->features : "");
	add_string(j, fn, "tune-cpu", j->cpu);
	add_string(j, fn, "frame-pointer", "none");
}

/* The same rules for every function, else LLVM would not inline one into another. */
static void set_attributes(struct jit *j, LLVMValueRef fn)
{
	static const char *const unwanted[] = {"uwtable", "ssp",     "sspstrong", "sspreq",
					       "optnone", "optsize", "minsize"};

	for (size_t i = 0; i < sizeof(unwanted) / sizeof(unwanted[0]); i++)
		LLVMRemoveEnumAttributeAtIndex(fn, LLVMAttributeFunctionIndex, enum_kind(unwanted[i]));
	if (j->opts->native)
		set_native(j, fn);
	else
		set_foreign(j, fn);
	add_string(j, fn, "no-builtins", "");
	add_string(j, fn, STACK_ATTRIBUTE, "0");
	add_enum(j, fn, "nounwind");
	if (j->opts->env_calls) /* no verifier has seen that no pointer is NULL */
		add_enum(j, fn, "null_pointer_is_valid");
}

static bool is_intrinsic(LLVMValueRef fn)
{
	return LLVMGetIntrinsicID(fn) != 0;
}

/* Everything but the entry is internal; library functions are inlined unless they say noinline. */
static void prepare_functions(struct jit *j)
{
	for (LLVMValueRef fn = LLVMGetFirstFunction(j->mod); fn; fn = LLVMGetNextFunction(fn)) {
		const char *name = LLVMGetValueName2(fn, &(size_t){0});
		bool noinline_ = LLVMGetEnumAttributeAtIndex(fn, LLVMAttributeFunctionIndex, enum_kind("noinline"));

		if (LLVMIsDeclaration(fn))
			continue;
		set_attributes(j, fn);
		if (!strcmp(name, VM_ENTRY_NAME))
			continue;
		LLVMSetLinkage(fn, LLVMInternalLinkage);
		LLVMSetVisibility(fn, LLVMDefaultVisibility);
		if (!noinline_ && strncmp(name, "vm_sub_", 7))
			add_enum(j, fn, "alwaysinline");
	}
	for (LLVMValueRef g = LLVMGetFirstGlobal(j->mod); g; g = LLVMGetNextGlobal(g))
		if (!LLVMIsDeclaration(g) && strncmp(LLVMGetValueName2(g, &(size_t){0}), "llvm.", 5))
			LLVMSetLinkage(g, LLVMInternalLinkage);
}

/* ---- what the compiler would call: memset and memcpy, by string instructions (DF is clear in C code) ---- */

static const struct {
	const char *name, *intrinsic, *text, *constraints;
} mem_functions[] = {
	{"memset", "llvm.memset.", "rep stosb", "={di},={cx},{ax},0,1,~{memory},~{dirflag}"},
	{"memcpy", "llvm.memcpy.", "rep movsb", "={di},={cx},={si},0,1,2,~{memory}"},
};

static void define_mem(struct jit *j, size_t which)
{
	LLVMTypeRef i64 = LLVMInt64TypeInContext(j->ctx), i32 = LLVMInt32TypeInContext(j->ctx);
	LLVMTypeRef ptr = LLVMPointerTypeInContext(j->ctx, 0), outs[3] = {ptr, i64, ptr};
	bool set = which == 0;
	LLVMTypeRef params[3] = {ptr, set ? i32 : ptr, i64};
	LLVMTypeRef type = LLVMFunctionType(ptr, params, 3, false), asm_type;
	const char *text = mem_functions[which].text, *cons = mem_functions[which].constraints;
	LLVMValueRef fn = LLVMGetNamedFunction(j->mod, mem_functions[which].name), args[3], code;
	LLVMBuilderRef b;

	if (!fn)
		fn = LLVMAddFunction(j->mod, mem_functions[which].name, type);
	if (!LLVMIsDeclaration(fn))
		return;
	b = LLVMCreateBuilderInContext(j->ctx);
	LLVMPositionBuilderAtEnd(b, LLVMAppendBasicBlockInContext(j->ctx, fn, ""));
	args[0] = set ? LLVMGetParam(fn, 1) : LLVMGetParam(fn, 0);
	args[1] = set ? LLVMGetParam(fn, 0) : LLVMGetParam(fn, 2);
	args[2] = set ? LLVMGetParam(fn, 2) : LLVMGetParam(fn, 1);
	LLVMTypeRef ins[3] = {LLVMTypeOf(args[0]), LLVMTypeOf(args[1]), LLVMTypeOf(args[2])};

	asm_type = LLVMFunctionType(LLVMStructTypeInContext(j->ctx, outs, set ? 2 : 3, false), ins, 3, false);
	code = LLVMGetInlineAsm(asm_type, text, strlen(text), cons, strlen(cons), true, false, LLVMInlineAsmDialectATT,
				false);
	LLVMBuildCall2(b, asm_type, code, args, 3, "");
	LLVMBuildRet(b, LLVMGetParam(fn, 0));
	LLVMDisposeBuilder(b);
	set_attributes(j, fn);
	LLVMSetLinkage(fn, LLVMInternalLinkage);
}

/* After optimisation: block operations that are left may become calls, so there must be something to call. */
static void define_mem_functions(struct jit *j)
{
	bool need[2] = {false, false};

	for (LLVMValueRef fn = LLVMGetFirstFunction(j->mod); fn; fn = LLVMGetNextFunction(fn)) {
		const char *name = LLVMGetValueName2(fn, &(size_t){0});

		for (size_t i = 0; i < 2; i++)
			need[i] |= LLVMIsDeclaration(fn) && LLVMGetFirstUse(fn) &&
				   (!strncmp(name, mem_functions[i].intrinsic, strlen(mem_functions[i].intrinsic)) ||
				    !strcmp(name, mem_functions[i].name));
	}
	for (size_t i = 0; i < 2; i++)
		if (need[i])
			define_mem(j, i);
}

/* For code that runs in foreign functions: LLVM's own, without vectors. */
#define FOREIGN_PASSES "globaldce,default<O2>,globaldce"

/*
 * For code of this CPU: what default<O2> has for functions, once, in its order. What it runs twice or only for whole
 * programs costs a third of the time of compiling and changes nothing in what eBPF programs become.
 */
#define NATIVE_PASSES                                                                                                  \
	"globaldce,always-inline,cgscc(inline),function<eager-inv>("                                                   \
	"sroa<modify-cfg>,early-cse<memssa>,simplifycfg,instcombine<no-verify-fixpoint>,jump-threading,"               \
	"correlated-propagation,simplifycfg,reassociate,"                                                              \
	"loop-mssa(loop-simplifycfg,licm,loop-rotate,simple-loop-unswitch),simplifycfg,"                               \
	"instcombine<no-verify-fixpoint>,loop(loop-idiom,indvars,loop-deletion,loop-unroll-full),sroa<modify-cfg>,"    \
	"%s,bdce,instcombine<no-verify-fixpoint>,dse,loop-mssa(licm),simplifycfg<switch-to-lookup>,"                   \
	"loop-mssa(loop-rotate),loop-vectorize,instcombine<no-verify-fixpoint>,%sloop-unroll,"                         \
	"instcombine<no-verify-fixpoint>,loop-mssa(licm),simplifycfg,div-rem-pairs),globaldce"

static int run_passes(struct jit *j, const char *passes)
{
	return vm_passes__run(j->mod, passes, j->tm, j->opts->native, j->err, j->err_size);
}

static int optimise(struct jit *j)
{
	char passes[sizeof(NATIVE_PASSES) + 32];
	int r;

	if (!j->opts->native)
		return run_passes(j, FOREIGN_PASSES);
	r = run_passes(j, VM_FLAT_PASSES);
	if (r)
		return r;
	vm_flat__settle(j->mod);
	snprintf(passes, sizeof(passes), NATIVE_PASSES, j->large ? "early-cse<memssa>" : "gvn",
		 j->large ? "" : "slp-vectorizer,");
	return run_passes(j, passes);
}

/* Nothing from outside, no variables. */
static int check_closed(struct jit *j)
{
	for (LLVMValueRef g = LLVMGetFirstGlobal(j->mod); g; g = LLVMGetNextGlobal(g))
		if (LLVMIsDeclaration(g) ? !!LLVMGetFirstUse(g) : !LLVMIsGlobalConstant(g))
			return vm_fail(j->err, j->err_size, -ENOEXEC, "the library's variable '%s' is not a constant",
				       LLVMGetValueName2(g, &(size_t){0}));
	for (LLVMValueRef fn = LLVMGetFirstFunction(j->mod); fn; fn = LLVMGetNextFunction(fn))
		if (LLVMIsDeclaration(fn) && !is_intrinsic(fn) && LLVMGetFirstUse(fn))
			return vm_fail(j->err, j->err_size, -ENOEXEC, "the library does not define the function '%s'",
				       LLVMGetValueName2(fn, &(size_t){0}));
	return 0;
}

/* ---- stack ---- */

static int list_frames(struct jit *j)
{
	for (LLVMValueRef fn = LLVMGetFirstFunction(j->mod); fn; fn = LLVMGetNextFunction(fn))
		j->n_frames += !LLVMIsDeclaration(fn);
	j->frames = calloc(j->n_frames + 1, sizeof(*j->frames));
	if (!j->frames)
		return vm_fail(j->err, j->err_size, -ENOMEM, "no memory for %zu functions", j->n_frames);
	j->n_frames = 0;
	for (LLVMValueRef fn = LLVMGetFirstFunction(j->mod); fn; fn = LLVMGetNextFunction(fn))
		if (!LLVMIsDeclaration(fn))
			j->frames[j->n_frames++].fn = fn;
	return 0;
}

static int frame_total(struct jit *j, struct frame *f);

/* The deepest of what the function calls. Intrinsics that become calls of memset or memcpy count as well. */
static int deepest_call(struct jit *j, LLVMValueRef in, size_t *deepest)
{
	LLVMValueRef callee = LLVMIsACallInst(in) ? LLVMGetCalledValue(in) : NULL;
	const char *name = callee ? LLVMGetValueName2(callee, &(size_t){0}) : "";
	int r = 0;

	if (LLVMIsAAllocaInst(in) && !LLVMIsAConstantInt(LLVMGetOperand(in, 0)))
		return vm_fail(j->err, j->err_size, -ENOEXEC, "the library allocates stack of variable size");
	for (size_t i = 0; callee && !r && i < j->n_frames; i++) {
		const char *own = LLVMGetValueName2(j->frames[i].fn, &(size_t){0});
		bool hit = j->frames[i].fn == callee;

		for (size_t k = 0; k < 2; k++)
			hit |= !strcmp(own, mem_functions[k].name) &&
			       !strncmp(name, mem_functions[k].intrinsic, strlen(mem_functions[k].intrinsic));
		if (!hit)
			continue;
		r = frame_total(j, &j->frames[i]);
		if (!r && j->frames[i].total > *deepest)
			*deepest = j->frames[i].total;
	}
	return r;
}

static int frame_total(struct jit *j, struct frame *f)
{
	size_t deepest = 0;
	int r = 0;

	if (f->total)
		return 0;
	if (f->busy)
		return vm_fail(j->err, j->err_size, -ENOEXEC, "the compiled code calls itself");
	f->busy = true;
	for (LLVMBasicBlockRef b = LLVMGetFirstBasicBlock(f->fn); b && !r; b = LLVMGetNextBasicBlock(b))
		for (LLVMValueRef in = LLVMGetFirstInstruction(b); in && !r; in = LLVMGetNextInstruction(in))
			r = deepest_call(j, in, &deepest);
	f->total = f->size + FRAME_EXTRA + deepest;
	return r;
}

/* callx may nest as deep as the program's frames go, which the code counts. */
static size_t deepest_stack(const struct jit *j)
{
	size_t largest = 0;

	for (size_t i = 0; i < j->n_frames; i++)
		if (j->frames[i].size > largest)
			largest = j->frames[i].size;
	return VM_MAX_FRAMES * (largest + FRAME_EXTRA);
}

static int stack_size(struct jit *j, size_t *size)
{
	LLVMValueRef entry = LLVMGetNamedFunction(j->mod, VM_ENTRY_NAME);
	int r = 0;

	if (j->opts->features & VM_FEATURE_CALLX) {
		*size = deepest_stack(j);
		return 0;
	}
	for (size_t i = 0; i < j->n_frames; i++) {
		if (j->frames[i].fn != entry)
			continue;
		r = frame_total(j, &j->frames[i]);
		*size = j->frames[i].total;
	}
	return r;
}

/* ---- all of it ---- */

static int emit(struct jit *j, struct vm_code *out)
{
	char *text = NULL;
	int r = list_frames(j);

	if (r)
		return r;
	if (LLVMTargetMachineEmitToMemoryBuffer(j->tm, j->mod, LLVMObjectFile, &text, &j->object)) {
		r = vm_fail(j->err, j->err_size, -EIO, "LLVM cannot generate code: %s", text ? text : "");
		LLVMDisposeMessage(text);
		return r;
	}
	if (j->diagnostic[0])
		return vm_fail(j->err, j->err_size, -EIO, "LLVM: %s", j->diagnostic);
	r = stack_size(j, &out->stack_size);
	if (r)
		return r;
	return vm_object__image(LLVMGetBufferStart(j->object), LLVMGetBufferSize(j->object), VM_ENTRY_NAME, &out->bytes,
				&out->size, &out->entry, j->err, j->err_size);
}

static int build(struct jit *j, const struct bpf_insn *insns, size_t n_insns, const struct vm_compile_opts *o,
		 struct vm_code *out)
{
	char *text = NULL;
	int r = load_library(j, o);

	for (size_t i = 0; !r && i < o->n_blobs; i++)
		define_blob(j, &o->blobs[i]);
	if (!r)
		r = vm_lift(j->mod, insns, n_insns, o, j->err, j->err_size);
	if (r)
		return r;
	if (LLVMVerifyModule(j->mod, LLVMReturnStatusAction, &text))
		r = vm_fail(j->err, j->err_size, -EIO, "the program was lifted to invalid IR: %s", text);
	LLVMDisposeMessage(text);
	if (r)
		return r;
	prepare_functions(j);
	r = optimise(j);
	if (r)
		return r;
	vm_flat__lower(j->mod);
	define_mem_functions(j);
	r = check_closed(j);
	return r ? r : emit(j, out);
}

static char *host_features(bool large)
{
	char *all = LLVMGetHostCPUFeatures(), *fewer;
	size_t size = strlen(all) + sizeof(NO_MASKS);

	if (!large)
		return all;
	fewer = malloc(size);
	if (fewer)
		snprintf(fewer, size, "%s" NO_MASKS, all);
	LLVMDisposeMessage(all);
	return fewer;
}

static void target_machine(struct jit *j)
{
	if (j->opts->native) {
		j->cpu = LLVMGetHostCPUName();
		j->features = host_features(j->large);
	}
	j->tm = LLVMCreateTargetMachine(llvm_target, TRIPLE, j->cpu ? j->cpu : "x86-64",
					j->features ? j->features : FEATURES, LLVMCodeGenLevelDefault, LLVMRelocPIC,
					LLVMCodeModelSmall);
}

static void dispose(struct jit *j)
{
	if (j->object)
		LLVMDisposeMemoryBuffer(j->object);
	if (j->mod)
		LLVMDisposeModule(j->mod);
	LLVMDisposeTargetMachine(j->tm);
	LLVMContextDispose(j->ctx);
	LLVMDisposeMessage(j->cpu);
	LLVMDisposeMessage(j->features);
	free(j->frames);
}

int vm_compile(const struct bpf_insn *insns, size_t n_insns, const struct vm_compile_opts *opts, struct vm_code *out,
	       char *err, size_t err_size)
{
	static const struct vm_compile_opts none = {.sz = sizeof(none)};
	struct jit j = {.opts = opts ? opts : &none, .large = n_insns >= LARGE, .err = err, .err_size = err_size};
	uint32_t features = j.opts->env_calls ? j.opts->features & VM_FEATURES_RUN : 0;
	int r = vm_validate_features(insns, n_insns, features, err, err_size);

	memset(out, 0, sizeof(*out));
	if (r)
		return r;
	pthread_once(&llvm_once, llvm_init);
	if (!llvm_target)
		return vm_fail(err, err_size, -ENOSYS, "this LLVM cannot generate x86-64 code");
	j.ctx = LLVMContextCreate();
	LLVMContextSetDiagnosticHandler(j.ctx, on_diagnostic, &j);
	target_machine(&j);
	r = build(&j, insns, n_insns, j.opts, out);
	dispose(&j);
	if (r)
		vm_code__clear(out);
	return r;
}
