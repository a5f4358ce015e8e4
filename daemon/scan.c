/* SPDX-License-Identifier: MIT */
/*
 * scan.c: reads the real state through the iterators of scan.bpf.c. Of a process or of all: each descriptor of a perf
 * event or a link with a program; what is the same event behind several descriptors becomes one struct obs_probe.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include <bpf/bpf.h>

#include "bpf/scan.skel.h"
#include "observer.h"

enum {
	READ_SIZE = 1 << 16,
	MULTI_RETURN = 1, /* BPF_F_UPROBE_MULTI_RETURN */
	FILE_KINDS = 4,	  /* that are told apart, at most */
};

ssize_t iterator__read(struct bpf_program *prog, pid_t pid, char **out)
{
	union bpf_iter_link_info linfo = {.task.pid = pid};
	LIBBPF_OPTS(bpf_iter_attach_opts, opts, .link_info = &linfo, .link_info_len = sizeof(linfo));
	size_t size = 0, cap = 0;
	struct bpf_link *link;
	char *buf = NULL, *grown;
	ssize_t n;
	int fd, err = 0;

	*out = NULL;
	link = bpf_program__attach_iter(prog, pid ? &opts : NULL);
	if (!link)
		return -errno;
	fd = bpf_iter_create(bpf_link__fd(link));
	if (fd < 0) {
		err = -errno;
		goto out_link;
	}
	for (;;) {
		if (cap - size < READ_SIZE) {
			cap = cap ? 2 * cap : 2 * READ_SIZE;
			grown = realloc(buf, cap);
			if (!grown) {
				err = -ENOMEM;
				break;
			}
			buf = grown;
		}
		n = read(fd, buf + size, cap - size);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n < 0)
			err = -errno;
		if (n <= 0)
			break;
		size += n;
	}
	close(fd);
out_link:
	bpf_link__destroy(link);
	if (err) {
		free(buf);
		return err;
	}
	*out = buf;
	return size;
}

/* ---- what kind of file is which: learnt from descriptors of our own ---- */

int file_kinds__learn(struct bpf_program *file_kinds, const struct file_kind *more, size_t n_more, __u64 *fops_perf,
		      __u64 *fops_link)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE, .size = sizeof(attr), .config = PERF_COUNT_SW_DUMMY, .disabled = 1};
	struct bpf_link *link = bpf_program__attach_iter(file_kinds, NULL);
	int event = (int)syscall(SYS_perf_event_open, &attr, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);
	struct file_kind known[FILE_KINDS] = {{event, fops_perf}, {link ? bpf_link__fd(link) : -1, fops_link}};
	const struct obs_rec_fops *rec;
	char *buf = NULL;
	ssize_t size = -EINVAL;
	int ret = 0;

	if (n_more)
		memcpy(&known[2], more, n_more * sizeof(*more));
	if (link && event >= 0)
		size = iterator__read(file_kinds, getpid(), &buf);
	for (ssize_t at = 0; at + (ssize_t)sizeof(*rec) <= size; at += sizeof(*rec)) {
		rec = (const void *)(buf + at);
		for (size_t i = 0; i < n_more + 2; i++)
			if (known[i].fd == rec->fd)
				*known[i].f_op = rec->f_op;
	}
	free(buf);
	if (event >= 0)
		close(event);
	bpf_link__destroy(link);
	for (size_t i = 0; i < n_more + 2; i++)
		if (!*known[i].f_op)
			ret = size < 0 ? (int)size : -ENOTSUP;
	return ret;
}

static int learn_file_kinds(struct observer *o, char *err, size_t err_size)
{
	const struct file_kind more[] = {
		{bpf_map__fd(o->scan->maps.scratch), &o->scan->bss->fops_map},
		{bpf_program__fd(o->scan->progs.file_kinds), &o->scan->bss->fops_prog},
	};
	int ret = file_kinds__learn(o->scan->progs.file_kinds, more, sizeof(more) / sizeof(more[0]),
				    &o->scan->bss->fops_perf, &o->scan->bss->fops_link);

	if (ret)
		snprintf(err, err_size, "cannot tell perf events, links, maps and programs apart by a file iterator");
	return ret;
}

