// SPDX-License-Identifier: MIT
/* bpftimed-jit, bpftime-vm-worker: the compiler as a process of its own. Not to be run by hand: see worker.h. */
#include "worker.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int main(int argc, char **argv)
{
	int fd = argc > 1 ? atoi(argv[1]) : 0;
	struct stat st;

	if (argc > 2 || fd < 0 || fstat(fd, &st) || !S_ISSOCK(st.st_mode)) {
		fprintf(stderr,
			"%s is started by who wants to compile, and serves him on a socket; it does nothing by hand\n",
			program_invocation_short_name);
		return 2;
	}
	return vm_worker_main(fd);
}
