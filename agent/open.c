// SPDX-License-Identifier: MIT
/* open.c: may this process be touched at all? */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "pid_ns.h"
#include "target.h"

/* Field of /proc/PID/stat, see proc(5). */
#define STAT_START_BRK 47
/* AT_HWCAP2 bit: the kernel lets user code use rdfsbase (arch/x86/include/uapi/asm/hwcap2.h). */
#define HWCAP2_HAS_FSGSBASE (1u << 1)
#define MAX_VDSO	    (64u << 10)
#define INITIAL_TIME_NS	    "time:[4026531834]" /* PROC_TIME_INIT_INO, include/linux/proc_ns.h */

int target_read(const struct target *t, uint64_t addr, void *buf, size_t size)
{
	ssize_t n = pread(t->mem, buf, size, (off_t)addr);

	if (n == (ssize_t)size)
		return 0;
	return n < 0 ? -errno : -ESRCH;
}

int target_write(const struct target *t, uint64_t addr, const void *buf, size_t size)
{
	ssize_t n = pwrite(t->mem, buf, size, (off_t)addr);
	int err = n < 0 ? -errno : -ESRCH;
	uint8_t there;

	if (n == (ssize_t)size)
		return 0;
	/* Nothing may be there; or something that this kernel lets a tracer only write. */
	return err == -EIO && !target_read(t, addr, &there, 1) ? tracer_write(t, addr, buf, size) : err;
}

/* The vdso's clock is good when it needs no system call and the target lives in the time that the kernel's programs
 * see. */
static bool clock_is_readable(pid_t pid)
{
	char theirs[64] = "", path[64], source[32] = "";
	FILE *f = fopen("/sys/devices/system/clocksource/clocksource0/current_clocksource", "re");

	if (f) {
		if (!fgets(source, sizeof(source), f))
			source[0] = 0;
		fclose(f);
	}
	if (strcmp(source, "tsc\n"))
		return false;
	snprintf(path, sizeof(path), "/proc/%d/ns/time", pid);
	if (readlink(path, theirs, sizeof(theirs) - 1) < 0)
		return errno == ENOENT; /* a kernel without time namespaces */
	return !strcmp(INITIAL_TIME_NS, theirs);
}

/* Strict seccomp (mode 1) also takes the time stamp counter away, from the thread that asked for it. */
static bool some_thread_is_strict(pid_t pid)
{
	char mode[16];
	bool strict = false;
	pid_t *tids;
	int n = proc_threads(pid, &tids);

	for (int i = 0; i < n; i++)
		strict |= !proc_status(tids[i], "Seccomp", mode, sizeof(mode)) && atoi(mode) == 1;
	if (n >= 0)
		free(tids);
	return strict;
}

static int find_vdso(struct target *t, struct agent_error *err)
{
	static const uint8_t syscall_insn[] = {0x0f, 0x05};
	struct vmas maps;
	uint8_t *image;
	int rc = proc_maps(t->pid, &maps);

	if (rc)
		return agent_fail(err, rc, "the memory map of process %d cannot be read: %s", t->pid, strerror(-rc));
	for (size_t i = 0; i < maps.n; i++) {
		if (strcmp(maps.v[i].path, "[vdso]"))
			continue;
		t->vdso = maps.v[i].start;
		t->vdso_size = maps.v[i].end - maps.v[i].start;
	}
	vmas_clear(&maps);
	if (!t->vdso || t->vdso_size > MAX_VDSO)
		return agent_fail(err, -EOPNOTSUPP, "process %d has no vdso", t->pid);
	image = malloc(t->vdso_size);
	if (!image)
		return -ENOMEM;
	rc = target_read(t, t->vdso, image, t->vdso_size);
	if (!rc) {
		uint8_t *at = memmem(image, t->vdso_size, syscall_insn, sizeof(syscall_insn));
		uint64_t clock = elf_mapped_symbol(image, t->vdso_size, "__vdso_clock_gettime");

		if (at)
			t->syscall_insn = t->vdso + (at - image);
		if (clock && clock_is_readable(t->pid) && !some_thread_is_strict(t->pid))
			t->vdso_gettime = t->vdso + clock;
	}
	free(image);
	if (rc || !t->syscall_insn)
		return agent_fail(err, rc ? rc : -EOPNOTSUPP, "the vdso of process %d cannot be used", t->pid);
	return 0;
}

