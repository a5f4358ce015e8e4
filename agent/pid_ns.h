/* SPDX-License-Identifier: MIT */
/*
 * pid_ns.h: our own PID namespace, for programs of the kernel that name processes. Numbers in /proc and of system calls
 * are our namespace's; what bpf_get_current_pid_tgid() gives is the initial one's.
 */
#ifndef BPFTIME_PID_NS_H
#define BPFTIME_PID_NS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

bool pid_ns__is_initial(void);
uint32_t pid_ns__level(void); /* how deep it is nested; 0: the initial one */
uint32_t pid_ns__inum(void);  /* its inode, or 0 */

/* What the initial namespace calls this thread of ours, or this process and its first thread. 0: cannot be told. */
uint32_t pid_ns__initial(pid_t tid);

#endif
