/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * scan.bpf.c: iterators that read the real state: which descriptors attach which program where, and which return probes
 * are pending in a process. A perf event's BPF program is kernel/events/core.c perf_event_set_bpf_prog(); all by CO-RE.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "bpf/observe_abi.h"
#include "bpf/observe_task.h"
#include "bpf/uprobe_event.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

enum {
	MAX_PENDING = 64, /* the kernel's MAX_URETPROBE_DEPTH */
	RECORD_ALIGN = 8,
	TRACEPOINT_PART = 128, /* a name of a tracepoint or of a system of them; longer ones are not recognised */
};

/* Since Linux 6.6; older kernels have no such link. */
struct bpf_uprobe_multi_link___new {
	struct path path;
	struct bpf_link link;
	void *uprobes;
	struct task_struct *task;
} __attribute__((preserve_access_index));

enum bpf_link_type___new { BPF_LINK_TYPE_UPROBE_MULTI___new = 12 };

/* Since Linux 6.10 it has a cookie. */
struct bpf_raw_tp_link___new {
	struct bpf_link link;
	struct bpf_raw_event_map *btp;
	u64 cookie;
} __attribute__((preserve_access_index));

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct obs_rec_file);
} scratch SEC(".maps");

static __always_inline void read_inode(struct obs_rec_file *rec, struct inode *inode)
{
	rec->ino = BPF_CORE_READ(inode, i_ino);
	rec->dev = BPF_CORE_READ(inode, i_sb, s_dev);
}

/* Where the event's uprobe is. Returns the length of the path with its end. */
static __always_inline __u32 read_uprobe(struct obs_rec_file *rec, struct perf_event *event)
{
	struct trace_uprobe *tu = event_uprobe(event);
	long len;

	rec->is_uprobe = 1;
	rec->is_return = BPF_CORE_READ(event, attr.config) & 1;
	rec->offset = BPF_CORE_READ(tu, offset);
	rec->ref_ctr_offset = BPF_CORE_READ(tu, ref_ctr_offset);
	read_inode(rec, BPF_CORE_READ(tu, path.dentry, d_inode));
	len = bpf_probe_read_kernel_str(rec->path, sizeof(rec->path), BPF_CORE_READ(tu, filename));
	return len > 0 ? len : 0;
}

/* SYSTEM:NAME. Returns its length with its end. */
static __always_inline __u32 read_tracepoint(struct obs_rec_file *rec, struct perf_event *event)
{
	struct trace_event_call *call = BPF_CORE_READ(event, tp_event);
	const char *name;
	long len, more;

	len = bpf_probe_read_kernel_str(rec->path, TRACEPOINT_PART, BPF_CORE_READ(call, class, system));
	if (len <= 0 || len > TRACEPOINT_PART)
		return 0;
	/* is_syscall_trace_event() of kernel/trace/trace_syscalls.c: these share two tracepoints. */
	name = __builtin_memcmp(rec->path, "syscalls", sizeof("syscalls")) ? BPF_CORE_READ(call, tp, name)
									   : BPF_CORE_READ(call, name);
	rec->path[len - 1] = ':';
	more = bpf_probe_read_kernel_str(rec->path + len, TRACEPOINT_PART, name);
	if (more <= 0 || more > TRACEPOINT_PART)
		return 0;
	rec->is_tracepoint = 1;
	rec->offset = BPF_CORE_READ(event, attr.config);
	/* The kernel asks neither whether the event is enabled nor for which process it is. */
	rec->enabled = 1;
	rec->target = -1;
	return len + more;
}

static __always_inline __u32 read_event(struct obs_rec_file *rec, struct perf_event *event)
{
	struct task_struct *target = BPF_CORE_READ(event, hw.target);

	rec->event = (__u64)event;
	rec->prog_id = BPF_CORE_READ(event, prog, aux, id);
	rec->cookie = BPF_CORE_READ(event, bpf_cookie);
	rec->enabled = (int)BPF_CORE_READ(event, state) >= PERF_EVENT_STATE_INACTIVE;
	rec->target = target ? ns_tgid(target) : -1;
	rec->prog_type = BPF_CORE_READ(event, prog, type);
	/* Uprobes and kprobes of tracefs have such events, too, but programs of another type. */
	if (BPF_CORE_READ(event, attr.type) == PERF_TYPE_TRACEPOINT && rec->prog_type == BPF_PROG_TYPE_TRACEPOINT)
		return read_tracepoint(rec, event);
	if (BPF_CORE_READ(event, attr.type) != uprobe_pmu)
		return 0;
	return read_uprobe(rec, event);
}

