/* SPDX-License-Identifier: MIT */
/* A process as policy sees it: its hash, what its control group says; and words that are meant. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/nearest.h"
#include "daemon/subject.h"

#define ID "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void hash_of(const char *text, size_t times, char hex[SHA256_HEX_SIZE])
{
	int fd = memfd_create("hashed", 0);

	assert_true(fd >= 0);
	for (size_t i = 0; i < times; i++)
		assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	lseek(fd, 0, SEEK_SET);
	assert_int_equal(sha256_of_fd(fd, hex), 0);
	close(fd);
}

/* FIPS 180-4's examples, as NIST publishes them. */
static void hashes_are_sha256(void **state)
{
	static const struct {
		const char *text;
		size_t times;
		const char *hash;
	} cases[] = {
		{"", 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
		{"abc", 1, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
		{"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 1,
		 "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
		{"aaaaaaaaaa", 100000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char hex[SHA256_HEX_SIZE];

		hash_of(cases[i].text, cases[i].times, hex);
		assert_string_equal(hex, cases[i].hash);
	}
}

static void a_written_file_is_hashed_anew(void **state)
{
	char path[] = "/tmp/test_subject.XXXXXX", first[SHA256_HEX_SIZE];
	int fd = mkstemp(path);
	struct subject s;

	assert_true(fd >= 0);
	assert_int_equal(write(fd, "one", 3), 3);
	subject__of_file(&s, path);
	snprintf(first, sizeof(first), "%s", subject__sha256(&s));
	subject__of_file(&s, path);
	assert_string_equal(subject__sha256(&s), first);
	assert_int_equal(pwrite(fd, "another", 7, 0), 7);
	subject__of_file(&s, path);
	assert_string_not_equal(subject__sha256(&s), first);
	close(fd);
	unlink(path);
	subject__of_file(&s, path);
	assert_null(subject__sha256(&s));
}

static void this_process(void **state)
{
	char exe[4096] = "", name[SUBJECT_NAME_SIZE];
	struct subject s, file;

	assert_true(readlink("/proc/self/exe", exe, sizeof(exe) - 1) > 0);
	assert_true(subject__of_process(&s, getpid()));
	assert_string_equal(s.exe, exe);
	assert_int_equal(s.uid, getuid());
	assert_string_equal(s.comm, "test_subject");
	subject__of_file(&file, exe);
	assert_string_equal(subject__sha256(&file), subject__sha256(&s));
	assert_null(subject__cgroup(&file));
	assert_null(subject__unit(&file, name));
	assert_true(subject__pid_ns(&s) != 0);
	assert_int_equal(subject__pid_ns(&file), 0);
	assert_false(subject__of_process(&s, 0x7ffffff0));
}

static void what_control_groups_say(void **state)
{
	static const struct {
		const char *cgroup, *unit, *container;
	} cases[] = {
		{"/", NULL, NULL},
		{"/system.slice/ssh.service", "ssh.service", NULL},
		{"/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service", NULL},
		{"/user.slice/user-1000.slice/user@1000.service/app.slice/app.service", "user@1000.service", NULL},
		{"/user.slice/user-1000.slice/session-3.scope", "session-3.scope", NULL},
		{"/system.slice/_ssh.service", "ssh.service", NULL},
		{"/system.slice", NULL, NULL},
		{"/../../system.slice/cron.service", "cron.service", NULL},
		{"/init.scope", "init.scope", NULL},
		{"/odd/ssh.service", NULL, NULL},
		{"/docker/" ID, NULL, ID},
		{"/system.slice/docker-" ID ".scope", "docker-" ID ".scope", ID},
		{"/machine.slice/libpod-" ID ".scope/container", "libpod-" ID ".scope", ID},
		{"/machine.slice/libpod-conmon-" ID ".scope", "libpod-conmon-" ID ".scope", NULL},
		{"/kubepods.slice/kubepods-pod1.slice/cri-containerd-" ID ".scope", "cri-containerd-" ID ".scope", ID},
		{"/machine.slice/machine-web\\x2d1.scope/payload", "machine-web\\x2d1.scope", "web-1"},
		{"/machine.slice/systemd-nspawn@db.service/payload", "systemd-nspawn@db.service", "db"},
		{"/lxc.payload.box/x", NULL, "box"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char name[SUBJECT_NAME_SIZE];
		const char *unit = cgroup_unit(cases[i].cgroup, name);

		if (cases[i].unit ? !unit || strcmp(unit, cases[i].unit) : unit != NULL)
			fail_msg("%s: unit %s", cases[i].cgroup, unit ? unit : "none");
		unit = cgroup_container(cases[i].cgroup, name);
		if (cases[i].container ? !unit || strcmp(unit, cases[i].container) : unit != NULL)
			fail_msg("%s: container %s", cases[i].cgroup, unit ? unit : "none");
	}
}

static void the_nearest_word(void **state)
{
	static const char *const known[] = {NULL, "rules", "tools", "targets", "default", "settings"};
	static const struct {
		const char *word, *nearest;
	} cases[] = {
		{"tols", "tools"},	{"toosl", "tools"},	 {"rule", "rules"}, {"targtes", "targets"},
		{"dafualt", "default"}, {"setings", "settings"}, {"x", NULL},	    {"", NULL},
		{"nothing", NULL},	{"tools", "tools"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const char *found = nearest_word(cases[i].word, known, sizeof(known) / sizeof(known[0]));

		if (cases[i].nearest ? !found || strcmp(found, cases[i].nearest) : found != NULL)
			fail_msg("%s: %s", cases[i].word, found ? found : "none");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hashes_are_sha256), cmocka_unit_test(a_written_file_is_hashed_anew),
		cmocka_unit_test(this_process),	     cmocka_unit_test(what_control_groups_say),
		cmocka_unit_test(the_nearest_word),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
