// SPDX-License-Identifier: MIT
/* tool_run.c: `bpftime vm run`: one program of an object file, with maps and helpers of its own (standalone.h). */
#include "insn.h"
#include "standalone.h"
#include "tool.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_MEM	     (256u << 20)
#define MAX_STEPS    1000000000ull /* of the interpreter: a minute or so */
#define JIT_INSNS    100000u	   /* larger programs take longer to compile than most take to be interpreted */
#define SIGNAL_STACK (64u << 10)

struct run {
	struct vm_standalone *s;
	const struct vm_elf_prog *prog;
	struct bpf_insn *insns;
	void *mem; /* what the program gets in r1, its size in r2 */
	size_t mem_size;
	char err[TOOL_ERR_SIZE];
};

/* The memory of the program: read from the file; none without one. */
static int read_mem(struct run *r, const char *path)
{
	struct stat st;
	int fd;

	if (!path)
		return 0;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_size > MAX_MEM)
		goto failed;
	r->mem_size = (size_t)st.st_size;
	r->mem = calloc(1, r->mem_size + 1);
	if (!r->mem || read(fd, r->mem, r->mem_size) != (ssize_t)r->mem_size)
		goto failed;
	close(fd);
	return 0;
failed:
	vm_fail(r->err, sizeof(r->err), 0, "'%s' cannot be read as the program's memory: %s", path,
		errno ? strerror(errno) : "no file, or too large");
	if (fd >= 0)
		close(fd);
	return -1;
}

static int run_interp(struct run *r, uint64_t *r0)
{
	struct vm_region mem = {.start = (uintptr_t)r->mem, .size = r->mem_size, .writable = 1};
	struct vm_interp_opts o = {
		.sz = sizeof(o),
		.helper = vm_standalone__call,
		.env = r->s,
		.max_steps = MAX_STEPS,
		.r2 = r->mem_size,
		.features = VM_STANDALONE_FEATURES,
		.check_memory = 1,
		.regions = &mem,
		.n_regions = 1,
		.allowed = vm_standalone__allowed,
	};

	return vm_interpret(r->insns, r->prog->n_insns, r->mem, &o, r0, r->err, sizeof(r->err));
}

/* Native code cannot be asked what it was doing; the process ends with a sentence instead of a core dump. */
static void on_fault(int signal, siginfo_t *info, void *context)
{
	char text[128];
	int n = snprintf(text, sizeof(text),
			 "bpftime: the program reached for memory at %p, which is not its own (--engine interp names "
			 "the instruction)\n",
			 info->si_addr);

	if (write(STDERR_FILENO, text, (size_t)n) < 0)
		_exit(TOOL_FAILED);
	_exit(TOOL_FAILED);
}

static void catch_faults(void)
{
	struct sigaction act = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
	stack_t stack = {.ss_sp = malloc(SIGNAL_STACK), .ss_size = SIGNAL_STACK};

	if (stack.ss_sp)
		sigaltstack(&stack, NULL);
	sigaction(SIGSEGV, &act, NULL);
	sigaction(SIGBUS, &act, NULL);
}

static int run_jit(struct run *r, uint64_t *r0)
{
	struct vm_compile_opts o = {.sz = sizeof(o), .env_calls = 1, .native = 1, .features = VM_STANDALONE_FEATURES};
	struct vm_env env = {.user = r->s};
	uint64_t (*entry)(uint64_t r1, uint64_t r2, struct vm_env * env);
	struct vm_code code;
	void *at;
	int ret;

	o.n_helper_ids = vm_standalone__helpers(&o.helper_ids, &env.helpers);
	ret = vm_compile(r->insns, r->prog->n_insns, &o, &code, r->err, sizeof(r->err));
	if (ret)
		return ret;
	at = mmap(NULL, code.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED)
		ret = vm_fail(r->err, sizeof(r->err), -errno, "no memory for %zu bytes of code", code.size);
	if (!ret) {
		memcpy(at, code.bytes, code.size);
		if (mprotect(at, code.size, PROT_READ | PROT_EXEC))
			ret = vm_fail(r->err, sizeof(r->err), -errno, "code cannot be made executable: %s",
				      strerror(errno));
	}
	if (!ret) {
		entry = (void *)((uint8_t *)at + code.entry);
		catch_faults();
		*r0 = entry((uintptr_t)r->mem, r->mem_size, &env);
		if (env.fault)
			ret = vm_fail(r->err, sizeof(r->err), -EFAULT, "instruction %u: the call cannot be made",
				      env.fault - 1);
	}
	vm_code__clear(&code);
	return ret;
}

static int run_program(struct run *r, const struct tool_args *args, const struct vm_elf *elf, uint64_t *r0)
{
	r->prog = vm_elf__find(elf, args->section, args->program, r->err, sizeof(r->err));
	if (!r->prog)
		return -1;
	r->s = vm_standalone__new(elf);
	if (!r->s)
		return vm_fail(r->err, sizeof(r->err), -ENOMEM, "no memory for the maps");
	r->insns = vm_standalone__bind(r->s, r->prog, r->err, sizeof(r->err));
	if (!r->insns || read_mem(r, args->mem))
		return -1;
	if (args->engine ? !strcmp(args->engine, "interp") : r->prog->n_insns > JIT_INSNS)
		return run_interp(r, r0);
	return run_jit(r, r0);
}

enum tool_exit tool_run(const struct tool_args *args)
{
	struct run r = {0};
	struct vm_elf *elf;
	uint64_t r0 = 0;
	int ret;

	if (args->engine && strcmp(args->engine, "jit") && strcmp(args->engine, "interp")) {
		tool_complain("vm run: there is no engine '%s': jit or interp", args->engine);
		return TOOL_USAGE;
	}
	if (vm_elf__open(args->file, &elf, r.err, sizeof(r.err)))
		return tool_complain("%s", r.err);
	ret = run_program(&r, args, elf, &r0);
	if (ret)
		tool_complain("%s: %s%s%s", args->file, r.prog ? r.prog->name : "", r.prog ? ": " : "", r.err);
	else
		printf("0x%" PRIx64 "\n", r0);
	free(r.insns);
	free(r.mem);
	vm_standalone__free(r.s);
	vm_elf__free(elf);
	return ret ? TOOL_FAILED : TOOL_DONE;
}
