/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * park.bpf.c: an iterator that tells of every descriptor of a uprobe's perf event what the event is like, and how many
 * references there are: only when all of them are known can the event be exchanged for another one.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "bpf/observe_task.h"
#include "bpf/park.h"
#include "bpf/uprobe_event.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* Before Linux 6.13. */
struct file___old {
	atomic_long_t f_count;
} __attribute__((preserve_access_index));

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct park_rec);
} scratch SEC(".maps");

/* file_ref_t counts from 0. */
static __always_inline __u64 refs_of(struct file *file)
{
	if (bpf_core_field_exists(struct file, f_ref))
		return (__u64)BPF_CORE_READ(file, f_ref.refcnt.counter) + 1;
	return (__u64)BPF_CORE_READ((struct file___old *)file, f_count.counter);
}

static __always_inline bool is_entangled(struct file *file, struct perf_event *event)
{
	return BPF_CORE_READ(file, f_ep) || BPF_CORE_READ(event, rb) || BPF_CORE_READ(event, group_leader) != event ||
	       BPF_CORE_READ(event, nr_siblings);
}

static __always_inline void read_uprobe(struct park_rec *rec, struct perf_event *event)
{
	struct trace_uprobe *tu = event_uprobe(event);

	rec->offset = BPF_CORE_READ(tu, offset);
	bpf_probe_read_kernel_str(rec->path, sizeof(rec->path), BPF_CORE_READ(tu, filename));
}

SEC("iter/task_file")
int owners(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file, *event_file;
	struct perf_event *event;
	struct bpf_perf_link *perf;
	struct bpf_link *link;
	struct park_rec *rec;
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
	__builtin_memset(rec, 0, sizeof(*rec));
	event_file = file;
	if (f_op == fops_link) {
		link = file->private_data;
		if (BPF_CORE_READ(link, type) != BPF_LINK_TYPE_PERF_EVENT)
			return 0;
		perf = (void *)link - bpf_core_field_offset(struct bpf_perf_link, link);
		event_file = BPF_CORE_READ(perf, perf_file);
		rec->link_id = BPF_CORE_READ(link, id);
		rec->link_refs = (__u64)BPF_CORE_READ(link, refcnt.counter);
	}
	event = BPF_CORE_READ(event_file, private_data);
	if (BPF_CORE_READ(event, attr.type) != uprobe_pmu)
		return 0;
	rec->tgid = ns_tgid(task);
	rec->fd = ctx->fd;
	rec->event = (__u64)event;
	rec->cpu = BPF_CORE_READ(event, cpu);
	rec->file_refs = refs_of(file);
	rec->event_refs = refs_of(event_file);
	rec->is_entangled = is_entangled(file, event) || BPF_CORE_READ(event_file, f_ep);
	rec->enabled = (int)BPF_CORE_READ(event, state) >= PERF_EVENT_STATE_INACTIVE;
	size = bpf_core_field_size(event->attr);
	if (size > PARK_ATTR_SIZE)
		size = PARK_ATTR_SIZE;
	bpf_probe_read_kernel(rec->attr, size, (void *)event + bpf_core_field_offset(struct perf_event, attr));
	read_uprobe(rec, event);
	bpf_seq_write(ctx->meta->seq, rec, sizeof(*rec));
	return 0;
}
