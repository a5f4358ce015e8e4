/* SPDX-License-Identifier: MIT */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bpf/pid_ns.skel.h"

#include "pid_ns.h"

#define INITIAL_INUM 0xeffffffcu /* PROC_PID_INIT_INO, include/linux/proc_ns.h */

static struct pid_ns_bpf *programs; /* loaded once, and only in another namespace */
static pthread_mutex_t loading = PTHREAD_MUTEX_INITIALIZER;

static struct pid_ns_bpf *loaded(void)
{
	pthread_mutex_lock(&loading);
	if (!programs)
		programs = pid_ns_bpf__open_and_load();
	pthread_mutex_unlock(&loading);
	return programs;
}

bool pid_ns__is_initial(void)
{
	return pid_ns__inum() == INITIAL_INUM;
}

/* Not from NSpid in /proc/self/status: that begins at the namespace for which /proc is mounted, in a container its own.
 */
uint32_t pid_ns__level(void)
{
	LIBBPF_OPTS(bpf_test_run_opts, run);
	struct pid_ns_bpf *skel = pid_ns__is_initial() ? NULL : loaded();

	return skel && !bpf_prog_test_run_opts(bpf_program__fd(skel->progs.level), &run) ? run.retval : 0;
}

uint32_t pid_ns__inum(void)
{
	struct stat st;

	return stat("/proc/self/ns/pid", &st) ? 0 : (uint32_t)st.st_ino;
}

uint32_t pid_ns__initial(pid_t tid)
{
	union bpf_iter_link_info which = {.task.tid = (uint32_t)tid};
	LIBBPF_OPTS(bpf_iter_attach_opts, opts, .link_info = &which, .link_info_len = sizeof(which));
	struct pid_ns_bpf *skel;
	struct bpf_link *link;
	uint32_t number = 0;
	int fd;

	if (pid_ns__is_initial())
		return (uint32_t)tid;
	skel = loaded();
	link = skel ? bpf_program__attach_iter(skel->progs.number, &opts) : NULL;
	fd = link ? bpf_iter_create(bpf_link__fd(link)) : -1;
	if (fd >= 0 && read(fd, &number, sizeof(number)) != sizeof(number))
		number = 0;
	if (fd >= 0)
		close(fd);
	bpf_link__destroy(link);
	return number;
}
