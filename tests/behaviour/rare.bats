#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Functions that are called now and then: their probes move to userspace and back, and no thread stands still for it.

bats_require_minimum_version 1.5.0
load helpers
load real

setup_file() { real_setup_file --log-level debug; }

held() { grep -c 'threads were held' "$BATS_FILE_TMPDIR/daemon.log" || true; }

# unnoticed TOOL [THREADS CALLS RATE]: 30 times there and back while calls come. Some come just then.
unnoticed() {
	local i before
	! "$B/bpftime" doctor --json | grep -qE '"preempt": *"(full|lazy)"' || skip "a kernel that preempts handlers"
	exact_start "$SESSION/x" "$1" "${2:-2}" "${3:-600}" --rate "${4:-20}"
	offloaded "$TOOL_PID"
	exact_go "$SESSION/x"
	before=$(held)
	for ((i = 0; i < 30; i++)); do
		"$B/bpftime" handback "$TOOL_PID"
		"$B/bpftime" takeover "$TOOL_PID"
	done
	echo "# held $(($(held) - before)) times of 60"
	(($(held) - before < 20))
	grep -q '^total' "$SESSION/x/workload" || kill -USR2 "$WORKLOAD_PID"
	exact_finish "$SESSION/x" "$1"
}

@test "entries, counted by thread" {
	unnoticed count_tid
}

@test "strings as keys" {
	unnoticed str_key
}

@test "entries and returns: what is under way ends where it began" {
	unnoticed latency
}

# 160,000 calls a second: there is no such moment. But what differs is found in a fraction of a millisecond, and for so long there is.
@test "often, and many entries" {
	unnoticed many 8 500000 20000
}
