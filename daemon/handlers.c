/* SPDX-License-Identifier: MIT */
#include "daemon/handlers.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent/pid_ns.h"
#include "bpf/handlers.h"

#include "bpf/handlers.skel.h"

#define KALLSYMS "/proc/kallsyms"
#define MUST	 0 /* of names: the others are newer kernels' */

static const char *const names[HANDLERS_RANGES] = {"uprobe_notify_resume", "uprobe_handle_trampoline",
						   "handle_syscall_uprobe"};
static struct handlers_bpf *program;
static struct bpf_link *link_to_all;
static int error; /* why there is none */

/* A function ends where the next symbol begins; what its compiler has put elsewhere of it calls no handlers. */
static int find_ranges(struct handlers_range *ranges)
{
	unsigned long long addr, last = 0;
	char name[256], line[512], type;
	int open = -1;
	FILE *f = fopen(KALLSYMS, "re");

	if (!f)
		return -errno;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%llx %c %255s", &addr, &type, name) != 3)
			continue;
		if (open >= 0 && addr != last) {
			ranges[open].to = addr;
			open = -1;
		}
		for (int i = 0; i < HANDLERS_RANGES && names[i] && open < 0; i++) {
			if (strcmp(name, names[i]))
				continue;
			ranges[i].from = last = addr;
			open = i;
		}
	}
	fclose(f);
	return ranges[MUST].from && ranges[MUST].to ? 0 : -ENOENT;
}

static int prepare(void)
{
	/* Only the tasks of our own namespace are gone through. */
	if (!pid_ns__is_initial())
		return -EXDEV;
	program = handlers_bpf__open_and_load();
	if (!program)
		return -errno;
	error = find_ranges(program->bss->ranges);
	if (error)
		return error;
	link_to_all = bpf_program__attach_iter(program->progs.handlers, NULL);
	return link_to_all ? 0 : -errno;
}

int handlers__under_way(void)
{
	char nothing[16];
	ssize_t n;
	int fd;

	if (!link_to_all && !error)
		error = prepare();
	if (error)
		return error;
	fd = bpf_iter_create(bpf_link__fd(link_to_all));
	if (fd < 0)
		return -errno;
	program->bss->under_way = 0;
	do {
		n = read(fd, nothing, sizeof(nothing));
	} while (n > 0 || (n < 0 && (errno == EINTR || errno == EAGAIN)));
	n = n < 0 ? -errno : 0;
	close(fd);
	return n ? (int)n : (int)program->bss->under_way;
}
