/* SPDX-License-Identifier: MIT */
/*
 * engine.c: the engine as the shell sees it: puts the parts together, turns kernel events into hints, and runs converge
 * when something is due. It sleeps otherwise: there is no periodic work.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "daemon/adopt.h"
#include "daemon/engine_impl.h"
#include "daemon/guard.h"
#include "daemon/log.h"
#include "daemon/observe.h"
#include "daemon/park.h"
#include "daemon/pins.h"
#include "daemon/predecessor.h"
#include "daemon/repair.h"
#include "daemon/sampler.h"
#include "daemon/state.h"
#include "daemon/thread_attr.h"

static void arm_timer(struct engine *e, uint64_t at_ns)
{
	if (!e->timer)
		return;
	if (!at_ns) {
		sd_event_source_set_enabled(e->timer, SD_EVENT_OFF);
		return;
	}
	sd_event_source_set_time(e->timer, at_ns / 1000 + 1);
	sd_event_source_set_enabled(e->timer, SD_EVENT_ONESHOT);
}

#define UNWRITABLE_NS 30000000000ull
#define SETTLE_SHARE  20 /* of the time that goes by at most one part is spent on writing state.json */

/* When nothing is under way any more state.json tells all. When to try again, or 0. */
static uint64_t settle(struct engine *e)
{
	uint64_t begin = now_ns();
	int err;

	if (e->stopping || state__is_settled())
		return 0;
	if (begin < e->settle_at)
		return e->settle_at;
	err = state__settle(e->groups, &e->hosts);
	e->settle_at = now_ns() + SETTLE_SHARE * (now_ns() - begin);
	if (err)
		e->settle_at += err == -EBUSY ? CLAIMS_NS : UNWRITABLE_NS;
	return err ? e->settle_at : 0;
}

static void run(struct engine *e)
{
	uint64_t next = converge__run(e);

	arm_timer(e, earlier(settle(e), next));
}

static int on_timer(sd_event_source *source, uint64_t usec, void *arg)
{
	run(arg);
	return 0;
}

static void on_observed(void *arg, enum obs_event_kind kind, pid_t pid, pid_t arg2)
{
	struct engine *e = arg;

	switch (kind) {
	case OBS_CHANGED:
		converge__hint(e, pid);
		break;
	case OBS_EXEC:
		converge__tool_gone(e, pid);
		converge__host_gone(e, pid);
		break;
	case OBS_EXIT:
		converge__tool_gone(e, pid);
		converge__host_gone(e, pid);
		break;
	case OBS_FORK:
		/* The repairer reads of it, too. */
		break;
	case OBS_MAPPED:
		converge__mapped(e, pid, (uint32_t)arg2);
		break;
	case OBS_LEADER:
		converge__leader_gone(e, pid);
		break;
	case OBS_LOST:
		converge__everything(e);
		break;
	case OBS_ARRIVED:
		follow__arrived(e, pid);
		break;
	}
}

static int on_readable(sd_event_source *source, int fd, uint32_t revents, void *arg)
{
	struct engine *e = arg;

	observer__dispatch(e->observer);
	run(e);
	return 0;
}

static int on_built(sd_event_source *source, int fd, uint32_t revents, void *arg)
{
	struct engine *e = arg;

	converge__built(e);
	run(e);
	return 0;
}

static void on_new_host(void *arg, pid_t pid)
{
	struct engine *e = arg;

	observer__watch(e->observer, pid);
}

static int on_guard_gone(sd_event_source *source, int fd, uint32_t revents, void *arg);

static int watch_guard(struct engine *e)
{
	e->guard_source = sd_event_source_disable_unref(e->guard_source);
	if (guard__fd() < 0)
		return 0;
	return sd_event_add_io(e->event, &e->guard_source, guard__fd(), EPOLLIN, on_guard_gone, e);
}

/* Somebody has killed it. */
static int on_guard_gone(sd_event_source *source, int fd, uint32_t revents, void *arg)
{
	struct engine *e = arg;
	char err[REASON_SIZE];

	e->guard_source = sd_event_source_disable_unref(e->guard_source);
	if (guard__start(e->runtime_dir, err, sizeof(err)))
		log_error("%s", err);
	else
		log_warning("the process that guards targets has ended, and was started again");
	return watch_guard(e);
}

static int enter(struct engine *e, const char *runtime_dir, char *err, size_t err_size)
{
	int ret = pins__open(runtime_dir, err, err_size);

	if (ret)
		return ret;
	ret = claims__new(&e->claims, err, err_size);
	if (ret)
		return ret;
	ret = guard__start(runtime_dir, err, err_size);
	if (ret)
		return ret;
	state__open(runtime_dir);
	park__open(runtime_dir);
	return 0;
}

static void keep_copy(const struct engine *e)
{
	int err = predecessor__keep(e->runtime_dir);

	if (err)
		log_warning("a later bpftimed of another version could not hand back, if this one were killed: %s",
			    strerror(-err));
}

