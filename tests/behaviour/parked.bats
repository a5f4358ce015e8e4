#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# A tool's own attachment is parked while the kernel half serves: each call is counted once, whatever the tool or bpftimed does meanwhile, and
# the tool has its attachment again before its own program is to serve.

bats_require_minimum_version 1.5.0
load helpers
load real

setup_file() {
	need_root
	need bpftrace bpftool setpriv python3
	ask_way
}

teardown_file() { :; }

setup() {
	SESSION=$BATS_TEST_TMPDIR
	export BUILD=$B
	. "$BATS_TEST_DIRNAME/exact.bash"
	need_alone
	export BPFTIME_PARK_MS=0 # at once, also where nothing is hit
}

teardown() {
	exact_kill
	session_end
	# What is left of a test that failed.
	umount -l "$SESSION/run/bpf" 2>/dev/null || true
}

# attach FORM FUNCTION...: tests/behaviour/attach in every process.
attach() {
	local form=$1
	shift
	tool_run "$SESSION/tool" "$BATS_TEST_DIRNAME/attach" "$form" 0 "$WORKLOAD" "$@"
	offloaded "$TOOL_PID"
}

parked() {
	"$B/bpftime" explain "$TOOL_PID" | grep -q "the tool's own attachment is parked"
}

not_parked() { ! parked; }

# attached_to PID FILE: the file, and no other, is where the kernel says that the process's probes are.
attached_to() {
	local at
	at=$(bpftool perf show | sed -nE "s/^pid $1 .* filename ([^ ]*) .*/\1/p" | sort -u)
	[ "$at" = "$2" ] || {
		echo "process $1 is attached to: $at"
		return 1
	}
}

# said N: the tool ends and has counted so often.
said() {
	exact_tool_end "$TOOL_PID"
	grep -qx "count $1" "$SESSION/tool" || {
		cat "$SESSION/tool"
		return 1
	}
}

unknown() { ! "$B/bpftime" explain "$1" 2>/dev/null; }

signal_tool() {
	kill -USR1 "$TOOL_PID"
	wait_for "$SESSION/tool" '^done' 10
}

@test "a perf event: named while it is parked, and as it was afterwards" {
	daemon_start
	both 50000 --rate 20000
	attach perf work_sub work
	wait_until 5 parked
	attached_to "$TOOL_PID" "$SESSION/run/bpftimed-parked"
	go
	sleep 1
	"$B/bpftime" handback "$TOOL_PID"
	attached_to "$TOOL_PID" "$WORKLOAD"
	sleep 0.2
	"$B/bpftime" takeover "$TOOL_PID"
	wait_until 5 parked
	called
	said 200000
}

@test "a link of libbpf's: named while it is parked, and as it was afterwards" {
	[ "$WAY" != freplace ] || skip "this kernel lets programs that have BTF, as libbpf's, be replaced"
	daemon_start
	both 50000 --rate 20000
	exact_tool "$SESSION/tool" hashcount
	offloaded "$TOOL_PID"
	wait_until 5 parked
	attached_to "$TOOL_PID" "$SESSION/run/bpftimed-parked"
	go
	sleep 1
	"$B/bpftime" handback "$TOOL_PID"
	attached_to "$TOOL_PID" "$WORKLOAD"
	"$B/bpftime" takeover "$TOOL_PID"
	wait_until 5 parked
	called
	exact_tool_end "$TOOL_PID"
	exact_sum hashcount "$SESSION/tool" "$SESSION/a/workload" "$SESSION/b/workload"
}

@test "nothing is parked where the kernel half serves nobody" {
	unset BPFTIME_PARK_MS
	daemon_start
	both 20000
	attach perf work
	exact_go "$SESSION/a"
	exact_called "$SESSION/a"
	sleep 3
	attached_to "$TOOL_PID" "$WORKLOAD"
	exact_go "$SESSION/b"
	exact_called "$SESSION/b"
	wait_until 5 parked
	said 80000
}

@test "one of several probes is closed" {
	daemon_start
	both 50000 --rate 20000
	attach shed work_sub work
	wait_until 5 parked
	go
	sleep 1
	signal_tool
	wait_until 10 parked
	called
	said 200000
}

@test "a probe is disabled, which does not stop its program" {
	daemon_start
	both 50000 --rate 20000
	attach disable work_sub work
	wait_until 5 parked
	go
	sleep 1
	signal_tool
	called
	said 200000
}

