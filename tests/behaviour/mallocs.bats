#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# The busiest function there is, in processes of all kinds. Here in a copy of the C library that only they use: tests/behaviour/mallocs
# without a copy probes the host's.

bats_require_minimum_version 1.5.0
load helpers
load real

setup_file() {
	need_root
	need bpftrace python3 make cc
}
teardown_file() { :; }

setup() {
	SESSION=$BATS_TEST_TMPDIR
	need_alone
}
teardown() { :; }

@test "malloc() in every process: shells, compilers, a web server live and say what they say without a probe; each is counted exactly" {
	local libc
	libc=$(ldconfig -p | awk '/libc\.so\.6 / && /x86-64/ { print $NF; exit }')
	cp "$libc" "$SESSION/libc.so.6"
	chmod 755 "$SESSION" "$SESSION/libc.so.6"
	env -u BPFTIME_RUNTIME_DIR -u BPFTIME_POLICY_DIR BPFTIMED_TESTS_ALONE=1 "$BATS_TEST_DIRNAME/mallocs" "$B" "$SESSION/libc.so.6" 6
}
