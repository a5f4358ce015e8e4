// SPDX-License-Identifier: MIT
/* service.c: loads and attaches bpf/service.bpf.c. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bpf/service.skel.h"

#include "service.h"
#include "target.h"

#define N_LINKS 5

struct agent_service {
	struct service_bpf *skel;
	struct bpf_link *link[N_LINKS];
};

static struct bpf_program *tracepoint(const struct service_bpf *skel, int i)
{
	struct bpf_program *const progs[N_LINKS - 1] = {skel->progs.newtask, skel->progs.process_exec,
							skel->progs.process_exit, skel->progs.rename};

	return progs[i];
}

static int attach(struct agent_service *s, const struct agent_image *img, struct agent_error *err)
{
	char path[64];

	for (int i = 0; i < N_LINKS; i++) {
		if (i < N_LINKS - 1) {
			s->link[i] = bpf_program__attach(tracepoint(s->skel, i));
		} else {
			snprintf(path, sizeof(path), "/proc/%d/fd/%d", getpid(), agent_image__fd(img));
			s->link[i] = bpf_program__attach_uprobe(s->skel->progs.service, false, -1, path,
								agent_image__service_offset(img));
		}
		if (!s->link[i])
			return agent_fail(err, -errno, "the agent's service program %d cannot be attached: %s", i,
					  strerror(errno));
	}
	return 0;
}

int agent_service__pin(struct agent_service *s, const char *dir, struct agent_error *err)
{
	char path[256];

	for (int i = 0; i < N_LINKS; i++) {
		snprintf(path, sizeof(path), "%s/service-%d", dir, i);
		unlink(path);
		if (bpf_link__pin(s->link[i], path))
			return agent_fail(err, -errno, "%s cannot be pinned: %s", path, strerror(errno));
	}
	return 0;
}

int agent_service__new(struct agent_service **out, const struct agent_image *img, struct agent_error *err)
{
	struct agent_service *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return agent_fail(err, -ENOMEM, "out of memory");
	s->skel = service_bpf__open_and_load();
	if (!s->skel)
		rc = agent_fail(err, -errno, "the agent's service programs cannot be loaded: %s", strerror(errno));
	else
		rc = attach(s, img, err);
	if (rc) {
		agent_service__free(s);
		return rc;
	}
	*out = s;
	return 0;
}

void agent_service__free(struct agent_service *s)
{
	if (!s)
		return;
	for (int i = 0; i < N_LINKS; i++) {
		if (s->link[i] && bpf_link__pin_path(s->link[i]))
			bpf_link__unpin(s->link[i]);
		bpf_link__destroy(s->link[i]);
	}
	service_bpf__destroy(s->skel);
	free(s);
}

int agent_service__new_arena(struct agent_service *s, struct agent_error *err)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = BPF_F_MMAPABLE);
	int fd;

	(void)s;
	fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "bpftime_target", sizeof(__u32), sizeof(struct agent_target), 1, &opts);
	return fd < 0 ? agent_fail(err, -errno, "a target arena cannot be made: %s", strerror(errno)) : fd;
}

int agent_service__add(struct agent_service *s, pid_t tgid, int arena_fd, struct agent_error *err)
{
	__u32 key = (__u32)tgid, value = (__u32)arena_fd;

	if (bpf_map_update_elem(bpf_map__fd(s->skel->maps.arenas), &key, &value, BPF_ANY))
		return agent_fail(err, -errno, "the arena of process %d cannot be registered: %s", tgid,
				  strerror(errno));
	return 0;
}

int agent_service__remove(struct agent_service *s, pid_t tgid)
{
	__u32 key = (__u32)tgid;

	return bpf_map_delete_elem(bpf_map__fd(s->skel->maps.arenas), &key) ? -errno : 0;
}
