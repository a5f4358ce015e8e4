#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Tracepoints that share maps with uprobes: both sides see each other's values at once, wherever the uprobe runs, and at every switch.
# The workload calls work() and then getppid(); what pairs and bpftrace make of that is compared with what it knows to have done.

bats_require_minimum_version 1.5.0
load helpers
load real

# pair TOOL: served together, and right.
pair() {
	exact_start "$SESSION/x" "$1" 4 20000
	offloaded "$TOOL_PID"
	exact_go "$SESSION/x"
	exact_finish "$SESSION/x" "$1"
}


@test "the uprobe begins, the tracepoint ends" { pair tp_take; }

@test "the tracepoint begins, the uprobe ends" { pair tp_give; }

@test "both add to the same per-CPU maps" { pair tp_both; }

@test "tp_btf" { pair pairs-btf; }

@test "a raw tracepoint" { pair pairs-raw; }

@test "a perf event at the tracepoint of all system calls" { pair pairs-perf; }

@test "with global variables, tp_btf" { pair pairs-btf-memory; }

@test "with global variables, a perf event" { pair pairs-perf-memory; }

@test "ps and explain say which tracepoint it is, and who serves it" {
	exact_start "$SESSION/x" tp_take 1 1000
	offloaded "$TOOL_PID"
	run -0 "$B/bpftime" ps
	grep -qE "^ *$TOOL_PID +bpftrace +offloaded +kernel +tracepoint +syscalls:sys_enter_getppid +0 +0$" <<<"$output"
	run -0 "$B/bpftime" explain "$TOOL_PID"
	grep -qx 'tracepoint syscalls:sys_enter_getppid, program sys_enter_getpp' <<<"$output"
	grep -q 'the kernel half serves it, on the same memory' <<<"$output"
	exact_go "$SESSION/x"
	exact_finish "$SESSION/x" tp_take
}

@test "a tool with tracepoints alone is no tool" {
	tool_run "$SESSION/tool" "${with_tracefs[@]}" bpftrace -e 'tracepoint:syscalls:sys_enter_getpgid { @ = count(); }'
	sleep 1
	run -0 "$B/bpftime" ps
	! grep -q "^ *$TOOL_PID " <<<"$output"
	exact_tool_end "$TOOL_PID"
}

@test "a tracepoint that shares nothing is none of our business" {
	exact_workload "$SESSION/x" work 2 500
	tool_run "$SESSION/tool" "${with_tracefs[@]}" bpftrace -e "uprobe:$WORKLOAD:work { @ = count(); } tracepoint:syscalls:sys_enter_getpgid { @p = count(); }"
	offloaded "$TOOL_PID"
	run -0 "$B/bpftime" explain "$TOOL_PID"
	! grep -q getpgid <<<"$output"
	exact_go "$SESSION/x"
	exact_called "$SESSION/x"
	exact_tool_end "$TOOL_PID"
	grep -qx '@: 1000' "$SESSION/tool"
}

@test "the tracepoint alone is detached: the uprobe goes on" {
	exact_start "$SESSION/x" pairs-raw 1 400000 --rate 50000
	offloaded "$TOOL_PID"
	exact_go "$SESSION/x"
	sleep 0.5
	kill -USR1 "$TOOL_PID"
	wait_for "$SESSION/x/tool" '^detached' 10
	wait_until 10 eval '! "$B/bpftime" ps | grep -q "^ *$TOOL_PID .*sys_enter"'
	offloaded "$TOOL_PID"
	sleep 0.5
	kill -USR2 "$WORKLOAD_PID"
	exact_called "$SESSION/x"
	exact_tool_end "$TOOL_PID"
	local calls pairs
	calls=$(awk '/^calls/ { print $2 }' "$SESSION/x/workload")
	pairs=$(awk '/^pairs/ { print $2 }' "$SESSION/x/tool")
	grep -qx "entries $calls" "$SESSION/x/tool"
	grep -qx 'left 1' "$SESSION/x/tool"
	((pairs > 0 && pairs < calls))
}

# switches FILE: what a tool counted of the workload's threads.
switches() { sed -nE 's/^@sw\[([0-9]+)\]: ([0-9]+)$/\1 \2/p' "$1" | sort; }

# The kernel counts beside it: a tool that has a tracepoint only stays there.
@test "a tracepoint that everything hits, sched_switch, there and back: as the kernel counts" {
	local i n=0 counts
	counts='tracepoint:sched:sched_switch /strncmp(args->prev_comm, "work", 4) == 0 && strncmp(args->prev_comm, "workload", 8) != 0/ {
		@sw[args->prev_pid] = count(); }'
	exact_workload "$SESSION/x" work 4 400000 --rate 20000
	tool_run "$SESSION/kernel" "${with_tracefs[@]}" bpftrace -e "$counts"
	local kernel=$TOOL_PID
	tool_run "$SESSION/tool" "${with_tracefs[@]}" bpftrace -e "uprobe:$WORKLOAD:work { @n = count(); @sw[0] = count(); } $counts"
	offloaded "$TOOL_PID"
	sleep 0.5
	exact_go "$SESSION/x"
	for ((i = 0; i < 20; i++)); do
		"$B/bpftime" handback "$TOOL_PID" && "$B/bpftime" takeover "$TOOL_PID" && n=$((n + 1))
	done
	kill -USR2 "$WORKLOAD_PID"
	exact_called "$SESSION/x"
	sleep 0.2
	offloaded "$TOOL_PID"
	exact_tool_end "$TOOL_PID"
	exact_tool_end "$kernel"
	[ "$(switches "$SESSION/kernel" | wc -l)" = 4 ]
	{
		echo "0 $(awk '/^calls/ { print $2 }' "$SESSION/x/workload")"
		switches "$SESSION/kernel"
	} | diff - <(switches "$SESSION/tool")
	same "there and back" "$n" 20
}
