// SPDX-License-Identifier: (MIT OR GPL-2.0-only)
/*
 * service.bpf.c: answers what only the kernel knows, for code in targets.
 *
 * `service` runs at a uprobe on the nop in the agent's image (agent/entry.S), with the question in the registers, and
 * writes the answer into the asking process's target arena. No system call is made, so a seccomp filter has nothing to
 * say. The other programs keep the thread slots true: a slot must be about the thread that has its fs base at that
 * moment.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>

#include "agent/slot.h"

#define ENOSPC	     28
#define EINVAL	     22
#define CLONE_VM     0x00000100
#define CLONE_THREAD 0x00010000
#define MAX_TARGETS  8192
#define MAX_CHILDREN 16384

struct target_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, AGENT_ARENA_SIZE);
};

/* tgid (initial namespace) -> target arena. Filled by the daemon. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, MAX_TARGETS);
	__type(key, __u32);
	__array(values, struct target_map);
} arenas SEC(".maps");

/* Processes that use the arena of another: fork children and those that share its mm. */
struct child {
	__u32 owner; /* tgid that is in arenas */
	__u32 pad;
	__u64 fs_base; /* shares the mm, and this thread's fs base; 0: a copy */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_CHILDREN);
	__type(key, __u32);
	__type(value, struct child);
} children SEC(".maps");

static __always_inline struct agent_target *arena_of(__u32 tgid)
{
	__u32 zero = 0;
	void *inner = bpf_map_lookup_elem(&arenas, &tgid);

	return inner ? bpf_map_lookup_elem(inner, &zero) : 0;
}

_Static_assert(__builtin_offsetof(struct agent_target, spare) ==
		       __builtin_offsetof(struct agent_target, thread) +
			       AGENT_MAX_THREADS * sizeof(struct agent_thread),
	       "spare slots follow the threads' slots");

/* Thread slots, then spare ones. The bound is checked on the register that is used, for the verifier. */
static __always_inline struct agent_thread *slot_at(struct agent_target *t, __u64 index)
{
	if (index >= AGENT_MAX_THREADS + AGENT_MAX_SPARES)
		return 0;
	barrier_var(index);
	return (struct agent_thread *)((char *)t + __builtin_offsetof(struct agent_target, thread) +
				       index * sizeof(struct agent_thread));
}

/* Index of the slot with this fs base, or of a free one in its window when create, or AGENT_NO_SLOT. */
static __always_inline __u32 find_slot(struct agent_target *t, __u64 fs_base, int create)
{
	__u32 i, n, vacant = AGENT_NO_SLOT;

	for (n = 0; n < AGENT_PROBE_WINDOW; n++) {
		i = agent_slot_nth(fs_base, n);
		if (i >= AGENT_MAX_THREADS)
			break;
		if (t->thread[i].fs_base == fs_base)
			return i;
		if (vacant == AGENT_NO_SLOT && t->thread[i].fs_base == 0)
			vacant = i;
	}
	return create ? vacant : AGENT_NO_SLOT;
}

static __always_inline struct agent_thread *slot_of(struct agent_target *t, __u64 fs_base)
{
	return fs_base ? slot_at(t, find_slot(t, fs_base, 0)) : 0;
}

static __always_inline __u64 id_of(struct task_struct *task)
{
	return (__u64)BPF_CORE_READ(task, tgid) << 32 | (__u32)BPF_CORE_READ(task, pid);
}

/*
 * Makes the slot be about this task. Slots are claimed by compare-and-swap: two threads of a process may register at
 * the same time on two processors.
 */
static __always_inline struct agent_thread *take_slot(struct agent_target *t, __u64 fs_base, struct task_struct *task,
						      __u32 state)
{
	__u32 index = find_slot(t, fs_base, 1);
	struct agent_thread *slot;

	slot = slot_at(t, index);
	if (!slot)
		return 0;
	if (slot->fs_base == fs_base)
		slot->state = AGENT_THREAD_FREE;
	else if (__sync_val_compare_and_swap(&slot->fs_base, 0, ~0ull))
		return 0;
	slot->pid_tgid = id_of(task);
	bpf_probe_read_kernel_str(slot->comm, sizeof(slot->comm), task->comm);
	slot->busy = 0;
	slot->state = state;
	__sync_lock_test_and_set(&slot->fs_base, fs_base);
	return slot;
}

static __always_inline __s64 do_register(struct agent_target *t, __u32 tgid, __u64 fs_base)
{
	struct task_struct *task = bpf_get_current_task_btf();

	if (!fs_base || tgid != t->tgid)
		return -EINVAL;
	return take_slot(t, fs_base, task, AGENT_THREAD_KNOWN) ? 0 : -ENOSPC;
}

static __always_inline __s64 read_user(struct agent_thread *slot, __u64 addr, __u64 size, int string)
{
	if (size == 0 || size > AGENT_REPLY_SIZE)
		return -EINVAL;
	if (string)
		return bpf_probe_read_user_str(slot->reply, size, (void *)addr);
	return bpf_probe_read_user(slot->reply, size, (void *)addr);
}

