// SPDX-License-Identifier: MIT
/*
 * seccomp: allows itself read, write and exit only (strict mode), then calls work(). Any other system call kills it.
 *
 * usage: seccomp CALLS
 */
#include <linux/seccomp.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "victim.h"

int main(int argc, char **argv)
{
	long n = argc > 1 ? atol(argv[1]) : 1000;
	char line[64];

	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT))
		return 2;
	if (write(1, "ready\n", 6) != 6 || read(0, line, sizeof(line)) < 0)
		syscall(SYS_exit, 2);
	for (long i = 0; i < n; i++)
		call_work();
	snprintf(line, sizeof(line), "calls %ld\n", atomic_load(&calls));
	syscall(SYS_exit, write(1, line, strlen(line)) < 0);
}
