/* SPDX-License-Identifier: MIT */
/*
 * claims.c: each bpftimed writes only into its own map, so nothing has to be locked: it writes that it wants something,
 * then looks whether another one wants or has the same, and only when none does it is held. Of two that do this at the
 * same time at least one sees the other. Both step back; the one whose map is older tries again.
 */
#include "daemon/claims.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "daemon/mapped.h"
#include "daemon/pins.h"
#include "daemon/procfs.h"

#define MAP_NAME    "bpftimed_claims"
#define MAX_CLAIMS  65536
#define MAX_SURE_ID (INT32_MAX / 2)
#define TRIES	    100
#define TRY_WAIT_NS 1000000L

enum what { CLAIM_DAEMON = 0, CLAIM_PROGRAM = 1, CLAIM_TARGET = 2 };

/* A process, the same from every PID namespace. */
struct process {
	uint32_t pid;	 /* in its own namespace */
	uint32_t pid_ns; /* inode of that */
	uint64_t start_time;
};

/* A key: the rest of CLAIM_DAEMON, of which there is one in each map, is 0. */
struct claim {
	uint32_t what;
	uint32_t prog_id;
	struct process target;
};

struct claimant {
	struct process daemon;
	uint32_t held; /* else only wanted */
	int32_t pid;   /* of the tool or the target, as that daemon knows it */
};

struct claims {
	int fd;
	uint32_t id;
	int last_fd; /* the map of this runtime folder's last daemon, or -1 */
	uint32_t last_id;
	uint32_t looked_at; /* the last id of a map that was looked at */
	uint32_t *others;   /* ids of other daemons' maps, ascending; some may be gone */
	size_t n_others;
	struct process self;
};

static int describe_process(pid_t pid, struct process *out)
{
	memset(out, 0, sizeof(*out));
	out->pid = (uint32_t)procfs_innermost_pid(pid);
	out->pid_ns = procfs_pid_ns(pid);
	out->start_time = procfs_start_time(pid);
	return out->pid && out->pid_ns && out->start_time ? 0 : -ESRCH;
}

static bool same_process(const struct process *a, const struct process *b)
{
	return a->pid == b->pid && a->pid_ns == b->pid_ns && a->start_time == b->start_time;
}

/* ---- the maps of the others ---- */

/* 1: it is a map of claims, or was meant to be; 0: it is not, or is gone; or -errno. */
static int open_map(uint32_t id, int *fd, struct bpf_map_info *info)
{
	uint32_t len = sizeof(*info);

	*fd = bpf_map_get_fd_by_id(id);
	if (*fd < 0)
		return errno == ENOENT ? 0 : -errno;
	memset(info, 0, sizeof(*info));
	if (!bpf_obj_get_info_by_fd(*fd, info, &len) && !strcmp(info->name, MAP_NAME))
		return 1;
	close(*fd);
	return 0;
}

static int remember(struct claims *c, uint32_t id)
{
	uint32_t *more = realloc(c->others, (c->n_others + 1) * sizeof(*more));

	if (!more)
		return -ENOMEM;
	c->others = more;
	more[c->n_others++] = id;
	return 0;
}

/*
 * Maps that were made since the last time: ids only grow, for the first two thousand million of them. The others are
 * not opened again, which is not free for them: closing a program array makes the kernel empty it when nobody else has
 * it open (bpf_map_put_uref() in kernel/bpf/syscall.c).
 */
static int look_for_maps(struct claims *c)
{
	struct bpf_map_info info;
	uint32_t id;
	int fd, r;

	if (c->looked_at > MAX_SURE_ID) {
		c->looked_at = 0;
		c->n_others = 0;
	}
	for (id = c->looked_at; !bpf_map_get_next_id(id, &id); c->looked_at = id) {
		if (id == c->id || id == c->last_id)
			continue;
		r = open_map(id, &fd, &info);
		if (r > 0) {
			close(fd);
			r = remember(c, id);
		}
		if (r < 0)
			return r;
	}
	return errno == ENOENT ? 0 : -errno;
}

/* 1 and a descriptor: the next such map that is neither ours nor our last one's, with its id in *id; 0: there is none;
 * or -errno. */
