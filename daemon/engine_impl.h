/* SPDX-License-Identifier: MIT */
/* engine_impl.h: the engine's insides, for engine.c, converge.c and report.c only. */
#ifndef BPFTIME_ENGINE_IMPL_H
#define BPFTIME_ENGINE_IMPL_H

#include <limits.h>
#include <systemd/sd-event.h>

#include "daemon/builder.h"
#include "daemon/claims.h"
#include "daemon/engine.h"
#include "daemon/hosts.h"
#include "daemon/khalf.h"
#include "daemon/model.h"
#include "daemon/probes.h"
#include "daemon/switch.h"
#include "vm-llvm/worker.h"

/* Processes that have come to a group that is at work: follow.c. */
struct follow {
	struct arrived_process *process;
	size_t n, room;
	unsigned int soon;   /* how many may come soon */
	uint64_t soon_since; /* CLOCK_MONOTONIC ns */
};

struct engine {
	sd_event *event;
	sd_event_source *observer_source;
	sd_event_source *timer;
	sd_event_source *guard_source;
	const char *runtime_dir; /* the shell's */
	const struct policy *policy;
	char last[REASON_SIZE + 32]; /* what became of what a bpftimed that was killed had left; empty: nothing was */
	char *policy_error;	     /* why the policy on disk does not hold, or NULL */
	void (*changed)(void *arg);
	void *changed_arg;
	struct decisions *decisions;
	struct observer *observer;
	struct vm_worker *worker;
	struct builder *builder;
	sd_event_source *builder_source;
	struct carriers *carriers;
	struct claims *claims;
	struct repairer *repairer;
	struct sampler *sampler;    /* NULL: nobody looks at top */
	uint64_t sampled_until;	    /* CLOCK_MONOTONIC ns */
	uint64_t sampled_around_ns; /* in the agent's own code, of all targets */
	struct hosts hosts;
	struct switcher sw;
	struct follow follow;
	struct tool *tools;
	struct probe *probes; /* newest first */
	struct probe_table at;
	struct group *groups;
	unsigned int next_group_id;
	bool stopping;
	uint64_t settle_at; /* CLOCK_MONOTONIC ns: not before is state.json written to tell all */
	unsigned int settle_tries;
	uint64_t look_at;	 /* CLOCK_MONOTONIC ns, when the host could not be scanned; 0: it was */
	uint64_t claims_look_at; /* CLOCK_MONOTONIC ns, see watch_claims(); 0: nothing to look at */
	uint64_t users_look_at;	 /* the same, see watch_users() */
	unsigned int users_looks;
	uint64_t clears_until; /* see watch_buried(); 0: it does not */
};

/* A tool must have been quiet for this long before what it attached is taken over: it is often not done yet. */
#define SETTLE_NS 80000000ull
/* Between two looks at what another bpftimed has. */
#define CLAIMS_NS 1000000000ull

uint64_t now_ns(void);

/* Of two moments; 0 is never. */
static inline uint64_t earlier(uint64_t a, uint64_t b)
{
	return a && (!b || a < b) ? a : b;
}

/* converge.c: from what the kernel says to what should be */
struct tool *engine__tool(struct engine *e, pid_t pid);
struct tool *engine__add_tool(struct engine *e, pid_t pid); /* NULL: out of memory */
/* What the tool has attached; not in any list yet. NULL: out of memory. */
struct probe *probe__new(struct tool *t, const struct obs_probe *o);
void engine__add_probe(struct engine *e, struct probe *p);		/* as the newest */
bool group__append(struct engine *e, struct group *g, struct probe *p); /* the probe is the group's. false: no memory */
void group__free(struct group *g);					/* its memory only */
void converge__hint(struct engine *e, pid_t pid);			/* something about this process changed */
void converge__everything(struct engine *e);				/* look at the whole host again */
void converge__tool_gone(struct engine *e, pid_t pid);
void converge__host_gone(struct engine *e, pid_t pid); /* ended, or executed another program */
void converge__changed(struct engine *e); /* a tool's state may be another: clients may be waiting for it */
/* The end and the forks of the group's hosts are events from now on. */
void converge__watch_hosts(struct engine *e, const struct group *g);
/* Does another bpftimed have a process in which the group's probes are? */
bool converge__reaches_claimed(struct engine *e, const struct group *g);
void group__set_reasons(struct group *g); /* the group's reason is its probes' */
/* tell.c: decisions about groups, targets and tools, for decisions__record(). */
void tell__group(struct engine *e, enum decision_kind kind, enum reason_class class, const struct group *g,
		 const char *reason, double seconds);
