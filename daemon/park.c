/* SPDX-License-Identifier: MIT */
#include "daemon/park.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/aside.h"
#include "agent/pid_ns.h"
#include "bpf/park.h"
#include "bpf/park.skel.h"
#include "daemon/fail.h"
#include "daemon/hosts.h"
#include "daemon/kernel_features.h"
#include "daemon/log.h"
#include "daemon/observer.h"
#include "daemon/pins.h"
#include "daemon/procfs.h"
#include "daemon/state.h"

#define PARK_MOST	   16 /* probes: each costs the kernel 110 ms when it has gone, and going back waits for that */
#define PARK_MS		   1000
#define EXCHANGE_MS	   200
#define FORCED_EXCHANGE_MS 2000
#define RESTORE_TRIES	   5
#define SLOTS_BITS	   12		/* slots that one bpftimed uses in a second, at most: see first_slot() */
#define FILE_SIZE	   (1ull << 43) /* of which nothing is written */

/* What a tool's attachment was, so that it can be made again. */
struct parked {
	uint64_t slot; /* offset in the parked file */
	uint32_t prog_id;
	bool by_link;
	uint64_t cookie;
	int cpu;
	pid_t root_pid; /* by whose root the path is */
	char *path;
	uint64_t dev, ino, offset;
	uint8_t attr[PARK_ATTR_SIZE];
	int event_fd, link_fd; /* the real ones, while they go to who has the parked ones; or -1 */
};

/* There is one file for the process. */
static struct {
	char path[PARK_PATH_LEN]; /* empty: not open */
	uint64_t next_slot;
	struct park_bpf *skel;
	unsigned int n_closing; /* see close_aside() */
} park;

/* Not one that an earlier bpftimed may have left in use. */
static uint64_t first_slot(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec << SLOTS_BITS & (FILE_SIZE - 1) >> 1;
}

void park__open(const char *runtime_dir)
{
	int fd;

	if ((size_t)snprintf(park.path, sizeof(park.path), "%s/" PARK_FILE, runtime_dir) >= sizeof(park.path)) {
		park.path[0] = 0;
		return;
	}
	fd = open(park.path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 || ftruncate(fd, FILE_SIZE)) {
		log_warning("%s cannot be made, so tools' attachments stay where they are: %s", park.path,
			    strerror(errno));
		park.path[0] = 0;
	}
	if (fd >= 0)
		close(fd);
	park.next_slot = first_slot();
}

void park__close(bool keep)
{
	if (park.path[0] && !keep)
		unlink(park.path);
	park.path[0] = 0;
	park_bpf__destroy(park.skel);
	park.skel = NULL;
}

int park__delay_ms(void)
{
	const char *text = getenv("BPFTIME_PARK_MS");

	return !text ? PARK_MS : !strcmp(text, "never") ? -1 : atoi(text);
}

bool park__is_parked(const struct obs_probe *o)
{
	return park.path[0] && !strcmp(o->path, park.path);
}

bool park__is_of(const struct obs_probe *o, const struct probe *p)
{
	return p->parked && p->parked->slot == o->offset && p->o.prog_id == o->prog_id && park__is_parked(o);
}

/* ---- who has what ---- */

static int load(void)
{
	struct kernel_features kernel;
	int err = 0;

	if (park.skel)
		return 0;
	park.skel = park_bpf__open();
	if (!park.skel)
		return -errno;
	park.skel->rodata->ns_level = pid_ns__level();
	park.skel->rodata->ns_inum = pid_ns__inum();
	kernel_features__probe(&kernel);
	park.skel->rodata->uprobe_pmu = kernel.uprobe_pmu;
	err = park_bpf__load(park.skel);
	if (!err)
		err = file_kinds__learn(park.skel->progs.file_kinds, NULL, 0, &park.skel->bss->fops_perf,
					&park.skel->bss->fops_link);
	if (err) {
		park_bpf__destroy(park.skel);
		park.skel = NULL;
	}
	return err;
}