int observer__open_scan(struct observer *o, uint32_t ns_level, uint32_t ns_inum, char *err, size_t err_size)
{
	int ret;

	o->scan = scan_bpf__open();
	if (!o->scan) {
		snprintf(err, err_size, "cannot open the scan programs: %s", strerror(errno));
		return -errno;
	}
	o->scan->rodata->ns_level = ns_level;
	o->scan->rodata->ns_inum = ns_inum;
	o->scan->rodata->uprobe_pmu = o->kernel.uprobe_pmu;
	ret = scan_bpf__load(o->scan);
	if (ret) {
		snprintf(err, err_size, "the kernel refuses the scan programs: %s", strerror(-ret));
		return ret;
	}
	return learn_file_kinds(o, err, err_size);
}

void observer__close_scan(struct observer *o)
{
	scan_bpf__destroy(o->scan);
}

/* ---- scan ---- */

/* A scan being made. */
struct scan {
	struct obs_scan *out;
	pid_t *holders; /* of each probe: the process counted last; the iterator goes process by process */
	size_t cap;
	uint32_t *index; /* one more than a probe's number, by its key; 0: none */
	size_t index_size, n_indexed;
};

/* What tells a record that it is of a probe which is known. Links have small numbers, events addresses. */
static uint64_t key_of(enum obs_file_form form, uint64_t event, uint32_t link_id)
{
	return form == OBS_FILE_MULTI_LINK ? link_id : event;
}

static uint64_t key_of_probe(const struct obs_probe *p)
{
	return p->form == ATTACH_MULTI_LINK ? p->link_id : p->event_id;
}

/* Where the key is in the index, or would be: there is always room. */
static uint32_t *indexed(const struct scan *s, uint64_t key)
{
	size_t i = key * 0x9e3779b97f4a7c15ull >> 32 & (s->index_size - 1);

	while (s->index[i] && key_of_probe(&s->out->probes[s->index[i] - 1]) != key)
		i = (i + 1) & (s->index_size - 1);
	return &s->index[i];
}

/* The probe of this number, the first one of its key. */
static bool add_to_index(struct scan *s, size_t number)
{
	uint32_t *old = s->index;
	size_t old_size = s->index_size;

	if (2 * (s->n_indexed + 1) > s->index_size) {
		s->index_size = old_size ? 2 * old_size : 64;
		s->index = calloc(s->index_size, sizeof(*s->index));
		if (!s->index) {
			s->index = old;
			s->index_size = old_size;
			return false;
		}
		for (size_t i = 0; i < old_size; i++)
			if (old[i])
				*indexed(s, key_of_probe(&s->out->probes[old[i] - 1])) = old[i];
		free(old);
	}
	*indexed(s, key_of_probe(&s->out->probes[number])) = (uint32_t)number + 1;
	s->n_indexed++;
	return true;
}

static struct obs_probe *add_probe(struct scan *s)
{
	struct obs_probe *grown;
	pid_t *holders;

	if (s->out->n_probes == s->cap) {
		s->cap = s->cap ? 2 * s->cap : 16;
		grown = realloc(s->out->probes, s->cap * sizeof(*grown));
		if (!grown)
			return NULL;
		s->out->probes = grown;
		holders = realloc(s->holders, s->cap * sizeof(*holders));
		if (!holders)
			return NULL;
		s->holders = holders;
	}
	return &s->out->probes[s->out->n_probes++];
}

static const enum attach_form forms[] = {
	[OBS_FILE_PERF_EVENT] = ATTACH_PERF_EVENT, [OBS_FILE_PERF_LINK] = ATTACH_PERF_LINK,
	[OBS_FILE_MULTI_LINK] = ATTACH_MULTI_LINK, [OBS_FILE_OTHER_LINK] = ATTACH_OTHER,
	[OBS_FILE_RAW_LINK] = ATTACH_RAW_LINK,
};

static enum probe_kind kind_of(const struct obs_rec_file *rec)
{
	if (rec->is_uprobe)
		return rec->is_return ? PROBE_URETPROBE : PROBE_UPROBE;
	if (!rec->is_tracepoint)
		return PROBE_OTHER;
	switch (rec->prog_type) {
	case BPF_PROG_TYPE_TRACEPOINT:
		return PROBE_TRACEPOINT;
	case BPF_PROG_TYPE_RAW_TRACEPOINT:
		return PROBE_RAW_TRACEPOINT;
	case BPF_PROG_TYPE_TRACING:
		return PROBE_TP_BTF;
	default: /* a raw tracepoint's that may write what others see of the event */
		return PROBE_OTHER;
	}
}

