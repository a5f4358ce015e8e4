/* SPDX-License-Identifier: MIT OR GPL-2.0-only */
/*
 * observe.bpf.c: what processes do with bpf().
 *
 * A probe program's bytecode exists as the tool wrote it only in the tool's memory and only during BPF_PROG_LOAD: it is
 * copied there, at entry, through the ring buffer, with the map descriptors in it resolved to map ids through the
 * tool's descriptor table. At exit the returned descriptor is resolved to the program, which binds the copy to an id
 * and a tag. What cannot be copied whole is refused with a reason.
 *
 * Everything else is a hint that the daemon should look again: links made and changed, programs set on perf events,
 * perf events and links closed in watched processes. Hints are sent at exit, when the call has had its effect.
 *
 * Two ways in, of which the daemon attaches one (kernel_features.c chooses): the tracepoints of the few system calls of
 * interest, or the raw tracepoints of all system calls. Arguments are read from the saved registers in both.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "bpf/arrivals.h"
#include "bpf/observe_abi.h"
#include "bpf/observe_task.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* From asm/unistd_64.h. */
enum { NR_CLOSE = 3, NR_MMAP = 9, NR_IOCTL = 16, NR_DUP2 = 33, NR_DUP3 = 292, NR_BPF = 321, NR_CLOSE_RANGE = 436 };

enum { MAP_ANONYMOUS_FLAG = 0x20 }; /* asm-generic/mman-common.h */

/* From linux/perf_event.h. */
enum { IOC_ENABLE = 0x2400, IOC_DISABLE = 0x2401, IOC_SET_BPF = 0x40042408 };

/* From linux/bpf.h: source registers of a 64-bit immediate that names a map. */
enum { PSEUDO_MAP_FD = 1, PSEUDO_MAP_VALUE = 2, PSEUDO_MAP_IDX = 5, PSEUDO_MAP_IDX_VALUE = 6 };

enum { USER_CS_64 = 0x33, INSN_LD_IMM64 = 0x18 };

const volatile __s32 self; /* the daemon, whose own calls are not looked at */

__u64 next_load; /* number of the next load */
__u64 lost;	 /* records that found no room */

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 16 << 20);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct obs_rec_code);
} staging SEC(".maps");

struct load {
	__u64 number;
	__u32 n_insns;
	__u32 refusal;
	__u32 expected_attach_type;
	__u32 prog_flags;
	char license[OBS_LICENSE_LEN];
};

/* Loads between entry and exit, by thread. A thread killed inside leaves its entry; hence LRU. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, struct load);
} loads SEC(".maps");

/* Threads inside a call that closes a perf event or a link. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u32);
} closing SEC(".maps");

/* Threads inside a call that maps a BPF map: its id. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, __u32);
} mapping SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __s32);
	__type(value, __u32);
} watched SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct arrived);
} arrived SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, ARRIVALS_RING_SIZE);
} arrivals SEC(".maps");

/*
 * The same, for a reader that has nothing else to do: children wait for him. A child that is not told of keeps its
 * parent's patches, so there is room for over 100,000 of them.
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} forks SEC(".maps");

/*
 * Fork children of watched processes, and theirs, that the reader of forks has not seen to yet: the watched process whose
 * memory they have. He takes them away. One that ends at once leaves its own children to somebody else, so that they
 * could not be found by looking.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __s32);
	__type(value, __s32);
} kin SEC(".maps");

static __always_inline void send(enum obs_rec_kind kind, __s32 tgid, __u64 arg)
{
	struct obs_rec_head rec = {.kind = kind, .tgid = tgid, .arg = arg};

	if (bpf_ringbuf_output(&ring, &rec, sizeof(rec), 0))
		__sync_fetch_and_add(&lost, 1);
}

static __always_inline __s32 current_tgid(void)
{
	/* In the initial PID namespace, where the daemon normally is, the short way: close() comes here often. */
	if (!ns_level)
		return bpf_get_current_pid_tgid() >> 32;
	return ns_tgid((void *)bpf_get_current_task());
}

