// SPDX-License-Identifier: MIT
/*
 * hostile: a target that turns against whoever serves it. Its attackers call work() in two threads; as soon as the
 *agent is in them, they write over everything of it that they may write, each in a way of its own, and mostly die of
 *it.
 *
 * usage: hostile SECONDS [ATTACKERS]	as many attackers at once, one after another (default 3)
 *	  hostile attack NUMBER SECONDS [MARK]
 * At the end: "attacks N" and "served M", how many of them had the agent.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "agent/abi.h"
#include "victim.h"

#define MOST_AREAS 256
#define PAGE	   4096ul
#define MARK_FD	   9
#define AWAIT_MS   1500 /* for the agent */

enum way {
	BYTES,	 /* random bytes everywhere */
	INDEXES, /* small numbers, which may be taken for indexes and lengths */
	BITS,	 /* one bit here and there */
	WORDS,	 /* zeroes and ones in whole words of the first pages */
	MAPPING, /* protections and places of the mappings */
	JUMPS,	 /* into the agent's code, with anything in the registers */
	FAMILY,	 /* children that do the same, execute programs, leave namespaces */
	KILLED,	 /* an end at any moment */
	SERVICE, /* the kernel's service is called with anything that an agent could say, and more */
	N_WAYS
};

struct area {
	uintptr_t start, end;
	bool can_write, can_run, is_map;
};

struct areas {
	struct area area[MOST_AREAS];
	size_t n;
};

/* Everything below is needed to go on, and lies where nobody writes: mapped before the agent came. */
static struct areas before, ours;
static volatile uint64_t seed;
static enum way way;

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* xorshift64*; several threads may spoil it for each other, it is random all the same. */
static uint64_t any(void)
{
	uint64_t x = seed;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	seed = x ? x : 1;
	return x * 0x2545f4914f6cdd1dull;
}

static void areas_read(struct areas *out, const struct areas *but)
{
	static char text[1 << 18];
	size_t size = 0;
	ssize_t n;
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);

	while (fd >= 0 && size < sizeof(text) - 1 && (n = read(fd, text + size, sizeof(text) - 1 - size)) > 0)
		size += (size_t)n;
	if (fd >= 0)
		close(fd);
	text[size] = 0;
	out->n = 0;
	for (char *line = text, *next; (next = strchr(line, '\n')) && out->n < MOST_AREAS; line = next + 1) {
		struct area a = {0};
		char perms[8] = "";
		bool known = false;

		*next = 0;
		if (sscanf(line, "%lx-%lx %7s", &a.start, &a.end, perms) != 3 || strstr(line, "[v") ||
		    strstr(line, "[u"))
			continue;
		a.can_write = perms[1] == 'w';
		a.can_run = perms[2] == 'x';
		a.is_map = strstr(line, "bpf-map") != NULL;
		for (size_t i = 0; but && i < but->n && !known; i++)
			known = a.start < but->area[i].end && but->area[i].start < a.end;
		if (!known)
			out->area[out->n++] = a;
	}
}

/* ---- the descriptors that pass by while the agent is brought ---- */

/* Whoever has the descriptor may map all of it for writing. */
static void steal(void)
{
	char path[64], to[64];

	for (int fd = 3; fd < 16; fd++) {
		ssize_t n;
		struct stat st;
		void *p;

		if (fd == MARK_FD)
			continue;
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		n = readlink(path, to, sizeof(to) - 1);
		if (n <= 0)
			continue;
		to[n] = 0;
		if (!strstr(to, "bpf-map") && !strstr(to, "memfd"))
			continue;
		for (size_t size = fstat(fd, &st) || !st.st_size ? 1ul << 24 : (size_t)st.st_size; size >= PAGE;
		     size /= 2) {
			p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
			if (p != MAP_FAILED)
				break;
		}
		dup(fd);
	}
}

/* ---- the attacks ---- */

