/* SPDX-License-Identifier: MIT */
/*
 * worker.h: compile in a process of its own without privileges, so that no LLVM is mapped in the daemon and a compiler
 * that crashes or hangs harms nobody.
 */
#ifndef BPFTIME_VM_WORKER_H
#define BPFTIME_VM_WORKER_H

#include "vm.h"

struct vm_worker;

/*
 * Prepares a worker that will run the executable at path (started at the first job, again after a crash) with this
 * environment, which the caller keeps; NULL: with an empty one.
 */
struct vm_worker *vm_worker__new(const char *path, char **envp);
void vm_worker__free(struct vm_worker *w);

/*
 * As vm_compile(), but in the worker; at most timeout_ms, else the worker is killed and -ETIMEDOUT returned. -EPIPE
 * when it crashed; the next call starts another.
 */
int vm_worker__compile(struct vm_worker *w, const struct bpf_insn *insns, size_t n_insns,
		       const struct vm_compile_opts *opts, int timeout_ms, struct vm_code *out, char *err,
		       size_t err_size);

/* The body of the worker executable: serves requests on fd until it is closed; drops all rights first. */
int vm_worker_main(int fd);

#endif