static int next_map(struct claims *c, uint32_t *id, int *fd)
{
	struct bpf_map_info info;
	int r = *id ? 0 : look_for_maps(c);

	for (size_t i = 0; !r && i < c->n_others; i++) {
		if (c->others[i] <= *id)
			continue;
		*id = c->others[i];
		r = open_map(*id, fd, &info);
		if (r > 0 && (info.type != BPF_MAP_TYPE_HASH || info.key_size != sizeof(struct claim) ||
			      info.value_size != sizeof(struct claimant))) {
			close(*fd);
			r = -EPROTO;
		}
	}
	return r;
}

bool claims__is_daemon(struct claims *c, pid_t pid)
{
	const struct claim key = {.what = CLAIM_DAEMON};
	struct process asked, parent;
	struct claimant found;
	bool is, has_parent;
	uint32_t id = 0;
	int fd, r = 0;

	if (describe_process(pid, &asked))
		return false;
	has_parent = !describe_process(procfs_parent(pid), &parent);
	is = has_parent && same_process(&parent, &c->self);
	while (!is && (r = next_map(c, &id, &fd)) > 0) {
		is = !bpf_map_lookup_elem(fd, &key, &found) &&
		     (same_process(&found.daemon, &asked) || (has_parent && same_process(&found.daemon, &parent)));
		close(fd);
	}
	return is || r < 0;
}

/* 1: another one has one of these, or wants it; 0: none does; or -errno. */
static int look(struct claims *c, const struct claim *keys, size_t n, struct claimant *found, uint32_t *found_id)
{
	bool any = false;
	uint32_t id = 0;
	int fd, r;

	while ((r = next_map(c, &id, &fd)) > 0) {
		for (size_t i = 0; i < n && !any; i++)
			any = !bpf_map_lookup_elem(fd, &keys[i], found);
		close(fd);
		if (any) {
			*found_id = id;
			return 1;
		}
	}
	return r;
}

/* ---- taking ---- */

static int put(const struct claims *c, const struct claim *keys, size_t n, pid_t pid, bool held)
{
	const struct claimant value = {.daemon = c->self, .held = held, .pid = pid};

	for (size_t i = 0; i < n; i++)
		if (bpf_map_update_elem(c->fd, &keys[i], &value, BPF_ANY))
			return -errno;
	return 0;
}

static void withdraw(const struct claims *c, const struct claim *keys, size_t n)
{
	for (size_t i = 0; i < n; i++)
		bpf_map_delete_elem(c->fd, &keys[i]);
}

/* A sentence about the one that was found. */
static void tell(const struct claims *c, const struct claimant *found, enum what what, char *why, size_t why_size)
{
	const struct process *d = &found->daemon;
	bool near = d->pid_ns == c->self.pid_ns;
	char who[64];

	if (near && procfs_start_time((pid_t)d->pid) != d->start_time) {
		snprintf(why, why_size,
			 "a bpftimed that was killed (process %u) left its work in this %s: start one with the same "
			 "runtime folder",
			 d->pid, what == CLAIM_TARGET ? "target" : "tool");
		return;
	}
	if (near)
		snprintf(who, sizeof(who), "process %u", d->pid);
	else
		snprintf(who, sizeof(who), "in another PID namespace");
	snprintf(why, why_size, "another bpftimed (%s) serves this %s", who, what == CLAIM_TARGET ? "target" : "tool");
}

static int take(struct claims *c, const struct claim *keys, size_t n, pid_t pid, char *why, size_t why_size)
{
	const struct timespec pause = {.tv_nsec = TRY_WAIT_NS};
	struct claimant found;
	uint32_t id = 0;
	int r;

	for (int try = 0; try < TRIES; try++) {
		r = put(c, keys, n, pid, false);
		if (!r)
			r = look(c, keys, n, &found, &id);
		if (!r)
			r = put(c, keys, n, pid, true);
		if (!r)
			return 0;
		withdraw(c, keys, n);
		if (r < 0) {
			snprintf(why, why_size, "it cannot be told whether another bpftimed serves it: %s",
				 r == -EPROTO ? "one of another version runs" : strerror(-r));
			return r;
		}
		tell(c, &found, keys[0].what, why, why_size);
		if (found.held)
			return -EALREADY;
		if (id < c->id)
			break;
		nanosleep(&pause, NULL);
	}
	return -EAGAIN;
}

