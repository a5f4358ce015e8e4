/* SPDX-License-Identifier: MIT */
#include "probe_tool.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void __attribute__((noreturn)) wrong_usage(const char *name)
{
	fprintf(stderr, "Usage: %s [-p PID] [-d SECONDS] BINARY:FUNCTION\n", name);
	exit(2);
}

void probe_tool__read(struct probe_tool *t, int argc, char **argv)
{
	sigset_t set;
	char *colon;
	int opt;

	*t = (struct probe_tool){.pid = -1};
	while ((opt = getopt(argc, argv, "p:d:")) >= 0) {
		if (opt == 'p')
			t->pid = atoi(optarg);
		else if (opt == 'd')
			t->seconds = atof(optarg);
		else
			wrong_usage(argv[0]);
	}
	colon = optind + 1 == argc ? strrchr(argv[optind], ':') : NULL;
	if (!t->pid || !colon || (size_t)(colon - argv[optind]) >= sizeof(t->binary))
		wrong_usage(argv[0]);
	snprintf(t->binary, sizeof(t->binary), "%.*s", (int)(colon - argv[optind]), argv[optind]);
	t->function = colon + 1;

	/* From now on these only end probe_tool__wait(). */
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
}

struct bpf_link *probe_tool__attach(const struct probe_tool *t, struct bpf_program *program, bool at_return)
{
	LIBBPF_OPTS(bpf_uprobe_opts, opts, .func_name = t->function, .retprobe = at_return);
	struct bpf_link *link = bpf_program__attach_uprobe_opts(program, t->pid, t->binary, 0, &opts);

	if (!link)
		fprintf(stderr, "%s:%s cannot be probed: %s\n", t->binary, t->function, strerror(errno));
	return link;
}

void probe_tool__wait(const struct probe_tool *t)
{
	struct timespec limit = {.tv_sec = (time_t)t->seconds};
	sigset_t set;

	limit.tv_nsec = (long)((t->seconds - (double)limit.tv_sec) * 1e9);
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	puts("ready");
	fflush(stdout);
	while (sigtimedwait(&set, NULL, t->seconds > 0 ? &limit : NULL) < 0 && errno == EINTR)
		;
}
