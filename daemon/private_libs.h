/* SPDX-License-Identifier: MIT */
/*
 * private_libs.h: libraries that are this process's alone. A uprobe is on a file: a tool that probes all of libc in
 * every process would be hit by what bpftimed does to serve it, thousands of times for each of its calls, and would
 * count what without bpftimed is not there.
 */
#ifndef BPFTIME_PRIVATE_LIBS_H
#define BPFTIME_PRIVATE_LIBS_H

/*
 * Executes this program once more, with copies of its shared libraries in memory, and returns in it: the process, its
 * arguments and its environment are the same. For the begin of main(), before there is a second thread. Does nothing
 * when it is so already, or somebody has set LD_PRELOAD. 0, or -errno: the libraries are everybody's, and the program
 * goes on with them.
 */
int private_libs__enter(char **argv);

/*
 * The environment for a program that is to have this process's libc, too, as execve() takes it; it holds as long as
 * this process lives. Without a libc of its own an empty one.
 */
char **private_libs__environment(void);

#endif
