// SPDX-License-Identifier: MIT
/* threads.c: where a target's threads are, by bpf/threads.bpf.c: nobody is stopped for it. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "bpf/threads.skel.h"

#include "clock.h"
#include "target.h"

#define READ_SIZE	(64u << 10)
#define LONGEST_FORK_US 500000 /* taken for it where nothing tells */

static struct threads_bpf *program; /* loaded once */
static pthread_mutex_t loading = PTHREAD_MUTEX_INITIALIZER;
static bool cannot_load, preempts_itself = true;

void agent_kernel_preempts_itself(bool preempts)
{
	preempts_itself = preempts;
}

bool threads_can_be_in_handlers(void)
{
	return preempts_itself;
}

static struct bpf_link *attach(pid_t pid)
{
	union bpf_iter_link_info which = {.task.pid = (uint32_t)pid};
	LIBBPF_OPTS(bpf_iter_attach_opts, opts, .link_info = &which, .link_info_len = sizeof(which));
	struct bpf_link *link = NULL;

	pthread_mutex_lock(&loading);
	if (!program && !cannot_load)
		program = threads_bpf__open_and_load();
	if (program && !cannot_load)
		link = bpf_program__attach_iter(program->progs.threads, &opts);
	/* Of descriptors and memory there may be enough the next time. */
	cannot_load |= !link && errno != EMFILE && errno != ENFILE && errno != ENOMEM;
	pthread_mutex_unlock(&loading);
	return link;
}

void threads_prepare(struct target *t)
{
	if (!t->threads)
		t->threads = attach(t->pid);
}

void threads_end(struct target *t)
{
	bpf_link__destroy(t->threads);
	t->threads = NULL;
}

static int read_all(struct bpf_link *link, struct thread_rec **out)
{
	size_t size = 0, room = 0;
	char *buf = NULL;
	int fd, rc = 0;

	*out = NULL;
	if (!link)
		return -EOPNOTSUPP;
	fd = bpf_iter_create(bpf_link__fd(link));
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

int threads_read(const struct target *t, struct thread_rec **out)
{
	return read_all(t->threads, out);
}

bool agent_may_fork_since(pid_t pid, int64_t since)
{
	struct bpf_link *link = attach(pid);
	struct thread_rec *rec;
	int n = read_all(link, &rec);
	bool forks = n < 0 && clock_us() - since <= LONGEST_FORK_US;

	for (int i = 0; i < n && !forks; i++)
		forks = rec[i].forks != 0;
	free(rec);
	bpf_link__destroy(link);
	return forks;
}
