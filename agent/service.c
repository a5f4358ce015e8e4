// SPDX-License-Identifier: MIT
/* service.c: loads and attaches bpf/service.bpf.c. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bpf/service.skel.h"

#include "aside.h"
#include "service.h"
#include "target.h"

#define N_LINKS 5

struct agent_service {
	struct service_bpf *skel;   /* NULL: another daemon has loaded it */
	int arenas_fd, children_fd; /* its maps */
	bool is_anothers;	    /* what is pinned stays so */
	struct bpf_link *link[N_LINKS];
	int n_changing; /* threads that still wait */
};

static const char *const map_pin[] = {"service-arenas", "service-children"};

static struct bpf_program *tracepoint(const struct service_bpf *skel, int i)
{
	struct bpf_program *const progs[N_LINKS - 1] = {skel->progs.newtask, skel->progs.process_exec,
							skel->progs.process_exit, skel->progs.rename};

	return progs[i];
}

static int attach(struct agent_service *s, const struct agent_image *img, struct agent_error *err)
{
	char path[64];

	for (int i = 0; i < N_LINKS; i++) {
		if (i < N_LINKS - 1) {
			s->link[i] = bpf_program__attach(tracepoint(s->skel, i));
		} else {
			snprintf(path, sizeof(path), "/proc/%d/fd/%d", getpid(), agent_image__fd(img));
			s->link[i] = bpf_program__attach_uprobe(s->skel->progs.service, false, -1, path,
								agent_image__service_offset(img));
		}
		if (!s->link[i])
			return agent_fail(err, -errno, "the agent's service program %d cannot be attached: %s", i,
					  strerror(errno));
	}
	return 0;
}

int agent_service__pin(struct agent_service *s, const char *dir, struct agent_error *err)
{
	char path[256];

	for (int i = 0; i < N_LINKS; i++) {
		snprintf(path, sizeof(path), "%s/service-%d", dir, i);
		unlink(path);
		if (bpf_link__pin(s->link[i], path))
			return agent_fail(err, -errno, "%s cannot be pinned: %s", path, strerror(errno));
	}
	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, map_pin[i]);
		unlink(path);
		if (bpf_obj_pin(i ? s->children_fd : s->arenas_fd, path))
			return agent_fail(err, -errno, "%s cannot be pinned: %s", path, strerror(errno));
	}
	return 0;
}

int agent_service__new(struct agent_service **out, const struct agent_image *img, struct agent_error *err)
{
	struct agent_service *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return agent_fail(err, -ENOMEM, "out of memory");
	s->arenas_fd = s->children_fd = -1;
	s->skel = service_bpf__open_and_load();
	if (!s->skel) {
		rc = agent_fail(err, -errno, "the agent's service programs cannot be loaded: %s", strerror(errno));
	} else {
		s->arenas_fd = fcntl(bpf_map__fd(s->skel->maps.arenas), F_DUPFD_CLOEXEC, 3);
		s->children_fd = fcntl(bpf_map__fd(s->skel->maps.children), F_DUPFD_CLOEXEC, 3);
		rc = attach(s, img, err);
	}
	if (rc) {
		agent_service__free(s);
		return rc;
	}
	*out = s;
	return 0;
}

int agent_service__adopt(struct agent_service **out, const char *dir, struct agent_error *err)
{
	struct agent_service *s = calloc(1, sizeof(*s));
	char path[256];
	int rc = 0;

	if (!s)
		return agent_fail(err, -ENOMEM, "out of memory");
	s->is_anothers = true;
	for (int i = 0; i < N_LINKS && !rc; i++) {
		snprintf(path, sizeof(path), "%s/service-%d", dir, i);
		s->link[i] = bpf_link__open(path);
		rc = s->link[i] ? 0 : -errno;
	}
	for (int i = 0; i < 2; i++) {
		int fd;

		snprintf(path, sizeof(path), "%s/%s", dir, map_pin[i]);
		fd = bpf_obj_get(path);
		rc = fd < 0 && !rc ? -errno : rc;
		*(i ? &s->children_fd : &s->arenas_fd) = fd;
	}
	if (rc) {
		agent_service__free(s);
		return agent_fail(err, rc, "the agent's service programs are not all there any more: %s",
				  strerror(-rc));
	}
	*out = s;
	return 0;
}

void agent_service__own(struct agent_service *s)
{
	s->is_anothers = false;
}

void agent_service__free(struct agent_service *s)
{
	if (!s)
		return;
	for (int i = 0; i < N_LINKS; i++) {
		if (s->link[i] && bpf_link__pin_path(s->link[i]) && !s->is_anothers)
			bpf_link__unpin(s->link[i]);
		bpf_link__destroy(s->link[i]);
	}
	while (__atomic_load_n(&s->n_changing, __ATOMIC_SEQ_CST))
		usleep(1000);
	service_bpf__destroy(s->skel);
	if (s->arenas_fd >= 0)
		close(s->arenas_fd);
	if (s->children_fd >= 0)
		close(s->children_fd);
	free(s);
}