/* ---- the copy of the bytecode ---- */

struct copy {
	struct obs_rec_code *rec;
	struct task_struct *task;
	__u64 insns; /* in the tool */
	__u32 n_insns;
	__u32 refusal;
};

/* In one instruction of the chunk: the map's descriptor becomes its id. */
static long name_map(__u32 i, struct copy *copy)
{
	struct obs_rec_code *rec = copy->rec;
	struct bpf_map *map;
	struct file *file;
	__u64 insn;
	__u32 src, id;

	if (i >= OBS_CHUNK_INSNS)
		return 1;
	insn = rec->insns[i];
	if ((__u8)insn != INSN_LD_IMM64)
		return 0;
	src = (insn >> 12) & 0xf;
	if (src == PSEUDO_MAP_IDX || src == PSEUDO_MAP_IDX_VALUE) {
		copy->refusal = OBS_REFUSAL_MAP_INDEX;
		return 1;
	}
	if (src != PSEUDO_MAP_FD && src != PSEUDO_MAP_VALUE)
		return 0;
	file = task_file(copy->task, insn >> 32);
	id = 0;
	if (file && (__u64)BPF_CORE_READ(file, f_op) == fops_map) {
		map = BPF_CORE_READ(file, private_data);
		id = BPF_CORE_READ(map, id);
	}
	if (!id) {
		copy->refusal = OBS_REFUSAL_MAP;
		return 1;
	}
	rec->insns[i] = (__u64)id << 32 | (__u32)insn;
	return 0;
}

static long copy_chunk(__u32 i, struct copy *copy)
{
	struct obs_rec_code *rec = copy->rec;
	__u32 first = i * OBS_CHUNK_INSNS, n;

	if (first >= copy->n_insns)
		return 1;
	n = copy->n_insns - first;
	if (n > OBS_CHUNK_INSNS)
		n = OBS_CHUNK_INSNS;
	if (bpf_probe_read_user(rec->insns, n * sizeof(rec->insns[0]), (void *)(copy->insns + (__u64)first * 8))) {
		copy->refusal = OBS_REFUSAL_UNREADABLE;
		return 1;
	}
	bpf_loop(n, name_map, copy, 0);
	if (copy->refusal)
		return 1;
	rec->first = first;
	rec->n = n;
	if (bpf_ringbuf_output(&ring, rec, __builtin_offsetof(struct obs_rec_code, insns) + n * sizeof(rec->insns[0]),
			       0)) {
		copy->refusal = OBS_REFUSAL_NO_ROOM;
		return 1;
	}
	return 0;
}

/* The head of union bpf_attr for BPF_PROG_LOAD, as far as it is of interest. */
struct load_attr {
	__u32 prog_type;
	__u32 insn_cnt;
	__u64 insns;
	__u64 license;
	__u32 log_level;
	__u32 log_size;
	__u64 log_buf;
	__u32 kern_version;
	__u32 prog_flags;
	char prog_name[16];
	__u32 prog_ifindex;
	__u32 expected_attach_type;
};

enum { LOAD_ATTR_MIN = 24 }; /* up to license: what the first kernels had */

/* Probes, and tracepoints, which may share maps with them. */
static __always_inline bool is_of_interest(const struct load_attr *attr)
{
	switch (attr->prog_type) {
	case BPF_PROG_TYPE_KPROBE:
	case BPF_PROG_TYPE_TRACEPOINT:
	case BPF_PROG_TYPE_RAW_TRACEPOINT:
		return true;
	default:
		return attr->prog_type == BPF_PROG_TYPE_TRACING && attr->expected_attach_type == BPF_TRACE_RAW_TP;
	}
}

