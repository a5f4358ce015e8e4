/* SPDX-License-Identifier: MIT */
/*
 * workload.c: a program to be probed, which knows how often it called what. It says
 *
 *	pid 4711
 *	function work 0x55d0c0de1340
 *	ready				all threads exist
 *
 * waits for a line on stdin or SIGUSR1, makes its calls, and says
 *
 *	calls 800000
 *	ns 3.1				CPU time per call
 *	thread 4712 work0 100000	tid, name, calls
 *	arg0 3 100000 4949500		value, calls, sum of arg2        (work_name: value is a name)
 *	sum work0 3 12500 618687	thread's name, arg0, calls, sum of arg2
 *	log2 4 5120			arg1: calls with 2^4 <= arg1 < 2^5 (zero: -1)
 *	total 52428000			sum of arg1
 *
 * With --hold it then waits once more before it ends. SIGUSR2 ends calls made at a --rate before their time; all
 *threads have made as many then, too. What the arguments of call i of a thread are is a function of i alone, so the
 *truth is computed afterwards, and the calls themselves stay short.
 */
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define THREADS_MAX 256
#define N_ARG0	    8
#define N_LOG2	    17	/* -1 to 15 */
#define BATCH	    100 /* calls between looks at the clock, with --rate */

typedef long work_fn(long arg0, long arg1, long arg2);

/*
 * The probed functions: they do the same and differ in their first instruction. The kernel emulates `push %rbp`; the
 * other two it executes out of line, step by step.
 */
long work(long arg0, long arg1, long arg2);
long work_name(long arg0, long arg1, long arg2); /* arg0: address of a string */
long work_endbr(long arg0, long arg1, long arg2);
long work_sub(long arg0, long arg1, long arg2);

__asm__(".text\n"
	".macro work_function name:req\n"
	".p2align 4\n"
	".globl \\name\n"
	".type \\name, @function\n"
	".endm\n"
	"work_function work\n"
	"work:\n"
	"	push %rbp\n"
	"	mov %rsp, %rbp\n"
	"	lea (%rsi, %rdx), %rax\n"
	"	pop %rbp\n"
	"	ret\n"
	".size work, . - work\n"
	"work_function work_name\n"
	"work_name:\n"
	"	push %rbp\n"
	"	mov %rsp, %rbp\n"
	"	lea (%rsi, %rdx), %rax\n"
	"	pop %rbp\n"
	"	ret\n"
	".size work_name, . - work_name\n"
	"work_function work_endbr\n"
	"work_endbr:\n"
	"	endbr64\n"
	"	lea (%rsi, %rdx), %rax\n"
	"	nop\n"
	"	ret\n"
	".size work_endbr, . - work_endbr\n"
	"work_function work_sub\n"
	"work_sub:\n"
	"	sub $24, %rsp\n"
	"	lea (%rsi, %rdx), %rax\n"
	"	add $24, %rsp\n"
	"	ret\n"
	".size work_sub, . - work_sub\n");

static const char *const names[N_ARG0] = {
	"ant", "bee", "cat", "dog", "elephant", "fox", "goose", "a rather long name of an animal",
};

static const struct {
	const char *name;
	work_fn *fn;
	bool named; /* arg0 is a string */
} functions[] = {
	{"work", work, false},
	{"work_name", work_name, true},
	{"work_endbr", work_endbr, false},
	{"work_sub", work_sub, false},
};

struct options {
	unsigned long threads, calls, rate;
	bool hold, asks;
	size_t function;
};

struct worker {
	const struct options *options;
	pthread_t thread;
	pid_t tid;
	char name[16];
	double cpu_ns;
};

struct gate {
	pthread_mutex_t lock;
	pthread_cond_t moved;
	unsigned long ready;
	bool open;
	unsigned long reached, limit; /* calls that some thread has begun; where all end */
};

static struct gate gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .moved = PTHREAD_COND_INITIALIZER};

static const char usage[] =
	"Usage: workload [--threads N] [--calls N] [--rate N] [--function NAME] [--getppid] [--hold]\n"
	"  --threads N      threads that call (1)\n"
	"  --calls N        calls of each thread (100000)\n"
	"  --rate N         calls per second of each thread (as many as it can)\n"
	"  --function NAME  work, work_name, work_endbr or work_sub (work)\n"
	"  --getppid        after each call this system call\n"
	"  --hold           wait again before ending\n";

/* ---- what is called with what ---- */

