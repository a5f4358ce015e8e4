#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Probes that are not limited to a process: those that are there, those that come, those that stay for a moment only.

bats_require_minimum_version 1.5.0
load helpers
load real

setup_file() {
	need_root
	need bpftrace
}

# carried PID: some tool's probe is served in this process.
carried() {
	bpftime ps --json | python3 -c '
import json, sys
tools = json.load(sys.stdin)
sys.exit(0 if any(int(sys.argv[1]) in p["targets"] for t in tools for p in t["probes"]) else 1)' "$1"
}

# everywhere PROGRAM: a bpftrace that probes work() in every process.
everywhere() {
	tool_run "$SESSION/tool" bpftrace -e "uprobe:$WORKLOAD:work { $1 }"
	wait_until 15 is_shared
}

# Whether somebody is there or not.
is_shared() {
	bpftime wait --tool "$TOOL_PID" --state offloaded --timeout 0 2>/dev/null || bpftime explain "$TOOL_PID" | grep -q 'will be followed'
}

# workload_at NAME THREADS CALLS [OPTION...]: one more workload; sets WORKLOAD_PID.
workload_at() {
	local dir=$SESSION/$1
	shift
	exact_workload "$dir" work "$@"
}

# counted: what bpftrace printed, sorted, against what the workloads know.
counted_by_pid() {
	exact_tool_end "$TOOL_PID"
	sed -nE 's/^@\[([0-9]+)\]: ([0-9]+)$/\1 \2/p' "$SESSION/tool" | sort >"$SESSION/answer"
}

@test "a process that starts later is followed" {
	daemon_start
	workload_at a 2 50000
	local a=$WORKLOAD_PID
	everywhere '@[pid] = count();'
	workload_at b 4 400000 --rate 100000
	local b=$WORKLOAD_PID
	exact_go "$SESSION/a"
	exact_go "$SESSION/b"
	wait_until 5 carried "$b"
	exact_called "$SESSION/a"
	exact_called "$SESSION/b"
	counted_by_pid
	printf '%d 100000\n%d 1600000\n' "$a" "$b" | sort | diff - "$SESSION/answer"
}

@test "nobody is there at first" {
	daemon_start
	everywhere '@[pid] = count();'
	workload_at a 4 200000 --rate 100000
	exact_go "$SESSION/a"
	wait_until 5 carried "$WORKLOAD_PID"
	exact_called "$SESSION/a"
	counted_by_pid
	echo "$WORKLOAD_PID 800000" | diff - "$SESSION/answer"
}

@test "a function that the daemon calls itself, in the middle of a switch, too: it is no target" {
	local i own
	export BPFTIME_POLICY_DIR=$SESSION/policy.d
	policy only.json '{"version": 1, "targets": [{"comm": "workload", "action": "offload"}, {"comm": "bpftimed", "action": "offload"},
		{"comm": "bpftimed-*", "action": "offload"}], "default": "kernel", "tools": [{"comm": "bpftrace", "action": "offload"}]}'
	daemon_start
	workload_at a 2 1000
	tool_run "$SESSION/tool" bpftrace -e "uprobe:$(libc):readdir64 { @ = count(); }"
	wait_until 15 is_shared
	for ((i = 0; i < 5; i++)); do
		timeout 20 "$B/bpftime" handback "$TOOL_PID"
		timeout 20 "$B/bpftime" takeover "$TOOL_PID"
	done
	carried "$WORKLOAD_PID"
	own=$(pgrep -P "$DAEMON")
	for i in $DAEMON $own; do
		! carried "$i" || { echo "process $i is a target"; false; }
	done
	exact_tool_end "$TOOL_PID"
	grep -qE '^@: [1-9][0-9]*$' "$SESSION/tool"
}

# That of libbpf-tools finds c:malloc for a process only.
@test "funclatency of malloc() in the C library, in every process" {
	local i
	daemon_start
	tool_run "$SESSION/tool" stdbuf -oL /usr/sbin/funclatency "$(libc):malloc"
	wait_until 15 is_shared
	for i in 1 2 3; do
		python3 -c '
import ctypes, time
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
for i in range(100):
    for k in range(1000): libc.free(libc.malloc(600))
    time.sleep(0.005)' 3>&-
	done
	explains "runs in userspace"
	offloaded "$TOOL_PID"
	exact_tool_end "$TOOL_PID"
	(($(answer_of funclatency "$SESSION/tool" | cut -d " " -f 2) >= 3 * 100000))
}