static __always_inline void load_entered(__u64 attr_at, __u32 attr_size)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct load_attr attr = {};
	struct copy copy = {};
	struct load load = {};
	__u32 zero = 0;
	__s32 tgid;

	if (attr_size > sizeof(attr))
		attr_size = sizeof(attr);
	if (attr_size < LOAD_ATTR_MIN || bpf_probe_read_user(&attr, attr_size, (void *)attr_at) ||
	    !is_of_interest(&attr))
		return;
	tgid = current_tgid();
	copy.rec = bpf_map_lookup_elem(&staging, &zero);
	if (tgid == self || !copy.rec)
		return;
	load.number = __sync_fetch_and_add(&next_load, 1);
	load.n_insns = attr.insn_cnt;
	load.expected_attach_type = attr.expected_attach_type;
	load.prog_flags = attr.prog_flags;
	if (bpf_probe_read_user_str(load.license, sizeof(load.license), (void *)attr.license) < 0)
		load.refusal = OBS_REFUSAL_UNREADABLE;
	else if (attr.insn_cnt > OBS_MAX_INSNS)
		load.refusal = OBS_REFUSAL_TOO_LARGE;
	if (!load.refusal) {
		copy.task = (void *)bpf_get_current_task();
		copy.insns = attr.insns;
		copy.n_insns = attr.insn_cnt;
		copy.rec->head.kind = OBS_REC_CODE;
		copy.rec->head.tgid = tgid;
		copy.rec->head.arg = load.number;
		bpf_loop((attr.insn_cnt + OBS_CHUNK_INSNS - 1) / OBS_CHUNK_INSNS, copy_chunk, &copy, 0);
		load.refusal = copy.refusal;
	}
	bpf_map_update_elem(&loads, &thread, &load, BPF_ANY);
}

static __always_inline void load_returned(__u64 thread, struct load *load, long ret)
{
	struct obs_rec_loaded rec = {.head.kind = OBS_REC_LOADED, .head.arg = load->number};
	struct task_struct *task = (void *)bpf_get_current_task();
	struct bpf_prog *prog;
	struct file *file;

	rec.head.tgid = ns_tgid(task);
	rec.n_insns = load->n_insns;
	rec.refusal = load->refusal;
	rec.expected_attach_type = load->expected_attach_type;
	rec.prog_flags = load->prog_flags;
	__builtin_memcpy(rec.license, load->license, sizeof(rec.license));
	bpf_map_delete_elem(&loads, &thread);
	if (ret >= 0) {
		file = task_file(task, ret);
		if (file && (__u64)BPF_CORE_READ(file, f_op) == fops_prog) {
			prog = BPF_CORE_READ(file, private_data);
			rec.prog_id = BPF_CORE_READ(prog, aux, id);
			BPF_CORE_READ_INTO(&rec.tag, prog, tag);
		}
	}
	if (bpf_ringbuf_output(&ring, &rec, sizeof(rec), 0))
		__sync_fetch_and_add(&lost, 1);
}

/* ---- system calls ---- */

static __always_inline bool is_attachment(struct file *file)
{
	__u64 f_op = file ? (__u64)BPF_CORE_READ(file, f_op) : 0;

	return f_op && (f_op == fops_perf || f_op == fops_link);
}

static __always_inline void bpf_entered(struct pt_regs *regs)
{
	if ((__u32)regs->di == BPF_PROG_LOAD)
		load_entered(regs->si, regs->dx);
}

static __always_inline void bpf_returned(struct pt_regs *regs, long ret)
{
	__u64 thread;
	struct load *load;
	__s32 tgid;

	switch ((__u32)regs->di) {
	case BPF_PROG_LOAD:
		thread = bpf_get_current_pid_tgid();
		load = bpf_map_lookup_elem(&loads, &thread);
		if (load)
			load_returned(thread, load, ret);
		break;
	case BPF_LINK_CREATE:
	case BPF_RAW_TRACEPOINT_OPEN:
	case BPF_LINK_UPDATE:
	case BPF_LINK_DETACH:
		tgid = current_tgid();
		if (ret >= 0 && tgid != self)
			send(OBS_REC_CHANGED, tgid, 0);
		break;
	}
}