/* What makes carriers and targets work, all new. */
static int open_parts(struct engine *e, char *err, size_t err_size)
{
	int ret = claims__pin(e->claims, err, err_size);

	if (!ret)
		ret = carriers__new(&e->carriers, err, err_size);
	if (!ret)
		ret = carriers__pin(e->carriers, pins__dir(), err, err_size);
	return ret ? ret : hosts__init(&e->hosts, e->policy, e->claims, NULL, err, err_size);
}

/* One that was killed told by other means than a new one would. NULL: it is to be handed back, for the reason in why.
 */
static struct adoption *open_observer(struct engine *e, struct adoption *a, char *why, size_t why_size)
{
	if (!a || !observer__adopt(&e->observer, pins__dir(), on_observed, e, why, why_size))
		return a;
	e->observer = NULL;
	adopt__free(a);
	return NULL;
}

static int start(struct engine *e, const struct engine_opts *opts, char *err, size_t err_size)
{
	char path[PATH_MAX], why[REASON_SIZE] = "";
	struct kernel_features kernel;
	struct adoption *last;
	int ret, forks_fd, kin_fd;

	snprintf(path, sizeof(path), "%s/bpftimed-jit", opts->libexec_dir);
	if (access(path, X_OK)) {
		ret = -errno;
		snprintf(err, err_size, "%s cannot be executed: %s", path, strerror(-ret));
		return ret;
	}
	e->worker = vm_worker__new(path, opts->compiler_env);
	if (!e->worker) {
		snprintf(err, err_size, "out of memory");
		return -ENOMEM;
	}
	kernel_features__probe(&kernel);
	ret = kernel_features__missing(&kernel, err, err_size);
	if (ret)
		return ret;
	ret = enter(e, opts->runtime_dir, err, err_size);
	if (ret)
		return ret;
	last = open_observer(e, adopt__read(why, sizeof(why)), why, sizeof(why));
	if (!last)
		recover_state(e->decisions, why);
	ret = e->observer ? 0 : observer__new(&e->observer, on_observed, e, err, err_size);
	if (!ret)
		ret = builder__new(&e->builder, e->worker, e->observer, err, err_size);
	/* Asked here, before another thread may ask, too. */
	if (!ret)
		log_debug("programs of tools can%s be replaced", kernel_features__can_replace() ? "" : "not");
	forks_fd = ret ? -1 : observer__forks(e->observer, &kin_fd);
	if (!ret)
		ret = repairer__new(&e->repairer, forks_fd, kin_fd, err, err_size);
	if (ret) {
		adopt__free(last);
		return ret;
	}
	e->hosts.repairer = e->repairer;
	e->hosts.on_new = on_new_host;
	e->hosts.on_new_arg = e;
	if (last && adopt__restore(last, e, why, sizeof(why))) {
		adopt__free(last);
		last = NULL;
		recover_state(e->decisions, why);
	}
	keep_copy(e);
	ret = last ? 0 : open_parts(e, err, err_size);
	if (!ret && observer__pin(e->observer, pins__dir()))
		log_warning("a later bpftimed could not go on, if this one were killed: %s", strerror(errno));
	if (ret)
		return ret;
	e->sw = (struct switcher){
		.hosts = &e->hosts, .groups = &e->groups, .probes = &e->probes, .at = &e->at, .carriers = e->carriers};
	ret = sd_event_add_io(e->event, &e->observer_source, observer__epoll_fd(e->observer), EPOLLIN, on_readable, e);
	if (ret >= 0)
		ret = sd_event_add_io(e->event, &e->builder_source, builder__fd(e->builder), EPOLLIN, on_built, e);
	if (ret >= 0)
		ret = watch_guard(e);
	if (ret >= 0)
		ret = sd_event_add_time(e->event, &e->timer, CLOCK_MONOTONIC, 0, 1000, on_timer, e);
	if (ret < 0) {
		adopt__free(last);
		snprintf(err, err_size, "the event loop: %s", strerror(-ret));
		return ret;
	}
	if (last)
		adopt__catch_up(last, e);
	else
		converge__everything(e);
	if (last)
		snprintf(e->last, sizeof(e->last), "gone on with");
	else if (why[0])
		snprintf(e->last, sizeof(e->last), "handed back, because %s", why);
	run(e);
	adopt__free(last);
	return 0;
}

