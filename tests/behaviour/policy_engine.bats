#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# What policy keeps in the kernel, and what a changed policy does to tools that run.

bats_require_minimum_version 1.5.0
load helpers
load real

setup_file() {
	need_root
	need bpftrace
}

keep() { # LIST KEY VALUE
	policy 10-keep.json "{\"version\": 1, \"$1\": [{\"$2\": \"$3\", \"action\": \"kernel\"}]}"
}

# kept LIST KEY VALUE: a tool runs into this rule; when the rule goes it is offloaded, and back when it comes again.
kept() {
	local dir=$SESSION/x
	export BPFTIME_POLICY_DIR=$SESSION/policy.d
	keep "$@"
	daemon_start
	exact_start "$dir" count 2 200000 --rate 100000
	in_kernel "$TOOL_PID"
	reason_is "10-keep.json:1"
	rm "$BPFTIME_POLICY_DIR/10-keep.json"
	kill -HUP "$DAEMON"
	offloaded "$TOOL_PID"
	exact_go "$dir"
	sleep 0.2
	keep "$@"
	kill -HUP "$DAEMON"
	in_kernel "$TOOL_PID"
	reason_is "10-keep.json:1"
	sleep 0.2
	rm "$BPFTIME_POLICY_DIR/10-keep.json"
	kill -HUP "$DAEMON"
	offloaded "$TOOL_PID"
	exact_finish "$dir" count
	daemon_stop
}

reason_is() {
	run -0 "$B/bpftime" ps --json
	[[ "$(json "[t['probes'][0]['reason'] for t in j if t['pid'] == $TOOL_PID][0]")" == *policy*"$1"* ]] || {
		echo "$output"
		return 1
	}
}

@test "a tool kept in the kernel by its executable" {
	kept tools exe "*/bpftrace"
}

@test "a tool kept in the kernel by its name" {
	kept tools comm "bpftr*"
}

@test "a tool kept in the kernel by its user" {
	kept tools user root
}

@test "a target kept in the kernel by its executable" {
	kept targets exe "*/examples/workload"
}

@test "a target kept in the kernel by its name" {
	kept targets comm workload
}

@test "default: kernel, and a rule that offloads one tool" {
	export BPFTIME_POLICY_DIR=$SESSION/policy.d
	policy 10.json '{"version": 1, "default": "kernel", "tools": [{"comm": "bpftrace", "action": "offload"}],
		"targets": [{"comm": "workload", "action": "offload"}]}'
	daemon_start
	exact_start "$SESSION/x" count 2 20000
	offloaded "$TOOL_PID"
	exact_go "$SESSION/x"
	exact_finish "$SESSION/x" count
	exact_start "$SESSION/y" bsscount 2 20000
	in_kernel "$TOOL_PID"
	exact_go "$SESSION/y"
	exact_finish "$SESSION/y" bsscount
	daemon_stop
}