static __always_inline void ioctl_returned(struct pt_regs *regs, long ret)
{
	__u32 request = regs->si;
	struct file *file;
	__s32 tgid;

	if (ret || (request != IOC_SET_BPF && request != IOC_ENABLE && request != IOC_DISABLE))
		return;
	file = task_file((void *)bpf_get_current_task(), regs->di);
	tgid = current_tgid();
	if (file && (__u64)BPF_CORE_READ(file, f_op) == fops_perf && tgid != self)
		send(OBS_REC_CHANGED, tgid, 0);
}

/* first to last: the descriptors that the call closes. */
static __always_inline void close_entered(__u32 first, __u32 last)
{
	__u64 thread = bpf_get_current_pid_tgid();
	__s32 tgid = current_tgid();
	__u32 one = 1;

	if (!bpf_map_lookup_elem(&watched, &tgid))
		return;
	if (first == last && !is_attachment(task_file((void *)bpf_get_current_task(), first)))
		return;
	bpf_map_update_elem(&closing, &thread, &one, BPF_ANY);
}

static __always_inline void close_returned(void)
{
	__u64 thread = bpf_get_current_pid_tgid();

	if (bpf_map_lookup_elem(&closing, &thread)) {
		bpf_map_delete_elem(&closing, &thread);
		send(OBS_REC_CHANGED, current_tgid(), 0);
	}
}

static __always_inline void mmap_entered(struct pt_regs *regs)
{
	__u64 thread;
	struct bpf_map *map;
	struct file *file;
	__u32 id;

	if (regs->r10 & MAP_ANONYMOUS_FLAG)
		return;
	file = task_file((void *)bpf_get_current_task(), regs->r8);
	if (!file || (__u64)BPF_CORE_READ(file, f_op) != fops_map)
		return;
	map = BPF_CORE_READ(file, private_data);
	id = BPF_CORE_READ(map, id);
	thread = bpf_get_current_pid_tgid();
	bpf_map_update_elem(&mapping, &thread, &id, BPF_ANY);
}

static __always_inline void mmap_returned(void)
{
	__u64 thread = bpf_get_current_pid_tgid();
	__u32 *id = bpf_map_lookup_elem(&mapping, &thread);
	__s32 tgid;

	if (!id)
		return;
	tgid = current_tgid();
	if (tgid != self)
		send(OBS_REC_MAPPED, tgid, *id);
	bpf_map_delete_elem(&mapping, &thread);
}

static __always_inline struct pt_regs *current_regs(void)
{
	return (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
}

/* ---- way in: the tracepoints of single system calls ---- */

SEC("tracepoint")
int enter_bpf(void *ctx)
{
	bpf_entered(current_regs());
	return 0;
}

SEC("tracepoint")
int exit_bpf(struct syscall_trace_exit *ctx)
{
	bpf_returned(current_regs(), ctx->ret);
	return 0;
}

SEC("tracepoint")
int exit_ioctl(struct syscall_trace_exit *ctx)
{
	ioctl_returned(current_regs(), ctx->ret);
	return 0;
}

SEC("tracepoint")
int enter_close(void *ctx)
{
	__u32 fd = current_regs()->di;

	close_entered(fd, fd);
	return 0;
}

/* dup2 and dup3: the second argument is closed. */
SEC("tracepoint")
int enter_dup(void *ctx)
{
	__u32 fd = current_regs()->si;

	close_entered(fd, fd);
	return 0;
}

SEC("tracepoint")
int enter_close_range(void *ctx)
{
	struct pt_regs *regs = current_regs();

	close_entered(regs->di, regs->si);
	return 0;
}

SEC("tracepoint")
int exit_closing(void *ctx)
{
	close_returned();
	return 0;
}

SEC("tracepoint")
int enter_mmap(void *ctx)
{
	mmap_entered(current_regs());
	return 0;
}

SEC("tracepoint")
int exit_mmap(void *ctx)
{
	mmap_returned();
	return 0;
}

/* ---- way in: the raw tracepoints of all system calls ---- */

SEC("raw_tp/sys_enter")
int raw_enter(struct bpf_raw_tracepoint_args *ctx)
{
	struct pt_regs *regs = current_regs();
	__u32 nr = ctx->args[1];

	if (nr != NR_BPF && nr != NR_CLOSE && nr != NR_DUP2 && nr != NR_DUP3 && nr != NR_CLOSE_RANGE && nr != NR_MMAP)
		return 0;
	if (regs->cs != USER_CS_64)
		return 0;
	if (nr == NR_BPF)
		bpf_entered(regs);
	else if (nr == NR_MMAP)
		mmap_entered(regs);
	else if (nr == NR_CLOSE)
		close_entered(regs->di, regs->di);
	else if (nr == NR_CLOSE_RANGE)
		close_entered(regs->di, regs->si);
	else
		close_entered(regs->si, regs->si);
	return 0;
}

SEC("raw_tp/sys_exit")
int raw_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct pt_regs *regs = current_regs();
	__u32 nr = regs->orig_ax;

	if (nr != NR_BPF && nr != NR_IOCTL && nr != NR_CLOSE && nr != NR_DUP2 && nr != NR_DUP3 &&
	    nr != NR_CLOSE_RANGE && nr != NR_MMAP)
		return 0;
	if (regs->cs != USER_CS_64)
		return 0;
	if (nr == NR_BPF)
		bpf_returned(regs, ctx->args[1]);
	else if (nr == NR_IOCTL)
		ioctl_returned(regs, ctx->args[1]);
	else if (nr == NR_MMAP)
		mmap_returned();
	else
		close_returned();
	return 0;
}