@test "500 processes one after another, 64 at once" {
	daemon_start
	everywhere '@ = count();'
	local i pids=()
	for ((i = 0; i < 500; i++)); do
		"$WORKLOAD" --calls 100 <<<go >/dev/null
	done
	for ((i = 0; i < 64; i++)); do
		"$WORKLOAD" --calls 20000 --threads 2 --rate 20000 <<<go >/dev/null 3>&- &
		pids+=($!)
	done
	wait "${pids[@]}"
	exact_tool_end "$TOOL_PID"
	grep -qx "@: $((500 * 100 + 64 * 40000))" "$SESSION/tool" || { tail -n 3 "$SESSION/tool"; false; }
}

@test "memory-mapped results: a process that starts later is followed" {
	daemon_start
	workload_at a 2 50000
	tool_run "$SESSION/tool" "$B/examples/bsscount" "$WORKLOAD:work"
	wait_until 15 is_shared
	workload_at b 4 200000 --rate 100000
	exact_go "$SESSION/a"
	exact_go "$SESSION/b"
	wait_until 5 carried "$WORKLOAD_PID"
	exact_called "$SESSION/a"
	exact_called "$SESSION/b"
	exact_tool_end "$TOOL_PID"
	same calls 900000 "$(counted "$SESSION/tool")"
}

# drains WAY [FLIPS]: a tool that probes every process and takes its results out of memory all the time, see tests/tools/drain.c. The group
# goes there and back meanwhile.
drains() {
	local i flips=${2:-10}
	workload_at a 2 150000 --rate 50000
	exact_tool "$SESSION/tool" "drain-$1"
	wait_until 15 is_shared
	exact_go "$SESSION/a"
	for ((i = 0; i < flips; i++)); do
		sleep 0.1
		bpftime handback "$TOOL_PID" || true
		sleep 0.05
		bpftime takeover "$TOOL_PID" || true
	done
	exact_called "$SESSION/a"
}

drained() {
	exact_tool_end "$TOOL_PID"
	exact_compare "$SESSION/a" "$SESSION/tool" drain-any
}

# mapped: what the tool has mapped writable of BPF maps: where, and which offset.
mapped() {
	sed -nE 's/^([0-9a-f]+)-.* rw-s ([0-9a-f]+) .*bpf-map.*/\1 \2/p' "/proc/$TOOL_PID/maps"
}

@test "memory-mapped results beside others: the tool sees shared memory while it is used, and then its own again" {
	daemon_start
	workload_at a 2 50000 --rate 50000
	exact_tool "$SESSION/tool" funclatency
	local before
	before=$(mapped)
	wait_until 15 is_shared
	[ "$(mapped | cut -d' ' -f1)" = "${before% *}" ]
	[ "$(mapped)" != "$before" ]
	bpftime explain "$TOOL_PID" | grep -q 'switched by: the opening gate, with an exchange of the memory that the tool sees'
	exact_go "$SESSION/a"
	exact_called "$SESSION/a"
	bpftime handback "$TOOL_PID"
	[ "$(mapped)" = "$before" ]
	exact_tool_end "$TOOL_PID"
	exact_compare "$SESSION/a" "$SESSION/tool" funclatency
}

@test "memory-mapped results beside others: the tool takes them out all the time" {
	daemon_start
	drains alone
	drained
}

@test "memory-mapped results beside others: several threads of the tool take them out" {
	daemon_start
	drains threads
	drained
}

@test "memory-mapped results beside others: a child of the tool, too, that began later" {
	daemon_start
	drains late 15
	drained
}

@test "memory-mapped results beside others: the tool detaches and then reads them" {
	daemon_start
	drains detach
	drained
}

@test "memory-mapped results beside others: the tool maps them once more" {
	daemon_start
	workload_at a 2 200000 --rate 50000
	exact_tool "$SESSION/tool" drain-again
	wait_until 15 is_shared
	exact_go "$SESSION/a"
	exact_called "$SESSION/a"
	[ "$(mapped | sed 's/.* //' | sort -u | wc -l)" = 1 ]
	drained
}

@test "memory-mapped results beside others: the tool is killed, bpftimed goes on" {
	daemon_start
	drains alone 2
	kill -9 "$TOOL_PID"
	exact_waited "$TOOL_PID" || true
	wait_until 5 bpftime_forgot "$TOOL_PID"
	exact_tool "$SESSION/tool" bsscount
	wait_until 15 is_shared
}

bpftime_forgot() {
	! bpftime explain "$1" >/dev/null 2>&1
}

@test "memory-mapped results beside others: bpftimed ends while the tool is in a write that would come back short" {
	daemon_start
	workload_at a 2 50000 --rate 50000
	exact_tool "$SESSION/tool" drain-wait
	local before
	before=$(mapped)
	wait_until 15 is_shared
	[ "$(mapped)" != "$before" ]
	exact_go "$SESSION/a"
	exact_called "$SESSION/a"
	wait_until 5 grep -q '^1 ' "/proc/$TOOL_PID/syscall"
	daemon_stop
	[ "$(mapped)" = "$before" ]
	drained
}

