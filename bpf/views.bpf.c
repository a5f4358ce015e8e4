/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* views.bpf.c: iterators that tell which processes have mapped the memory of a BPF map, and where. */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#include "bpf/observe_task.h"
#include "bpf/views.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

enum { PAGE_BITS = 12 };

/* By the map's address: its id. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, __u32);
} wanted SEC(".maps");

SEC("iter/bpf_map")
int maps(struct bpf_iter__bpf_map *ctx)
{
	struct bpf_map *map = ctx->map;
	struct views_map rec = {};

	if (!map)
		return 0;
	rec.id = map->id;
	rec.address = (__u64)map;
	bpf_seq_write(ctx->meta->seq, &rec, sizeof(rec));
	return 0;
}

SEC("iter/task_vma")
int views(struct bpf_iter__task_vma *ctx)
{
	struct vm_area_struct *vma = ctx->vma;
	struct task_struct *task = ctx->task;
	struct views_rec rec = {};
	struct file *file;
	__u64 map;
	__u32 *id;

	if (!task || !vma)
		return 0;
	file = vma->vm_file;
	if (!file)
		return 0;
	map = (__u64)BPF_CORE_READ(file, private_data);
	id = bpf_map_lookup_elem(&wanted, &map);
	if (!id)
		return 0;
	rec.map_id = *id;
	rec.tgid = ns_tgid(task);
	rec.mm = (__u64)BPF_CORE_READ(task, mm);
	rec.start = vma->vm_start;
	rec.end = vma->vm_end;
	rec.offset = (__u64)vma->vm_pgoff << PAGE_BITS;
	rec.flags = vma->vm_flags;
	bpf_seq_write(ctx->meta->seq, &rec, sizeof(rec));
	return 0;
}