static unsigned long kind_of(unsigned long i)
{
	return i % N_ARG0;
}

/* Spreads over 0 to 65535 with all magnitudes alike. 2654435761 is Knuth's multiplier (The Art of Computer
 * Programming, 6.4). */
static unsigned long value_of(unsigned long i)
{
	uint32_t mixed = (uint32_t)i * 2654435761u;

	return (mixed >> 16) >> ((mixed >> 8) % 17);
}

static unsigned long weight_of(unsigned long i)
{
	return i % 100;
}

static void pause_until(const struct timespec *start, unsigned long calls, unsigned long rate)
{
	struct timespec until = *start;
	uint64_t ns = (uint64_t)until.tv_nsec + (uint64_t)((double)calls / (double)rate * 1e9);

	until.tv_sec += (time_t)(ns / 1000000000u);
	until.tv_nsec = (long)(ns % 1000000000u);
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
		;
}

static volatile sig_atomic_t end_early;

static void on_end_early(int signo)
{
	(void)signo;
	end_early = 1;
}

/* May call i and those of its batch be made? */
static bool may_go_on(unsigned long i)
{
	bool yes;

	pthread_mutex_lock(&gate.lock);
	if (end_early && gate.limit > gate.reached)
		gate.limit = gate.reached;
	yes = i < gate.limit;
	if (yes && gate.reached < i + BATCH)
		gate.reached = i + BATCH;
	pthread_mutex_unlock(&gate.lock);
	return yes;
}

static void make_calls(const struct options *o)
{
	work_fn *volatile pointer = functions[o->function].fn; /* read once: the compiler must not know it */
	work_fn *fn = pointer;
	bool named = functions[o->function].named;
	struct timespec start;

	clock_gettime(CLOCK_MONOTONIC, &start);
	for (unsigned long i = 0; i < o->calls; i++) {
		unsigned long kind = kind_of(i);

		if (o->rate && i % BATCH == 0) {
			pause_until(&start, i, o->rate);
			if (!may_go_on(i))
				break;
		}
		fn(named ? (long)names[kind] : (long)kind, (long)value_of(i), (long)weight_of(i));
		if (o->asks)
			syscall(SYS_getppid);
	}
}

static double thread_cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	double before;

	w->tid = (pid_t)syscall(SYS_gettid);
	pthread_setname_np(pthread_self(), w->name);
	pthread_mutex_lock(&gate.lock);
	gate.ready++;
	pthread_cond_broadcast(&gate.moved);
	while (!gate.open)
		pthread_cond_wait(&gate.moved, &gate.lock);
	pthread_mutex_unlock(&gate.lock);

	before = thread_cpu_ns();
	make_calls(w->options);
	w->cpu_ns = thread_cpu_ns() - before;
	return NULL;
}

/* ---- the truth ---- */

struct truth {
	unsigned long calls[N_ARG0], weight[N_ARG0];
	unsigned long log2[N_LOG2]; /* [0]: zero */
	unsigned long total;
};

/* Of one thread; all are alike. */
static void tell_truth(const struct options *o, struct truth *t)
{
	for (unsigned long i = 0; i < o->calls; i++) {
		unsigned long value = value_of(i), kind = kind_of(i);

		t->calls[kind]++;
		t->weight[kind] += weight_of(i);
		t->log2[value ? 64 - __builtin_clzl(value) : 0]++;
		t->total += value;
	}
}

static void print_kind(const struct options *o, unsigned long kind)
{
	if (functions[o->function].named)
		printf("%s", names[kind]);
	else
		printf("%lu", kind);
}

static void print_truth(const struct options *o, const struct worker *workers)
{
	struct truth t = {0};
	double cpu_ns = 0;

	tell_truth(o, &t);
	for (unsigned long i = 0; i < o->threads; i++)
		cpu_ns += workers[i].cpu_ns;
	printf("calls %lu\n", o->calls * o->threads);
	printf("ns %.2f\n", o->calls ? cpu_ns / (double)(o->calls * o->threads) : 0);
	for (unsigned long i = 0; i < o->threads; i++)
		printf("thread %d %s %lu\n", workers[i].tid, workers[i].name, o->calls);
	for (unsigned long k = 0; k < N_ARG0; k++) {
		printf("arg0 ");
		print_kind(o, k);
		printf(" %lu %lu\n", t.calls[k] * o->threads, t.weight[k] * o->threads);
	}
	for (unsigned long i = 0; i < o->threads; i++) {
		for (unsigned long k = 0; k < N_ARG0; k++) {
			printf("sum %s ", workers[i].name);
			print_kind(o, k);
			printf(" %lu %lu\n", t.calls[k], t.weight[k]);
		}
	}
	for (int i = 0; i < N_LOG2; i++)
		if (t.log2[i])
			printf("log2 %d %lu\n", i - 1, t.log2[i] * o->threads);
	printf("total %lu\n", t.total * o->threads);
	fflush(stdout);
}