@test "memory-mapped results beside others: policy lets no tool be stopped" {
	export BPFTIME_POLICY_DIR=$SESSION/policy.d
	policy stop.json '{"version": 1, "settings": {"stop_tools": false}}'
	daemon_start
	workload_at a 2 5000
	exact_tool "$SESSION/tool" funclatency
	in_kernel "$TOOL_PID"
	bpftime explain "$TOOL_PID" | grep -q 'policy lets no tool be stopped'
	exact_go "$SESSION/a"
	exact_called "$SESSION/a"
	exact_tool_end "$TOOL_PID"
	exact_compare "$SESSION/a" "$SESSION/tool" funclatency
}

@test "children of a process that is served: counted, too" {
	daemon_start
	victim fork 60 40
	tool_run "$SESSION/tool" bpftrace -e "uprobe:$B/tests/victims/fork:work { @[pid] = count(); }"
	offloaded "$TOOL_PID"
	victim_go
	victim_end
	exact_tool_end "$TOOL_PID"
	# The children call as often as they can for a while: each must be there, and the parent's count is known.
	same processes 61 "$(grep -c '^@\[' "$SESSION/tool")" || {
		cat "$SESSION/tool"
		false
	}
	same parent "$(victim_calls)" "$(sed -nE "s/^@\[$VICTIM\]: //p" "$SESSION/tool")"
}

@test "processes of 32 bits, which have no agent: counted, too" {
	daemon_start
	workload_at a 2 50000
	tool_run "$SESSION/tool" bpftrace -e "uprobe:$WORKLOAD:work, uprobe:$B/tests/victims/i386:work { @[pid] = count(); }"
	wait_until 15 carried "$WORKLOAD_PID"
	exact_go "$SESSION/a"
	for _ in 1 2 3 4 5; do "$B/tests/victims/i386"; done
	exact_called "$SESSION/a"
	counted_by_pid
	same calls "$WORKLOAD_PID 100000" "$(grep "^$WORKLOAD_PID " "$SESSION/answer")"
	same "calls of 32 bits" 5000 "$(awk '$2 == 1000 { n += $2 } END { print n }' "$SESSION/answer")"
}

@test "a process that executes itself again and again" {
	daemon_start
	victim exec 100
	tool_run "$SESSION/tool" bpftrace -e "uprobe:$B/tests/victims/exec:work { @ = count(); }"
	offloaded "$TOOL_PID"
	victim_go
	victim_end
	exact_tool_end "$TOOL_PID"
	same calls "$(victim_calls)" "$(counted "$SESSION/tool")"
}

@test "a library that is loaded and unloaded again and again" {
	daemon_start
	victim dlopen 200
	local lib
	lib=$(ldconfig -p | awk '/libz.so.1 / && /x86-64/ { print $NF; exit }')
	tool_run "$SESSION/tool" bpftrace -e "uprobe:$lib:zlibCompileFlags { @ = count(); }"
	wait_until 15 is_shared
	victim_go
	victim_end
	exact_tool_end "$TOOL_PID"
	same calls "$(victim_calls)" "$(counted "$SESSION/tool")"
}

@test "two users, many processes, 64 at once, there and back: count_tid" {
	run_alone flips-everywhere count_tid 5000 60 "$FLIPS" "$VISITORS" 64
}

@test "two users, many processes, 64 at once, there and back: latency" {
	run_alone flips-everywhere latency 5000 60 "$FLIPS" "$VISITORS" 64
}

@test "two users, many processes, 64 at once, there and back: bsscount" {
	run_alone flips-everywhere bsscount 5000 60 "$FLIPS" "$VISITORS" 64
}

@test "two users, many processes, 64 at once, there and back: funclatency" {
	run_alone flips-everywhere funclatency 5000 60 "$FLIPS" "$VISITORS" 64
}

@test "two users, many processes, 64 at once, there and back: hashcount" {
	run_alone flips-everywhere hashcount 5000 60 "$FLIPS" "$VISITORS" 64
}

@test "two users, many processes, 64 at once, bpftimed stops and starts: funclatency" {
	run_alone flips-everywhere funclatency 5000 60 "$RESTARTS" 100 64 restart
}

@test "two users, many processes, 64 at once, bpftimed stops and starts: count_tid" {
	run_alone flips-everywhere count_tid 5000 60 "$RESTARTS" 100 64 restart
}