int engine__new(struct engine **out, sd_event *event, const struct policy *policy, const struct engine_opts *opts,
		char *err, size_t err_size)
{
	struct engine *e = calloc(1, sizeof(*e));
	int ret;

	if (!e) {
		snprintf(err, err_size, "out of memory");
		return -ENOMEM;
	}
	/* A switch takes milliseconds, and so does much else: targets' threads shall not have to wait for all of it. */
	ret = thread_attr__give_way();
	if (ret)
		log_debug("the scheduler gives no short slices: %s", strerror(-ret));
	e->event = sd_event_ref(event);
	e->policy = policy;
	e->changed = opts->changed;
	e->changed_arg = opts->changed_arg;
	e->decisions = opts->decisions;
	e->runtime_dir = opts->runtime_dir;
	e->hosts.noop_prog_fd = -1;
	ret = start(e, opts, err, err_size);
	if (ret) {
		engine__free(e);
		return ret;
	}
	*out = e;
	return 0;
}

void engine__before(const char *runtime_dir)
{
	predecessor__recover(runtime_dir);
}

int engine__recover(const char *runtime_dir, char *err, size_t err_size)
{
	struct engine *e = calloc(1, sizeof(*e));
	int ret = -ENOMEM, left = 0;

	if (!e) {
		snprintf(err, err_size, "out of memory");
		return ret;
	}
	e->hosts.noop_prog_fd = -1;
	e->runtime_dir = runtime_dir;
	ret = enter(e, runtime_dir, err, err_size);
	if (!ret) {
		left = recover_state(e->decisions, NULL);
		keep_copy(e);
	}
	engine__free(e);
	if (!ret && left)
		snprintf(err, err_size, "not all that the last bpftimed left could be taken away exactly: %s",
			 strerror(-left));
	return ret ? ret : left;
}

void engine__free(struct engine *e)
{
	if (!e)
		return;
	e->changed = NULL;
	sd_event_source_disable_unref(e->timer);
	sd_event_source_disable_unref(e->guard_source);
	sd_event_source_disable_unref(e->observer_source);
	sd_event_source_disable_unref(e->builder_source);
	e->timer = NULL;
	if (e->observer)
		converge__drop_all(e);
	sampler__free(e->sampler);
	builder__free(e->builder);
	follow__free(&e->follow);
	hosts__fini(&e->hosts);
	repairer__free(e->repairer);
	carriers__free(e->carriers);
	observer__free(e->observer);
	vm_worker__free(e->worker);
	claims__free(e->claims);
	guard__stop();
	pins__close(state__needs_pin);
	park__close(false);
	state__remove();
	if (e->runtime_dir && !state__has_left())
		predecessor__drop(e->runtime_dir);
	sd_event_unref(e->event);
	free(e->policy_error);
	free(e);
}

json_object *engine__top(struct engine *e, double seconds)
{
	json_object *o = top__look(e, seconds);

	run(e);
	return o;
}

int engine__handback_all(struct engine *e)
{
	char err[REASON_SIZE];
	int ret = 0;

	e->stopping = true;
	for (struct tool *t = e->tools; t; t = t->next) {
		int one = converge__handback_tool(e, t, true, err, sizeof(err));

		if (one) {
			log_error("%s (%d) could not be handed back exactly: %s", t->comm, t->pid, err);
			ret = one;
		}
	}
	return ret;
}

int engine__set_policy(struct engine *e, const struct policy *policy)
{
	e->policy = policy;
	e->hosts.policy = policy;
	engine__keep_policy(e, NULL);
	converge__policy(e);
	run(e);
	return 0;
}

void engine__keep_policy(struct engine *e, const char *why)
{
	free(e->policy_error);
	e->policy_error = why ? strdup(why) : NULL;
}

int engine__handback(struct engine *e, pid_t pid, char *err, size_t err_size)
{
	struct tool *t = engine__tool(e, pid);
	int ret;

	if (!t) {
		snprintf(err, err_size, "process %d has no probes that bpftimed knows", pid);
		return -ESRCH;
	}
	t->held = true;
	t->refusal_class = REASON_REQUEST;
	snprintf(t->refusal, sizeof(t->refusal), "handed back on request (bpftime handback %d)", pid);
	ret = converge__handback_tool(e, t, false, err, err_size);
	if (ret) {
		/* Nothing has changed, and nothing does later. */
		t->held = false;
		t->refusal[0] = 0;
	}
	run(e);
	return ret;
}

int engine__takeover(struct engine *e, pid_t pid, char *err, size_t err_size)
{
	struct tool *t = engine__tool(e, pid);

	if (!t) {
		snprintf(err, err_size, "process %d has no probes that bpftimed knows", pid);
		return -ESRCH;
	}
	t->held = false;
	t->dirty_at = now_ns() - SETTLE_NS;
	t->sheds = false;
	for (struct group *g = e->groups; g; g = g->next)
		if (g->tool == t)
			g->retry_at = 0;
	run(e);
	while (converge__is_building(e, t)) {
		builder__wait(e->builder);
		converge__built(e);
		run(e);
	}
	for (struct group *g = e->groups; g; g = g->next)
		if (g->tool == t && g->state != GROUP_SHARED) {
			snprintf(err, err_size, "%s", g->reason);
			return -EAGAIN;
		}
	return 0;
}
