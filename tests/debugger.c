// SPDX-License-Identifier: MIT
/*
 * debugger: holds a thread at an instruction.
 *
 * usage: debugger PID ADDRESS
 * Stops the latest thread of the process, steps it to the address, prints "held TID"; on a line on stdin it lets go.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>

#define MAX_STEPS 1000000

static pid_t latest_thread(const char *pid)
{
	char path[64];
	pid_t tid = 0;
	struct dirent *e;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%s/task", pid);
	d = opendir(path);
	while (d && (e = readdir(d)))
		if (atoi(e->d_name) > tid)
			tid = atoi(e->d_name);
	if (d)
		closedir(d);
	return tid;
}

int main(int argc, char **argv)
{
	struct user_regs_struct regs = {0};
	uint64_t address;
	char line[16];
	int status;
	pid_t tid;

	if (argc != 3) {
		fprintf(stderr, "usage: debugger PID ADDRESS\n");
		return 2;
	}
	tid = latest_thread(argv[1]);
	address = strtoull(argv[2], NULL, 0);
	if (!tid || ptrace(PTRACE_ATTACH, tid, NULL, NULL) || waitpid(tid, &status, __WALL) != tid) {
		perror("debugger: attaching");
		return 1;
	}
	for (int i = 0; i < MAX_STEPS && regs.rip != address; i++)
		if (ptrace(PTRACE_SINGLESTEP, tid, NULL, NULL) || waitpid(tid, &status, __WALL) != tid ||
		    !WIFSTOPPED(status) || ptrace(PTRACE_GETREGS, tid, NULL, &regs)) {
			perror("debugger: stepping");
			return 1;
		}
	if (regs.rip != address) {
		fprintf(stderr, "debugger: the thread does not come to %#lx\n", address);
		return 1;
	}
	printf("held %d\n", tid);
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		return 1;
	return ptrace(PTRACE_DETACH, tid, NULL, NULL) ? 1 : 0;
}
