/* SPDX-License-Identifier: MIT */
#include "daemon/domain.h"

#include <errno.h>
#include <stdio.h>

#include "daemon/permit.h"
#include "daemon/procfs.h"
#include "daemon/switch.h"

int domain__admit(const struct hosts *hs, struct group *g, const struct host *h, char *why, size_t why_size)
{
	const char *rule = NULL;
	uid_t uid = 0;
	bool is_one;
	int err;

	if (!group_is_host_wide(g, NULL) || permit__grants(hs, g, h, POLICY_SHARE_ACROSS_USERS, &rule))
		return 0;
	err = procfs_only_user(h->pid, &uid);
	if (err == -ESRCH)
		return err;
	is_one = !err;
	if (is_one && !g->has_domain) {
		g->has_domain = true;
		g->domain = uid;
	}
	g->several_users |= !is_one || uid != g->domain;
	if (!g->several_users)
		return 0;
	if (g->domain) {
		g->domain = 0;
		g->domain_over = true;
	}
	if (is_one && uid == 0 && !g->domain_over)
		return 0;
	snprintf(why, why_size,
		 "policy lets no memory be shared across users (%s): the processes are several users', so that only "
		 "root's have it, and process %d is not root's alone",
		 rule, h->pid);
	return -EPERM;
}

bool domain__has_left(const struct hosts *hs, const struct host *h)
{
	uid_t uid = h->uid;

	if (procfs_only_user(h->pid, &uid) != -EXDEV && uid == h->uid)
		return false;
	for (const struct lodging *l = h->lodgings; l; l = l->next)
		if (group_is_host_wide(l->group, NULL) &&
		    !permit__grants(hs, l->group, h, POLICY_SHARE_ACROSS_USERS, NULL))
			return true;
	return false;
}