/* ---- watched processes ---- */

/* A process, or its program, is new: nothing is known about it. */
static __always_inline void forget_arrival(__u32 tgid)
{
	__u64 bit = 1ull << (tgid & 63), *word;
	struct arrived *all;
	__u32 zero = 0;

	all = bpf_map_lookup_elem(&arrived, &zero);
	if (!all)
		return;
	word = &all->word[tgid / 64 & (ARRIVED_WORDS - 1)];
	if (*word & bit)
		__sync_fetch_and_and(word, ~bit);
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(process_exec, struct task_struct *task)
{
	__s32 tgid = ns_tgid(task);

	forget_arrival(task->tgid);
	bpf_map_delete_elem(&kin, &tgid);
	if (bpf_map_lookup_elem(&watched, &tgid))
		send(OBS_REC_EXEC, tgid, 0);
	return 0;
}

#define SIGNAL_GROUP_EXIT 4 /* include/linux/sched/signal.h */

/* The end of a whole process is seen by its pidfd. */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(thread_exit, struct task_struct *task)
{
	__s32 tgid = ns_tgid(task);

	if (task->signal->live.counter <= 0)
		bpf_map_delete_elem(&kin, &tgid);
	if (task->pid != task->tgid || task->signal->live.counter <= 0 || (task->signal->flags & SIGNAL_GROUP_EXIT))
		return 0;
	if (bpf_map_lookup_elem(&watched, &tgid))
		send(OBS_REC_LEADER, tgid, 0);
	return 0;
}

static __always_inline void tell_of_child(__s32 root, __s32 child)
{
	struct obs_rec_head rec = {.kind = OBS_REC_FORK, .tgid = root, .arg = child};

	if (bpf_map_update_elem(&kin, &child, &root, BPF_ANY) || bpf_ringbuf_output(&forks, &rec, sizeof(rec), 0))
		__sync_fetch_and_add(&lost, 1);
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(process_fork, struct task_struct *parent, struct task_struct *child)
{
	__s32 tgid, child_tgid, *root;

	if (child->tgid == parent->tgid)
		return 0;
	forget_arrival(child->tgid);
	tgid = ns_tgid(parent);
	child_tgid = ns_tgid(child);
	root = bpf_map_lookup_elem(&kin, &tgid);
	if (root)
		tell_of_child(*root, child_tgid);
	if (bpf_map_lookup_elem(&watched, &tgid)) {
		tell_of_child(tgid, child_tgid);
		send(OBS_REC_FORK, tgid, child_tgid);
	}
	return 0;
}
