// SPDX-License-Identifier: MIT
#include <bpf/bpf.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "agent/counters.h"
#include "agent_fixture.h"
#include "daemon/kernel_features.h"

#define MAX_CPUS SHM_MAX_CPUS

/* ---- victims ---- */

const char *victim_path(const char *name)
{
	static char path[512];
	char self[256];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	assert_true(n > 0);
	self[n] = 0;
	*strrchr(self, '/') = 0; /* B/tests/unit */
	snprintf(path, sizeof(path), "%s/../victims/%s", self, name);
	return path;
}

void victim_start(struct victim *v, char *const argv[])
{
	int in[2], out[2];
	const char *path = victim_path(argv[0]);
	char line[64];

	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	v->pid = fork();
	assert_true(v->pid >= 0);
	if (!v->pid) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		execv(path, argv);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	v->in = fdopen(in[1], "w");
	v->out = fdopen(out[0], "r");
	assert_non_null(fgets(line, sizeof(line), v->out));
	assert_string_equal(line, "ready\n");
}

void victim_go(struct victim *v)
{
	fputs("go\n", v->in);
	fflush(v->in);
}

long victim_number(struct victim *v, const char *key)
{
	char line[256];
	size_t len = strlen(key);

	while (fgets(line, sizeof(line), v->out))
		if (!strncmp(line, key, len) && line[len] == ' ')
			return atol(line + len + 1);
	return -1;
}

int victim_wait(struct victim *v)
{
	int status;

	fclose(v->in);
	/* We are parent and tracer in one: when it was killed in a stop of ours, the tracer has its status. */
	if (waitpid(v->pid, &status, 0) != v->pid) {
		assert_int_equal(errno, ECHILD);
		status = SIGKILL;
	}
	fclose(v->out);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

uint64_t victim_symbol(const char *name, const char *symbol)
{
	int fd = open(victim_path(name), O_RDONLY | O_CLOEXEC);
	uint64_t offset = 0;
	struct stat st;
	uint8_t *m;

	assert_true(fd >= 0 && !fstat(fd, &st));
	m = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	assert_true(m != MAP_FAILED);

	const Elf64_Ehdr *eh = (const void *)m;
	const Elf64_Shdr *sh = (const void *)(m + eh->e_shoff);
	const Elf64_Phdr *ph = (const void *)(m + eh->e_phoff);

	for (int i = 0; i < eh->e_shnum; i++) {
		if (sh[i].sh_type != SHT_SYMTAB)
			continue;
		for (size_t k = 0; k < sh[i].sh_size / sizeof(Elf64_Sym); k++) {
			const Elf64_Sym *s = (const Elf64_Sym *)(m + sh[i].sh_offset) + k;

			if (strcmp((char *)m + sh[sh[i].sh_link].sh_offset + s->st_name, symbol))
				continue;
			for (int p = 0; p < eh->e_phnum; p++)
				if (ph[p].p_type == PT_LOAD && s->st_value - ph[p].p_vaddr < ph[p].p_filesz)
					offset = s->st_value - ph[p].p_vaddr + ph[p].p_offset;
		}
	}
	munmap(m, st.st_size);
	assert_true(offset != 0);
	return offset;
}

/* ---- the host's part ---- */

void rig_start(struct rig *r)
{
	const struct bpf_insn nothing[] = {
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0},
		{.code = BPF_JMP | BPF_EXIT},
	};
	struct agent_error err = {""};
	struct kernel_features kernel;

	kernel_features__probe(&kernel);
	agent_kernel_preempts_itself(kernel.preempt != PREEMPT_MODE_NONE && kernel.preempt != PREEMPT_MODE_VOLUNTARY);
	if (agent_image__new(&r->image, &err) || agent_service__new(&r->service, r->image, &err))
		fail_msg("%s", err.text);
	r->noop_fd = bpf_prog_load(BPF_PROG_TYPE_KPROBE, "hold", "Dual MIT/GPL", nothing, 2, NULL);
	assert_true(r->noop_fd >= 0);
}

void rig_stop(struct rig *r)
{
	agent_service__free(r->service);
	agent_image__free(r->image);
	close(r->noop_fd);
}

