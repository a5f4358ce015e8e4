#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Several bpftimeds on one host, each with a runtime folder of its own: a tool is served by one of them.

bats_require_minimum_version 1.5.0
load helpers
load real

setup() {
	export BUILD=$B
	. "$BATS_TEST_DIRNAME/exact.bash"
	need_root
	need bpftrace python3
	need_alone
}

teardown() {
	exact_kill
	session_end
	local name
	for name in a b; do
		umount -l "$BATS_TEST_TMPDIR/$name/run/bpf" 2>/dev/null || true
	done
}

setup_file() { :; }
teardown_file() { :; }

# as NAME COMMAND...: with the runtime folder of this one.
as() {
	local SESSION=$BATS_TEST_TMPDIR/$1
	shift
	mkdir -p "$SESSION"
	export BPFTIME_RUNTIME_DIR=$SESSION/run BPFTIME_POLICY_DIR=$SESSION/policy.d
	"$@"
}

# state_at NAME STATE: of the tool, there.
state_at() {
	as "$1" "$B/bpftime" wait --tool "$TOOL_PID" --state "$2" --timeout "${BPFTIMED_PATIENCE:-15}" || {
		as "$1" "$B/bpftime" explain "$TOOL_PID"
		return 1
	}
}

has_reason_at() {
	run -0 as "$1" "$B/bpftime" ps --json
	[[ "$(json "[t['probes'][0]['reason'] for t in j if t['pid'] == $TOOL_PID][0]")" == *"$2"* ]]
}

# reason_at NAME TEXT: the tool's first probe stays in the kernel there, or soon does, because TEXT.
reason_at() {
	wait_until 10 has_reason_at "$@" || {
		echo "$output"
		return 1
	}
}

# only_tool_at NAME: nothing else is taken for one.
only_tool_at() {
	run -0 as "$1" "$B/bpftime" ps --json
	[ "$(json "[t['pid'] for t in j]")" = "[$TOOL_PID]" ] || {
		echo "$output"
		return 1
	}
}

# A program by another name.
renamed() {
	cp "$B/bpftimed" "$BATS_TEST_TMPDIR/elsewhere"
	BPFTIME_LIBEXEC_DIR=$B BPFTIMED=$BATS_TEST_TMPDIR/elsewhere daemon_start
}

@test "the second leaves alone what the first has, and takes it when that one ends; whatever its program is called" {
	local dir=$BATS_TEST_TMPDIR/x first second
	as a renamed
	first=$DAEMON
	exact_start "$dir" count_tid 2 300000 --rate 60000
	state_at a offloaded
	as b daemon_start
	second=$DAEMON
	state_at b kernel
	reason_at b "another bpftimed (process $first) serves this tool"
	exact_go "$dir"
	only_tool_at a
	only_tool_at b
	as a end_process "$first"
	state_at b offloaded
	as a renamed
	state_at a kernel
	reason_at a "another bpftimed (process $second) serves this tool"
	only_tool_at b
	exact_finish "$dir" count_tid
	end_process "$second"
	end_process "$DAEMON"
}

@test "of two that see a tool at the same time one takes it" {
	local round dir taken
	as a daemon_start
	as b daemon_start
	for round in 1 2 3 4 5; do
		dir=$BATS_TEST_TMPDIR/x$round
		exact_start "$dir" count 1 20000
		wait_until 15 eval 'taken=$(for n in a b; do as $n "$B/bpftime" wait --tool "$TOOL_PID" --timeout 0.1 2>/dev/null && echo $n; done); [ -n "$taken" ]'
		sleep 1
		[ "$(for n in a b; do as $n "$B/bpftime" wait --tool "$TOOL_PID" --timeout 0.1 2>/dev/null && echo $n; done)" = "$taken" ]
		if [ "$taken" = a ]; then reason_at b "another bpftimed"; else reason_at a "another bpftimed"; fi
		exact_go "$dir"
		exact_finish "$dir" count
	done
}

