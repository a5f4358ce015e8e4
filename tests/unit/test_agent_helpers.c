// SPDX-License-Identifier: MIT
/* Helpers, compiled into a program that runs in another process: the kernel's values, and no system call. */
#include <linux/bpf.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "agent_fixture.h"
#include "vm-llvm/vm.h"

static const unsigned char helpers_bc[] = {
#include "agent/helpers.bc.inc"
};

static struct rig rig;

/* Where the program leaves what it found, in a direct map. */
struct found {
	uint64_t pid_tgid, ktime, boot, uid_gid, cpu, func_ip, cookie, str_len, bad_read, long_len;
	char comm[16];
	char str[32];
	char bad[16];
	char long_str[600];
	/* given */
	char in_str[24];
	char in_long[600];
};

#define MAX_INSNS 128
struct prog {
	struct bpf_insn i[MAX_INSNS];
	size_t n;
};

static void emit(struct prog *p, struct bpf_insn i)
{
	assert_true(p->n < MAX_INSNS);
	p->i[p->n++] = i;
}

static void mov_imm(struct prog *p, uint8_t reg, int32_t imm)
{
	emit(p, (struct bpf_insn){.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = reg, .imm = imm});
}

static void mov_reg(struct prog *p, uint8_t to, uint8_t from)
{
	emit(p, (struct bpf_insn){.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = to, .src_reg = from});
}

static void map_value(struct prog *p, uint8_t reg, size_t off)
{
	emit(p, (struct bpf_insn){.code = BPF_LD | BPF_DW | BPF_IMM, .dst_reg = reg, .src_reg = BPF_PSEUDO_MAP_VALUE});
	emit(p, (struct bpf_insn){.imm = (int32_t)off});
}

/* helper(r1..r3 as set) and *(u64 *)(value + off) = r0 */
static void call_and_keep(struct prog *p, int32_t helper, size_t off)
{
	emit(p, (struct bpf_insn){.code = BPF_JMP | BPF_CALL, .imm = helper});
	map_value(p, 1, off);
	emit(p, (struct bpf_insn){.code = BPF_STX | BPF_MEM | BPF_DW, .dst_reg = 1, .src_reg = 0});
}

/* r1 = &found.to, r2 = size, r3 = from */
static void read_args(struct prog *p, size_t to, int32_t size)
{
	map_value(p, 1, to);
	mov_imm(p, 2, size);
}

static void build(struct prog *p)
{
	mov_reg(p, 6, 1);
	call_and_keep(p, BPF_FUNC_get_current_pid_tgid, offsetof(struct found, pid_tgid));
	call_and_keep(p, BPF_FUNC_ktime_get_ns, offsetof(struct found, ktime));
	call_and_keep(p, BPF_FUNC_ktime_get_boot_ns, offsetof(struct found, boot));
	call_and_keep(p, BPF_FUNC_get_current_uid_gid, offsetof(struct found, uid_gid));
	call_and_keep(p, BPF_FUNC_get_smp_processor_id, offsetof(struct found, cpu));
	mov_reg(p, 1, 6);
	call_and_keep(p, BPF_FUNC_get_func_ip, offsetof(struct found, func_ip));
	mov_reg(p, 1, 6);
	call_and_keep(p, BPF_FUNC_get_attach_cookie, offsetof(struct found, cookie));
	read_args(p, offsetof(struct found, comm), 16);
	emit(p, (struct bpf_insn){.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_get_current_comm});
	read_args(p, offsetof(struct found, str), 32);
	map_value(p, 3, offsetof(struct found, in_str));
	call_and_keep(p, BPF_FUNC_probe_read_user_str, offsetof(struct found, str_len));
	read_args(p, offsetof(struct found, bad), 16);
	mov_imm(p, 3, 8);
	call_and_keep(p, BPF_FUNC_probe_read_user, offsetof(struct found, bad_read));
	read_args(p, offsetof(struct found, long_str), 600);
	map_value(p, 3, offsetof(struct found, in_long));
	call_and_keep(p, BPF_FUNC_probe_read_str, offsetof(struct found, long_len));
	mov_imm(p, 0, 0);
	emit(p, (struct bpf_insn){.code = BPF_JMP | BPF_EXIT});
}

