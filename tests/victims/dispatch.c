// SPDX-License-Identifier: MIT
/*
 * dispatch: catches system calls of its own thread, as emulators do.
 *
 * usage: dispatch
 */
#include <sys/prctl.h>

#include "victim.h"

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#endif

int main(void)
{
	static volatile char selector; /* 0: let them pass */

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (prctl(PR_SET_SYSCALL_USER_DISPATCH, 1, 0, 0, &selector)) {
		puts("cannot");
		return 0;
	}
	ready_and_wait();
	tell_calls();
	return 0;
}