@test "a target that carries the agent of one is left alone by the other" {
	local dir=$BATS_TEST_TMPDIR/x first=$BATS_TEST_TMPDIR/x/tool tool
	mkdir -p "$BATS_TEST_TMPDIR/a/policy.d"
	as a policy only.json '{"version": 1, "tools": [{"comm": "bpftrace", "action": "offload"}],
		"targets": [{"comm": "workload", "action": "offload"}], "default": "kernel"}'
	as a daemon_start
	exact_start "$dir" count_tid 2 100000
	state_at a offloaded
	tool=$TOOL_PID
	as b daemon_start
	exact_tool "$BATS_TEST_TMPDIR/bsscount" bsscount "$WORKLOAD_PID"
	state_at b kernel
	reason_at b "serves this target"
	state_at a kernel
	reason_at a policy
	exact_go "$dir"
	exact_called "$dir"
	exact_tool_end "$TOOL_PID"
	TOOL_PID=$tool
	exact_finish "$dir" count_tid
	exact_compare "$dir" "$BATS_TEST_TMPDIR/bsscount" bsscount
}

@test "what a killed one left is left alone, until the next with its runtime folder has handed it back" {
	local dir=$BATS_TEST_TMPDIR/x
	as a daemon_start
	exact_start "$dir" count_tid 2 400000 --rate 60000
	state_at a offloaded
	as b daemon_start
	reason_at b "another bpftimed"
	exact_go "$dir"
	local first
	first=$(head -n 1 "$BATS_TEST_TMPDIR/a/run/lock")
	kill -9 "$first"
	ended "$first"
	wait "$first" || true
	reason_at b "a bpftimed that was killed (process $first)"
	as a daemon_start
	state_at a offloaded
	state_at b kernel
	reason_at b "another bpftimed (process $DAEMON) serves this tool"
	as a end_process "$DAEMON"
	state_at b offloaded
	exact_finish "$dir" count_tid
}

# carries_at NAME PID...: just these processes run the tool's probe in userspace.
carries_at() {
	local name=$1
	shift
	run -0 as "$name" "$B/bpftime" ps --json
	[ "$(json "sorted(next(t for t in j if t['pid'] == $TOOL_PID)['probes'][0]['targets']) == sorted([$(IFS=, && echo "$*")])")" = True ] || {
		echo "$output"
		return 1
	}
}

@test "a process that another one has joins a probe of every process when that one ends" {
	local one=$BATS_TEST_TMPDIR/one two=$BATS_TEST_TMPDIR/two out=$BATS_TEST_TMPDIR/tool first one_pid small
	as a policy only.json '{"version": 1, "tools": [{"comm": "bsscount", "action": "offload"}],
		"targets": [{"comm": "workload", "action": "offload"}], "default": "kernel"}'
	as b policy only.json '{"version": 1, "tools": [{"comm": "bpftrace", "action": "offload"}],
		"targets": [{"comm": "workload", "action": "offload"}], "default": "kernel"}'
	as a daemon_start
	first=$DAEMON
	as b daemon_start
	exact_workload "$one" work 2 200000 --rate 30000
	one_pid=$WORKLOAD_PID
	exact_workload "$two" work 2 100000 --rate 30000
	"$B/examples/bsscount" -p "$one_pid" "$WORKLOAD:work_sub" >"$BATS_TEST_TMPDIR/small" 2>&1 3>&- &
	small=$!
	exact_pids+=("$small")
	TOOL_PID=$small state_at a offloaded
	tool_run "$out" bpftrace -e "uprobe:$WORKLOAD:work { @[pid] = count(); }"
	state_at b offloaded
	carries_at b "$WORKLOAD_PID"
	run -0 as b "$B/bpftime" explain "$TOOL_PID"
	[[ $output == *"not in process $one_pid: another bpftimed (process $first) serves this target"* ]]
	exact_go "$one"
	exact_go "$two"
	as a end_process "$first"
	wait_until 10 carries_at b "$one_pid" "$WORKLOAD_PID"
	exact_called "$one"
	exact_called "$two"
	exact_tool_end "$TOOL_PID"
	exact_workload_end "$one" "$one_pid"
	exact_workload_end "$two" "$WORKLOAD_PID"
	grep -qx "@\[$one_pid\]: 400000" "$out"
	grep -qx "@\[$WORKLOAD_PID\]: 200000" "$out"
	end_process "$small" INT || true
}
