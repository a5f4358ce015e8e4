// SPDX-License-Identifier: MIT
/* threads.c: where a target's threads are, by bpf/threads.bpf.c: nobody is stopped for it. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "bpf/threads.skel.h"

#include "target.h"

#define READ_SIZE (64u << 10)

static struct threads_bpf *program; /* loaded once */
static bool cannot_load, preempts_itself = true;

void agent_kernel_preempts_itself(bool preempts)
{
	preempts_itself = preempts;
}

bool threads_can_be_in_handlers(void)
{
	return preempts_itself;
}

void threads_prepare(struct target *t)
{
	union bpf_iter_link_info which = {.task.pid = (uint32_t)t->pid};
	LIBBPF_OPTS(bpf_iter_attach_opts, opts, .link_info = &which, .link_info_len = sizeof(which));

	if (t->threads || cannot_load)
		return;
	if (!program)
		program = threads_bpf__open_and_load();
	cannot_load = !program;
	if (program)
		t->threads = bpf_program__attach_iter(program->progs.threads, &opts);
	cannot_load |= !t->threads;
}

void threads_end(struct target *t)
{
	bpf_link__destroy(t->threads);
	t->threads = NULL;
}

int threads_read(const struct target *t, struct thread_rec **out)
{
	size_t size = 0, room = 0;
	char *buf = NULL;
	int fd, rc = 0;

	*out = NULL;
	if (!t->threads)
		return -EOPNOTSUPP;
	fd = bpf_iter_create(bpf_link__fd(t->threads));
	if (fd < 0)
		return -errno;
	for (;;) {
		ssize_t n;

		if (room - size < READ_SIZE) {
			char *more = realloc(buf, room += 2 * READ_SIZE);

			if (!more) {
				rc = -ENOMEM;
				break;
			}
			buf = more;
		}
		n = read(fd, buf + size, READ_SIZE);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n < 0)
			rc = -errno;
		if (n <= 0)
			break;
		size += (size_t)n;
	}
	close(fd);
	if (rc) {
		free(buf);
		return rc;
	}
	*out = (struct thread_rec *)buf;
	return (int)(size / sizeof(**out));
}