/* ---- start ---- */

/* A line on stdin, or SIGUSR1. A closed stdin is no line. */
static void wait_for_go(int signal_fd)
{
	struct pollfd fds[] = {{.fd = signal_fd, .events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}};
	struct signalfd_siginfo si;
	char line[256];

	for (;;) {
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			exit(1);
		if ((fds[0].revents & POLLIN) && read(signal_fd, &si, sizeof(si)) > 0)
			return;
		if (!fds[1].revents)
			continue;
		if (read(STDIN_FILENO, line, sizeof(line)) > 0)
			return;
		fds[1].fd = -1;
	}
}

static unsigned long read_number(const char *word, unsigned long min, unsigned long max)
{
	char *end;
	unsigned long n = strtoul(word, &end, 10);

	if (*word < '0' || *word > '9' || *end || n < min || n > max) {
		fprintf(stderr, "workload: '%s' is not a number from %lu to %lu\n", word, min, max);
		exit(2);
	}
	return n;
}

static size_t find_function(const char *name)
{
	for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++)
		if (strcmp(functions[i].name, name) == 0)
			return i;
	fprintf(stderr, "workload: there is no function '%s'\n", name);
	exit(2);
}

static void read_options(int argc, char **argv, struct options *o)
{
	static const struct option longs[] = {
		{"threads", required_argument, NULL, 't'}, {"calls", required_argument, NULL, 'c'},
		{"rate", required_argument, NULL, 'r'},	   {"function", required_argument, NULL, 'f'},
		{"getppid", no_argument, NULL, 'g'},	   {"hold", no_argument, NULL, 'h'},
		{"help", no_argument, NULL, '?'},	   {0},
	};
	int opt;

	while ((opt = getopt_long(argc, argv, "", longs, NULL)) >= 0) {
		switch (opt) {
		case 't':
			o->threads = read_number(optarg, 1, THREADS_MAX);
			break;
		case 'c':
			o->calls = read_number(optarg, 0, 1ul << 40);
			break;
		case 'r':
			o->rate = read_number(optarg, 1, 1000000000);
			break;
		case 'f':
			o->function = find_function(optarg);
			break;
		case 'g':
			o->asks = true;
			break;
		case 'h':
			o->hold = true;
			break;
		default:
			fputs(usage, stderr);
			exit(2);
		}
	}
	if (optind < argc) {
		fputs(usage, stderr);
		exit(2);
	}
}

int main(int argc, char **argv)
{
	struct options o = {.threads = 1, .calls = 100000};
	static struct worker workers[THREADS_MAX];
	sigset_t set;
	int signal_fd;

	read_options(argc, argv, &o);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGUSR2, on_end_early);
	signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
	if (signal_fd < 0) {
		perror("workload: signalfd");
		return 1;
	}
	for (unsigned long i = 0; i < o.threads; i++) {
		workers[i].options = &o;
		snprintf(workers[i].name, sizeof(workers[i].name), "work%lu", i);
		errno = pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]);
		if (errno) {
			perror("workload: pthread_create");
			return 1;
		}
	}
	pthread_mutex_lock(&gate.lock);
	while (gate.ready < o.threads)
		pthread_cond_wait(&gate.moved, &gate.lock);
	pthread_mutex_unlock(&gate.lock);
	printf("pid %d\nfunction %s %p\nready\n", getpid(), functions[o.function].name,
	       (const void *)(uintptr_t)functions[o.function].fn);
	fflush(stdout);

	wait_for_go(signal_fd);
	pthread_mutex_lock(&gate.lock);
	gate.limit = o.calls;
	gate.open = true;
	pthread_cond_broadcast(&gate.moved);
	pthread_mutex_unlock(&gate.lock);
	for (unsigned long i = 0; i < o.threads; i++)
		pthread_join(workers[i].thread, NULL);
	o.calls = gate.limit;
	print_truth(&o, workers);
	if (o.hold)
		wait_for_go(signal_fd);
	return 0;
}