static uint64_t word(void)
{
	switch (way) {
	case INDEXES:
		return any() % 20000;
	case WORDS:
		return any() & 1 ? 0 : ~0ull;
	default:
		return any();
	}
}

static void write_over(const struct area *a)
{
	size_t size = a->end - a->start, span = way == WORDS && size > 4 * PAGE ? 4 * PAGE : size;

	for (int i = 0; i < 512; i++) {
		volatile uint64_t *p = (volatile uint64_t *)(a->start + (any() % span & ~7ull));

		if (way == BITS)
			*p ^= 1ull << (any() & 63);
		else
			*p = word();
	}
	if (way == BYTES && !(any() & 15))
		for (uintptr_t at = a->start; at + 8 <= a->end; at += 8)
			*(volatile uint64_t *)at = any();
}

static void remap(const struct area *a)
{
	size_t size = a->end - a->start;
	uintptr_t page = a->start + (any() % size & ~(PAGE - 1));

	switch (any() % 6) {
	case 0:
		munmap((void *)page, PAGE);
		break;
	case 1:
		mprotect((void *)a->start, size, PROT_READ | PROT_WRITE);
		break;
	case 2:
		mprotect((void *)page, PAGE, PROT_NONE);
		break;
	case 3:
		mremap((void *)a->start, size, size, MREMAP_MAYMOVE | MREMAP_FIXED,
		       (void *)(0x10000000ul + (any() & 0xffff000)));
		break;
	case 4:
		mmap((void *)a->start, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		break;
	default:
		madvise((void *)a->start, size, MADV_DONTNEED);
	}
}

static void jump(const struct area *a)
{
	uint64_t to = a->start + any() % (a->end - a->start), r1 = any(), r2 = any() % 64, r3 = any();

	__asm__ volatile("mov %1, %%rdi\n\tmov %2, %%rsi\n\tmov %3, %%rdx\n\tmov %3, %%rcx\n\tmov %2, %%rbx\n\tcall *%0"
			 :
			 : "r"(to), "r"(r1), "r"(r2), "r"(r3)
			 : "rdi", "rsi", "rdx", "rcx", "rbx", "rax", "r8", "r9", "r10", "r11", "memory", "cc");
}

/* A number that may be meant: an operation, an index of a slot, a length, an address of ours or of the kernel's. */
static uint64_t argument(const struct area *a)
{
	switch (any() % 6) {
	case 0:
		return any() % (AGENT_OP_CPU + 3);
	case 1:
		return any() % (2 * (AGENT_MAX_THREADS + AGENT_MAX_SPARES));
	case 2:
		return any() % (2 * AGENT_REPLY_SIZE);
	case 3:
		return a->start + any() % (a->end - a->start);
	case 4:
		return ~0ull << 47 | any();
	default:
		return any();
	}
}

static void call_service(const struct area *image)
{
	const struct agent_image_hdr *hdr = (const void *)image->start;
	void (*service)(uint64_t op, uint64_t slot, uint64_t a, uint64_t b);

	if (!image->can_run || hdr->magic != AGENT_IMAGE_MAGIC)
		return;
	service = (void (*)(uint64_t, uint64_t, uint64_t, uint64_t))(image->start + hdr->service);
	for (int i = 0; i < 256; i++) {
		const struct area *a = &ours.area[any() % ours.n];

		service(any() % (AGENT_OP_CPU + 2), any() & 1 ? any() % AGENT_MAX_THREADS : argument(a), argument(a),
			argument(a));
	}
}

static void family(void)
{
	pid_t child = fork();

	if (!child) {
		way = (enum way)(any() % JUMPS);
		unshare(any() & 1 ? CLONE_NEWUSER : CLONE_FILES | CLONE_FS);
		for (size_t i = 0; i < ours.n; i++)
			if (ours.area[i].can_write)
				write_over(&ours.area[i]);
		for (int i = 0; i < 100; i++)
			work(i);
		if (any() & 1)
			execl("/bin/true", "true", NULL);
		_exit(0);
	}
	if (child > 0) {
		usleep(2000);
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
	}
}

static void *caller(void *arg)
{
	for (;;) {
		for (int i = 0; i < 1000; i++)
			work(i);
		sched_yield();
	}
	return arg;
}

static void attack(const struct area *a)
{
	if (way == MAPPING) {
		remap(a);
		return;
	}
	if (way == SERVICE) {
		call_service(a);
		return;
	}
	if (way == JUMPS && a->can_run && !(any() & 63))
		jump(a);
	/* What may not be written may perhaps be made so. */
	if (!a->can_write &&
	    !mprotect((void *)a->start, a->end - a->start, PROT_READ | PROT_WRITE | (a->can_run ? PROT_EXEC : 0)) &&
	    !a->can_run)
		write_over(a);
	if (a->can_write)
		write_over(a);
}

static bool is_served(void)
{
	for (size_t i = 0; i < ours.n; i++)
		if (ours.area[i].is_map)
			return true;
	return false;
}

static int be_attacker(uint64_t number, double seconds)
{
	uint64_t end = now_ms() + (uint64_t)(seconds * 1000), wait_end = now_ms() + AWAIT_MS;
	pthread_t thread;

	seed = (number + 1) * 0x9e3779b97f4a7c15ull;
	way = (enum way)(number % N_WAYS);
	for (int i = 0; i < 2; i++)
		if (pthread_create(&thread, NULL, caller, NULL))
			return 2;
	areas_read(&before, NULL);
	do {
		for (int i = 0; number & 1 && i < 2000; i++)
			steal();
		areas_read(&ours, &before);
		if (!(number & 1))
			usleep(1000);
	} while (!is_served() && now_ms() < wait_end);
	if (!is_served())
		return 0;
	if (write(MARK_FD, "x", 1) != 1)
		return 2;
	if (way == KILLED)
		usleep((unsigned int)(any() % 20000));
	while (now_ms() < end) {
		for (size_t i = 0; i < ours.n; i++)
			attack(&ours.area[i]);
		if (way == FAMILY)
			family();
		if (way == KILLED && !(any() & 255))
			raise(SIGKILL);
		if (!(any() & 31)) {
			areas_read(&ours, &before);
			usleep(100);
		}
	}
	return 0;
}

/* ---- one after another ---- */

static pid_t send_attacker(uint64_t number, int mark)
{
	pid_t pid = fork();
	char text[32];

	if (pid)
		return pid;
	dup2(mark, MARK_FD);
	snprintf(text, sizeof(text), "%lu", (unsigned long)number);
	execl("/proc/self/exe", "hostile", "attack", text, "1.5", NULL);
	_exit(127);
}

int main(int argc, char **argv)
{
	uint64_t end, n = 0, served = 0;
	int most = argc > 2 ? atoi(argv[2]) : 3, alive = 0, mark[2];
	char marks[256];
	ssize_t got;

	if (argc > 3 && !strcmp(argv[1], "attack"))
		return be_attacker(strtoull(argv[2], NULL, 10), atof(argv[3]));
	if (argc < 2 || pipe2(mark, O_CLOEXEC) || fcntl(mark[0], F_SETFL, O_NONBLOCK))
		return 2;
	ready_and_wait();
	end = now_ms() + (uint64_t)(atof(argv[1]) * 1000);
	while (alive || now_ms() < end) {
		int status;

		while (alive < most && now_ms() < end && send_attacker(n, mark[1]) > 0) {
			alive++;
			n++;
		}
		if (alive && wait(&status) > 0)
			alive--;
		while ((got = read(mark[0], marks, sizeof(marks))) > 0)
			served += (uint64_t)got;
	}
	printf("attacks %lu\nserved %lu\n", (unsigned long)n, (unsigned long)served);
	return 0;
}
