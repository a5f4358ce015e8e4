/* SPDX-License-Identifier: MIT */
/* proof.c: whether recovered bytecode is the program it was recovered from; see recover.h. */
#include "recover.h"

#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <stdio.h>
#include <unistd.h>
#include <bpf/bpf.h>

#include "bytecode.h"

enum { MAX_MAPS = 64 }; /* the kernel's MAX_USED_MAPS */

struct map_fds {
	uint32_t ids[MAX_MAPS];
	int fds[MAX_MAPS];
	size_t n;
};

static int map_fd(struct map_fds *maps, uint32_t id)
{
	size_t i;

	for (i = 0; i < maps->n; i++)
		if (maps->ids[i] == id)
			return maps->fds[i];
	if (i == MAX_MAPS)
		return -1;
	maps->fds[i] = bpf_map_get_fd_by_id(id);
	maps->ids[i] = id;
	if (maps->fds[i] >= 0)
		maps->n++;
	return maps->fds[i];
}

/* LINUX_VERSION_CODE as old kernels want it of kprobe programs; newer ones do not look. */
static uint32_t kernel_version(void)
{
	unsigned int major = 0, minor = 0, patch = 0;
	struct utsname uts;

	uname(&uts);
	sscanf(uts.release, "%u.%u.%u", &major, &minor, &patch);
	return major << 16 | minor << 8 | (patch > 255 ? 255 : patch);
}

/* Loads the bytecode (maps by id) as a program of its own. Its descriptor or -errno. */
static int load(const struct bpf_insn *insns, size_t n, const struct bpf_prog_info *info, bool sleepable)
{
	LIBBPF_OPTS(bpf_prog_load_opts, opts, .kern_version = kernel_version(),
		    .prog_flags = sleepable ? BPF_F_SLEEPABLE : 0);
	struct bpf_insn *copy = calloc(n, sizeof(*copy));
	struct map_fds maps = {.n = 0};
	int fd = -1;

	if (!copy)
		return -1;
	/* Of tracing programs only those at tracepoints are of interest. */
	if (info->type == BPF_PROG_TYPE_TRACING) {
		opts.expected_attach_type = BPF_TRACE_RAW_TP;
		opts.attach_btf_id = info->attach_btf_id;
	}
	memcpy(copy, insns, n * sizeof(*copy));
	for (size_t i = 0; i < n; i++) {
		if (!insn__names_map(&copy[i]))
			continue;
		copy[i].imm = map_fd(&maps, copy[i].imm);
		if (copy[i].imm < 0)
			goto out;
	}
	fd = bpf_prog_load(info->type, "bpftimed_proof", info->gpl_compatible ? "GPL" : "Proprietary", copy, n, &opts);
out:
	while (maps.n)
		close(maps.fds[--maps.n]);
	free(copy);
	return fd;
}

static bool translates_to(const struct bpf_insn *insns, size_t n_insns, const struct bpf_insn *xlated, size_t n_xlated,
			  const struct bpf_prog_info *info, bool sleepable)
{
	int fd = load(insns, n_insns, info, sleepable);
	struct bpf_insn *again = NULL;
	size_t n_again = 0;
	bool same = false;
	char why[128];

	if (fd < 0)
		return false;
	if (!xlated__read(fd, &again, &n_again, why, sizeof(why)))
		same = n_again == n_xlated && !memcmp(again, xlated, n_again * sizeof(*again));
	free(again);
	close(fd);
	return same;
}

bool proof__holds(const struct bpf_insn *insns, size_t n_insns, const struct bpf_insn *xlated, size_t n_xlated,
		  const struct bpf_prog_info *info, bool sleepable)
{
	return bytecode__has_tag(insns, n_insns, info->tag) ||
	       translates_to(insns, n_insns, xlated, n_xlated, info, sleepable);
}