/* The same event again: by its link, by another descriptor of the same process, or by another process. */
static void merge(struct obs_probe *p, pid_t *holder, const struct obs_rec_file *rec)
{
	bool link = rec->form != OBS_FILE_PERF_EVENT;

	if (link) {
		p->form = forms[rec->form];
		p->link_id = rec->link_id;
		if (p->link_fd < 0 && rec->tgid == p->tool)
			p->link_fd = rec->fd;
	} else if (p->fd < 0 && rec->tgid == p->tool) {
		p->fd = rec->fd;
	}
	if (rec->tgid != *holder) {
		p->n_holders++;
		*holder = rec->tgid;
	}
	if (rec->tgid < p->tool) {
		p->tool = rec->tgid;
		p->fd = link ? -1 : rec->fd;
		p->link_fd = link ? rec->fd : -1;
	}
}

static void fill(struct obs_probe *p, const struct obs_rec_file *rec, size_t path_len)
{
	bool is_event = rec->form == OBS_FILE_PERF_EVENT;

	memset(p, 0, offsetof(struct obs_probe, path));
	p->tool = rec->tgid;
	p->n_holders = 1;
	p->fd = is_event ? rec->fd : -1;
	p->link_fd = is_event ? -1 : rec->fd;
	p->event_id = rec->event;
	p->kind = kind_of(rec);
	p->form = forms[rec->form];
	p->prog_id = rec->prog_id;
	p->link_id = rec->link_id;
	p->dev = makedev(rec->dev >> 20, rec->dev & ((1 << 20) - 1));
	p->ino = rec->ino;
	p->offset = rec->offset;
	p->ref_ctr_offset = rec->ref_ctr_offset;
	p->cookie = rec->cookie;
	p->target = rec->target;
	p->enabled = rec->enabled;
	if (path_len > sizeof(p->path) - 1)
		path_len = sizeof(p->path) - 1;
	memcpy(p->path, rec->path, path_len);
	p->path[path_len] = 0;
}

/* ---- uprobe_multi links: one probe for each of their offsets, asked of the link ---- */

/* struct bpf_link_info of Linux 6.8 (include/uapi/linux/bpf.h), as far as uprobe_multi needs it. */
struct multi_info {
	uint32_t type, id, prog_id, pad;
	uint64_t path, offsets, ref_ctr_offsets, cookies;
	uint32_t path_size, count, flags, pid;
};

static int link_info(int fd, struct multi_info *info)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.info.bpf_fd = fd;
	attr.info.info_len = sizeof(*info);
	attr.info.info = (uintptr_t)info;
	return syscall(SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &attr, sizeof(attr)) ? -errno : 0;
}

static int add_multi(struct scan *s, const struct obs_rec_file *rec)
{
	struct multi_info info = {0};
	char path[sizeof(((struct obs_probe *)0)->path)] = "";
	uint64_t *arrays = NULL;
	struct obs_probe *p;
	uint32_t n;
	int fd, err;

	fd = bpf_link_get_fd_by_id(rec->link_id);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	err = link_info(fd, &info);
	n = info.count;
	if (!err && n) {
		arrays = calloc(3, (size_t)n * sizeof(*arrays));
		info = (struct multi_info){.path = (uintptr_t)path, .path_size = sizeof(path), .count = n};
		info.offsets = (uintptr_t)arrays;
		info.ref_ctr_offsets = (uintptr_t)(arrays + n);
		info.cookies = (uintptr_t)(arrays + 2 * (size_t)n);
		err = arrays ? link_info(fd, &info) : -ENOMEM;
	}
	close(fd);
	for (uint32_t i = 0; !err && i < n; i++) {
		p = add_probe(s);
		if (!p) {
			err = -ENOMEM;
			break;
		}
		fill(p, rec, 0);
		s->holders[s->out->n_probes - 1] = rec->tgid;
		p->event_id = rec->event + i; /* inside the kernel's array: nobody else's address */
		p->kind = info.flags & MULTI_RETURN ? PROBE_URETPROBE : PROBE_UPROBE;
		p->offset = arrays[i];
		p->ref_ctr_offset = arrays[n + i];
		p->cookie = arrays[2 * (size_t)n + i];
		memcpy(p->path, path, sizeof(path));
	}
	free(arrays);
	return err;
}