struct owners {
	struct park_rec *rec;
	size_t n;
};

/* Of a process, or (0) of all but our own. The caller frees o->rec. */
static int read_owners(pid_t pid, struct owners *o, char *why, size_t why_size)
{
	int err = load();
	char *buf = NULL;
	ssize_t size = err ? err : iterator__read(park.skel->progs.owners, pid, &buf);
	size_t kept = 0;

	*o = (struct owners){(void *)buf, 0};
	if (size < 0)
		return fail(why, why_size, (int)size, "who holds the tool's probes cannot be told: %s",
			    strerror((int)-size));
	o->n = (size_t)size / sizeof(*o->rec);
	for (size_t i = 0; i < o->n; i++)
		if (pid || o->rec[i].tgid != getpid())
			o->rec[kept++] = o->rec[i];
	o->n = kept;
	return 0;
}

static const struct park_rec *rec_of_fd(const struct owners *o, int fd)
{
	for (size_t i = 0; i < o->n; i++)
		if (o->rec[i].fd == fd)
			return &o->rec[i];
	return NULL;
}

/* ---- events ---- */

static int open_event(const struct parked *p, const char *path, uint64_t offset)
{
	union {
		struct perf_event_attr attr;
		uint8_t bytes[PARK_ATTR_SIZE];
	} a;
	int fd;

	memcpy(a.bytes, p->attr, sizeof(a.bytes));
	if (!a.attr.size)
		a.attr.size = sizeof(a.attr);
	a.attr.uprobe_path = (uintptr_t)path;
	a.attr.probe_offset = offset;
	a.attr.disabled = 1;
	fd = (int)syscall(SYS_perf_event_open, &a.attr, -1, p->cpu, -1, PERF_FLAG_FD_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static void close_pair(int *event_fd, int *link_fd)
{
	if (*link_fd >= 0)
		close(*link_fd);
	if (*event_fd >= 0)
		close(*event_fd);
	*event_fd = *link_fd = -1;
}

/* With the tool's program, as the tool attached it, which runs from then on. */
static int attach(const struct parked *p, const char *path, uint64_t offset, bool enabled, int *event_fd, int *link_fd)
{
	LIBBPF_OPTS(bpf_link_create_opts, opts, .perf_event.bpf_cookie = p->cookie);
	int prog_fd, err = 0;

	*link_fd = -1;
	*event_fd = open_event(p, path, offset);
	if (*event_fd < 0)
		return *event_fd;
	prog_fd = bpf_prog_get_fd_by_id(p->prog_id);
	if (prog_fd < 0) {
		err = -errno;
	} else if (p->by_link) {
		*link_fd = bpf_link_create(prog_fd, *event_fd, BPF_PERF_EVENT, &opts);
		err = *link_fd < 0 ? -errno : 0;
	} else if (ioctl(*event_fd, PERF_EVENT_IOC_SET_BPF, prog_fd)) {
		err = -errno;
	}
	if (prog_fd >= 0)
		close(prog_fd);
	if (!err && enabled && ioctl(*event_fd, PERF_EVENT_IOC_ENABLE, 0))
		err = -errno;
	if (err)
		close_pair(event_fd, link_fd);
	return err;
}

/* ---- closing, which takes the kernel 110 ms for each ---- */

struct closing {
	size_t n, room;
	int *fd; /* links before their events */
};

static void close_later(struct closing *c, int fd)
{
	size_t room = c->room ? 2 * c->room : 16;
	int *more;

	if (fd < 0)
		return;
	more = c->n < c->room ? c->fd : realloc(c->fd, room * sizeof(*more));
	if (!more) {
		close(fd);
		return;
	}
	c->room = c->n < c->room ? c->room : room;
	c->fd = more;
	c->fd[c->n++] = fd;
}

static void close_all_aside(struct closing *c)
{
	close_aside(&park.n_closing, c->fd, c->n);
	free(c->fd);
	*c = (struct closing){0};
}

/* ---- exchanging in one process ---- */

struct exchange {
	pid_t pid;
	struct target_exchange x[TARGET_EXCHANGE_MAX];
	size_t n;
};

static bool is_cloexec(pid_t pid, int fd)
{
	unsigned int flags = O_CLOEXEC;
	char path[64], line[128];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", pid, fd);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "flags: %o", &flags) == 1)
			break;
	if (f)
		fclose(f);
	return flags & O_CLOEXEC;
}

static int add_exchange(struct exchange *e, int pidfd, const struct park_rec *rec, int fd)
{
	struct target_exchange *x = &e->x[e->n];

	if (e->n == TARGET_EXCHANGE_MAX)
		return -E2BIG;
	*x = (struct target_exchange){.fd = fd, .number = rec->fd, .cloexec = is_cloexec(e->pid, rec->fd)};
	x->old = (int)syscall(SYS_pidfd_getfd, pidfd, rec->fd, 0);
	if (x->old < 0)
		return -errno;
	e->n++;
	return 0;
}

static int run_exchange(const struct exchange *e, bool anywhere, int timeout_ms, char *why, size_t why_size)
{
	struct agent_error err = {""};
	struct target *t;
	int ret = target__open(e->pid, &t, &err);

	if (!ret) {
		target__stop_anywhere(t, anywhere);
		ret = target__exchange(t, e->x, e->n, timeout_ms, &err);
		target__free(t);
	}
	return ret ? fail(why, why_size, ret, "%s", err.text) : 0;
}

/* Links first: a link that goes takes the program from its event. */
static void close_old(struct exchange *e, struct closing *c)
{
	for (size_t i = e->n; i--;)
		close_later(c, e->x[i].old);
	e->n = 0;
}

/* ---- parking ---- */

bool park__suits(const struct group *g)
{
	if (!park.path[0] || !g->has_khalf || g->is_replaced || g->n_probes > PARK_MOST)
		return false;
	for (unsigned int i = 0; i < g->n_probes; i++) {
		const struct obs_probe *o = &g->probe[i]->o;

		if (!probe_kind__is_uprobe(o->kind) || o->target >= 0 ||
		    (o->form != ATTACH_PERF_EVENT && o->form != ATTACH_PERF_LINK))
			return false;
	}
	return true;
}

/* Of one probe's event: its descriptors in the tool, and what there is besides. */
struct holding {
	const struct park_rec *any;
	unsigned int events, links;
};

static struct holding holding_of(const struct owners *o, const struct probe *p)
{
	struct holding h = {0};

	for (size_t i = 0; i < o->n; i++) {
		if (o->rec[i].event != p->o.event_id)
			continue;
		h.any = &o->rec[i];
		h.events += !o->rec[i].link_id;
		h.links += o->rec[i].link_id != 0;
	}
	return h;
}

/* The iterator has the file that it shows, too. */
static bool is_all(const struct park_rec *rec, const struct holding *h)
{
	bool by_link = h->links > 0, is_event = !rec->link_id;

	if (rec->event_refs != h->events + by_link + is_event)
		return false;
	return is_event || (rec->link_refs == 1 && rec->file_refs == h->links + 1);
}

/* Nobody but the tool refers to the probe's event, and nothing is done with it that a new one would not do. */
static int check_owners(const struct owners *o, const struct probe *p, char *why, size_t why_size)
{
	struct holding h = holding_of(o, p);

	if (!h.any || (p->o.form == ATTACH_PERF_LINK) != (h.links > 0))
		return fail(why, why_size, -EAGAIN, "the tool's probe has just changed");
	for (size_t i = 0; i < o->n; i++) {
		const struct park_rec *rec = &o->rec[i];

		if (rec->event != p->o.event_id)
			continue;
		if (!is_all(rec, &h))
			return fail(why, why_size, -EBUSY,
				    "not only descriptors of process %d keep its probe: others inherited it, or it is "
				    "pinned",
				    p->tool->pid);
		if (rec->is_entangled)
			return fail(why, why_size, -EBUSY, "process %d waits for its probe's events", p->tool->pid);
	}
	return 0;
}

static struct parked *new_parked(const struct probe *p, const struct park_rec *rec)
{
	struct parked *k = calloc(1, sizeof(*k));

	if (!k)
		return NULL;
	*k = (struct parked){
		.slot = park.next_slot++,
		.prog_id = p->o.prog_id,
		.by_link = p->o.form == ATTACH_PERF_LINK,
		.cookie = p->o.cookie,
		.cpu = rec->cpu,
		.root_pid = p->tool->pid,
		.path = strdup(p->o.path),
		.dev = p->o.dev,
		.ino = p->o.ino,
		.offset = p->o.offset,
		.event_fd = -1,
		.link_fd = -1,
	};
	memcpy(k->attr, rec->attr, sizeof(k->attr));
	if (k->path)
		return k;
	free(k);
	return NULL;
}

void parked__free(struct parked *p)
{
	if (!p)
		return;
	close_pair(&p->event_fd, &p->link_fd);
	free(p->path);
	free(p);
}

static void forget(struct group *g)
{
	for (unsigned int i = 0; i < g->n_probes; i++) {
		parked__free(g->probe[i]->parked);
		g->probe[i]->parked = NULL;
	}
	g->is_parked = false;
}

/* Attachments like the tool's, that never fire: fd[2 * i] is the i-th event's, the one behind it its link's or -1. */
static int make_parked(struct group *g, const struct owners *o, int *fd, char *why, size_t why_size)
{
	for (unsigned int i = 0; i < g->n_probes; i++) {
		struct probe *p = g->probe[i];
		struct holding h = holding_of(o, p);
		int err = check_owners(o, p, why, why_size);

		if (err)
			return err;
		p->parked = new_parked(p, h.any);
		err = p->parked ? attach(p->parked, park.path, p->parked->slot, h.any->enabled, &fd[2 * i],
					 &fd[2 * i + 1])
				: -ENOMEM;
		if (err)
			return fail(why, why_size, err, "an event like that of the tool cannot be made: %s",
				    strerror(-err));
	}
	return 0;
}

/* The events before the links, in each probe: close_old() takes them in reverse. */
static int plan_exchange(const struct group *g, const struct owners *o, const int *fd, struct exchange *e, char *why,
			 size_t why_size)
{
	int pidfd = (int)syscall(SYS_pidfd_open, e->pid, 0), err = pidfd < 0 ? -errno : 0;

	for (unsigned int i = 0; i < g->n_probes; i++)
		for (int link = 0; link < 2; link++)
			for (size_t k = 0; k < o->n && !err; k++) {
				const struct park_rec *rec = &o->rec[k];

				if (rec->event == g->probe[i]->o.event_id && (rec->link_id != 0) == link)
					err = add_exchange(e, pidfd, rec, fd[2 * i + (unsigned int)link]);
			}
	if (pidfd >= 0)
		close(pidfd);
	return err ? fail(why, why_size, err, "descriptors of process %d cannot be had: %s", e->pid, strerror(-err))
		   : 0;
}

/* What is ours now was the tool's alone: nobody has got hold of it meanwhile. */
static int check_old(const struct exchange *e, const struct group *g, char *why, size_t why_size)
{
	struct owners o;
	int err = read_owners(getpid(), &o, why, why_size);

	for (unsigned int i = 0; !err && i < g->n_probes; i++)
		err = check_owners(&o, g->probe[i], why, why_size);
	for (size_t i = 0; !err && i < e->n; i++)
		err = rec_of_fd(&o, e->x[i].old) ? 0 : -EAGAIN;
	free(o.rec);
	return err;
}

/* What the tool had is what it is to have again. */
static void take_old(struct group *g, const struct exchange *e)
{
	struct owners own;
	char why[REASON_SIZE];

	if (read_owners(getpid(), &own, why, sizeof(why)))
		own.n = 0;
	for (size_t i = 0; i < e->n; i++) {
		const struct park_rec *rec = rec_of_fd(&own, e->x[i].old);

		for (unsigned int k = 0; rec && k < g->n_probes; k++) {
			struct probe *p = g->probe[k];
			int *to = rec->link_id ? &p->parked->link_fd : &p->parked->event_fd;

			if (rec->event == p->o.event_id && *to < 0)
				*to = fcntl(rec->fd, F_DUPFD_CLOEXEC, 0);
		}
	}
	free(own.rec);
}

static int restore(struct group *g, bool force, char *why, size_t why_size);

static int exchange_checked(struct group *g, struct exchange *e, char *why, size_t why_size)
{
	char ignored[REASON_SIZE];
	int err = run_exchange(e, false, EXCHANGE_MS, why, why_size);

	if (err == -ESTALE || err == -EUSERS || err == -ETIMEDOUT || err == -EPERM || err == -EOPNOTSUPP)
		return err;
	if (!err)
		err = check_old(e, g, why, why_size);
	if (!err)
		return 0;
	g->is_parked = g->is_unordered = true;
	/* The old ones again, wherever the new ones are by now. */
	take_old(g, e);
	if (restore(g, true, ignored, sizeof(ignored)))
		log_warning("%s (%d): %s", g->tool->comm, g->tool->pid, ignored);
	return err;
}

/* Before anything is made that takes long to close. */
static int check_tool(pid_t pid, char *why, size_t why_size)
{
	struct agent_error err = {""};
	struct target *t;
	int ret;

	if (procfs_threads(pid) != 1)
		return fail(why, why_size, -EUSERS, "process %d has several threads", pid);
	ret = target__open(pid, &t, &err);
	if (ret)
		return fail(why, why_size, ret, "%s", err.text);
	target__free(t);
	return 0;
}

int park__group(struct group *g, int (*save)(void *arg), void *arg, char *why, size_t why_size)
{
	struct exchange e = {.pid = g->tool->pid};
	struct closing closing = {0};
	int fd[2 * PARK_MOST];
	struct owners o = {0};
	int err;

	for (size_t i = 0; i < 2 * PARK_MOST; i++)
		fd[i] = -1;
	if (g->is_parked || !park__suits(g))
		return fail(why, why_size, -EOPNOTSUPP, "its probes are not of the kind");
	err = check_tool(g->tool->pid, why, why_size);
	if (!err)
		err = read_owners(g->tool->pid, &o, why, why_size);
	if (!err) {
		state__unsettle();
		err = make_parked(g, &o, fd, why, why_size);
	}
	if (!err)
		err = plan_exchange(g, &o, fd, &e, why, why_size);
	if (!err && save(arg))
		err = fail(why, why_size, -EIO, "what the next bpftimed would have to restore cannot be written down");
	if (!err)
		err = exchange_checked(g, &e, why, why_size);
	free(o.rec);
	/* After an error it is, when what had been exchanged could not be had back. */
	g->is_parked |= !err;
	g->is_unordered |= !err;
	if (!g->is_parked)
		forget(g);
	for (size_t i = 2 * PARK_MOST; i--;)
		close_later(&closing, fd[i]);
	close_old(&e, &closing);
	close_all_aside(&closing);
	return err;
}

/* ---- restoring ---- */

struct mapping_search {
	const struct parked *p;
	char *path;
	size_t size;
};

static void find_mapping(pid_t pid, void *arg)
{
	struct mapping_search *s = arg;
	char name[64], line[PATH_MAX + 128];
	FILE *f;

	snprintf(name, sizeof(name), "/proc/%d/maps", pid);
	f = s->path[0] ? NULL : fopen(name, "re");
	while (f && !s->path[0] && fgets(line, sizeof(line), f)) {
		unsigned long start, end;
		unsigned long long ino;

		if (sscanf(line, "%lx-%lx %*s %*x %*x:%*x %llu", &start, &end, &ino) == 3 && ino == s->p->ino)
			snprintf(s->path, s->size, "/proc/%d/map_files/%lx-%lx", pid, start, end);
	}
	if (f)
		fclose(f);
}

/*
 * The file may have lost its name meanwhile; then a process that maps it tells where it is. false: nobody can hit a
 * probe in it any more.
 */
static bool find_file(const struct parked *p, char *path, size_t size)
{
	struct mapping_search s = {p, path, size};
	struct stat own, st;
	bool is_own = !stat(p->path, &own) && own.st_ino == p->ino;

	snprintf(path, size, "/proc/%d/root%s", p->root_pid, p->path);
	if (!stat(path, &st) && st.st_ino == p->ino) {
		/* By its own name, if that is the same file to us. */
		if (is_own && own.st_dev == st.st_dev)
			snprintf(path, size, "%s", p->path);
		return true;
	}
	if (is_own) {
		snprintf(path, size, "%s", p->path);
		return true;
	}
	path[0] = 0;
	hosts__each_mapping(p->dev, p->ino, find_mapping, &s);
	return path[0];
}

static struct parked *parked_of(struct parked **p, size_t n, const struct park_rec *rec)
{
	if (strcmp(rec->path, park.path))
		return NULL;
	for (size_t i = 0; i < n; i++)
		if (p[i] && p[i]->slot == rec->offset)
			return p[i];
	return NULL;
}

/* The tool's program where it was: from here on it runs, whatever becomes of the descriptors. */
static int make_real(struct parked **p, size_t n, const struct owners *o, char *why, size_t why_size)
{
	char path[PATH_MAX];
	int err;

	for (size_t i = 0; i < o->n; i++) {
		struct parked *k = parked_of(p, n, &o->rec[i]);

		if (!k || k->event_fd >= 0)
			continue;
		err = find_file(k, path, sizeof(path))
			      ? attach(k, path, k->offset, o->rec[i].enabled, &k->event_fd, &k->link_fd)
			      : -ENOENT;
		if (err)
			return fail(why, why_size, err, "the tool's program cannot be attached to %s as before: %s",
				    k->path, strerror(-err));
	}
	return 0;
}

static int restore_in(pid_t pid, struct parked **p, size_t n, const struct owners *o, bool force, char *why,
		      size_t why_size)
{
	struct exchange e = {.pid = pid};
	struct closing closing = {0};
	int pidfd, err;

	if (!pid)
		return fail(why, why_size, -EPERM, "a process of another PID namespace has the tool's probe");
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	err = pidfd < 0 ? -errno : 0;
	for (int link = 0; link < 2; link++)
		for (size_t i = 0; i < o->n && !err; i++) {
			const struct park_rec *rec = &o->rec[i];
			struct parked *k = rec->tgid == pid ? parked_of(p, n, rec) : NULL;

			if (k && (rec->link_id != 0) == link)
				err = add_exchange(&e, pidfd, rec, link ? k->link_fd : k->event_fd);
		}
	if (pidfd >= 0)
		close(pidfd);
	if (err)
		fail(why, why_size, err, "descriptors of process %d cannot be had: %s", pid, strerror(-err));
	else
		err = run_exchange(&e, false, EXCHANGE_MS, why, why_size);
	if (err == -ETIMEDOUT && force)
		err = run_exchange(&e, true, FORCED_EXCHANGE_MS, why, why_size);
	close_old(&e, &closing);
	close_all_aside(&closing);
	return err;
}

/* One look at the host: 1: nobody has a parked one any more. */
static int restore_once(struct parked **p, size_t n, bool force, char *why, size_t why_size)
{
	struct owners o;
	pid_t done = -1;
	size_t found = 0;
	int err = read_owners(0, &o, why, why_size), one = 0;

	if (!err)
		err = make_real(p, n, &o, why, why_size);
	for (size_t i = 0; i < o.n && !err; i++) {
		if (!parked_of(p, n, &o.rec[i]))
			continue;
		found++;
		/* The iterator goes process by process. */
		if (o.rec[i].tgid == done)
			continue;
		done = o.rec[i].tgid;
		one = restore_in(done, p, n, &o, force, why, why_size);
		if (one && !procfs_start_time(done))
			one = 0;
		err = one;
	}
	free(o.rec);
	return err ? err : !found;
}

/* Also after an error the tool's program is attached, as long as the descriptors here live. */
int parked__restore(struct parked **p, size_t n, bool force, char *why, size_t why_size)
{
	int ret = -EAGAIN;

	for (int i = 0; i < RESTORE_TRIES && (!ret || ret == -EAGAIN || ret == -ESTALE); i++)
		ret = restore_once(p, n, force, why, why_size);
	if (!ret || ret == -EAGAIN)
		return fail(why, why_size, -EAGAIN, "the tool's probes come and go");
	return ret == 1 ? 0 : ret;
}

/* The probe is known by its new event from now on. */
static void take_identity(struct probe *p, const struct owners *o)
{
	const struct park_rec *rec = rec_of_fd(o, p->parked->event_fd);

	if (!rec)
		return;
	p->o.event_id = rec->event;
	rec = rec_of_fd(o, p->parked->link_fd);
	if (rec)
		p->o.link_id = rec->link_id;
}

static int restore(struct group *g, bool force, char *why, size_t why_size)
{
	struct parked *parked[PARK_MOST];
	struct closing closing = {0};
	struct owners own = {0};
	int err;

	for (unsigned int i = 0; i < g->n_probes; i++)
		parked[i] = g->probe[i]->parked;
	err = parked__restore(parked, g->n_probes, force, why, why_size);
	if (err) {
		log_debug("group %u: stays parked: %s", g->id, why);
		return err;
	}
	err = read_owners(getpid(), &own, why, why_size);
	for (unsigned int i = 0; i < g->n_probes; i++) {
		struct parked *k = g->probe[i]->parked;

		take_identity(g->probe[i], &own);
		close_later(&closing, k->link_fd);
		close_later(&closing, k->event_fd);
		k->link_fd = k->event_fd = -1;
	}
	free(own.rec);
	close_all_aside(&closing);
	forget(g);
	log_debug("group %u: no longer parked", g->id);
	return err;
}

int park__restore(struct group *g, bool force, char *why, size_t why_size)
{
	/* From here on no program of the tool is attached that it does not know to be: an attempt may have failed. */
	close_aside_wait(&park.n_closing);
	if (g->is_parked)
		state__unsettle();
	return g->is_parked ? restore(g, force, why, why_size) : 0;
}

/* ---- what cannot be restored ---- */

static int leave_one(struct parked *k, pid_t tool, uint64_t start_time)
{
	char path[PATH_MAX];
	int err;

	/* What has no link cannot be pinned. */
	if (!k->by_link)
		close_pair(&k->event_fd, &k->link_fd);
	k->by_link = true;
	if (!find_file(k, path, sizeof(path)))
		return -ENOENT;
	err = k->link_fd >= 0 ? 0 : attach(k, path, k->offset, true, &k->event_fd, &k->link_fd);
	return err ? err
		   : pins__add(k->link_fd, PIN_LEFT, tool, (unsigned long long)start_time, (unsigned long long)k->slot);
}

void parked__leave(struct parked **p, size_t n, pid_t tool, uint64_t start_time)
{
	for (size_t i = 0; i < n; i++) {
		int err = p[i] ? leave_one(p[i], tool, start_time) : 0;

		if (err)
			log_error("process %d: its program at %s+0x%llx is lost: %s", tool, p[i]->path,
				  (unsigned long long)p[i]->offset, strerror(-err));
	}
	log_warning(
		"process %d: its program stays attached by a link in %s until it ends, also when it closes its probe",
		tool, pins__dir() ? pins__dir() : "no folder");
}

void park__leave(struct group *g)
{
	struct parked *parked[PARK_MOST];

	for (unsigned int i = 0; i < g->n_probes; i++)
		parked[i] = g->probe[i]->parked;
	parked__leave(parked, g->n_probes, g->tool->pid, g->tool->start_time);
	forget(g);
}

bool park__needs_pin(const char *name)
{
	unsigned long long start;
	int pid;

	return sscanf(name, "left-%d-%llu-", &pid, &start) == 2 && procfs_start_time(pid) == start;
}

struct ended_tool {
	pid_t pid;
	unsigned long long start;
};

static void drop_one(const char *name, void *arg)
{
	const struct ended_tool *t = arg;
	unsigned long long start;
	int pid;

	if (sscanf(name, "left-%d-%llu-", &pid, &start) == 2 && pid == t->pid && start == t->start)
		pins__drop("%s", name);
}

void park__drop_left(pid_t tool, uint64_t start_time)
{
	struct ended_tool t = {tool, start_time};

	pins__each(drop_one, &t);
}

/* ---- for state.json ---- */

static json_object *number(uint64_t n)
{
	return json_object_new_uint64(n);
}

static uint64_t number_in(json_object *o, const char *key)
{
	return json_object_get_uint64(json_object_object_get(o, key));
}

json_object *parked__json(const struct parked *p)
{
	json_object *o = json_object_new_object();
	char attr[2 * PARK_ATTR_SIZE + 1];

	for (size_t i = 0; i < PARK_ATTR_SIZE; i++)
		snprintf(attr + 2 * i, 3, "%02x", p->attr[i]);
	json_object_object_add(o, "slot", number(p->slot));
	json_object_object_add(o, "program", number(p->prog_id));
	json_object_object_add(o, "link", json_object_new_boolean(p->by_link));
	json_object_object_add(o, "cookie", number(p->cookie));
	json_object_object_add(o, "cpu", json_object_new_int(p->cpu));
	json_object_object_add(o, "root", number((uint64_t)p->root_pid));
	json_object_object_add(o, "path", json_object_new_string(p->path));
	json_object_object_add(o, "dev", number(p->dev));
	json_object_object_add(o, "ino", number(p->ino));
	json_object_object_add(o, "offset", number(p->offset));
	json_object_object_add(o, "attr", json_object_new_string(attr));
	return o;
}

struct parked *parked__from_json(json_object *o)
{
	const char *attr = json_object_get_string(json_object_object_get(o, "attr"));
	const char *path = json_object_get_string(json_object_object_get(o, "path"));
	struct parked *p = calloc(1, sizeof(*p));

	if (!p || !attr || !path || strlen(attr) != 2 * PARK_ATTR_SIZE) {
		free(p);
		return NULL;
	}
	*p = (struct parked){
		.slot = number_in(o, "slot"),
		.prog_id = (uint32_t)number_in(o, "program"),
		.by_link = json_object_get_boolean(json_object_object_get(o, "link")),
		.cookie = number_in(o, "cookie"),
		.cpu = json_object_get_int(json_object_object_get(o, "cpu")),
		.root_pid = (pid_t)number_in(o, "root"),
		.path = strdup(path),
		.dev = number_in(o, "dev"),
		.ino = number_in(o, "ino"),
		.offset = number_in(o, "offset"),
		.event_fd = -1,
		.link_fd = -1,
	};
	for (size_t i = 0; i < PARK_ATTR_SIZE; i++) {
		unsigned int byte = 0;

		sscanf(attr + 2 * i, "%2x", &byte);
		p->attr[i] = (uint8_t)byte;
	}
	if (p->path)
		return p;
	free(p);
	return NULL;
}
