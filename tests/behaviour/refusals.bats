#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# What cannot be exact stays in the kernel: the tool's answer is right, and bpftime says what is in the way.

bats_require_minimum_version 1.5.0
load helpers
load real

# stays PATTERN: the tool is in the kernel, and every probe's reason matches, in `ps --json` and in `explain`.
stays() {
	in_kernel "$TOOL_PID"
	run -0 "$B/bpftime" ps --json
	printf '%s' "$output" | python3 -c '
import json, re, sys
t = [t for t in json.load(sys.stdin) if t["pid"] == int(sys.argv[1])][0]
assert t["state"] == "kernel" and t["probes"], t
for p in t["probes"]:
    assert p["state"] == "kernel" and p["hits"] == 0 and p["targets"] == [], p
    assert re.search(sys.argv[2], p["reason"]), p["reason"]' "$TOOL_PID" "$1"
	run -0 "$B/bpftime" explain "$TOOL_PID"
	grep -qE "$1" <<<"$output"
}

# refused REASON PROGRAM: the program stays in the kernel for this reason; the workload makes 1000 calls.
refused() {
	local dir=$SESSION/x
	exact_workload "$dir" work 2 500
	tool_run "$dir/tool" bpftrace -p "$WORKLOAD_PID" -e "uprobe:$WORKLOAD:work $2"
	stays "$1"
	exact_go "$dir"
	exact_called "$dir"
	exact_tool_end "$TOOL_PID"
	exact_workload_end "$dir" "$WORKLOAD_PID"
}

# lines PATTERN COUNT
lines() {
	same "lines with $1" "$(grep -cE "$1" "$SESSION/x/tool")" "$2"
}

@test "printf() of bpftrace: the helper is named" {
	refused 'perf_event_output|perf event array' '{ printf("hit %d\n", arg0); }'
	lines '^hit [0-7]$' 1000
}

@test "kernel stacks: the helper is named" {
	refused 'get_stackid|stack trace' '{ @[kstack] = count(); @n = count(); }'
	lines '^@n: 1000$' 1
}

@test "user stacks: the helper is named" {
	refused 'get_stackid|stack trace' '{ @[ustack] = count(); @n = count(); }'
	lines '^@n: 1000$' 1
}

@test "min() and max(), which per-CPU maps cannot do by adding: the map is named" {
	refused '@|AT_|[Mm]ap|per-CPU' '{ @low = min(arg2); @high = max(arg2); }'
	lines '^@low: 0$' 1
	lines '^@high: 99$' 1
}

@test "what was refused once is refused again, when it is asked for, and after a reload" {
	local dir=$SESSION/x reason='not an addition'
	exact_workload "$dir" work 2 500
	tool_run "$dir/tool" bpftrace -p "$WORKLOAD_PID" -e "uprobe:$WORKLOAD:work { @low = min(arg2); }"
	stays "$reason"
	fails 1 "$B/bpftime" takeover "$TOOL_PID"
	[[ $stderr == *"$reason"* ]]
	stays "$reason"
	kill -HUP "$DAEMON"
	sleep 0.5
	stays "$reason"
	exact_go "$dir"
	exact_called "$dir"
	exact_tool_end "$TOOL_PID"
	exact_workload_end "$dir" "$WORKLOAD_PID"
	lines '^@low: 0$' 1
}

@test "a map that a program of another kind uses, too" {
	local dir=$SESSION/x
	exact_workload "$dir" work 2 500
	tool_run "$dir/tool" bpftrace -p "$WORKLOAD_PID" -e \
		"uprobe:$WORKLOAD:work { @ = count(); } interval:s:1000 { @ = count(); }"
	wait_until 10 eval '"$B/bpftime" ps | grep -q "^ *$TOOL_PID "'
	stays 'also used by program'
	exact_go "$dir"
	exact_called "$dir"
	exact_tool_end "$TOOL_PID"
	exact_workload_end "$dir" "$WORKLOAD_PID"
}

# debugged COMMAND...: it traces a process and stays.
debugged() {
	"$@" >"$SESSION/debugger" 2>&1 3>&- &
	DEBUGGER=$!
	exact_pids+=("$DEBUGGER")
}

traced() { ! grep -q '^TracerPid:.0$' "/proc/$1/status"; }

@test "a target under gdb: the debugger is named, the answer is right" {
	local dir=$SESSION/x
	need gdb
	exact_workload "$dir" work 2 5000
	debugged gdb -nx -q -p "$WORKLOAD_PID" -ex 'handle SIGUSR1 nostop noprint pass' -ex 'continue' </dev/null
	wait_until 20 traced "$WORKLOAD_PID" || skip "gdb cannot trace here"
	tool_run "$dir/tool" bpftrace -p "$WORKLOAD_PID" -e "uprobe:$WORKLOAD:work { @ = count(); }"
	stays "debugger|traced|gdb"
	if [ -e "/proc/$DEBUGGER/exe" ] && traced "$WORKLOAD_PID"; then
		kill -KILL "$DEBUGGER"
		wait "$DEBUGGER" || true
		exact_ended "$DEBUGGER"
	fi
	exact_go "$dir"
	exact_called "$dir"
	exact_tool_end "$TOOL_PID"
	exact_workload_end "$dir" "$WORKLOAD_PID"
	lines '^@: 10000$' 1
}