@test "a child that inherits parked descriptors: both have their attachment afterwards" {
	local child
	daemon_start
	both 50000 --rate 20000
	attach share work
	wait_until 5 parked
	go
	sleep 1
	signal_tool
	child=$(cat "/proc/$TOOL_PID/task/$TOOL_PID/children")
	"$B/bpftime" handback "$TOOL_PID"
	attached_to "$TOOL_PID" "$WORKLOAD"
	bpftool perf show | grep "^pid ${child% } " | grep -q "filename $WORKLOAD "
	"$B/bpftime" takeover "$TOOL_PID"
	sleep 0.5
	not_parked
	called
	said 200000
}

@test "a child that has inherited them: not parked" {
	daemon_start
	both 20000
	attach kept work
	sleep 1
	not_parked
	attached_to "$TOOL_PID" "$WORKLOAD"
	go
	called
	said 80000
}

@test "policy that lets no tool be stopped: not parked" {
	export BPFTIME_POLICY_DIR=$SESSION/policy.d
	policy stop.json '{"version": 1, "settings": {"stop_tools": false}}'
	daemon_start
	both 50000 --rate 20000
	attach perf work
	sleep 1
	not_parked
	attached_to "$TOOL_PID" "$WORKLOAD"
	go
	rm "$BPFTIME_POLICY_DIR/stop.json"
	kill -HUP "$DAEMON"
	wait_until 10 parked
	policy stop.json '{"version": 1, "settings": {"stop_tools": false}}'
	kill -HUP "$DAEMON"
	wait_until 10 not_parked
	attached_to "$TOOL_PID" "$WORKLOAD"
	called
	said 200000
}

@test "the tool is killed: nothing is left of it" {
	daemon_start
	both 50000 --rate 20000
	attach perf work
	wait_until 5 parked
	go
	sleep 0.5
	kill -9 "$TOOL_PID"
	exact_waited "$TOOL_PID" || true
	wait_until 10 unknown "$TOOL_PID"
	called
	daemon_stop
	[ ! -e "$SESSION/run/bpf" ]
	[ ! -e "$SESSION/run/bpftimed-parked" ]
}

@test "bpftimed is killed: the kernel half serves, the next one, of another build, restores the attachment" {
	daemon_start
	both 100000 --rate 20000
	attach perf work
	wait_until 5 parked
	go
	sleep 1
	kill -9 "$DAEMON"
	ended "$DAEMON"
	wait "$DAEMON" || true
	attached_to "$TOOL_PID" "$SESSION/run/bpftimed-parked"
	sleep 0.5
	sed -i -E 's/"build": *"[^"]*"/"build":"00"/' "$SESSION/run/state.json"
	BPFTIME_PARK_MS=never daemon_start
	offloaded "$TOOL_PID"
	attached_to "$TOOL_PID" "$WORKLOAD"
	called
	said 400000
}

@test "bpftimed is killed and the tool ends: the next one cleans up" {
	daemon_start
	both 20000
	attach perf work
	wait_until 5 parked
	go
	called
	kill -9 "$DAEMON"
	ended "$DAEMON"
	wait "$DAEMON" || true
	said 80000
	daemon_start
	daemon_stop
	[ ! -e "$SESSION/run/bpf" ]
	[ ! -e "$SESSION/run/bpftimed-parked" ]
}

@test "the tool is held when bpftimed ends: its program stays attached" {
	daemon_start
	both 100000 --rate 20000
	attach perf work
	wait_until 5 parked
	go
	sleep 0.5
	kill -STOP "$TOOL_PID"
	run -1 --separate-stderr "$B/bpftime" handback "$TOOL_PID"
	[[ $stderr == *"its own attachment cannot be restored"* ]]
	wait_until 5 parked
	daemon_stop
	grep -q "stays attached by a link" "$SESSION/daemon.log"
	kill -CONT "$TOOL_PID"
	called
	said 400000
	# Another one clears it away.
	daemon_start
	daemon_stop
	[ ! -e "$SESSION/run/bpf" ]
}

@test "two users, bpftimed is killed while the attachment is parked: latency" {
	run_alone flips-everywhere latency 5000 60 "$RESTARTS" 100 16 kill
}
