/* SPDX-License-Identifier: MIT */
#include "daemon/guard.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/abi.h"
#include "agent/agent.h"
#include "agent/aside.h"
#include "bpf/carry.h"
#include "daemon/khalf.h"
#include "daemon/mapped.h"
#include "daemon/pins.h"
#include "daemon/procfs.h"
#include "shm-runtime/shm.h"

#define INT3 0xcc

static pid_t guard = -1;
static int guard_fd = -1; /* pidfd */
static int life = -1;	  /* its other end is the guard's: closed when this process ends, however it ends */

/* Groups that userspace does not serve when the daemon died. */
struct stranded {
	uint32_t *group;
	size_t n;
};

static void *map_pin(const char *name, size_t least, size_t *size, uint32_t *map_id)
{
	int fd = pins__get("%s", name);
	void *p = fd < 0 ? NULL : mapped__array(fd, least, size, map_id);

	if (fd >= 0)
		close(fd);
	return p;
}

static bool kgate_is_open(const struct shm_group_hdr *h)
{
	return __atomic_load_n(&h->kgate, __ATOMIC_SEQ_CST) & SHM_KGATE_OPEN;
}

/* First the groups whose truth is in the arena: nobody has to wait for the others' places. */
static void open_gate(const char *name, void *arg)
{
	struct stranded *s = arg;
	struct shm_group_hdr *h;
	uint32_t map_id, *more;
	size_t size;
	unsigned int id;

	if (sscanf(name, PIN_GROUP, &id) != 1 || !strstr(name, "-arena"))
		return;
	h = map_pin(name, sizeof(*h), &size, &map_id);
	if (!h)
		return;
	if (kgate_is_open(h)) {
		carriers__rescue(pins__dir(), map_id);
		if (__atomic_load_n(&h->ugate, __ATOMIC_SEQ_CST) == SHM_UGATE_WAIT)
			__atomic_store_n(&h->ugate, SHM_UGATE_OPEN, __ATOMIC_SEQ_CST);
	} else {
		more = realloc(s->group, (s->n + 1) * sizeof(*more));
		if (more) {
			s->group = more;
			s->group[s->n++] = id;
		}
	}
	mapped__end(h, size);
}

static bool has_stranded_action(const struct agent_site *site, const struct stranded *s)
{
	uint32_t n = site->n_actions < AGENT_MAX_ACTIONS ? site->n_actions : AGENT_MAX_ACTIONS;

	for (uint32_t i = 0; i < n; i++)
		for (size_t k = 0; k < s->n; k++)
			if (site->action[i].fn && site->action[i].group == s->group[k])
				return true;
	return false;
}

/* Ours, not something that was mapped there since. */
static bool is_jump(const struct agent_site *site, int mem)
{
	uint8_t now[sizeof(site->jump)];
	uint32_t size = site->jump_size;

	return size && size <= sizeof(now) && pread(mem, now, size, (off_t)site->site) == (ssize_t)size &&
	       now[0] == site->jump[0] && agent_is_behind(now, site->jump, size);
}

/* As site__close(): the byte, then the flag. The bytes behind it are never executed while the first is the kernel's
 * int3. */
static void close_places(const char *name, void *arg)
{
	const struct stranded *s = arg;
	const uint8_t closed = INT3;
	unsigned long long start;
	struct agent_target *t;
	char path[64];
	size_t size;
	int pid, mem, sites = -1;

	if (!s->n || sscanf(name, PIN_HOST, &pid, &start) != 2 || procfs_start_time(pid) != start)
		return;
	t = map_pin(name, AGENT_ARENA_SIZE, &size, NULL);
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	mem = open(path, O_RDWR | O_CLOEXEC);
	/* The sites themselves have no pin: they are where the target has them. */
	if (t)
		sites = agent_sites__open(pid, t->self);
	for (uint32_t i = 0; sites >= 0 && mem >= 0 && i < t->n_sites && i < AGENT_MAX_SITES; i++) {
		const uint32_t bounce = AGENT_SITE_BOUNCE;
		struct agent_site site;
		off_t at = (off_t)offsetof(struct agent_target, site[i]);

		if (pread(sites, &site, sizeof(site), at) != sizeof(site) || !site.site ||
		    !has_stranded_action(&site, s))
			continue;
		if (is_jump(&site, mem) && pwrite(mem, &closed, 1, (off_t)site.site) != 1)
			continue;
		pwrite(sites, &bounce, sizeof(bounce), at + (off_t)offsetof(struct agent_site, mode));
	}
	if (sites >= 0)
		close(sites);
	if (mem >= 0)
		close(mem);
	mapped__end(t, size);
}

static void send_back(const char *name, void *arg)
{
	uint32_t waits = SHM_UGATE_WAIT;
	struct shm_group_hdr *h;
	size_t size;
	unsigned int id;

	if (sscanf(name, PIN_GROUP, &id) != 1 || !strstr(name, "-arena"))
		return;
	h = map_pin(name, sizeof(*h), &size, NULL);
	if (!h)
		return;
	__atomic_compare_exchange_n(&h->ugate, &waits, SHM_UGATE_KERNEL, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	mapped__end(h, size);
}

static void rescue(void)
{
	struct stranded s = {0};

	pins__each(open_gate, &s);
	pins__each(close_places, &s);
	pins__each(send_back, NULL);
	free(s.group);
}

/* Threads spin at the gates: run before them. */
static void run(int pipe_end, int lock)
{
	const struct sched_param param = {.sched_priority = 1};
	char c;

	setsid();
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	prctl(PR_SET_NAME, "bpftimed-guard");
	sched_setscheduler(0, SCHED_FIFO, &param);
	while (read(pipe_end, &c, 1) < 0 && errno == EINTR)
		;
	rescue();
	close(lock);
	_exit(0);
}

int guard__start(const char *runtime_dir, char *err, size_t err_size)
{
	int pipe_ends[2] = {-1, -1}, lock = open(runtime_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), ret;

	guard__stop(); /* one that has ended */
	if (lock < 0 || flock(lock, LOCK_EX | LOCK_NB) || pipe2(pipe_ends, O_CLOEXEC))
		goto fail;
	guard = fork();
	if (guard < 0)
		goto fail;
	if (!guard) {
		fds_close_but(pipe_ends[0], lock);
		run(pipe_ends[0], lock);
	}
	close(lock);
	close(pipe_ends[0]);
	life = pipe_ends[1];
	guard_fd = pidfd_open(guard, 0);
	return 0;
fail:
	ret = -errno;
	snprintf(err, err_size, "the process that guards targets cannot be started: %s", strerror(-ret));
	for (int i = 0; i < 2; i++)
		if (pipe_ends[i] >= 0)
			close(pipe_ends[i]);
	if (lock >= 0)
		close(lock);
	return ret;
}

int guard__fd(void)
{
	return guard_fd;
}

void guard__stop(void)
{
	if (guard < 0)
		return;
	if (guard_fd >= 0)
		close(guard_fd);
	guard_fd = -1;
	close(life);
	while (waitpid(guard, NULL, 0) < 0 && errno == EINTR)
		;
	guard = -1;
	life = -1;
}
