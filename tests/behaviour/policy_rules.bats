#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Rules for tool, target and probe, grants and limits: what each keeps in the kernel while a tool runs, and that no call
# is lost or counted twice when they come and go.

bats_require_minimum_version 1.5.0
load helpers
load real

setup_file() {
	need_root
	need bpftrace setpriv
}

rules() { printf '{"version": 1, "rules": [%s]}' "$1"; }

# tool_says REGEX: of every probe of the tool.
tool_says() {
	run -0 "$B/bpftime" ps --json
	[[ "$(json "[p['reason'] for t in j if t['pid'] == $TOOL_PID for p in t['probes']]")" =~ $1 ]]
}

# forbids JSON REGEX: with this policy the tool goes to the kernel and says why, without it back to userspace.
forbids() {
	policy 10-rules.json "$1"
	kill -HUP "$DAEMON"
	in_kernel "$TOOL_PID" && wait_until 10 tool_says "$2" || {
		echo "$1: $output"
		cat "$SESSION/daemon.log"
		return 1
	}
	rm "$BPFTIME_POLICY_DIR/10-rules.json"
	kill -HUP "$DAEMON"
	offloaded "$TOOL_PID"
}

@test "every part of a rule, to and fro under load" {
	local hash
	hash=$(sha256sum "$(command -v bpftrace)" | cut -d' ' -f1)
	daemon_start
	exact_start "$SESSION/x" str_key 2 2000000 --rate 20000
	offloaded "$TOOL_PID"
	exact_go "$SESSION/x"
	forbids "$(rules "{\"tool\": {\"sha256\": \"$hash\"}, \"action\": \"kernel\"}")" "policy keeps this tool in the kernel .*10-rules.json:1"
	forbids "$(rules '{"tool": {"comm": "bpf*"}, "probe": {"symbol": "work_*"}, "action": "kernel"}')" "policy keeps work_name in the kernel"
	forbids "$(rules '{"probe": {"file": "*/examples/workload", "kind": "uprobe"}, "action": "kernel"}')" "policy keeps work_name"
	forbids "$(rules '{"target": {"comm": "workload", "pid_namespace": "host"}, "action": "kernel"}')" "policy keeps process $WORKLOAD_PID .workload. in the kernel .*10-rules.json:1"
	forbids "$(rules '{"target": {"cgroup": "*"}, "tool": {"user": "root"}, "action": "observe"}')" \
		"policy only observes process $WORKLOAD_PID .*10-rules.json:1.; else the probe could run in it"
	forbids "$(rules '{"tool": {"user": "root"}, "action": "observe"}')" \
		"policy only observes work_name .*10-rules.json:1.; else it could run in userspace in 1 process.es.: $WORKLOAD_PID"
	forbids "$(rules '{"target": {"comm": "other"}, "action": "offload"}, {"action": "kernel"}')" "policy keeps process $WORKLOAD_PID"
	kill -USR2 "$WORKLOAD_PID"
	exact_finish "$SESSION/x" str_key
	daemon_stop
}

@test "rules for a probe that is limited to a process, to and fro under load" {
	daemon_start
	exact_start "$SESSION/x" funclatency 2 1000000 --rate 20000
	offloaded "$TOOL_PID"
	exact_go "$SESSION/x"
	forbids "$(rules '{"target": {"exe": "*/workload"}, "probe": {"kind": "uretprobe"}, "action": "kernel"}')" "policy keeps work in process $WORKLOAD_PID in the kernel"
	forbids "$(rules '{"target": {"user": 0}, "action": "observe"}')" "policy only observes work in process $WORKLOAD_PID .*could run in userspace in 1 process"
	policy 10-rules.json "$(rules '{"target": {"user": 65534}, "action": "kernel"}')"
	kill -HUP "$DAEMON"
	wait_until 5 grep -q "policy reloaded: 1 files, 1 rules" "$SESSION/daemon.log"
	offloaded "$TOOL_PID"
	kill -USR2 "$WORKLOAD_PID"
	exact_finish "$SESSION/x" funclatency
	daemon_stop
}

