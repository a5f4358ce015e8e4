#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# bpftime top with a daemon that carries: rates, targets, and what a hit costs.

bats_require_minimum_version 1.5.0
load helpers
load real

# looked PYTHON: of the last line of top's JSON, `p` are the probes of $TOOL_PID.
looked() {
	python3 -c 'import json, sys
j = json.loads(open(sys.argv[1]).readlines()[-1]); p = [x for x in j if x["pid"] == int(sys.argv[2])]
print(eval(sys.argv[3]))' "$SESSION/top" "$TOOL_PID" "$1"
}

# perf_events: how many the daemon has.
perf_events() { readlink "/proc/$DAEMON"/fd/* | grep -c perf_event || true; }

@test "top: hits per second, targets, and what a hit costs: less than the call with it" {
	local dir=$SESSION/x
	exact_workload "$dir" work 1 1000000000 --rate 5000000
	tool_run "$dir/tool" bpftrace -p "$WORKLOAD_PID" -e "uprobe:$WORKLOAD:work { @ = count(); }"
	offloaded "$TOOL_PID"
	"$B/bpftime" top --json --count 1 >"$SESSION/top"
	[ "$(looked '(p[0]["state"], p[0]["ns_per_hit"], p[0]["targets"])')" = "('userspace', None, [$WORKLOAD_PID])" ]
	kill -USR1 "$WORKLOAD_PID"
	"$B/bpftime" top --json --count 8 --interval 0.5 >"$SESSION/top"
	kill -USR2 "$WORKLOAD_PID"
	wait_until 20 grep -q '^total' "$dir/workload"
	[ "$(wc -l <"$SESSION/top")" = 8 ]
	[ "$(looked 'p[0]["hits_per_second"] > 1000')" = True ]
	ns=$(sed -n 's/^ns //p' "$dir/workload")
	echo "$(looked 'p[0]["ns_per_hit"]') of $ns"
	[ "$(looked "0 < p[0]['ns_per_hit'] < $ns")" = True ]
	exact_tool_end "$TOOL_PID"
	exact_workload_end "$dir" "$WORKLOAD_PID" || true
}

@test "top for people: a table; a probe in the kernel has no rate" {
	local dir=$SESSION/x
	exact_workload "$dir" work 1 500
	tool_run "$dir/tool" bpftrace -p "$WORKLOAD_PID" -e "uprobe:$WORKLOAD:work { @[kstack] = count(); }"
	in_kernel "$TOOL_PID"
	run -0 "$B/bpftime" top --count 2 --interval 0.1
	[[ $output == *"HITS/S  NS/HIT  "*"TARGETS"* ]]
	grep -qE "^ *- +- +0 +$TOOL_PID +bpftrace +kernel +- +uprobe +$WORKLOAD:work" <<<"$output"
	exact_go "$dir"
	exact_called "$dir"
	exact_tool_end "$TOOL_PID"
	exact_workload_end "$dir" "$WORKLOAD_PID"
}

@test "nobody is sampled when nobody looks" {
	local all
	"$B/bpftime" top --count 1 --interval 0 >/dev/null
	all=$(perf_events)
	[ "$all" -ge "$(nproc)" ]
	wait_until 20 eval '[ "$(perf_events)" -le $((all - $(nproc))) ]'
}