static struct rig *group_rig;

static int start_group(void **state)
{
	rig_start(group_rig);
	return 0;
}

static int stop_group(void **state)
{
	rig_stop(group_rig);
	return 0;
}

int rig_tests(struct rig *r, const char *name, const struct CMUnitTest *tests, size_t n)
{
	cmocka_set_message_output(CM_OUTPUT_TAP);
	if (geteuid()) {
		puts("1..0 # SKIP needs root");
		return 0;
	}
	group_rig = r;
	return _cmocka_run_group_tests(name, tests, n, start_group, stop_group);
}

/* ---- a target ---- */

/* u64 fn(regs, env): lock incq (env->arena + imm32); xor eax,eax; ret. 32 bytes each. */
static const uint8_t count_code[] = {
	0x48, 0x8b, 0x06,				/* mov (%rsi),%rax */
	0xf0, 0x48, 0xff, 0x80, 0x00, 0x00, 0x00, 0x00, /* lock incq imm32(%rax) */
	0x31, 0xc0,					/* xor %eax,%eax */
	0xc3,						/* ret */
};
#define COUNT_STRIDE 32
#define COUNT_IMM    7
#define N_COUNTERS   16

void rider_start(struct rider *rd, struct rig *rig, pid_t pid)
{
	uint8_t code[COUNT_STRIDE * N_COUNTERS] = {0};
	struct agent_error err = {""};
	struct shm_group_hdr *h;
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = BPF_F_MMAPABLE);

	memset(rd, 0, sizeof(*rd));
	rd->rig = rig;
	for (uint32_t i = 0; i < N_COUNTERS; i++) {
		uint32_t off = GROUP_VALUE_OFF + i * 64;

		memcpy(code + i * COUNT_STRIDE, count_code, sizeof(count_code));
		memcpy(code + i * COUNT_STRIDE + COUNT_IMM, &off, sizeof(off));
	}
	rd->code_fd = agent_code_memfd("test-actions", code, sizeof(code));
	assert_true(rd->code_fd >= 0);
	rd->group_fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "test_group", 4, GROUP_SIZE, 1, &opts);
	assert_true(rd->group_fd >= 0);
	rd->group = mmap(NULL, GROUP_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, rd->group_fd, 0);
	assert_true(rd->group != MAP_FAILED);
	h = (void *)rd->group;
	h->magic = SHM_MAGIC;
	h->version = SHM_LAYOUT_VERSION;
	h->hits_off = GROUP_HITS_OFF;
	h->size = GROUP_SIZE;
	rd->arena_fd = agent_service__new_arena(rig->service, &err);
	assert_true(rd->arena_fd >= 0);
	rd->sites_fd = -1;
	rd->arena = agent_arena__map(rd->arena_fd, &rd->sites_fd);
	assert_non_null(rd->arena);
	rd->map[0] = (struct target_mapping){.fd = rd->code_fd, .size = 4096, .prot = PROT_READ | PROT_EXEC};
	rd->map[1] = (struct target_mapping){.fd = rd->group_fd, .size = GROUP_SIZE, .prot = PROT_READ | PROT_WRITE};
	if (target__open(pid, &rd->t, &err) || agent_service__add(rig->service, rd->t, rd->arena_fd, &err) ||
	    target__inject(rd->t, rig->image, rd->arena_fd, rd->sites_fd, &err) || target__map(rd->t, rd->map, 2, &err))
		fail_msg("%s", err.text);
}

void rider_stop(struct rider *rd)
{
	agent_service__remove(rd->rig->service, rd->t);
	target__free(rd->t);
	agent_arena__unmap(rd->arena);
	close(rd->sites_fd);
	munmap(rd->group, GROUP_SIZE);
	close(rd->arena_fd);
	close(rd->group_fd);
	close(rd->code_fd);
}

void rider_gate(struct rider *rd, enum shm_ugate gate)
{
	__atomic_store_n(&((struct shm_group_hdr *)rd->group)->ugate, gate, __ATOMIC_SEQ_CST);
}

