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

keep() { # LIST KEY VALUE, or settings KEY
	if [ "$1" = settings ]; then
		policy 10-keep.json "{\"version\": 1, \"settings\": {\"$2\": false}}"
	else
		policy 10-keep.json "{\"version\": 1, \"$1\": [{\"$2\": \"$3\", \"action\": \"kernel\"}]}"
	fi
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

@test "every tool kept in the kernel, because no code may be written" {
	kept settings writable_code
}

# runs_in PID REGEX: what explain says of the tool fits, and the tool itself is (PID) or is not ("") among its targets.
runs_in() {
	run -0 "$B/bpftime" explain "$TOOL_PID" --json
	[[ $output =~ $2 ]] && [ "$(json "$TOOL_PID in j['probes'][0]['targets']")" = "$1" ]
}

@test "a tool in which its own probe fires is stopped for it only when policy allows it" {
	local dir=$SESSION/x
	export BPFTIME_POLICY_DIR=$SESSION/policy.d
	policy 10.json '{"version": 1, "default": "kernel", "tools": [{"comm": "bpftrace", "action": "offload"}],
		"targets": [{"comm": "workload", "action": "offload"}, {"comm": "bpftrace", "action": "offload"}]}'
	policy 20.json '{"version": 1, "settings": {"stop_tools": false}}'
	daemon_start
	exact_workload "$dir" work 2 1000
	tool_run "$dir/tool" bpftrace -e "uprobe:$(libc):getppid { @[pid] = count(); }"
	offloaded "$TOOL_PID"
	runs_in False "policy lets no tool be stopped, and process $TOOL_PID .bpftrace. is one .*/20.json:1"
	rm "$BPFTIME_POLICY_DIR/20.json"
	kill -HUP "$DAEMON"
	"$B/bpftime" handback "$TOOL_PID"
	"$B/bpftime" takeover "$TOOL_PID"
	runs_in True .
	policy 20.json '{"version": 1, "settings": {"stop_tools": false}}'
	kill -HUP "$DAEMON"
	wait_until 10 runs_in False "policy lets no tool be stopped"
	offloaded "$TOOL_PID"
	exact_go "$dir"
	exact_called "$dir"
	exact_tool_end "$TOOL_PID"
	exact_workload_end "$dir" "$WORKLOAD_PID"
	daemon_stop
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