# under_strace DIR: a workload that strace traces, and a tool that wants it.
under_strace() {
	need strace
	exact_workload "$1" work 2 5000
	debugged strace -f -e trace=none -p "$WORKLOAD_PID"
	wait_until 20 traced "$WORKLOAD_PID" || skip "strace cannot trace here"
	tool_run "$1/tool" bpftrace -p "$WORKLOAD_PID" -e "uprobe:$WORKLOAD:work { @ = count(); }"
	stays "debugger|traced|strace"
}

@test "a target under strace: the tracer is named, the answer is right" {
	local dir=$SESSION/x
	under_strace "$dir"
	exact_go "$dir"
	exact_called "$dir"
	exact_tool_end "$TOOL_PID"
	exact_workload_end "$dir" "$WORKLOAD_PID"
	lines '^@: 10000$' 1
}

@test "a tool under strace: the tracer is named, the answer is right" {
	local dir=$SESSION/x tracer
	need strace
	exact_workload "$dir" work 2 5000
	env --default-signal=INT strace -f -I 4 -e trace=none -o /dev/null bpftrace -p "$WORKLOAD_PID" \
		-e "uprobe:$WORKLOAD:work { @ = count(); }" >"$dir/tool" 2>&1 3>&- &
	tracer=$!
	exact_pids+=("$tracer")
	wait_for "$dir/tool" Attaching 20
	TOOL_PID=$(cat "/proc/$tracer/task/$tracer/children")
	TOOL_PID=${TOOL_PID%% *}
	wait_until 20 attached_in_kernel "$TOOL_PID" 1
	stays "debugger|traced|strace"
	exact_go "$dir"
	exact_called "$dir"
	while kill -INT "$TOOL_PID" 2>/dev/null; do sleep 1; done
	wait "$tracer" || true
	exact_ended "$tracer"
	exact_workload_end "$dir" "$WORKLOAD_PID"
	lines '^@: 10000$' 1
}

@test "handed back by hand: the reason says so" {
	local dir=$SESSION/x
	exact_start "$dir" count 2 5000
	offloaded "$TOOL_PID"
	"$B/bpftime" handback "$TOOL_PID"
	stays "bpftime handback $TOOL_PID"
	exact_go "$dir"
	exact_finish "$dir" count
}

# attached FORM FUNCTION...: tests/behaviour/attach counts in the workload; 1000 calls.
attached() {
	local dir=$SESSION/x form=$1
	shift
	exact_workload "$dir" work 2 500
	tool_run "$dir/tool" "$BATS_TEST_DIRNAME/attach" "$form" "$WORKLOAD_PID" "$WORKLOAD" "$@"
}

counted_is() {
	exact_go "$SESSION/x"
	exact_called "$SESSION/x"
	exact_tool_end "$TOOL_PID"
	exact_workload_end "$SESSION/x" "$WORKLOAD_PID"
	lines "^count $1\$" 1
}

@test "a uprobe_multi link: the form is named" {
	attached multi work work_sub || skip "this kernel has no uprobe_multi: $(cat "$SESSION/x/tool")"
	stays 'uprobe_multi link'
	counted_is 1000
}

@test "a uprobe session: the form is named" {
	attached session work || skip "this kernel has no uprobe sessions: $(cat "$SESSION/x/tool")"
	stays 'uprobe_multi link|session'
	counted_is 2000
}

@test "more attachments of one program than are carried: their number is named" {
	attached perf $(printf "work %.0s" {1..70})
	stays 'more than 8 probes are on this instruction'
	counted_is 70000
}

@test "a program that another process attaches, too: that one is named" {
	attached twice work
	wait_for "$SESSION/x/tool" '^child' 10
	stays 'also used by another tool, process [0-9]+ .python3.'
	counted_is 2000
}

@test "a target that a tracer has left is taken over when that is asked for" {
	local dir=$SESSION/x
	under_strace "$dir"
	kill -INT "$DEBUGGER"
	exact_waited "$DEBUGGER" || true
	"$B/bpftime" takeover "$TOOL_PID"
	offloaded "$TOOL_PID"
	exact_go "$dir"
	exact_called "$dir"
	exact_tool_end "$TOOL_PID"
	exact_workload_end "$dir" "$WORKLOAD_PID"
	lines '^@: 10000$' 1
}