static int add_record(struct scan *s, const struct obs_rec_file *rec)
{
	size_t path_len = rec->size - offsetof(struct obs_rec_file, path), first = s->out->n_probes;
	uint64_t key = key_of((enum obs_file_form)rec->form, rec->event, rec->link_id);
	uint32_t known = s->index_size ? *indexed(s, key) : 0;
	struct obs_probe *p;
	int err;

	if (known) {
		for (size_t i = known - 1; i < s->out->n_probes && key_of_probe(&s->out->probes[i]) == key; i++)
			merge(&s->out->probes[i], &s->holders[i], rec);
		return 0;
	}
	if (rec->form == OBS_FILE_MULTI_LINK) {
		err = add_multi(s, rec);
		if (err || s->out->n_probes == first)
			return err;
	} else {
		p = add_probe(s);
		if (!p)
			return -ENOMEM;
		fill(p, rec, path_len);
		s->holders[first] = rec->tgid;
	}
	return add_to_index(s, first) ? 0 : -ENOMEM;
}

int observer__scan(struct observer *o, pid_t pid, struct obs_scan *out, char *err, size_t err_size)
{
	struct scan s = {.out = out};
	const struct obs_rec_file *rec;
	char *buf;
	ssize_t size;
	int ret = 0;

	*out = (struct obs_scan){0};
	size = iterator__read(o->scan->progs.attachments, pid, &buf);
	if (size < 0) {
		snprintf(err, err_size, "cannot iterate over the descriptors of processes: %s", strerror(-size));
		return size;
	}
	for (ssize_t at = 0; !ret && at < size; at += rec->size) {
		rec = (const void *)(buf + at);
		if (rec->tgid && (pid || rec->tgid != getpid()))
			ret = add_record(&s, rec);
	}
	free(buf);
	free(s.holders);
	free(s.index);
	if (ret) {
		snprintf(err, err_size, "cannot read what is attached: %s", strerror(-ret));
		obs_scan__clear(out);
	}
	captures__prune(o->captures);
	return ret;
}

void obs_scan__clear(struct obs_scan *scan)
{
	free(scan->probes);
	*scan = (struct obs_scan){0};
}

bool observer__is_sleepable(struct observer *o, uint32_t prog_id)
{
	const struct obs_rec_prog *rec;
	bool sleepable = false;
	char *buf;
	ssize_t size = iterator__read(o->scan->progs.programs, 0, &buf);

	for (ssize_t at = 0; at + (ssize_t)sizeof(*rec) <= size; at += sizeof(*rec)) {
		rec = (const void *)(buf + at);
		if (rec->prog_id == prog_id)
			sleepable = rec->sleepable;
	}
	free(buf);
	return sleepable;
}

/* ---- pending returns ---- */

/* Whether the address is, in this process, at one of the offsets in the file. maps: text of /proc/PID/maps. */
static bool is_at(const char *maps, uint64_t addr, uint64_t ino, const uint64_t *offsets, size_t n)
{
	unsigned long start, end, pgoff, inode;

	for (const char *line = maps; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
		if (sscanf(line, "%lx-%lx %*s %lx %*s %lu", &start, &end, &pgoff, &inode) != 4)
			continue;
		if (inode != ino || addr < start || addr >= end)
			continue;
		for (size_t i = 0; i < n; i++)
			if (offsets[i] == addr - start + pgoff)
				return true;
	}
	return false;
}

/* A file of /proc, whole, with a 0 at its end; the caller frees it. NULL with errno. */
static char *read_proc(const char *path)
{
	size_t size = 0, cap = READ_SIZE;
	char *buf = malloc(cap), *grown;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = -1;

	while (fd >= 0 && buf && (n = read(fd, buf + size, cap - size - 1)) > 0) {
		size += n;
		if (cap - size < READ_SIZE / 2) {
			grown = realloc(buf, cap *= 2);
			if (!grown)
				break;
			buf = grown;
		}
	}
	if (fd >= 0)
		close(fd);
	if (n) {
		free(buf);
		return NULL;
	}
	buf[size] = 0;
	return buf;
}

int observer__pending_returns(struct observer *o, pid_t tgid, uint64_t ino, const uint64_t *offsets, size_t n)
{
	const struct obs_rec_return *rec;
	char path[64], *maps, *buf;
	ssize_t size;
	int count = 0;

	size = iterator__read(o->scan->progs.pending_returns, tgid, &buf);
	if (size <= 0) {
		free(buf);
		return size;
	}
	snprintf(path, sizeof(path), "/proc/%d/maps", tgid);
	maps = read_proc(path);
	if (!maps) {
		free(buf);
		return errno ? -errno : -ENOMEM;
	}
	for (ssize_t at = 0; at + (ssize_t)sizeof(*rec) <= size; at += sizeof(*rec)) {
		rec = (const void *)(buf + at);
		count += is_at(maps, rec->func, ino, offsets, n);
	}
	free(maps);
	free(buf);
	return count;
}