@test "grants and limits, to and fro under load" {
	daemon_start
	exact_start "$SESSION/x" str_key 2 2000000 --rate 20000
	offloaded "$TOOL_PID"
	exact_go "$SESSION/x"
	forbids '{"version": 1, "settings": {"read_target_memory": false}}' "policy does not let program .* read the memory of targets .*10-rules.json:1"
	forbids '{"version": 1, "settings": {"helpers": ["bpf_map_*"]}}' "policy does not let program .* call bpf_probe_read"
	forbids "$(rules '{"tool": {"comm": "bpftrace"}, "action": "offload", "grants": {"writable_code": false}}')" "policy lets no code of targets be written"
	forbids '{"version": 1, "limits": {"shared_memory_mib": 0}}' "policy allows 0 MiB of shared memory in all"
	forbids "$(rules '{"action": "offload", "limits": {"shared_memory_per_tool_mib": 0}}')" "policy allows 0 MiB of shared memory for a tool"
	forbids '{"version": 1, "limits": {"probes_per_target": 0}}' "policy allows 0 probes in a process"
	forbids '{"version": 1, "limits": {"targets_per_tool": 0}}' "policy allows a tool 0 processes"
	# What is enough changes nothing.
	policy 10-rules.json "$(rules '{"action": "offload", "grants": {"helpers": ["*"]},
		"limits": {"shared_memory_per_tool_mib": 500, "probes_per_target": 1, "targets_per_tool": 1, "compile_seconds": 20, "target_stop_ms": 5000}}')"
	kill -HUP "$DAEMON"
	wait_until 5 grep -q "policy reloaded: 1 files, 1 rules" "$SESSION/daemon.log"
	offloaded "$TOOL_PID"
	kill -USR2 "$WORKLOAD_PID"
	exact_finish "$SESSION/x" str_key
	daemon_stop
}

@test "time that threads may be held, to and fro under load" {
	daemon_start
	exact_start "$SESSION/x" bsscount 2 1000000 --rate 20000
	offloaded "$TOOL_PID"
	exact_go "$SESSION/x"
	forbids '{"version": 1, "limits": {"target_stop_ms": 0}}' "policy lets threads of targets be held for 0 ms .*10-rules.json:1"
	kill -USR2 "$WORKLOAD_PID"
	exact_finish "$SESSION/x" bsscount
	daemon_stop
}

@test "time for compiling" {
	local compiler
	daemon_start
	policy 10-rules.json '{"version": 1, "limits": {"compile_seconds": 2}}'
	kill -HUP "$DAEMON"
	exact_start "$SESSION/first" count 1 1000
	offloaded "$TOOL_PID"
	compiler=$(pgrep -P "$DAEMON" -f bpftimed-jit)
	kill -STOP "$compiler"
	exact_start "$SESSION/x" count_tid 2 1000000 --rate 20000
	wait_until 10 tool_says "the compiler did not finish a program of .* in 2000 ms"
	exact_go "$SESSION/x"
	[ ! -e "/proc/$compiler" ]
	offloaded "$TOOL_PID"
	kill -USR2 "$WORKLOAD_PID"
	exact_finish "$SESSION/x" count_tid
	daemon_stop
}

# two_users: a tool that probes every process, and two of them, root's and another's. Sets ROOTS, OTHERS.
two_users() {
	exact_workload "$SESSION/a" work 1 1000000 --rate 10000
	ROOTS=$WORKLOAD_PID
	EXACT_AS=(setpriv --reuid 65534 --regid 65534 --clear-groups)
	exact_workload "$SESSION/b" work 1 1000000 --rate 10000
	OTHERS=$WORKLOAD_PID
	exact_tool "$SESSION/tool" count
	offloaded "$TOOL_PID"
	exact_go "$SESSION/a"
	exact_go "$SESSION/b"
}

