/* SPDX-License-Identifier: MIT */
/* procfs.h: small facts about processes. All tolerate that the process is gone. */
#ifndef BPFTIME_PROCFS_H
#define BPFTIME_PROCFS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

uint64_t procfs_start_time(pid_t pid); /* clock ticks since boot; 0: no such process, or a zombie */
long procfs_threads(pid_t pid);	       /* 0: no such process */
void procfs_comm(pid_t pid, char *comm, size_t size);
void procfs_exe(pid_t pid, char *exe, size_t size); /* empty when it cannot be told */
int procfs_uid(pid_t pid, uid_t *uid);		    /* real */
int procfs_only_user(pid_t pid, uid_t *uid);	    /* real, effective, saved and of files; -EXDEV: not all the same */
pid_t procfs_tracer(pid_t pid);			    /* 0: nobody */
pid_t procfs_parent(pid_t pid);			    /* 0: none, or no such process */
pid_t procfs_innermost_pid(pid_t pid);		    /* as the process knows itself; 0: no such process */
uint32_t procfs_pid_ns(pid_t pid);		    /* inode of the PID namespace that knows it so, or 0 */
/* Its control group as /proc shows it, in systemd's hierarchy; empty when it cannot be told. */
void procfs_cgroup(pid_t pid, char *cgroup, size_t size);

#endif