int agent_service__new_arena(struct agent_service *s, struct agent_error *err)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = BPF_F_MMAPABLE);
	int fd;

	(void)s;
	fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "bpftime_target", sizeof(__u32), AGENT_ARENA_SIZE, 1, &opts);
	return fd < 0 ? agent_fail(err, -errno, "a target arena cannot be made: %s", strerror(errno)) : fd;
}

/* ---- the register ---- */

/*
 * A change of a map of maps is done at once, but the call returns only after a grace period of RCU, some 15 ms, which
 * we do not need (maybe_wait_bpf_programs() in kernel/bpf/syscall.c). Threads wait for us.
 */
struct change {
	struct agent_service *s;
	__u32 tgid, arena_fd; /* NO_FD: remove */
	int err;
	int is_over;
	int n_users;
};

#define NO_FD	       (~0u)
#define CHANGE_STEP_NS 20000
#define CHANGE_STEPS   50000 /* a second */

static void change_drop(struct change *c)
{
	if (!__atomic_sub_fetch(&c->n_users, 1, __ATOMIC_SEQ_CST))
		free(c);
}

static int register_fd(const struct agent_service *s)
{
	return s->arenas_fd;
}

static int do_change(const struct agent_service *s, __u32 tgid, __u32 arena_fd)
{
	int fd = register_fd(s);

	return (arena_fd == NO_FD ? bpf_map_delete_elem(fd, &tgid) : bpf_map_update_elem(fd, &tgid, &arena_fd, BPF_ANY))
		       ? -errno
		       : 0;
}

static void *change_thread(void *arg)
{
	struct change *c = arg;
	struct agent_service *s = c->s;

	c->err = do_change(s, c->tgid, c->arena_fd);
	__atomic_store_n(&c->is_over, 1, __ATOMIC_SEQ_CST);
	change_drop(c);
	__atomic_sub_fetch(&s->n_changing, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

/* id: of the arena that the register is to name, 0: none. */
static bool is_changed(const struct agent_service *s, __u32 tgid, __u32 id)
{
	__u32 found = 0;

	if (bpf_map_lookup_elem(register_fd(s), &tgid, &found))
		found = 0;
	return found == id;
}

/* Returns when the change can be seen. */
static int change(struct agent_service *s, __u32 tgid, __u32 arena_fd, __u32 id)
{
	const struct timespec step = {.tv_nsec = CHANGE_STEP_NS};
	struct change *c = calloc(1, sizeof(*c));
	int err = 0;

	if (!c)
		return -ENOMEM;
	*c = (struct change){.s = s, .tgid = tgid, .arena_fd = arena_fd, .n_users = 2};
	__atomic_add_fetch(&s->n_changing, 1, __ATOMIC_SEQ_CST);
	if (thread_aside(change_thread, c)) {
		__atomic_sub_fetch(&s->n_changing, 1, __ATOMIC_SEQ_CST);
		free(c);
		return do_change(s, tgid, arena_fd);
	}
	for (int i = 0; i < CHANGE_STEPS && !is_changed(s, tgid, id); i++) {
		if (__atomic_load_n(&c->is_over, __ATOMIC_SEQ_CST) && c->err) {
			err = c->err;
			break;
		}
		nanosleep(&step, NULL);
	}
	change_drop(c);
	return err;
}

int agent_service__add(struct agent_service *s, const struct target *t, int arena_fd, struct agent_error *err)
{
	struct bpf_map_info info = {0};
	__u32 len = sizeof(info);
	int rc = bpf_obj_get_info_by_fd(arena_fd, &info, &len) ? -errno : 0;

	if (!rc)
		rc = change(s, t->tgid, (__u32)arena_fd, info.id);
	/* A fork child of another target was answered in that one's arena; now it has its own. */
	if (!rc)
		bpf_map_delete_elem(s->children_fd, &t->tgid);
	return rc ? agent_fail(err, rc, "the arena of process %d cannot be registered: %s", t->pid, strerror(-rc)) : 0;
}

int agent_service__remove(struct agent_service *s, const struct target *t)
{
	return change(s, t->tgid, NO_FD, 0);
}

int agent_service__serves(const struct agent_service *s, const struct target *t, int arena_fd, struct agent_error *err)
{
	struct bpf_map_info info = {0};
	__u32 len = sizeof(info);

	if (!bpf_obj_get_info_by_fd(arena_fd, &info, &len) && is_changed(s, t->tgid, info.id))
		return 0;
	return agent_fail(err, -ENOENT, "the arena of process %d is not registered", t->pid);
}

static bool is_among(__u32 tgid, struct target *const *t, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (t[i]->tgid == tgid)
			return true;
	return false;
}

void agent_service__retain(struct agent_service *s, struct target *const *t, size_t n)
{
	__u32 tgid, next, *at = NULL;
	bool more = !bpf_map_get_next_key(register_fd(s), at, &tgid);

	while (more) {
		more = !bpf_map_get_next_key(register_fd(s), &tgid, &next);
		if (!is_among(tgid, t, n))
			change(s, tgid, NO_FD, 0);
		tgid = next;
	}
}