two_users_finish() {
	kill -USR2 "$ROOTS" "$OTHERS"
	exact_called "$SESSION/a"
	exact_called "$SESSION/b"
	exact_tool_end "$TOOL_PID"
	exact_workload_end "$SESSION/a" "$ROOTS"
	exact_workload_end "$SESSION/b" "$OTHERS"
	exact_sum count "$SESSION/tool" "$SESSION/a/workload" "$SESSION/b/workload"
}

# serves PID...: exactly these processes.
serves() {
	run -0 "$B/bpftime" explain "$TOOL_PID" --json
	[ "$(json "sorted(j['probes'][0]['targets'])")" = "[$(printf '%s\n' "$@" | sort -n | paste -sd, | sed 's/,/, /g')]" ]
}

refuses() { # PID REGEX
	run -0 "$B/bpftime" explain "$TOOL_PID" --json
	[[ "$(json "[r['reason'] for r in j['probes'][0]['refused'] if r['pid'] == $1]")" =~ $2 ]]
}

# with POLICY, then wait for what serves
with() {
	policy 10-rules.json "$1"
	kill -HUP "$DAEMON"
	shift
	wait_until 15 serves "$@" || {
		"$B/bpftime" explain "$TOOL_PID"
		cat "$SESSION/daemon.log"
		return 1
	}
}

@test "a probe of every process: some targets may, others not, to and fro under load" {
	local all='{"version": 1, "settings": {"share_across_users": true}}'
	export BPFTIME_POLICY_DIR=$SESSION/policy.d
	policy 10-rules.json "$all"
	daemon_start
	two_users
	with "$all" "$ROOTS" "$OTHERS"
	with '{"version": 1, "settings": {"share_across_users": true}, "rules": [{"target": {"user": 65534}, "action": "kernel"}]}' "$ROOTS"
	wait_until 10 refuses "$OTHERS" "policy keeps process $OTHERS .workload. in the kernel"
	with "$all" "$ROOTS" "$OTHERS"
	with '{"version": 1, "settings": {"share_across_users": true}, "rules": [{"target": {"user": "root"}, "action": "observe"}]}' "$OTHERS"
	wait_until 10 refuses "$ROOTS" "policy only observes process $ROOTS"
	with "$all" "$ROOTS" "$OTHERS"
	with '{"version": 1}' "$ROOTS"
	wait_until 10 refuses "$OTHERS" "policy lets no memory be shared across users"
	with "$(rules '{"tool": {"comm": "bpftrace"}, "action": "offload", "grants": {"share_across_users": true}}')" "$ROOTS" "$OTHERS"
	with "$(rules '{"tool": {"comm": "bpftrace"}, "target": {"comm": "workload"}, "action": "offload", "grants": {"share_across_users": true},
		"limits": {"targets_per_tool": 2}}, {"action": "kernel"}')" "$ROOTS" "$OTHERS"
	policy 10-rules.json '{"version": 1, "settings": {"share_across_users": true}, "limits": {"targets_per_tool": 1}}'
	kill -HUP "$DAEMON"
	wait_until 15 serves_one
	two_users_finish
	daemon_stop
}

serves_one() {
	run -0 "$B/bpftime" explain "$TOOL_PID" --json
	[ "$(json "len(j['probes'][0]['targets'])")" = 1 ] && [[ $output == *"policy allows a tool 1 processes"* ]]
}

@test "memory-mapped results in a process of another user" {
	daemon_start
	EXACT_AS=(setpriv --reuid 65534 --regid 65534 --clear-groups)
	exact_start "$SESSION/x" bsscount 2 1000000 --rate 20000
	offloaded "$TOOL_PID"
	exact_go "$SESSION/x"
	forbids '{"version": 1, "settings": {"writable_direct_maps": false}}' "policy lets memory-mapped arrays of a tool not be writable in processes of other users"
	kill -USR2 "$WORKLOAD_PID"
	exact_finish "$SESSION/x" bsscount
	daemon_stop
}