int claims__take_tool(struct claims *c, pid_t tool, const uint32_t *prog_ids, size_t n, char *why, size_t why_size)
{
	struct claim *keys = calloc(n ? n : 1, sizeof(*keys));
	struct claimant mine;
	size_t fresh = 0;
	int r;

	if (!keys) {
		snprintf(why, why_size, "out of memory");
		return -ENOMEM;
	}
	for (size_t i = 0; i < n; i++) {
		keys[fresh] = (struct claim){.what = CLAIM_PROGRAM, .prog_id = prog_ids[i]};
		if (bpf_map_lookup_elem(c->fd, &keys[fresh], &mine))
			fresh++;
	}
	r = fresh ? take(c, keys, fresh, tool, why, why_size) : 0;
	free(keys);
	return r;
}

int claims__take_target(struct claims *c, pid_t target, char *why, size_t why_size)
{
	struct claim key = {.what = CLAIM_TARGET};

	if (describe_process(target, &key.target)) {
		snprintf(why, why_size, "process %d ended", target);
		return -ESRCH;
	}
	return take(c, &key, 1, target, why, why_size);
}

/* ---- giving up ---- */

/* Of this kind for this process; pid 0: everything. */
static void drop(int fd, enum what what, pid_t pid)
{
	struct claim key, next;
	struct claimant value;
	bool more = !bpf_map_get_next_key(fd, NULL, &next);

	while (more) {
		key = next;
		more = !bpf_map_get_next_key(fd, &key, &next);
		if (!pid || (key.what == what && !bpf_map_lookup_elem(fd, &key, &value) && value.pid == pid))
			bpf_map_delete_elem(fd, &key);
	}
}

void claims__drop_tool(struct claims *c, pid_t tool)
{
	drop(c->fd, CLAIM_PROGRAM, tool);
}

void claims__drop_target(struct claims *c, pid_t target)
{
	drop(c->fd, CLAIM_TARGET, target);
}

/* ---- the whole ---- */

static int make_map(struct claims *c)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = BPF_F_NO_PREALLOC);
	const struct claim key = {.what = CLAIM_DAEMON};

	c->fd = bpf_map_create(BPF_MAP_TYPE_HASH, MAP_NAME, sizeof(struct claim), sizeof(struct claimant), MAX_CLAIMS,
			       &opts);
	c->id = mapped__id(c->fd);
	if (!c->id)
		return -errno;
	return put(c, &key, 1, 0, true);
}

int claims__new(struct claims **out, char *err, size_t err_size)
{
	struct claims *c = calloc(1, sizeof(*c));
	int r;

	if (!c) {
		snprintf(err, err_size, "out of memory");
		return -ENOMEM;
	}
	c->fd = -1;
	c->last_fd = pins__get(PIN_CLAIMS);
	c->last_id = mapped__id(c->last_fd);
	r = describe_process(getpid(), &c->self);
	if (!r)
		r = make_map(c);
	if (r) {
		snprintf(err, err_size, "the map that keeps several bpftimeds apart cannot be made: %s", strerror(-r));
		claims__free(c);
		return r;
	}
	*out = c;
	return 0;
}

int claims__pin(struct claims *c, char *err, size_t err_size)
{
	int r = pins__add(c->fd, PIN_CLAIMS);

	if (r)
		snprintf(err, err_size, "the map that keeps several bpftimeds apart cannot be pinned: %s",
			 strerror(-r));
	return r;
}

void claims__drop_last(struct claims *c)
{
	if (c->last_fd < 0)
		return;
	drop(c->last_fd, 0, 0);
	close(c->last_fd);
	c->last_fd = -1;
	c->last_id = 0;
}

void claims__free(struct claims *c)
{
	if (!c)
		return;
	if (c->last_fd >= 0)
		close(c->last_fd);
	if (c->fd >= 0) {
		drop(c->fd, 0, 0);
		close(c->fd);
	}
	free(c->others);
	free(c);
}
