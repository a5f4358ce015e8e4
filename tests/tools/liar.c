/* SPDX-License-Identifier: MIT */
/*
 * liar.c: a tool that lies about its programs: while BPF_PROG_LOAD runs a thread rewrites the instructions, so that who
 * looks at them before the kernel does may see others than those that it verifies. Each of PROGRAMS counts in a map of
 * its own, by steps of STEP_A or STEP_B.
 *
 *	liar BINARY OFFSET PID
 *
 * Says "ready". At a SIGINT it prints for each program "step S counted N", the step that the kernel verified.
 */
#include <bpf/bpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PROGRAMS 6 /* no more than 8 are served at one instruction */
#define STEP_A	 3
#define STEP_B	 1000
#define STEP_AT	 9 /* index of the instruction that has the step */

#define INSN(c, d, s, o, i)                                                                                            \
	(struct bpf_insn)                                                                                              \
	{                                                                                                              \
		.code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i)                                    \
	}

static struct bpf_insn insns[] = {
	INSN(BPF_ST | BPF_MEM | BPF_W, 10, 0, -4, 0),
	INSN(BPF_ALU64 | BPF_MOV | BPF_X, 2, 10, 0, 0),
	INSN(BPF_ALU64 | BPF_ADD | BPF_K, 2, 0, 0, -4),
	INSN(BPF_LD | BPF_IMM | BPF_DW, 1, BPF_PSEUDO_MAP_FD, 0, 0), /* the map */
	INSN(0, 0, 0, 0, 0),
	INSN(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_map_lookup_elem),
	INSN(BPF_JMP | BPF_JNE | BPF_K, 0, 0, 2, 0),
	INSN(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0),
	INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
	INSN(BPF_ALU64 | BPF_MOV | BPF_K, 1, 0, 0, STEP_A),
	INSN(BPF_STX | BPF_ATOMIC | BPF_DW, 0, 1, 0, BPF_ADD),
	INSN(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0),
	INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
};

enum { MAP_AT = 3, N_INSNS = sizeof(insns) / sizeof(insns[0]) };

static bool lies;

static void *lie(void *unused)
{
	volatile int *step = &insns[STEP_AT].imm;

	while (__atomic_load_n(&lies, __ATOMIC_RELAXED))
		*step = *step == STEP_A ? STEP_B : STEP_A;
	return unused;
}

/* What the kernel has: no other instruction gives r1 a constant. */
static int step_of(int prog)
{
	struct bpf_insn xlated[64] = {0};
	struct bpf_prog_info info = {.xlated_prog_insns = (uintptr_t)xlated, .xlated_prog_len = sizeof(xlated)};
	uint32_t len = sizeof(info);

	if (bpf_obj_get_info_by_fd(prog, &info, &len))
		return -1;
	for (size_t i = 0; i < sizeof(xlated) / sizeof(xlated[0]); i++)
		if (xlated[i].code == (BPF_ALU64 | BPF_MOV | BPF_K) && xlated[i].dst_reg == 1)
			return xlated[i].imm;
	return -1;
}

static int attach(int prog, const char *binary, uint64_t offset, pid_t pid)
{
	struct perf_event_attr attr = {
		.size = sizeof(attr), .config1 = (uintptr_t)binary, .config2 = offset, .sample_period = 1};
	FILE *f = fopen("/sys/bus/event_source/devices/uprobe/type", "re");
	int fd = -1;

	if (f && fscanf(f, "%u", &attr.type) == 1)
		fd = (int)syscall(SYS_perf_event_open, &attr, pid, -1, -1, PERF_FLAG_FD_CLOEXEC);
	if (f)
		fclose(f);
	if (fd < 0 || ioctl(fd, PERF_EVENT_IOC_SET_BPF, prog) || ioctl(fd, PERF_EVENT_IOC_ENABLE, 0))
		return -1;
	return fd;
}

int main(int argc, char **argv)
{
	int map[PROGRAMS], prog[PROGRAMS], sig;
	uint32_t key = 0;
	pthread_t liar;
	sigset_t ends;

	if (argc != 4)
		return 2;
	sigemptyset(&ends);
	sigaddset(&ends, SIGINT);
	sigprocmask(SIG_BLOCK, &ends, NULL);
	for (int i = 0; i < PROGRAMS; i++) {
		map[i] = bpf_map_create(BPF_MAP_TYPE_ARRAY, "lied", sizeof(key), sizeof(uint64_t), 1, NULL);
		insns[MAP_AT].imm = map[i];
		lies = true;
		if (pthread_create(&liar, NULL, lie, NULL))
			return 1;
		usleep(1000);
		prog[i] = bpf_prog_load(BPF_PROG_TYPE_KPROBE, "liar", "GPL", insns, N_INSNS, NULL);
		__atomic_store_n(&lies, false, __ATOMIC_RELAXED);
		pthread_join(liar, NULL);
		if (prog[i] < 0 || attach(prog[i], argv[1], strtoull(argv[2], NULL, 0), atoi(argv[3])) < 0) {
			perror("liar");
			return 1;
		}
	}
	puts("ready");
	fflush(stdout);
	sigwait(&ends, &sig);
	for (int i = 0; i < PROGRAMS; i++) {
		uint64_t n = 0;

		bpf_map_lookup_elem(map[i], &key, &n);
		printf("step %d counted %llu\n", step_of(prog[i]), (unsigned long long)n);
	}
	return 0;
}