@test "shared memory for one tool of two: the other has it when the first has gone" {
	local first need n=0
	export BPFTIME_POLICY_DIR=$SESSION/policy.d
	policy 10-rules.json '{"version": 1, "limits": {"shared_memory_mib": 0}}'
	daemon_start
	exact_start "$SESSION/x" count_tid 1 20000
	first=$TOOL_PID
	in_kernel "$TOOL_PID"
	tool_says "its maps need ([0-9.]+) more"
	need=${BASH_REMATCH[1]}
	policy 10-rules.json "{\"version\": 1, \"limits\": {\"shared_memory_mib\": $(awk -v n="$need" 'BEGIN { print int(n) + 1 }')}}"
	kill -HUP "$DAEMON"
	offloaded "$first"
	# As many as it takes.
	while exact_tool "$SESSION/x/$((++n))" count_tid "$WORKLOAD_PID"; do
		"$B/bpftime" wait --tool "$TOOL_PID" --state offloaded --timeout 3 || break
	done
	in_kernel "$TOOL_PID"
	tool_says "policy allows .* MiB of shared memory in all .*, of which .* are in use"
	exact_tool_end "$first"
	offloaded "$TOOL_PID"
	exact_go "$SESSION/x"
	exact_called "$SESSION/x"
	exact_tool_end "$TOOL_PID"
	exact_workload_end "$SESSION/x" "$WORKLOAD_PID"
	exact_compare "$SESSION/x" "$SESSION/x/$n" count_tid
	daemon_stop
}

@test "what is only observed is not touched" {
	export BPFTIME_POLICY_DIR=$SESSION/policy.d
	policy 10-rules.json "$(rules '{"tool": {"comm": "bpftrace"}, "action": "observe"}')"
	daemon_start
	exact_start "$SESSION/x" count 1 20000
	in_kernel "$TOOL_PID"
	wait_until 10 tool_says "policy only observes .* could run in userspace in 1 process"
	! grep -q bpftimed "/proc/$WORKLOAD_PID/maps"
	exact_go "$SESSION/x"
	exact_finish "$SESSION/x" count
	daemon_stop
}

@test "policies come and go: 8 threads" {
	run_alone flips count_tid 8 5000 150 "$((FLIPS / 2))" policy
}

@test "policies come and go: entries and returns" {
	run_alone flips latency 2 5000 150 "$((FLIPS / 2))" policy
}

@test "policies come and go: memory-mapped results of one process" {
	run_alone flips bsscount 2 5000 150 "$((FLIPS / 2))" policy
}

@test "policies come and go: two users' processes, some of which the kernel serves" {
	run_alone flips-everywhere count_tid 5000 150 "$((FLIPS / 2))" 100 16 policy
}

@test "a PID namespace" {
	local dir=$SESSION/x app
	export BPFTIME_POLICY_DIR=$SESSION/policy.d
	policy 10-rules.json "$(rules '{"target": {"pid_namespace": "other"}, "action": "kernel"}')"
	daemon_start
	EXACT_AS=(unshare --pid --fork --kill-child)
	exact_workload "$dir" work 1 20000
	app=$(pgrep -P "$WORKLOAD_PID")
	exact_tool "$dir/tool" count
	in_kernel "$TOOL_PID"
	tool_says "policy keeps process $app .workload. in the kernel"
	rm "$BPFTIME_POLICY_DIR/10-rules.json"
	kill -HUP "$DAEMON"
	offloaded "$TOOL_PID"
	serves "$app"
	exact_go "$dir"
	exact_called "$dir"
	exact_tool_end "$TOOL_PID"
	exact_workload_end "$dir" "$WORKLOAD_PID"
	exact_compare "$dir" "$dir/tool" count
	daemon_stop
}
