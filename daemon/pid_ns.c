/* SPDX-License-Identifier: MIT */
#include "daemon/pid_ns.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sys/stat.h>

#include "bpf/pid_ns.skel.h"

#define INITIAL_INUM 0xeffffffcu /* PROC_PID_INIT_INO, include/linux/proc_ns.h */

/* Not from NSpid in /proc/self/status: that begins at the namespace for which /proc is mounted, in a container its own.
 */
uint32_t pid_ns__level(void)
{
	LIBBPF_OPTS(bpf_test_run_opts, run);
	struct pid_ns_bpf *skel;
	uint32_t level = 0;

	if (pid_ns__inum() == INITIAL_INUM)
		return 0;
	skel = pid_ns_bpf__open_and_load();
	if (skel && !bpf_prog_test_run_opts(bpf_program__fd(skel->progs.level), &run))
		level = run.retval;
	pid_ns_bpf__destroy(skel);
	return level;
}

uint32_t pid_ns__inum(void)
{
	struct stat st;

	return stat("/proc/self/ns/pid", &st) ? 0 : (uint32_t)st.st_ino;
}
