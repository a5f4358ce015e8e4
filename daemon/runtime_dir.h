/* SPDX-License-Identifier: MIT */
/*
 * runtime_dir.h: the folder in which a running bpftimed keeps its socket, and the lock that lets only one of them use
 * it.
 */
#ifndef BPFTIME_RUNTIME_DIR_H
#define BPFTIME_RUNTIME_DIR_H

#include <stddef.h>

struct runtime_dir;

/*
 * Makes the folder when it is not there (mode 0755) and locks it until it is left. Returns 0 or -errno with a sentence
 * in err: -EBUSY when another bpftimed holds it, -EPERM when others than root could put files there.
 */
int runtime_dir__enter(struct runtime_dir **out, const char *path, char *err, size_t err_size);
/* Removes the lock, and the folder when this process made it and it is empty. NULL is allowed. */
void runtime_dir__leave(struct runtime_dir *d);

#endif
