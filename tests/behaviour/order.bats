#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# The order does not matter: tools and targets that are there before bpftimed.

bats_require_minimum_version 1.5.0
load helpers
load real

setup_file() {
	need_root
	need bpftrace bpftool
}

# tool_first TOOL PROBES
tool_first() {
	local dir=$SESSION/x
	exact_start "$dir" "$1" 8 100000 --rate 100000
	wait_until 10 attached_in_kernel "$TOOL_PID" "$2"
	exact_go "$dir"
	daemon_start
	offloaded "$TOOL_PID"
	exact_finish "$dir" "$1"
	daemon_stop
}

@test "count_tid was there first, in the middle of its work" {
	tool_first count_tid 1
}

@test "latency was there first, in the middle of its work" {
	tool_first latency 2
}

@test "bsscount was there first, in the middle of its work" {
	tool_first bsscount 1
}

@test "hashcount was there first, in the middle of its work" {
	tool_first hashcount 2
}

@test "funclatency was there first, in the middle of its work" {
	tool_first funclatency 2
}

@test "bpftimed ends in the middle of a tool's work" {
	local dir=$SESSION/x
	daemon_start
	exact_start "$dir" count_tid 8 40000 --rate 40000
	offloaded "$TOOL_PID"
	exact_go "$dir"
	sleep 0.2
	daemon_stop
	exact_finish "$dir" count_tid
}
