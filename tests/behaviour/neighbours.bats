#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Several tools that probe every process, on one function and on one page: one is kept in the kernel, one comes late, one is killed, one
# becomes another process. Each says the truth, and so does the one that was there all the time.

bats_require_minimum_version 1.5.0
load helpers
load real

setup_file() {
	need_root
	need bpftrace bpftool python3
}
teardown_file() { :; }

setup() {
	own_setup 90
	cp "$(command -v bpftrace)" "$SESSION/kept"
	policy kept.json "{\"version\": 1, \"tools\": [{\"exe\": \"$SESSION/kept\", \"action\": \"kernel\"}]}"
	daemon_start
}

# The two residents, who wait, and the tool that is in userspace all the time.
residents() {
	exact_workload "$SESSION/a" work 2 "$1" --rate 20000
	A=$WORKLOAD_PID
	exact_workload "$SESSION/b" work 2 "$1" --rate 20000
	tool_run "$SESSION/first" bpftrace -e "uprobe:$WORKLOAD:work { @[pid] = count(); }"
	FIRST=$TOOL_PID
	offloaded "$FIRST"
}

# Processes that come and go meanwhile.
visitors() {
	local i
	for ((i = 0; i < $1; i++)); do
		"$WORKLOAD" --calls 100 <<<go >/dev/null
	done
}

# all FILE: the sum of what a bpftrace has counted there.
all() { sed -nE 's/^@\[[0-9]+\]: ([0-9]+)$/\1/p' "$1" | awk '{ n += $1 } END { print n + 0 }'; }

@test "two tools on one function and one on the next, one of the two kept in the kernel by policy" {
	local kept beside
	residents 60000
	tool_run "$SESSION/kept.said" "$SESSION/kept" -e "uprobe:$WORKLOAD:work { @[pid] = count(); }"
	kept=$TOOL_PID
	in_kernel "$kept"
	tool_run "$SESSION/beside" bpftrace -e "uprobe:$WORKLOAD:work_sub { @[pid] = count(); }"
	beside=$TOOL_PID
	offloaded "$beside"
	go
	visitors 50
	called
	"$WORKLOAD" --calls 1000 --function work_sub <<<go >/dev/null
	exact_tool_end "$FIRST"
	exact_tool_end "$kept"
	exact_tool_end "$beside"
	same first $((240000 + 5000)) "$(all "$SESSION/first")"
	same kept $((240000 + 5000)) "$(all "$SESSION/kept.said")"
	same beside 1000 "$(all "$SESSION/beside")"
}

@test "one that is kept in the kernel comes, goes, comes and is killed beside one in userspace, in the middle of the load" {
	local i
	residents 100000
	go
	for i in 1 2 3; do
		tool_run "$SESSION/kept.$i" "$SESSION/kept" -e "uprobe:$WORKLOAD:work { @[pid] = count(); }"
		wait_until 10 attached_in_kernel "$TOOL_PID" 1
		"$WORKLOAD" --calls 1000 <<<go >"$SESSION/visitor.$i"
		if ((i == 2)); then
			kill -9 "$TOOL_PID"
			exact_waited "$TOOL_PID" || true
		else
			exact_tool_end "$TOOL_PID"
			# Of processes that lived with it all the time the late one knows all.
			grep -qE ': 1000$' "$SESSION/kept.$i"
		fi
		visitors 10
	done
	called
	exact_tool_end "$FIRST"
	same first $((400000 + 3 * 1000 + 30 * 100)) "$(all "$SESSION/first")"
}

# passes_on FORM: a tool that was there before the load and becomes another process in the middle of it.
passes_on() {
	local before now
	residents 80000
	tool_run "$SESSION/passes" "$BATS_TEST_DIRNAME/attach" "$1" 0 "$WORKLOAD" work
	before=$TOOL_PID
	sleep 0.5
	go
	sleep 0.5
	kill -USR1 "$before"
	wait_for "$SESSION/passes" '^now' 10
	now=$(sed -n 's/^now //p' "$SESSION/passes")
	visitors 20
	called
	"$B/bpftime" explain | grep -A3 "($(cat "/proc/$now/comm"))" || true
	kill -INT "$now"
	wait_for "$SESSION/passes" '^count' 10
	[ "$now" = "$before" ] || wait "$before" || true
	exact_ended "$before"
	exact_tool_end "$FIRST"
	same first $((320000 + 2000)) "$(all "$SESSION/first")"
	same passes $((320000 + 2000)) "$(counted "$SESSION/passes")"
}

@test "a tool leaves its descriptors to a child and ends" {
	passes_on fork
}

@test "a tool sends its descriptors to another process and ends" {
	passes_on send
}

@test "a tool executes another program, which has its descriptors" {
	passes_on exec
}
