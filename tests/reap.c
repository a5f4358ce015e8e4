/* SPDX-License-Identifier: MIT */
/*
 * reap.c: runs a command and, when it has ended, ends every process that it left behind: reap COMMAND [ARGUMENT...]
 *
 * Orphans come to this process, because it is their subreaper; so whatever a test forgot is a child of it by then. Each
 * gets SIGTERM, time to hand things back, then SIGKILL. The exit code is the command's.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_MS 10000
#define LOOK_MS	    20

/* Calls fn for each child of this process; returns how many there are. */
static int each_child(void (*fn)(pid_t pid, int arg), int arg)
{
	FILE *f = fopen("/proc/thread-self/children", "re");
	int n = 0;
	pid_t pid;

	while (f && fscanf(f, "%d", &pid) == 1) {
		n++;
		if (fn)
			fn(pid, arg);
	}
	if (f)
		fclose(f);
	return n;
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
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR && !asked_to_end)
		;
	end_the_rest();
	if (asked_to_end)
		return 128 + asked_to_end;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
