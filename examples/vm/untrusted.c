// SPDX-License-Identifier: MIT
/*
 * untrusted.c: runs an eBPF program from anybody on a message: interpreted, because nobody has verified it. It reaches
 * the message and its own stack, makes a million steps at most, and whatever it does is told in one sentence.
 *
 *	cc untrusted.c $(pkg-config --cflags --libs bpftime-vm)
 *	./a.out MESSAGE < program        (instructions of 8 bytes each, as in a section of an object file)
 */
#include <bpftime-vm.h>

#include <stdio.h>
#include <string.h>

#define MAX_INSNS 4096
#define MAX_STEPS 1000000

int main(int argc, char **argv)
{
	static struct bpf_insn insns[MAX_INSNS];
	size_t n = fread(insns, sizeof(insns[0]), MAX_INSNS, stdin);
	const struct bpftime_vm_run_opts opts = {.sz = sizeof(opts), .max_steps = MAX_STEPS};
	char message[256] = "", err[256];
	struct bpftime_vm *vm = NULL;
	uint64_t r0;
	int r;

	if (argc > 1)
		strncpy(message, argv[1], sizeof(message) - 1);
	r = bpftime_vm__new(&vm, insns, n, NULL, err, sizeof(err));
	if (!r)
		r = bpftime_vm__interpret(vm, message, strlen(message), &opts, &r0, err, sizeof(err));
	bpftime_vm__free(vm);
	if (r) {
		printf("refused: %s\n", err);
		return 1;
	}
	printf("%llu: %s\n", (unsigned long long)r0, message);
	return 0;
}
