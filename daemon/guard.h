/* SPDX-License-Identifier: MIT */
/*
 * guard.h: a child process of the daemon that sleeps until the daemon dies. A daemon that is killed in the middle of a
 * switch leaves threads waiting at a gate; nothing in a target may depend on a living daemon, so the guard lets them
 * go.
 *
 * Which side the truth is on is what kgate says: it turns at one instant of a switch. Open: the gate opens, userspace
 * serves on. Closed: the places are closed and the threads go back to the kernel's int3.
 */
#ifndef BPFTIME_GUARD_H
#define BPFTIME_GUARD_H

#include <stddef.h>

/*
 * Call after pins__open() and early: the guard is a copy of the process. Again when guard__fd() says that it has ended.
 * 0 or -errno with a sentence.
 */
int guard__start(const char *runtime_dir, char *err, size_t err_size);
/* Readable when the guard has ended, which nobody but the daemon is to make it do. It stays the guard's. */
int guard__fd(void);
/* The daemon ends in order: so does the guard. Call when no gate waits any more. */
void guard__stop(void);

#endif
