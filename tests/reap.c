/* SPDX-License-Identifier: MIT */
/*
 * reap.c: runs a command and, when it has ended, ends every process that it left behind: reap COMMAND [ARGUMENT...]
 *
 * Orphans come to this process, because it is their subreaper; so whatever a test forgot is a child of it by then. Each
 * gets SIGTERM, time to hand things back, then SIGKILL. The exit code is the command's. A command that takes longer
 * than REAP_SECONDS is ended likewise, after its processes were described; the exit code is 124 then.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_MS 10000
#define LOOK_MS	    20

/* Calls fn for each child of a process; returns how many there are. */
static int each_child_of(pid_t parent, void (*fn)(pid_t pid, int arg), int arg)
{
	char path[64];
	FILE *f;
	int n = 0;
	pid_t pid;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", parent, parent);
	f = fopen(path, "re");
	while (f && fscanf(f, "%d", &pid) == 1) {
		n++;
		if (fn)
			fn(pid, arg);
	}
	if (f)
		fclose(f);
	return n;
}

static int each_child(void (*fn)(pid_t pid, int arg), int arg)
{
	return each_child_of(getpid(), fn, arg);
}

static void tell(pid_t pid, int arg)
{
	char path[64], comm[32] = "?";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	f = fopen(path, "re");
	if (f && fgets(comm, sizeof(comm), f))
		comm[strcspn(comm, "\n")] = 0;
	if (f)
		fclose(f);
	fprintf(stderr, "# left behind, ended now: process %d (%s)\n", pid, comm);
}

/* What a process and those below it wait for. */
static void describe(pid_t pid, int depth)
{
	static const char *const files[] = {"comm", "wchan", "syscall", "stack"};
	char path[64], line[256];

	fprintf(stderr, "# %*sprocess %d\n", depth * 2, "", pid);
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		FILE *f;

		snprintf(path, sizeof(path), "/proc/%d/%s", pid, files[i]);
		f = fopen(path, "re");
		while (f && fgets(line, sizeof(line), f)) {
			line[strcspn(line, "\n")] = 0;
			fprintf(stderr, "# %*s  %s: %s\n", depth * 2, "", files[i], line);
		}
		if (f)
			fclose(f);
	}
	each_child_of(pid, describe, depth + 1);
}

static void send_signal(pid_t pid, int signo)
{
	kill(pid, signo);
}

static void nap(void)
{
	nanosleep(&(struct timespec){.tv_nsec = LOOK_MS * 1000000L}, NULL);
}

/* Children of children come to us when their parent ends, so ask again until there are none. */
static void end_the_rest(void)
{
	int told = 0;

	for (int ms = 0;; ms += LOOK_MS) {
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		if (each_child(NULL, 0) == 0)
			return;
		if (!told++)
			each_child(tell, 0);
		each_child(send_signal, ms < PATIENCE_MS ? SIGTERM : SIGKILL);
		nap();
	}
}

static volatile sig_atomic_t asked_to_end;

static void on_signal(int signo)
{
	asked_to_end = signo;
}

int main(int argc, char **argv)
{
	struct sigaction on_end = {.sa_handler = on_signal};
	int status = 0;
	pid_t pid;

	if (argc < 2) {
		fputs("Usage: reap COMMAND [ARGUMENT...]\n", stderr);
		return 2;
	}
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	pid = fork();
	if (pid == 0) {
		execvp(argv[1], argv + 1);
		perror(argv[1]);
		_exit(127);
	}
	sigaction(SIGTERM, &on_end, NULL);
	sigaction(SIGINT, &on_end, NULL);
	sigaction(SIGALRM, &on_end, NULL);
	alarm(getenv("REAP_SECONDS") ? (unsigned int)atoi(getenv("REAP_SECONDS")) : 0);
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR && !asked_to_end)
		;
	if (asked_to_end == SIGALRM) {
		fputs("# it takes too long and is ended now:\n", stderr);
		each_child(describe, 0);
	}
	end_the_rest();
	if (asked_to_end == SIGALRM)
		return 124;
	if (asked_to_end)
		return 128 + asked_to_end;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
