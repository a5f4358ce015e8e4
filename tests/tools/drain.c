/* SPDX-License-Identifier: MIT */
/*
 * drain.c: a tool that takes its results out of memory all the time, in the ways in which a program may. What is lost
 * or seen twice while somebody else moves that memory is missing in its answer, or too much.
 *
 *	drain WAY BINARY:FUNCTION
 *
 *	alone		its only thread drains
 *	threads		so do three more
 *	child		so does a child, which has inherited the memory
 *	late		so does a child that is made a second later
 *	detach		it drains only at the end, when it has detached
 *	again		it maps the memory a second time after two seconds, and drains both after three
 *	wait		it does not drain, and after two seconds begins a write to a full pipe that nobody reads
 *
 * Prints "count N" and "sum N" when it gets a SIGINT.
 */
#include <bpf/bpf.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "examples/probe_tool.h"
#include "tests/tools/drain.skel.h"

#define INTERVAL_NS  300000
#define MORE_THREADS 3
#define PAGE	     4096

struct total {
	unsigned long long count, sum;
};

static volatile sig_atomic_t over;
static struct total *total; /* shared with children */

static void on_int(int sig)
{
	over = sig;
}

static void drain(struct drain_bpf__bss *from)
{
	__atomic_fetch_add(&total->count, __atomic_exchange_n(&from->count, 0, __ATOMIC_SEQ_CST), __ATOMIC_SEQ_CST);
	__atomic_fetch_add(&total->sum, __atomic_exchange_n(&from->sum, 0, __ATOMIC_SEQ_CST), __ATOMIC_SEQ_CST);
}

static void *drain_on(void *from)
{
	const struct timespec nap = {.tv_nsec = INTERVAL_NS};

	while (!over) {
		drain(from);
		nanosleep(&nap, NULL);
	}
	return NULL;
}

static double seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static pid_t start_child(struct drain_bpf__bss *from)
{
	pid_t child = fork();

	if (child)
		return child;
	drain_on(from);
	_exit(0);
}

/* A write that has begun and cannot end: interrupted it would come back short. */
static void sit_in_write(void)
{
	static char data[2 << 20];
	int ends[2];

	if (pipe(ends))
		return;
	if (write(ends[1], data, sizeof(data)) == sizeof(data))
		puts("the pipe is deeper than thought");
}

static void run(const char *way, struct drain_bpf *skel)
{
	const struct timespec nap = {.tv_nsec = INTERVAL_NS};
	struct drain_bpf__bss *second = NULL;
	pthread_t thread[MORE_THREADS];
	double begin = seconds();
	pid_t child = -1;

	if (!strcmp(way, "wait")) {
		sleep(2);
		sit_in_write();
	}
	for (int i = 0; i < MORE_THREADS && !strcmp(way, "threads"); i++)
		pthread_create(&thread[i], NULL, drain_on, skel->bss);
	if (!strcmp(way, "child"))
		child = start_child(skel->bss);
	while (!over) {
		if (strcmp(way, "detach") && strcmp(way, "wait"))
			drain(skel->bss);
		if (second && seconds() > begin + 3)
			drain(second);
		nanosleep(&nap, NULL);
		if (!strcmp(way, "late") && child < 0 && seconds() > begin + 1)
			child = start_child(skel->bss);
		if (!strcmp(way, "again") && !second && seconds() > begin + 2)
			second = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, bpf_map__fd(skel->maps.bss), 0);
	}
	for (int i = 0; i < MORE_THREADS && !strcmp(way, "threads"); i++)
		pthread_join(thread[i], NULL);
	if (child > 0) {
		kill(child, SIGINT);
		waitpid(child, NULL, 0);
	}
	if (!strcmp(way, "detach")) {
		bpf_link__destroy(skel->links.on_entry);
		bpf_link__destroy(skel->links.on_return);
		skel->links.on_entry = skel->links.on_return = NULL;
		sleep(1);
	}
	drain(skel->bss);
	if (second)
		drain(second);
}

/* With sanitizers the search for leaks at the end traces the process, which bpftimed may be holding at that moment. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "detect_leaks=0";
}

int main(int argc, char **argv)
{
	struct sigaction sa = {.sa_handler = on_int};
	struct drain_bpf *skel;
	struct probe_tool tool;
	sigset_t set;

	if (argc != 3)
		return 2;
	total = mmap(NULL, sizeof(*total), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	probe_tool__read(&tool, 2, (char *[]){argv[0], argv[2], NULL});
	skel = drain_bpf__open_and_load();
	if (!skel || total == MAP_FAILED) {
		perror("drain");
		return 1;
	}
	sigaction(SIGINT, &sa, NULL);
	sigfillset(&set);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	skel->links.on_return = probe_tool__attach(&tool, skel->progs.on_return, true);
	skel->links.on_entry = probe_tool__attach(&tool, skel->progs.on_entry, false);
	if (!skel->links.on_return || !skel->links.on_entry)
		return 1;
	puts("ready");
	fflush(stdout);
	run(argv[1], skel);
	printf("count %llu\nsum %llu\n", total->count, total->sum);
	drain_bpf__destroy(skel);
	return 0;
}