static uint64_t rider_hits_off(uint32_t n)
{
	return GROUP_HITS_OFF + (uint64_t)n * MAX_CPUS / N_COUNTERS * sizeof(uint64_t);
}

void rider_action(struct rider *rd, struct agent_site *s, uint32_t which, uint32_t n, uint32_t flags)
{
	s->action[which] = (struct agent_action){
		.fn = rd->map[0].addr + n * COUNT_STRIDE,
		.flags = flags,
		.env =
			{
				.arena = rd->map[1].addr,
				.target = target__arena_addr(rd->t),
				.service = target__service_addr(rd->t),
				.vdso_gettime = target__vdso_gettime(rd->t),
				.hits_off = rider_hits_off(n),
				.func_ip = s->site,
				.fork_page = target__fork_page(rd->t),
			},
	};
	if (s->n_actions < which + 1)
		s->n_actions = which + 1;
	agent_site_serve(s, (uint32_t)(s - rd->arena->site));
}

uint64_t rider_count(const struct rider *rd, uint32_t n)
{
	return __atomic_load_n((uint64_t *)(rd->group + GROUP_VALUE_OFF + n * 64), __ATOMIC_SEQ_CST);
}

uint64_t rider_hits(const struct rider *rd, uint32_t n)
{
	const uint64_t *hits = (const uint64_t *)(rd->group + GROUP_HITS_OFF) + n * MAX_CPUS / N_COUNTERS;
	uint64_t sum = 0;

	for (unsigned int i = 0; i < MAX_CPUS / N_COUNTERS; i++)
		sum += hits[i];
	for (uint32_t i = 0; i < rd->arena->n_sites; i++) {
		const struct agent_site *s = &rd->arena->site[i];

		if (s->n_actions == 1 && s->action[0].env.hits_off == rider_hits_off(n))
			sum += agent_counted_hits(rd->arena, i);
	}
	return sum;
}

/* ---- the kernel's count ---- */

static int uprobe_type(void)
{
	FILE *f = fopen("/sys/bus/event_source/devices/uprobe/type", "re");
	int type = -1;

	assert_non_null(f);
	assert_int_equal(fscanf(f, "%d", &type), 1);
	fclose(f);
	return type;
}

void oracle_start(struct oracle *o, const char *path, uint64_t offset, bool at_return)
{
	struct perf_event_attr a = {.size = sizeof(a), .type = (uint32_t)uprobe_type(), .config = at_return};

	o->map = bpf_map_create(BPF_MAP_TYPE_ARRAY, "oracle", 4, 8, 1, NULL);
	assert_true(o->map >= 0);
	/* r1 = &map[0]; *(u64 *)r1 += 1, atomically; return 0 */
	const struct bpf_insn insns[] = {
		{.code = BPF_LD | BPF_DW | BPF_IMM, .dst_reg = 1, .src_reg = BPF_PSEUDO_MAP_VALUE, .imm = o->map},
		{0},
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 2, .imm = 1},
		{.code = BPF_STX | BPF_DW | BPF_ATOMIC, .dst_reg = 1, .src_reg = 2, .imm = BPF_ADD},
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0},
		{.code = BPF_JMP | BPF_EXIT},
	};
	o->prog = bpf_prog_load(BPF_PROG_TYPE_KPROBE, "oracle", "Dual MIT/GPL", insns, 6, NULL);
	assert_true(o->prog >= 0);
	a.uprobe_path = (uint64_t)(uintptr_t)path;
	a.probe_offset = offset;
	o->event = (int)syscall(SYS_perf_event_open, &a, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);
	assert_true(o->event >= 0);
	assert_int_equal(ioctl(o->event, PERF_EVENT_IOC_SET_BPF, o->prog), 0);
	assert_int_equal(ioctl(o->event, PERF_EVENT_IOC_ENABLE, 0), 0);
}

uint64_t oracle_count(const struct oracle *o)
{
	uint32_t key = 0;
	uint64_t n = 0;

	assert_int_equal(bpf_map_lookup_elem(o->map, &key, &n), 0);
	return n;
}

void oracle_stop(struct oracle *o)
{
	close(o->event);
	close(o->prog);
	close(o->map);
}