SEC("uprobe")
int service(struct pt_regs *ctx)
{
	__u64 op = ctx->di, index = ctx->si, a = ctx->dx, b = ctx->cx;
	__u32 tgid = bpf_get_current_pid_tgid() >> 32, owner = tgid;
	struct child *c = bpf_map_lookup_elem(&children, &tgid);
	struct agent_thread *slot;
	struct agent_target *t;
	__s64 result;

	if (c)
		owner = c->owner;
	t = arena_of(owner);
	if (!t)
		return 0;
	slot = slot_at(t, index);
	if (!slot)
		return 0;
	switch (op) {
	case AGENT_OP_REGISTER:
		result = do_register(t, tgid, a);
		break;
	case AGENT_OP_PID_TGID:
		result = bpf_get_current_pid_tgid();
		break;
	case AGENT_OP_UID_GID:
		result = bpf_get_current_uid_gid();
		break;
	case AGENT_OP_COMM:
		result = bpf_get_current_comm(slot->reply, sizeof(slot->comm));
		break;
	case AGENT_OP_KTIME:
		result = bpf_ktime_get_ns();
		break;
	case AGENT_OP_KTIME_BOOT:
		result = bpf_ktime_get_boot_ns();
		break;
	case AGENT_OP_READ_USER:
		result = read_user(slot, a, b, 0);
		break;
	case AGENT_OP_READ_USER_STR:
		result = read_user(slot, a, b, 1);
		break;
	case AGENT_OP_CPU:
		result = bpf_get_smp_processor_id();
		break;
	default:
		result = -EINVAL;
	}
	slot->result = result;
	return 0;
}

/* A new task, before it runs. Current is the one that made it. */
SEC("tp_btf/task_newtask")
int BPF_PROG(newtask, struct task_struct *task, __u64 clone_flags)
{
	struct task_struct *parent = bpf_get_current_task_btf();
	__u32 tgid = parent->tgid, child_tgid = task->tgid;
	struct child *pc = bpf_map_lookup_elem(&children, &tgid), c = {};
	__u64 fs_base = task->thread.fsbase;
	struct agent_thread *slot;
	struct agent_target *t;

	c.owner = pc ? pc->owner : tgid;
	t = arena_of(c.owner);
	if (!t)
		return 0;
	if (clone_flags & CLONE_VM)
		t->alone = 0;
	if (clone_flags & CLONE_THREAD) {
		/* A copy's threads are in nobody's table. */
		if (pc && !pc->fs_base)
			return 0;
		if (slot_of(t, fs_base))
			take_slot(t, fs_base, task, AGENT_THREAD_KNOWN);
		return 0;
	}
	if ((clone_flags & CLONE_VM) && !(pc && !pc->fs_base)) {
		c.fs_base = fs_base;
		slot = slot_of(t, fs_base);
		if (!slot)
			slot = take_slot(t, fs_base, parent, AGENT_THREAD_KNOWN);
		if (slot)
			__sync_fetch_and_add(&slot->state, 1);
	}
	bpf_map_update_elem(&children, &child_tgid, &c, BPF_ANY);
	return 0;
}

/* A child does not use the arena any more. */
static __always_inline void leave(__u32 tgid)
{
	struct child *c = bpf_map_lookup_elem(&children, &tgid);
	struct agent_thread *slot;
	struct agent_target *t;

	if (!c)
		return;
	t = c->fs_base ? arena_of(c->owner) : 0;
	if (t) {
		slot = slot_of(t, c->fs_base);
		if (slot && slot->state >= AGENT_THREAD_SHARED)
			__sync_fetch_and_add(&slot->state, -1);
	}
	bpf_map_delete_elem(&children, &tgid);
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(process_exec, struct task_struct *task)
{
	leave(task->tgid);
	return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(process_exit, struct task_struct *task)
{
	__u64 fs_base = task->thread.fsbase, id;
	__u32 tgid = task->tgid, i;
	struct agent_thread *slot;
	struct agent_target *t;
	struct child *c;

	c = bpf_map_lookup_elem(&children, &tgid);
	t = arena_of(c ? c->owner : tgid);
	if (!t)
		return 0;
	id = id_of(task);
	/* A killed task may have held a spare slot. */
	for (i = 0; i < AGENT_MAX_SPARES; i++)
		if (t->spare[i].pid_tgid == id) {
			t->spare[i].pid_tgid = 0;
			t->spare[i].busy = 0;
		}
	if (c) {
		if (BPF_CORE_READ(task, signal, live.counter) == 0)
			leave(tgid);
		return 0;
	}
	slot = slot_of(t, fs_base);
	if (slot && slot->pid_tgid == id) {
		slot->state = AGENT_THREAD_FREE;
		__sync_lock_test_and_set(&slot->fs_base, 0);
	}
	return 0;
}

SEC("tp_btf/task_rename")
int BPF_PROG(rename, struct task_struct *task, const char *comm)
{
	struct agent_target *t = arena_of(task->tgid);
	struct agent_thread *slot;

	if (!t)
		return 0;
	slot = slot_of(t, task->thread.fsbase);
	if (slot && slot->pid_tgid == id_of(task))
		bpf_probe_read_kernel_str(slot->comm, sizeof(slot->comm), comm);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