static uint64_t clock_ns(clockid_t c)
{
	struct timespec ts;

	clock_gettime(c, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static void in_target(const char *victim, bool with_vdso)
{
	char *const argv[] = {(char *)victim, "10", NULL};
	struct shm_geo geo = {.kind = SHM_DIRECT,
			      .key_size = 4,
			      .value_size = sizeof(struct found),
			      .max_entries = 1,
			      .value_room = sizeof(struct found)};
	struct vm_blob blob = {"bpftime_maps", &geo, sizeof(geo)};
	struct vm_compile_opts opts = {.sz = sizeof(opts),
				       .bitcode = helpers_bc,
				       .bitcode_size = sizeof(helpers_bc),
				       .blobs = &blob,
				       .n_blobs = 1};
	struct site_opts so = {.sz = sizeof(so), .noop_prog_fd = rig.noop_fd};
	struct agent_error err = {""};
	struct target_mapping code_map;
	struct agent_action *a;
	struct agent_site *as;
	struct prog p = {.n = 0};
	struct vm_code code;
	struct found *f;
	struct victim v;
	struct rider rd;
	struct site *s;
	uint64_t mono, boot;
	char text[256];

	build(&p);
	if (vm_compile(p.i, p.n, &opts, &code, text, sizeof(text)))
		fail_msg("%s", text);
	victim_start(&v, argv);
	rider_start(&rd, &rig, v.pid);
	f = (void *)(rd.group + GROUP_VALUE_OFF);
	strcpy(f->in_str, "seventeen letters");
	memset(f->in_long, 'x', 500);
	memset(f->str, '#', sizeof(f->str));
	memset(f->bad, '#', sizeof(f->bad));
	so.path = victim_path(victim);
	so.offset = victim_symbol(victim, "work");
	if (site__plan(rd.t, &so, &s, &err))
		fail_msg("%s", err.text);
	code_map = (struct target_mapping){.fd = agent_code_memfd("test-prog", code.bytes, code.size),
					   .size = (code.size + 4095) & ~4095ul,
					   .prot = PROT_READ | PROT_EXEC};
	if (target__map(rd.t, &code_map, 1, &err))
		fail_msg("%s", err.text);
	as = site__fill_addresses(s, rd.arena);
	rider_action(&rd, as, 0, 0, AGENT_ACT_PID_LIMITED);
	a = &as->action[0];
	a->fn = code_map.addr + code.entry;
	a->env.direct[0] = rd.map[1].addr + GROUP_VALUE_OFF;
	a->env.cookie = 0x1234567890;
	assert_int_equal(a->env.vdso_gettime != 0, with_vdso);
	rider_gate(&rd, SHM_UGATE_OPEN);
	if (site__open(s, &err))
		fail_msg("%s", err.text);
	mono = clock_ns(CLOCK_MONOTONIC);
	boot = clock_ns(CLOCK_BOOTTIME);
	victim_go(&v);
	assert_true(victim_number(&v, "calls") > 0);
	assert_int_equal(victim_wait(&v), 0);
	assert_true(rider_hits(&rd, 0) > 0);
	assert_int_equal(f->pid_tgid, (uint64_t)v.pid << 32 | (uint32_t)v.pid);
	assert_true(f->ktime >= mono && f->ktime <= clock_ns(CLOCK_MONOTONIC));
	assert_true(f->boot >= boot && f->boot <= clock_ns(CLOCK_BOOTTIME));
	assert_int_equal(f->uid_gid, (uint64_t)getgid() << 32 | getuid());
	assert_true(f->cpu < (uint64_t)sysconf(_SC_NPROCESSORS_CONF));
	assert_int_equal(f->func_ip, as->site);
	assert_int_equal(f->cookie, 0x1234567890);
	assert_string_equal(f->comm, victim);
	assert_string_equal(f->str, "seventeen letters");
	assert_int_equal(f->str_len, strlen("seventeen letters") + 1);
	assert_int_equal((int64_t)f->bad_read, -14);
	for (size_t i = 0; i < sizeof(f->bad); i++)
		assert_int_equal(f->bad[i], 0);
	assert_int_equal(f->long_len, 501);
	assert_memory_equal(f->long_str, f->in_long, 501);
	site__free(s);
	close(code_map.fd);
	rider_stop(&rd);
	vm_code__clear(&code);
}

static void test_helpers(void **state)
{
	(void)state;
	in_target("signal", true);
}

/* Strict seccomp: any system call kills, and reading the time stamp counter too. */
static void test_helpers_under_seccomp(void **state)
{
	(void)state;
	in_target("seccomp", false);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_helpers),
		cmocka_unit_test(test_helpers_under_seccomp),
	};

	return rig_tests(&rig, "agent_helpers", tests, sizeof(tests) / sizeof(tests[0]));
}
