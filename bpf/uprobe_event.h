/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * uprobe_event.h: for iterators over files, which files are of interest and what uprobe a perf event is of. Layouts:
 * struct trace_uprobe is kernel/trace/trace_uprobe.c, the way from an event to it is trace_probe_primary_from_call() of
 * kernel/trace/trace_probe.h; by CO-RE.
 */
#ifndef BPFTIME_UPROBE_EVENT_H
#define BPFTIME_UPROBE_EVENT_H

#include "bpf/observe_abi.h"

const volatile __u32 uprobe_pmu; /* attr.type of perf uprobes */

static __always_inline struct trace_uprobe *event_uprobe(struct perf_event *event)
{
	struct trace_event_call *call = BPF_CORE_READ(event, tp_event);
	struct trace_probe_event *tpe = (void *)call - bpf_core_field_offset(struct trace_probe_event, call);
	struct list_head *first = BPF_CORE_READ(tpe, probes.next);
	struct trace_probe *tp = (void *)first - bpf_core_field_offset(struct trace_probe, list);

	return (void *)tp - bpf_core_field_offset(struct trace_uprobe, tp);
}

/* The file operations of every file: asked about the daemon itself, which knows what its descriptors are. */
SEC("iter/task_file")
int file_kinds(struct bpf_iter__task_file *ctx)
{
	struct obs_rec_fops rec = {};
	struct file *file = ctx->file;

	if (!file)
		return 0;
	rec.fd = ctx->fd;
	rec.f_op = (__u64)file->f_op;
	bpf_seq_write(ctx->meta->seq, &rec, sizeof(rec));
	return 0;
}

#endif