/* A process that the group's probes reach, and in which not all of them are in userspace; once for a reason. */
void tell__refused_target(struct engine *e, const struct group *g, struct host *h);
void tell__refused_targets(struct engine *e, const struct group *g); /* all such processes */
/* Processes that carry the group since a moment ago; n may be 0. */
void tell__joined(struct engine *e, const struct group *g, const pid_t *pid, size_t n);
/* What the policy says of the tool, when that is another than before. refused: it keeps it in the kernel. */
void tell__policy(struct engine *e, struct tool *t, enum policy_action action, const char *rule);
/* top.c: engine__top(); and reads samples while somebody looks; when to come back, or 0. */
json_object *top__look(struct engine *e, double seconds);
uint64_t top__run(struct engine *e, uint64_t now);
/* watch.c: what no event tells. Does what is due; when to come back, or 0. */
uint64_t watch__run(struct engine *e, uint64_t now);
/* follow.c: a process hit a probe of a group that does not serve it in userspace; 0: some process did. */
void follow__arrived(struct engine *e, pid_t pid);
/* Processes that were too many for the switch of the group join it. */
void follow__group(struct engine *e, struct group *g);
uint64_t follow__run(struct engine *e, uint64_t now); /* does what is due; when to come back, or 0 */
void follow__free(struct follow *f);
/* Does what is due; returns CLOCK_MONOTONIC ns at which to come back, or 0. */
uint64_t converge__run(struct engine *e);
/* Are groups of this tool, or of any (NULL), being built? */
bool converge__is_building(const struct engine *e, const struct tool *t);
/* Has every probe of the tool been tried, so that what runs where is more than a beginning? */
bool converge__is_decided(const struct engine *e, const struct tool *t);
void converge__built(struct engine *e); /* the builder has something to say */
int converge__handback_tool(struct engine *e, struct tool *t, bool force, char *err, size_t err_size);
/*
 * switch_handback(), told with its reason, a sentence, which becomes that of the group and its probes. Nothing is told
 * when it fails.
 */
int converge__hand_back(struct engine *e, struct group *g, bool force, enum reason_class class, const char *why);
/* The process may not carry the agent any longer: its groups are handed back, and taken over again without it. */
void converge__evict(struct engine *e, struct host *h, enum reason_class class, const char *why);
/* The same where it may, but not as it did: it is looked at anew. */
void converge__renew(struct engine *e, struct host *h, const char *why);
/* The group is taken over again as soon as may be, whatever was in the way before. */
void group__retry(struct group *g);
/*
 * The main thread of a process has ended. The uprobes that hold our places are limited to the process by that thread
 * (uprobe_perf_filter() in kernel/trace/trace_uprobe.c compares its mm): the kernel takes their int3s away when it
 * meets them next. So the process goes back to the kernel.
 */
void converge__leader_gone(struct engine *e, pid_t pid);
void converge__mapped(struct engine *e, pid_t pid, uint32_t map_id);
void converge__drop_all(struct engine *e);
/* The policy is another one: what it says otherwise of goes back to the kernel, and is looked at anew. */
void converge__policy(struct engine *e);
/*
 * obey.c: may the group be taken over, as far as is known of it? Again once it is planned; then its arena, too. 0 and
 * the group's own limits, or -EPERM, -EDQUOT (there may be room later) or another -errno, and g->reason.
 */
int obey__group(struct engine *e, struct group *g);
int obey__memory(struct engine *e, struct group *g);

#endif
