/* SPDX-License-Identifier: MIT */
/*
 * main.c: bpftimed: options, one event loop, start, reload, end.
 *
 * Start, each step failing with one sentence: options, root, runtime folder and its lock, policy, engine, control
 * socket; then systemd is told that we are ready. The end goes the same way back, but first of all every probe is
 * handed back.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-event.h>

#include "decision.h"
#include "engine.h"
#include "log.h"
#include "metrics.h"
#include "metrics_http.h"
#include "policy.h"
#include "policy_files.h"
#include "private_libs.h"
#include "runtime_dir.h"
#include "server.h"

#define DEFAULT_RUNTIME_DIR "/run/bpftimed"
#define DEFAULT_LIBEXEC_DIR BPFTIMED_PREFIX "/libexec/bpftimed"
#define JIT_NAME	    "bpftimed-jit"
#define PATH_SIZE	    4096
#define ERROR_SIZE	    1024
#define TOLD_SIZE	    256
#define DESCRIPTORS	    (1 << 20) /* fs.nr_open, unless somebody has changed it */

enum exit_code { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

struct options {
	const char *runtime_dir, *policy_dir;
	char libexec_dir[PATH_SIZE];
	enum log_level log_level;
	struct sockaddr_storage metrics_address; /* no family: metrics are not served */
	bool recovers;
};

struct bpftimed {
	struct options options;
	struct runtime_dir *runtime_dir;
	struct policy *policy;
	struct decisions *decisions;
	sd_event *event;
	sd_event_source *tell; /* deferred: tells systemd how things stand */
	char told[TOLD_SIZE];  /* what it was told last */
	struct engine *engine;
	struct server *server;
	struct metrics metrics;
	struct metrics_http *metrics_http;
};

static const char usage[] =
	"Usage: bpftimed [OPTION...]\n"
	"Runs the uprobe programs of unchanged tools inside the processes that they probe.\n"
	"\n"
	"  --runtime-dir DIR   where the control socket is made (" DEFAULT_RUNTIME_DIR ")\n"
	"  --policy-dir DIR    where *.json policy files are read; several: the last one wins\n"
	"                      (" POLICY_DEFAULT_DIRS ")\n"
	"  --log-level LEVEL   error, warning, info or debug (info)\n"
	"  --metrics-listen ADDRESS:PORT\n"
	"                      serve metrics by HTTP; port 0: any\n"
	"  --metrics-public    ADDRESS may be one that other machines reach\n"
	"  --recover           take away what a bpftimed that was killed has left, and end\n"
	"  --host              show what this kernel offers, as JSON, and end\n"
	"  --version           show the version and end\n"
	"  --help              show this and end\n"
	"\n"
	"Environment: BPFTIME_RUNTIME_DIR, BPFTIME_POLICY_DIR; BPFTIME_LIBEXEC_DIR: where bpftimed-jit is.\n"
	"Stays in the foreground. SIGTERM and SIGINT hand every probe back to the kernel and end it; SIGHUP reads the\n"
	"policy again. See bpftimed(8).\n";

/* ---- options ---- */

static const char *from_env(const char *name, const char *otherwise)
{
	const char *value = getenv(name);

	return value && *value ? value : otherwise;
}

/* Beside this program when it was built there, else where it is installed. */
static void find_libexec_dir(char *out, size_t size)
{
	const char *given = from_env("BPFTIME_LIBEXEC_DIR", NULL);
	char self[PATH_SIZE], jit[PATH_SIZE + sizeof(JIT_NAME) + 1];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	snprintf(out, size, "%s", given ? given : DEFAULT_LIBEXEC_DIR);
	if (given || n < 0)
		return;
	self[n] = 0;
	slash = strrchr(self, '/');
	if (!slash)
		return;
	*slash = 0;
	snprintf(jit, sizeof(jit), "%s/" JIT_NAME, self);
	if (access(jit, X_OK) == 0)
		snprintf(out, size, "%s", self);
}

static int usage_error(void)
{
	fputs("Try 'bpftimed --help'.\n", stderr);
	return EXIT_USAGE;
}

static int show_host(const struct options *o)
{
	char jit[PATH_SIZE + sizeof(JIT_NAME) + 1];
	json_object *host;

	if (geteuid() != 0) {
		fputs("bpftimed: only root can find out what the kernel offers\n", stderr);
		return EXIT_FAILED;
	}
	host = engine__host();
	snprintf(jit, sizeof(jit), "%s/" JIT_NAME, o->libexec_dir);
	json_object_object_add(host, "compiler", access(jit, X_OK) == 0 ? json_object_new_string(jit) : NULL);
	puts(json_object_to_json_string_ext(host, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(host);
	return fflush(stdout) ? EXIT_FAILED : EXIT_DONE;
}

static bool read_metrics_address(const char *text, bool public, struct options *o)
{
	bool is_loopback = false;

	if (!metrics_address__read(text, &o->metrics_address, &is_loopback)) {
		fprintf(stderr, "bpftimed: '%s' is no ADDRESS:PORT, as in 127.0.0.1:9464 or [::1]:9464\n", text);
		return false;
	}
	if (!is_loopback && !public)
		fprintf(stderr,
			"bpftimed: other machines could read metrics at %s, which needs --metrics-public; only this "
			"one can "
			"at 127.0.0.1\n",
			text);
	return is_loopback || public;
}

/* -1: go on; else the exit code. */
static int read_options(int argc, char **argv, struct options *o)
{
	enum {
		OPT_RUNTIME_DIR,
		OPT_POLICY_DIR,
		OPT_LOG_LEVEL,
		OPT_METRICS_LISTEN,
		OPT_METRICS_PUBLIC,
		OPT_RECOVER,
		OPT_HOST,
		OPT_VERSION,
		OPT_HELP
	};
	static const struct option longs[] = {
		{"runtime-dir", required_argument, NULL, OPT_RUNTIME_DIR},
		{"policy-dir", required_argument, NULL, OPT_POLICY_DIR},
		{"log-level", required_argument, NULL, OPT_LOG_LEVEL},
		{"metrics-listen", required_argument, NULL, OPT_METRICS_LISTEN},
		{"metrics-public", no_argument, NULL, OPT_METRICS_PUBLIC},
		{"recover", no_argument, NULL, OPT_RECOVER},
		{"host", no_argument, NULL, OPT_HOST},
		{"version", no_argument, NULL, OPT_VERSION},
		{"help", no_argument, NULL, OPT_HELP},
		{0},
	};
	const char *listen = NULL;
	bool public = false;
	int opt;

	o->runtime_dir = from_env("BPFTIME_RUNTIME_DIR", DEFAULT_RUNTIME_DIR);
	o->log_level = LOG_LEVEL_INFO;
	find_libexec_dir(o->libexec_dir, sizeof(o->libexec_dir));
	while ((opt = getopt_long(argc, argv, "", longs, NULL)) >= 0) {
		switch (opt) {
		case OPT_RUNTIME_DIR:
			o->runtime_dir = optarg;
			break;
		case OPT_POLICY_DIR:
			o->policy_dir = policy_dirs__append(o->policy_dir, optarg);
			break;
		case OPT_LOG_LEVEL:
			if (!log_level_by_name(optarg, &o->log_level)) {
				fprintf(stderr, "bpftimed: '%s' is no log level: error, warning, info, debug are\n",
					optarg);
				return usage_error();
			}
			break;
		case OPT_METRICS_LISTEN:
			listen = optarg;
			break;
		case OPT_METRICS_PUBLIC:
			public
			= true;
			break;
		case OPT_RECOVER:
			o->recovers = true;
			break;
		case OPT_HOST:
			return show_host(o);
		case OPT_VERSION:
			puts("bpftimed " BPFTIMED_VERSION);
			return EXIT_DONE;
		case OPT_HELP:
			fputs(usage, stdout);
			return EXIT_DONE;
		default:
			return usage_error();
		}
	}
	if (!o->policy_dir)
		o->policy_dir = from_env("BPFTIME_POLICY_DIR", POLICY_DEFAULT_DIRS);
	if (optind < argc) {
		fprintf(stderr, "bpftimed: '%s' is one argument too many: there are only options\n", argv[optind]);
		return usage_error();
	}
	return listen && !read_metrics_address(listen, public, o) ? usage_error() : -1;
}

/* ---- while it runs ---- */

static int64_t number_in(json_object *o, const char *name)
{
	return json_object_get_int64(json_object_object_get(o, name));
}

/* What `systemctl status` shows. */
static int on_tell(sd_event_source *source, void *arg)
{
	struct bpftimed *d = arg;
	json_object *o = engine__status(d->engine);
	char text[TOLD_SIZE];

	snprintf(text, sizeof(text),
		 "STATUS=Carries %" PRId64 " of %" PRId64 " tools; probes: %" PRId64 " in userspace, %" PRId64
		 " in the kernel; %" PRId64 " targets%s",
		 number_in(o, "tools_carried"), number_in(o, "tools"), number_in(o, "probes_userspace"),
		 number_in(o, "probes_kernel"),
		 number_in(o, "targets"),
		 json_object_object_get(json_object_object_get(o, "policy"), "error")
			 ? "; the policy on disk has mistakes and does not hold"
			 : "");
	json_object_put(o);
	if (strcmp(text, d->told) != 0)
		sd_notify(0, text);
	strcpy(d->told, text);
	return 0;
}

static void on_engine_changed(void *arg)
{
	struct bpftimed *d = arg;

	if (d->server)
		server__changed(d->server);
	if (d->tell && getenv("NOTIFY_SOCKET"))
		sd_event_source_set_enabled(d->tell, SD_EVENT_ONESHOT);
}

static void on_decision(void *arg)
{
	struct bpftimed *d = arg;

	if (d->server)
		server__changed(d->server);
}

static void __attribute__((format(printf, 3, 4)))
tell_policy(struct bpftimed *d, enum decision_kind kind, const char *format, ...)
{
	struct decision what = {.kind = kind, .class = kind == DECISION_POLICY_ERROR ? REASON_ERROR : REASON_NONE};
	char text[ERROR_SIZE];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	what.reason = text;
	decisions__record(d->decisions, &what);
}

/* *why (may be NULL) gets a sentence for the caller to free when there is no policy. */
static int load_policy(const char *dirs, struct policy **out, char **why)
{
	struct policy_errors errors = {0};
	int r = policy__load(dirs, out, &errors);

	for (size_t i = 0; i < errors.n; i++)
		log_error("%s", errors.text[i]);
	if (why && errors.n && asprintf(why, "%zu mistake(s), the first: %s", errors.n, errors.text[0]) < 0)
		*why = NULL;
	policy_errors__clear(&errors);
	return r;
}

static int on_reload(sd_event_source *source, const struct signalfd_siginfo *si, void *arg)
{
	struct bpftimed *d = arg;
	struct policy *fresh;
	char *why = NULL;
	struct timespec now;
	int r;

	clock_gettime(CLOCK_MONOTONIC, &now);
	sd_notifyf(0, "RELOADING=1\nSTATUS=Reading the policy again\nMONOTONIC_USEC=%" PRIu64,
		   (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u);
	r = load_policy(d->options.policy_dir, &fresh, &why);
	if (r < 0) {
		tell_policy(d, DECISION_POLICY_ERROR, "the policy in %s has mistakes: the old one goes on to hold",
			    d->options.policy_dir);
		engine__keep_policy(d->engine, why ? why : strerror(-r));
		free(why);
	} else {
		tell_policy(d, DECISION_POLICY_LOAD, "policy reloaded: %zu files, %zu rules", policy__files(fresh),
			    policy__rules(fresh));
		r = engine__set_policy(d->engine, fresh);
		if (r < 0)
			log_error("the new policy holds, but not all of it could be put into effect: %s", strerror(-r));
		policy__free(d->policy);
		d->policy = fresh;
	}
	d->told[0] = 0;
	on_tell(NULL, d);
	sd_notify(0, "READY=1");
	on_engine_changed(d);
	return 0;
}

static int on_end(sd_event_source *source, const struct signalfd_siginfo *si, void *arg)
{
	struct bpftimed *d = arg;

	sd_notify(0, "STOPPING=1\nSTATUS=Handing every probe back to the kernel");
	return sd_event_exit(d->event, EXIT_DONE);
}

/* ---- start and end ---- */

static int add_events(struct bpftimed *d)
{
	static const struct {
		int signo;
		sd_event_signal_handler_t handler;
	} signals[] = {{SIGTERM, on_end}, {SIGINT, on_end}, {SIGHUP, on_reload}};
	sigset_t set;
	int r;

	sigemptyset(&set);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		sigaddset(&set, signals[i].signo);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);

	r = sd_event_new(&d->event);
	for (size_t i = 0; r >= 0 && i < sizeof(signals) / sizeof(signals[0]); i++)
		r = sd_event_add_signal(d->event, NULL, signals[i].signo, signals[i].handler, d);
	if (r >= 0)
		r = sd_event_add_defer(d->event, &d->tell, on_tell, d);
	if (r >= 0)
		r = sd_event_source_set_enabled(d->tell, SD_EVENT_OFF);
	/* Where systemd wants it (WatchdogSec=), it is told from within the loop: who hangs is not fed. */
	if (r >= 0)
		r = sd_event_set_watchdog(d->event, true);
	if (r < 0)
		log_error("no event loop: %s", strerror(-r));
	return r;
}

/* Every target and probe costs descriptors. */
static void raise_descriptor_limit(void)
{
	struct rlimit limit = {.rlim_cur = DESCRIPTORS, .rlim_max = DESCRIPTORS};

	if (setrlimit(RLIMIT_NOFILE, &limit) && getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

static int start(struct bpftimed *d)
{
	struct engine_opts opts = {
		.sz = sizeof(opts),
		.runtime_dir = d->options.runtime_dir,
		.libexec_dir = d->options.libexec_dir,
		.compiler_env = private_libs__environment(),
		.changed = on_engine_changed,
		.changed_arg = d,
		.decisions = d->decisions,
	};
	char err[ERROR_SIZE] = "", path[PATH_SIZE];
	int r;

	if (geteuid() != 0) {
		log_error("only root can run it");
		return -EPERM;
	}
	engine__before(d->options.runtime_dir);
	r = runtime_dir__enter(&d->runtime_dir, d->options.runtime_dir, err, sizeof(err));
	if (r < 0)
		goto err_text;
	r = load_policy(d->options.policy_dir, &d->policy, NULL);
	if (r < 0)
		return r;
	raise_descriptor_limit();
	r = add_events(d);
	if (r < 0)
		return r;
	r = engine__new(&d->engine, d->event, d->policy, &opts, err, sizeof(err));
	if (r < 0)
		goto err_text;
	snprintf(path, sizeof(path), "%s/" SERVER_SOCKET_NAME, d->options.runtime_dir);
	r = server__new(&d->server, d->event, d->engine, path, err, sizeof(err));
	if (r < 0)
		goto err_text;
	d->metrics = (struct metrics){.engine = d->engine, .decisions = d->decisions, .policy = &d->policy};
	if (d->options.metrics_address.ss_family)
		r = metrics_http__new(&d->metrics_http, d->event, &d->metrics, &d->options.metrics_address, err,
				      sizeof(err));
	if (r < 0)
		goto err_text;
	server__set_sources(d->server, d->decisions, &d->metrics,
			    d->metrics_http ? metrics_http__address(d->metrics_http) : NULL);
	return 0;
err_text:
	log_error("%s", err[0] ? err : strerror(-r));
	return r;
}

/* As root, while no bpftimed runs with this folder. */
static int recover(struct bpftimed *d)
{
	char err[ERROR_SIZE] = "", path[PATH_SIZE];
	int r = -EPERM;

	if (geteuid() != 0)
		snprintf(err, sizeof(err), "only root can take away what is left");
	else if (access(d->options.runtime_dir, F_OK))
		return 0; /* nothing is */
	else
		r = 0;
	if (r >= 0) {
		engine__before(d->options.runtime_dir);
		r = runtime_dir__enter(&d->runtime_dir, d->options.runtime_dir, err, sizeof(err));
	}
	if (r >= 0) {
		raise_descriptor_limit();
		r = engine__recover(d->options.runtime_dir, err, sizeof(err));
		snprintf(path, sizeof(path), "%s/" SERVER_SOCKET_NAME, d->options.runtime_dir);
		unlink(path);
		runtime_dir__leave(d->runtime_dir);
	}
	if (r < 0)
		log_error("%s", err[0] ? err : strerror(-r));
	return r;
}

/* Ends what start() began, however far it came. */
static int end(struct bpftimed *d)
{
	int r = d->engine ? engine__handback_all(d->engine) : 0;

	if (r < 0)
		log_error("not every probe could be handed back: %s", strerror(-r));
	server__free(d->server);
	d->server = NULL;
	metrics_http__free(d->metrics_http);
	engine__free(d->engine);
	policy__free(d->policy);
	decisions__free(d->decisions);
	sd_event_source_disable_unref(d->tell);
	sd_event_unref(d->event);
	runtime_dir__leave(d->runtime_dir);
	return r;
}

int main(int argc, char **argv)
{
	struct bpftimed d = {0};
	int code = read_options(argc, argv, &d.options), r;

	if (code >= 0)
		return code;
	log_set_level(d.options.log_level);
	if (d.options.recovers)
		return recover(&d) < 0 ? EXIT_FAILED : EXIT_DONE;
	r = geteuid() == 0 ? private_libs__enter(argv) : 0;
	if (r < 0)
		log_warning("its libraries are everybody's, and uprobes on them hit it, too: %s", strerror(-r));
	d.decisions = decisions__new(on_decision, &d);
	r = start(&d);
	if (r == 0) {
		log_info("version " BPFTIMED_VERSION " runs; the control socket is in %s", d.options.runtime_dir);
		sd_notify(0, "READY=1");
		on_engine_changed(&d);
		r = sd_event_loop(d.event);
		if (r < 0)
			log_error("the event loop ended: %s", strerror(-r));
	}
	code = r < 0 ? EXIT_FAILED : EXIT_DONE;
	return end(&d) < 0 ? EXIT_FAILED : code;
}
