#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# A bpftimed that is gone for good: what it has left in processes does no harm, and `bpftime recover` takes it away.

bats_require_minimum_version 1.5.0
load helpers
load real

setup_file() {
	need_root
	need bpftrace bpftool python3 setpriv
}
teardown_file() { :; }

setup() {
	own_setup 90
}

teardown() {
	public_end
	exact_kill
	session_end
	"$B/bpftime" recover || true
	umount -l "$SESSION/run/bpf" 2>/dev/null || true
}

# With all its processes: nobody opens a gate.
killed_for_good() {
	kill -9 $(pgrep -P "$DAEMON") "$DAEMON"
	ended "$DAEMON"
	wait "$DAEMON" || true
}

# untouched PID: nothing of ours is in the process.
untouched() {
	! grep -E 'memfd:|bpf-map' "/proc/$1/maps"
}

nothing_left() {
	[ -z "$(ls -A "$SESSION/run" 2>/dev/null)" ]
	! grep -q " $SESSION/run/bpf " /proc/mounts
	[ -z "$(bpftool link show 2>/dev/null | grep -A1 'uprobe' | grep "$SESSION")" ]
}

# work_address PID: of work() in it.
work_address() {
	python3 - "$1" "$(nm "$WORKLOAD" | sed -n 's/ T work$//p')" <<-'END'
		import os, sys
		exe = os.readlink(f"/proc/{sys.argv[1]}/exe")
		for line in open(f"/proc/{sys.argv[1]}/maps"):
		    span, perms, offset, *rest = line.split()
		    if rest[-1] == exe and int(offset, 16) == 0:
		        print(hex(int(span.split("-")[0], 16) + int(sys.argv[2], 16)))
		        break
	END
}

@test "nothing is left: nothing is done" {
	run -0 "$B/bpftime" recover
	[ -z "$output" ]
	[ ! -e "$SESSION/run" ]
}

@test "refused to others than root, and while a bpftimed runs" {
	fake_start
	fails 1 "$B/bpftime" recover
	[[ $stderr == *"another bpftimed (process $DAEMON) is running"* ]]
	"$B/bpftime" status >/dev/null
	daemon_stop
	public_folder
	mkdir "$public/run"
	cp "$B/bpftime" "$B/bpftimed" "$public/"
	fails 1 setpriv --reuid 65534 --regid 65534 --clear-groups "$public/bpftime" recover --runtime-dir "$public/run"
	[[ $stderr == *"only root"* ]]
}

@test "killed under load with all its processes, its programs removed: the target goes on, the tool prints the truth, recover cleans up" {
	mkdir "$SESSION/installed"
	cp "$B/bpftimed" "$B/bpftimed-jit" "$SESSION/installed/"
	BPFTIMED=$SESSION/installed/bpftimed daemon_start
	exact_start "$SESSION/x" count_tid 4 2000000 --rate 50000
	offloaded "$TOOL_PID"
	exact_go "$SESSION/x"
	sleep 0.5
	killed_for_good
	rm -r "$SESSION/installed"
	sleep 1
	! untouched "$WORKLOAD_PID"
	run -0 "$B/bpftime" recover
	untouched "$WORKLOAD_PID"
	nothing_left
	sleep 0.5
	kill -USR2 "$WORKLOAD_PID"
	exact_finish "$SESSION/x" count_tid
}

@test "killed while it serves every process of two users: all of them are as they were, the tool prints the truth" {
	local pid pids=()
	daemon_start
	both 200000 --rate 10000
	tool_run "$SESSION/tool" bpftrace -e "uprobe:$WORKLOAD:work { @[tid] = count(); }"
	offloaded "$TOOL_PID"
	go
	sleep 0.5
	killed_for_good
	run -0 "$B/bpftime" recover
	untouched "$A"
	untouched "$WORKLOAD_PID"
	nothing_left
	kill -USR2 "$A" "$WORKLOAD_PID"
	called
	exact_tool_end "$TOOL_PID"
	exact_workload_end "$SESSION/a" "$A"
	exact_workload_end "$SESSION/b" "$WORKLOAD_PID"
	exact_sum count_tid "$SESSION/tool" "$SESSION/a/workload" "$SESSION/b/workload"
}

@test "the tool ends while no bpftimed runs: its target goes on, and is cleaned up" {
	daemon_start
	exact_start "$SESSION/x" count_tid 4 1000000 --rate 50000
	offloaded "$TOOL_PID"
	exact_go "$SESSION/x"
	killed_for_good
	exact_tool_end "$TOOL_PID"
	sleep 0.5
	kill -0 "$WORKLOAD_PID"
	run -0 "$B/bpftime" recover
	untouched "$WORKLOAD_PID"
	code_is_the_files "$WORKLOAD_PID" "$(work_address "$WORKLOAD_PID")"
	nothing_left
	kill -USR2 "$WORKLOAD_PID"
	exact_called "$SESSION/x"
	exact_workload_end "$SESSION/x" "$WORKLOAD_PID"
}

@test "the target forks, maps and ends while no bpftimed runs: it does so well" {
	daemon_start
	victim fork 20
	tool_run "$SESSION/tool" "$B/examples/bsscount" -p "$VICTIM" "$B/tests/victims/fork:work"
	offloaded "$TOOL_PID"
	killed_for_good
	victim_go
	victim_end
	run -0 "$B/bpftime" recover
	nothing_left
	exact_tool_end "$TOOL_PID"
}

# Threads wait at a gate that nobody turns any more.
@test "killed with all its processes while threads wait for it: they go on by themselves, nothing is lost, recover cleans up" {
	public_folder
	cp "$WORKLOAD" "$public/workload"
	WORKLOAD=$public/workload
	daemon_start
	exact_start "$SESSION/x" bsscount 4 40000 --rate 10000
	offloaded "$TOOL_PID"
	exact_go "$SESSION/x"
	stands_in_switch
	killed_for_good
	wait "$asked" || true
	exact_called "$SESSION/x"
	run -0 "$B/bpftime" recover
	untouched "$WORKLOAD_PID"
	nothing_left
	exact_finish "$SESSION/x" bsscount
}
