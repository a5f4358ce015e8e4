#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# What bpftimed says of itself, and that it does nothing when there is nothing to do.

bats_require_minimum_version 1.5.0
load helpers
load real

# ran PID: microseconds that its threads have run. Ticks, of 10 ms, would be a lottery: one is counted whenever the sum gets past the next.
ran() {
	awk '{ ns += $1 } END { printf "%d\n", ns / 1000 }' /proc/"$1"/task/*/schedstat
}

# idle SECONDS MICROSECONDS: it runs no longer than that in each second.
idle() {
	local before took
	before=$(ran "$DAEMON")
	sleep "$1"
	took=$(($(ran "$DAEMON") - before))
	[ "$took" -le $(($1 * $2)) ] || {
		echo "it ran for $took microseconds in $1 s"
		return 1
	}
}

@test "without tools it uses no CPU" {
	sleep 0.5
	idle 3 0
}

@test "with an offloaded tool that is not hit it has a look at it once a second" {
	exact_start "$SESSION/x" latency 1 10
	offloaded "$TOOL_PID"
	sleep 1
	idle 3 1500
	exact_go "$SESSION/x"
	exact_finish "$SESSION/x" latency
}

@test "with an offloaded tool that is hit all the time it does no more" {
	exact_start "$SESSION/x" count 1 300000 --rate 60000
	offloaded "$TOOL_PID"
	exact_go "$SESSION/x"
	sleep 1
	idle 2 1500
	exact_finish "$SESSION/x" count
}

@test "ps --json and status --json have the documented fields" {
	exact_start "$SESSION/x" latency 2 10000
	offloaded "$TOOL_PID"
	exact_go "$SESSION/x"
	exact_called "$SESSION/x"
	run -0 "$B/bpftime" ps --json
	printf '%s' "$output" | python3 -c '
import json, sys
tool, target, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
tools = json.load(sys.stdin)
t, = [t for t in tools if t["pid"] == tool]
assert t["comm"] == "bpftrace" and t["state"] == "offloaded", t
assert sorted(p["kind"] for p in t["probes"]) == ["uprobe", "uretprobe"], t
for p in t["probes"]:
    assert p["path"] == path and p["symbol"] == "work" and p["program"] == "work", p
    assert type(p["offset"]) is int and p["offset"] > 0, p
    assert p["state"] == "userspace" and p["reason"] is None, p
    assert p["hits"] == 20000, p
    assert p["targets"] == [target], p' "$TOOL_PID" "$WORKLOAD_PID" "$B/examples/workload"
	run -0 "$B/bpftime" status --json
	[ "$(json 'set(j) >= {"hook", "holds", "kernel", "lockdown", "probes_kernel", "probes_userspace", "targets", "tools", "version"}')" = True ]
	[ "$(json '(j["tools"], j["probes_userspace"], j["probes_kernel"], j["targets"])')" = "(1, 2, 0, 1)" ]
	run -0 "$B/bpftime" explain "$TOOL_PID" --json
	[ "$(json '(j["since"] is not None, [p["refused"] for p in j["probes"]])')" = "(True, [[], []])" ]
	exact_finish "$SESSION/x" latency
	wait_until 5 eval '"$B/bpftime" status --json | grep -qE "\"tools\": ?0"'
}

@test "bpftime top shows hits per second" {
	exact_start "$SESSION/x" count 1 200000 --rate 100000
	offloaded "$TOOL_PID"
	exact_go "$SESSION/x"
	run -0 "$B/bpftime" top --interval 0.5 --count 2 --json
	output=$(tail -n 1 <<<"$output")
	[ "$(json "[t['hits_per_second'] > 1000 for t in j if t['pid'] == $TOOL_PID]")" = "[True]" ]
	exact_finish "$SESSION/x" count
}
