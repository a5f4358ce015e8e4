/* SPDX-License-Identifier: MIT */
/* pid_ns.h: the daemon's own PID namespace, for programs of the kernel that name processes (bpf/observe_task.h). */
#ifndef BPFTIME_PID_NS_H
#define BPFTIME_PID_NS_H

#include <stdint.h>

uint32_t pid_ns__level(void); /* how deep it is nested; 0: the initial one */
uint32_t pid_ns__inum(void);  /* its inode, or 0 */

#endif
