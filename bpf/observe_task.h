/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/* observe_task.h: tasks and their files, for observe.bpf.c and scan.bpf.c. */
#ifndef BPFTIME_OBSERVE_TASK_H
#define BPFTIME_OBSERVE_TASK_H

/* The daemon's PID namespace: how deep it is nested, and its inode number. Set before the program is loaded. */
const volatile __u32 ns_level;
const volatile __u32 ns_inum;

/* The file operations by which a file's kind is told: the kernel does not export their names. Set once learnt. */
__u64 fops_perf, fops_link, fops_map, fops_prog;

/* The process that the task belongs to, as the daemon's PID namespace numbers it; 0 when it does not. */
static __always_inline __s32 ns_tgid(struct task_struct *task)
{
	struct pid *pid = BPF_CORE_READ(task, group_leader, thread_pid);
	struct upid up = {};
	const void *at = (const void *)pid + bpf_core_field_offset(struct pid, numbers) +
			 (__u64)ns_level * bpf_core_type_size(struct upid);

	if (!pid || BPF_CORE_READ(pid, level) < ns_level || bpf_probe_read_kernel(&up, sizeof(up), at))
		return 0;
	return BPF_CORE_READ(up.ns, ns.inum) == ns_inum ? up.nr : 0;
}

/* The file behind a descriptor of this task, or NULL. */
static __always_inline struct file *task_file(struct task_struct *task, __u32 fd)
{
	struct fdtable *fdt = BPF_CORE_READ(task, files, fdt);
	struct file *file = NULL;
	struct file **slot;

	if (!fdt || fd >= BPF_CORE_READ(fdt, max_fds))
		return NULL;
	slot = BPF_CORE_READ(fdt, fd) + fd;
	bpf_probe_read_kernel(&file, sizeof(file), slot);
	return file;
}

#endif