static __always_inline __u32 read_raw_tracepoint(struct obs_rec_file *rec, struct bpf_link *link)
{
	struct bpf_raw_tp_link___new *raw = (void *)link - bpf_core_field_offset(struct bpf_raw_tp_link, link);
	long len = bpf_probe_read_kernel_str(rec->path, TRACEPOINT_PART, BPF_CORE_READ(raw, btp, tp, name));

	if (len <= 0 || len > TRACEPOINT_PART)
		return 0;
	rec->form = OBS_FILE_RAW_LINK;
	rec->is_tracepoint = 1;
	if (bpf_core_field_exists(raw->cookie))
		rec->cookie = BPF_CORE_READ(raw, cookie);
	return len;
}

static __always_inline __u32 read_link(struct obs_rec_file *rec, struct bpf_link *link)
{
	__u32 type = BPF_CORE_READ(link, type);
	struct bpf_uprobe_multi_link___new *multi;
	struct bpf_perf_link *perf;
	struct task_struct *task;

	rec->link_id = BPF_CORE_READ(link, id);
	if (type == BPF_LINK_TYPE_PERF_EVENT) {
		perf = (void *)link - bpf_core_field_offset(struct bpf_perf_link, link);
		rec->form = OBS_FILE_PERF_LINK;
		return read_event(rec, BPF_CORE_READ(perf, perf_file, private_data));
	}
	rec->form = OBS_FILE_OTHER_LINK;
	rec->event = (__u64)link;
	rec->prog_id = BPF_CORE_READ(link, prog, aux, id);
	rec->prog_type = BPF_CORE_READ(link, prog, type);
	rec->enabled = 1;
	rec->target = -1;
	if (type == BPF_LINK_TYPE_RAW_TRACEPOINT)
		return read_raw_tracepoint(rec, link);
	if (!bpf_core_type_exists(struct bpf_uprobe_multi_link___new) || type != BPF_LINK_TYPE_UPROBE_MULTI___new)
		return 0;
	multi = (void *)link - bpf_core_field_offset(struct bpf_uprobe_multi_link___new, link);
	task = BPF_CORE_READ(multi, task);
	rec->form = OBS_FILE_MULTI_LINK;
	rec->event = (__u64)BPF_CORE_READ(multi, uprobes);
	rec->target = task ? ns_tgid(task) : -1;
	rec->is_uprobe = 1;
	read_inode(rec, BPF_CORE_READ(multi, path.dentry, d_inode));
	return 0;
}

SEC("iter/task_file")
int attachments(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct obs_rec_file *rec;
	__u32 zero = 0, size;
	__u64 f_op;

	if (!task || !file)
		return 0;
	f_op = (__u64)file->f_op;
	if (f_op != fops_perf && f_op != fops_link)
		return 0;
	rec = bpf_map_lookup_elem(&scratch, &zero);
	if (!rec)
		return 0;
	__builtin_memset(rec, 0, __builtin_offsetof(struct obs_rec_file, path));
	rec->form = OBS_FILE_PERF_EVENT;
	rec->tgid = ns_tgid(task);
	rec->fd = ctx->fd;
	size = f_op == fops_perf ? read_event(rec, file->private_data) : read_link(rec, file->private_data);
	if (!rec->prog_id)
		return 0;
	size = (size + RECORD_ALIGN - 1) & ~(RECORD_ALIGN - 1);
	if (size > OBS_PATH_LEN)
		return 0;
	size += __builtin_offsetof(struct obs_rec_file, path);
	rec->size = size;
	bpf_seq_write(ctx->meta->seq, rec, size);
	return 0;
}

/* Before Linux 6.9 the bit belonged to the auxiliary struct. */
struct bpf_prog_aux___old {
	bool sleepable;
} __attribute__((preserve_access_index));

SEC("iter/bpf_prog")
int programs(struct bpf_iter__bpf_prog *ctx)
{
	struct bpf_prog *prog = ctx->prog;
	struct obs_rec_prog rec = {};

	if (!prog)
		return 0;
	rec.prog_id = BPF_CORE_READ(prog, aux, id);
	if (bpf_core_field_exists(prog->sleepable))
		rec.sleepable = BPF_CORE_READ_BITFIELD_PROBED(prog, sleepable);
	else
		rec.sleepable = BPF_CORE_READ((struct bpf_prog_aux___old *)prog->aux, sleepable);
	bpf_seq_write(ctx->meta->seq, &rec, sizeof(rec));
	return 0;
}

SEC("iter/task")
int pending_returns(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct obs_rec_return rec = {};
	struct return_instance *ri;

	if (!task)
		return 0;
	rec.tid = task->pid;
	ri = BPF_CORE_READ(task, utask, return_instances);
	for (int i = 0; ri && i < MAX_PENDING; i++) {
		rec.func = BPF_CORE_READ(ri, func);
		bpf_seq_write(ctx->meta->seq, &rec, sizeof(rec));
		ri = BPF_CORE_READ(ri, next);
	}
	return 0;
}
