#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Targets that write over everything that they may write: they harm nobody but themselves. HOSTILE_SECONDS says for how long (5).

bats_require_minimum_version 1.5.0
load helpers
load real

SECONDS_OF_IT=${HOSTILE_SECONDS:-5}
somebody=(setpriv --reuid=65534 --regid=65534 --clear-groups)

setup() {
	SESSION=$BATS_TEST_TMPDIR
	export BUILD=$B
	. "$BATS_TEST_DIRNAME/exact.bash"
	need_root
	need_alone
	HOSTILE=$B/tests/victims/hostile
	ulimit -c 0
	kernel_complaints >"$SESSION/complaints"
	daemon_start
}

teardown() {
	exact_kill
	session_end
	umount -l "$SESSION/run/bpf" 2>/dev/null || true
}

setup_file() {
	need_root
	need bpftrace setpriv python3
}
teardown_file() { :; }

kernel_complaints() { dmesg 2>/dev/null | grep -E 'BUG|WARNING|Oops|lockup|rcu.*stall|hung task' || true; }

# Old lines go when new ones come: the kernel keeps so many.
kernel_is_well() {
	local new
	new=$(kernel_complaints | grep -vxFf "$SESSION/complaints") || return 0
	echo "$new"
	return 1
}

# hostile_start SECONDS: attackers of another user, who wait. Sets HOSTILE_PID.
hostile_start() {
	rm -f "$SESSION/hostile_go"
	mkfifo "$SESSION/hostile_go"
	"${somebody[@]}" "$HOSTILE" "$1" <>"$SESSION/hostile_go" >"$SESSION/hostile" 2>&1 3>&- &
	HOSTILE_PID=$!
	exact_pids+=("$HOSTILE_PID")
	wait_for "$SESSION/hostile" '^ready' 10
}

hostile_go() { echo >"$SESSION/hostile_go"; }

hostile_end() { exact_waited "$HOSTILE_PID"; }

served() { sed -n 's/^served //p' "$SESSION/hostile"; }

# The daemon answers while somebody attacks: each answer within so many milliseconds.
answers_during() {
	local most=0 from ms
	while kill -0 "$HOSTILE_PID" 2>/dev/null && ! grep -q '^served' "$SESSION/hostile"; do
		from=${EPOCHREALTIME/./}
		"$B/bpftime" status >/dev/null
		ms=$(((${EPOCHREALTIME/./} - from) / 1000))
		((ms <= most)) || most=$ms
		sleep 0.1
	done
	echo "# slowest answer: $most ms"
	((most <= $1))
}

stops_soon() {
	local from=$SECONDS
	daemon_stop
	((SECONDS - from <= 10)) || {
		echo "bpftimed took $((SECONDS - from)) s to end"
		return 1
	}
}

# serves PID: the tool's probes run in userspace there.
serves() {
	"$B/bpftime" ps --json | python3 -c '
import json, sys
sys.exit(0 if any(int(sys.argv[1]) in p["targets"] for t in json.load(sys.stdin) for p in t["probes"]) else 1)' "$1"
}

# ends_well PID: the tool does, when it is asked to.
ends_well() {
	local status=0
	exact_waited "$1" INT || status=$?
	[ "$status" = 0 ] || cat "$SESSION/tool"
	return "$status"
}

@test "another user's processes are hostile: they do not get at the results, which are exact" {
	hostile_start "$SECONDS_OF_IT"
	exact_workload "$SESSION/root" work 2 $((20000 * SECONDS_OF_IT)) --rate 20000
	tool_run "$SESSION/tool" bpftrace -e "uprobe:$HOSTILE:work, uprobe:$WORKLOAD:work { @[pid] = count(); }"
	wait_until 15 serves "$WORKLOAD_PID"
	hostile_go
	exact_go "$SESSION/root"
	answers_during 3000
	exact_called "$SESSION/root"
	hostile_end
	run -0 "$B/bpftime" explain "$TOOL_PID"
	exact_tool_end "$TOOL_PID"
	[ "$(served)" = 0 ]
	same calls $((40000 * SECONDS_OF_IT)) "$(sed -nE "s/^@\[$WORKLOAD_PID\]: //p" "$SESSION/tool")"
	exact_workload_end "$SESSION/root" "$WORKLOAD_PID"
	stops_soon
	kernel_is_well
}

@test "hostile processes that have the agent: bpftimed, both tools and the other tool's target go on" {
	local hostile_tool
	hostile_start "$SECONDS_OF_IT"
	tool_run "$SESSION/tool" bpftrace -e "uprobe:$HOSTILE:work { @[pid] = count(); @last[tid] = nsecs; }"
	hostile_tool=$TOOL_PID
	exact_start "$SESSION/x" count_tid 4 $((5000 * SECONDS_OF_IT)) --rate 5000
	offloaded "$TOOL_PID"
	hostile_go
	exact_go "$SESSION/x"
	answers_during 3000
	hostile_end
	(($(served) > 0))
	exact_finish "$SESSION/x" count_tid
	kill -0 "$hostile_tool"
	# What it says of them is theirs to spoil, to the last entry.
	ends_well "$hostile_tool"
	stops_soon
	kernel_is_well
}

@test "a process of another user comes to a group of hostile ones: from then on they do not have its memory" {
	hostile_start $((SECONDS_OF_IT * 2))
	tool_run "$SESSION/tool" bpftrace -e "uprobe:$HOSTILE:work, uprobe:$WORKLOAD:work { @[pid] = count(); }"
	wait_until 15 serves "$HOSTILE_PID"
	hostile_go
	sleep 2
	exact_workload "$SESSION/root" work 1 20000 --rate 10000
	exact_go "$SESSION/root"
	exact_called "$SESSION/root"
	# When they have spoilt what the agent says of itself, the group has gone back to the kernel before.
	"$B/bpftime" takeover "$TOOL_PID" || true
	wait_until 15 explains "only root's have it"
	! serves "$HOSTILE_PID"
	answers_during 3000
	hostile_end
	exact_workload_end "$SESSION/root" "$WORKLOAD_PID"
	exact_tool_end "$TOOL_PID"
	stops_soon
	kernel_is_well
}

@test "hostile processes to which a probe is limited" {
	local way dir=$SESSION/x
	exact_start "$dir" count_tid 2 100000 --rate 20000
	local tool=$TOOL_PID
	offloaded "$tool"
	exact_go "$dir"
	for way in 0 1 3 5 8; do
		"$HOSTILE" attack "$way" 2.5 9>/dev/null >/dev/null 2>&1 3>&- &
		HOSTILE_PID=$!
		exact_pids+=("$HOSTILE_PID")
		tool_run "$SESSION/tool.$way" "$B/examples/hashcount" -p "$HOSTILE_PID" "$HOSTILE:work" || true
		exact_waited "$HOSTILE_PID" || true
		"$B/bpftime" status >/dev/null
		exact_tool_end "$TOOL_PID"
	done
	TOOL_PID=$tool
	exact_finish "$dir" count_tid
	stops_soon
	kernel_is_well
}
