/* SPDX-License-Identifier: MIT */
/* Looks at the host, with or without a daemon, and says what will and will not be offloaded, and why. */
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client.h"
#include "doctor.h"
#include "output.h"

#define DAEMON_NAME "bpftimed"
#define SBIN_DIR    BPFTIMED_PREFIX "/sbin"
#define ANSWER_SIZE 4096
#define SAYS_SIZE   1024

static const char *const level_names[] = {
	[DOCTOR_OK] = "ok", [DOCTOR_NOTE] = "note", [DOCTOR_WARNING] = "warning", [DOCTOR_ERROR] = "error"};

static const enum cli_exit exits[] = {
	[DOCTOR_OK] = CLI_DONE, [DOCTOR_NOTE] = CLI_DONE, [DOCTOR_WARNING] = CLI_NO, [DOCTOR_ERROR] = CLI_USAGE};

const char *doctor_level__name(enum doctor_level level)
{
	return level_names[level];
}

void doctor__say(struct doctor *d, enum doctor_level level, const char *format, ...)
{
	json_object *o = json_object_new_object();
	char text[SAYS_SIZE];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	json_object_object_add(o, "check", json_object_new_string(d->check));
	json_object_object_add(o, "level", json_object_new_string(level_names[level]));
	json_object_object_add(o, "says", json_object_new_string(text));
	json_object_array_add(d->found, o);
	d->worst = level > d->worst ? level : d->worst;
}

/* ---- bpftimed --host ---- */

static void run_daemon(int out)
{
	char beside[PATH_MAX], *slash;
	ssize_t n = readlink("/proc/self/exe", beside, sizeof(beside) - sizeof(DAEMON_NAME) - 1);

	dup2(out, STDOUT_FILENO);
	if (n > 0) {
		beside[n] = 0;
		slash = strrchr(beside, '/');
		strcpy(slash ? slash + 1 : beside, DAEMON_NAME);
		execl(beside, DAEMON_NAME, "--host", NULL);
	}
	execl(SBIN_DIR "/" DAEMON_NAME, DAEMON_NAME, "--host", NULL);
	_exit(127);
}

/* What the daemon's program finds out about the kernel, or NULL. */
static json_object *ask_host(void)
{
	char answer[ANSWER_SIZE];
	size_t n = 0;
	ssize_t got;
	int fds[2];
	pid_t pid;

	if (geteuid() != 0 || pipe(fds))
		return NULL;
	fflush(stdout);
	pid = fork();
	if (!pid)
		run_daemon(fds[1]);
	close(fds[1]);
	while (pid > 0 && n < sizeof(answer) - 1 && (got = read(fds[0], answer + n, sizeof(answer) - 1 - n)) > 0)
		n += (size_t)got;
	close(fds[0]);
	if (pid > 0)
		waitpid(pid, NULL, 0);
	answer[n] = 0;
	return json_tokener_parse(answer);
}

/* ---- the whole ---- */

static const char *verdict(const struct doctor *d)
{
	switch (d->worst) {
	case DOCTOR_ERROR:
		return "bpftimed cannot work here until what is marked as error is changed. Tools work as they do "
		       "without it.";
	case DOCTOR_WARNING:
		return "Tools are offloaded, but for what the warnings say; that stays in the kernel, and works as "
		       "ever.";
	default:
		return "Everything is offloaded that bpftimed can carry; bpftimed(8) and `bpftime explain` tell what "
		       "it "
		       "cannot.";
	}
}

static void show(const struct doctor *d)
{
	for (size_t i = 0; i < json_object_array_length(d->found); i++) {
		const json_object *o = json_object_array_get_idx(d->found, i);

		printf("%-8s %-13s ", member_text(o, "level"), member_text(o, "check"));
		print_text(stdout, member_text(o, "says"));
		fputc('\n', stdout);
	}
	printf("\n%s\n", verdict(d));
}

static void show_json(struct doctor *d)
{
	json_object *o = json_object_new_object();

	json_object_object_add(o, "level", json_object_new_string(level_names[d->worst]));
	json_object_object_add(o, "says", json_object_new_string(verdict(d)));
	json_object_object_add(o, "checks", json_object_get(d->found));
	json_object_object_add(o, "host", json_object_get(d->host));
	print_json(o);
	json_object_put(o);
}

enum cli_exit cmd_doctor(const struct cli_args *args)
{
	struct doctor d = {.args = args, .host = ask_host(), .found = json_object_new_array()};

	if (client_ask(args, client_request("status"), CLIENT_PATIENCE, true, &d.status) == CLI_DONE)
		client_ask(args, client_request("ps"), CLIENT_PATIENCE, true, &d.ps);
	for (const struct doctor_check *c = doctor_checks; c->name; c++) {
		d.check = c->name;
		c->run(&d);
	}
	if (args->json)
		show_json(&d);
	else
		show(&d);
	json_object_put(d.found);
	json_object_put(d.host);
	json_object_put(d.status);
	json_object_put(d.ps);
	return exits[d.worst];
}