static int check_process(pid_t pid, struct agent_error *err)
{
	char value[128], exe[64], state;
	unsigned char ident[EI_NIDENT + 4] = {0};
	int fd;

	if (!(getauxval(AT_HWCAP2) & HWCAP2_HAS_FSGSBASE))
		return agent_fail(err, -EOPNOTSUPP, "this CPU or kernel does not let programs read their fs base");
	if (proc_status(pid, "Tgid", value, sizeof(value)))
		return agent_fail(err, -ESRCH, "process %d does not exist", pid);
	if (atoi(value) != pid)
		return agent_fail(err, -ESRCH, "%d is a thread of process %d, not a process", pid, atoi(value));
	if (pid == getpid())
		return agent_fail(err, -EPERM, "process %d is bpftimed itself", pid);
	if (!proc_status(pid, "Kthread", value, sizeof(value)) && atoi(value))
		return agent_fail(err, -EOPNOTSUPP, "process %d is a kernel thread", pid);
	if (!proc_status(pid, "TracerPid", value, sizeof(value)) && atoi(value))
		return agent_fail(err, -EPERM, "process %d is traced by process %d", pid, atoi(value));
	if (!proc_status(pid, "x86_Thread_features", value, sizeof(value)) && strstr(value, "shstk"))
		return agent_fail(err, -EOPNOTSUPP, "process %d uses a shadow stack", pid);
	state = proc_task_state(pid, pid);
	if (state == 'T' || state == 't')
		return agent_fail(err, -EPERM, "process %d is stopped", pid);
	if (state == 'Z' || state == 'X' || !state)
		return agent_fail(err, -ESRCH, "the main thread of process %d has ended", pid);
	snprintf(exe, sizeof(exe), "/proc/%d/exe", pid);
	fd = open(exe, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return agent_fail(err, -EOPNOTSUPP, "the executable of process %d cannot be opened: %s", pid,
				  strerror(errno));
	if (read(fd, ident, sizeof(ident)) != (ssize_t)sizeof(ident) || memcmp(ident, ELFMAG, SELFMAG) ||
	    ident[EI_CLASS] != ELFCLASS64 || ident[EI_NIDENT + 2] != EM_X86_64) {
		close(fd);
		return agent_fail(err, -EOPNOTSUPP, "process %d is not a 64-bit x86 program", pid);
	}
	close(fd);
	if (elf_is_go(exe))
		return agent_fail(err, -EOPNOTSUPP, "process %d is a Go program, whose stacks move", pid);
	return 0;
}

int target__open(pid_t pid, struct target **out, struct agent_error *err)
{
	int rc = check_process(pid, err);

	return rc ? rc : target_open_unchecked(pid, out, err);
}

int target_open_unchecked(pid_t pid, struct target **out, struct agent_error *err)
{
	struct target *t;
	char path[64];
	int rc;

	t = calloc(1, sizeof(*t));
	if (!t)
		return agent_fail(err, -ENOMEM, "out of memory");
	t->pid = pid;
	t->mem = -1;
	t->tgid = pid_ns__initial(pid);
	if (!t->tgid) {
		rc = agent_fail(err, -EOPNOTSUPP, "the initial PID namespace's number of process %d cannot be told",
				pid);
		goto err_free;
	}
	t->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (t->pidfd < 0) {
		rc = agent_fail(err, -errno, "process %d ended", pid);
		goto err_free;
	}
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	t->mem = open(path, O_RDWR | O_CLOEXEC);
	if (t->mem < 0) {
		rc = agent_fail(err, -errno, "the memory of process %d cannot be opened: %s", pid, strerror(errno));
		goto err_free;
	}
	rc = find_vdso(t, err);
	if (rc)
		goto err_free;
	proc_stat_field(pid, STAT_START_BRK, &t->start_brk);
	threads_prepare(t);
	*out = t;
	return 0;
err_free:
	target__free(t);
	return rc;
}

pid_t target__pid(const struct target *t)
{
	return t->pid;
}

bool target__alive(const struct target *t)
{
	struct pollfd p = {.fd = t->pidfd, .events = POLLIN};
	uint8_t byte;

	return poll(&p, 1, 0) == 0 && !target_read(t, t->vdso, &byte, 1);
}

void target__free(struct target *t)
{
	if (!t)
		return;
	tracer_end(t);
	threads_end(t);
	if (t->mem >= 0)
		close(t->mem);
	if (t->pidfd >= 0)
		close(t->pidfd);
	free(t);
}

uint64_t target__arena_addr(const struct target *t)
{
	return t->arena;
}

uint64_t target__fork_page(const struct target *t)
{
	return t->fork_page;
}

uint64_t target__service_addr(const struct target *t)
{
	return t->image + t->image_hdr.service;
}

bool target__is_agent_code(const struct target *t, uint64_t address)
{
	return t->image && address >= t->image && address < t->image + AGENT_IMAGE_SIZE;
}

uint64_t target__vdso_gettime(const struct target *t)
{
	return t->vdso_gettime;
}
