#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# What a bpftimed that is killed leaves behind: targets that live, tools that print the truth, and all of it is cleaned up by the next one.

bats_require_minimum_version 1.5.0
load helpers

setup() {
	SESSION=$BATS_TEST_TMPDIR
	export BPFTIME_RUNTIME_DIR=$SESSION/run BPFTIME_POLICY_DIR=$SESSION/policy.d BUILD=$B
	need_root
	need bpftrace
	. "$BATS_TEST_DIRNAME/exact.bash"
	# A bpftrace of our own: other tools on the host are none of this test's business.
	cp "$(command -v bpftrace)" "$SESSION/bpftrace"
	policy only.json "{\"version\": 1, \"tools\": [{\"exe\": \"$SESSION/bpftrace\", \"action\": \"offload\"}, {\"exe\": \"$B/examples/bsscount\", \"action\": \"offload\"}],
		\"targets\": [{\"comm\": \"workload\", \"action\": \"offload\"}, {\"comm\": \"low-workload\", \"action\": \"offload\"}],
		\"default\": \"kernel\"}"
	PATH=$SESSION:$PATH
	daemon_start
}

teardown() {
	exact_kill
	session_end
	remains_end
	public_end
}

# Without a chance to do anything.
daemon_kill() {
	kill -9 "$DAEMON"
	ended "$DAEMON"
	wait "$DAEMON" || true
}

offloaded() {
	"$B/bpftime" wait --tool "$TOOL_PID" --state offloaded --timeout "${BPFTIMED_PATIENCE:-15}"
}

# killed_in_switches N: so often, at random moments, and started again. Then the workload ends.
killed_in_switches() {
	local i
	for ((i = 0; i < $1; i++)); do
		while "$B/bpftime" handback "$TOOL_PID" && "$B/bpftime" takeover "$TOOL_PID"; do :; done >/dev/null 2>&1 3>&- &
		sleep "0.$((RANDOM % 5))$((RANDOM % 10))"
		daemon_kill
		wait $! || true
		kill -0 "$WORKLOAD_PID"
		daemon_start
		offloaded
	done
	kill -USR2 "$WORKLOAD_PID"
}

@test "killed: fork children, of which nobody knows any more, are counted" {
	local probe
	public_folder
	cp "$B/tests/victims/fork" "$public/workload"
	for probe in uprobe uretprobe; do
		mkfifo "$SESSION/go.$probe"
		"$public/workload" 20 <>"$SESSION/go.$probe" >"$SESSION/victim" 2>&1 3>&- &
		WORKLOAD_PID=$!
		exact_pids+=("$WORKLOAD_PID")
		wait_for "$SESSION/victim" '^ready' 10
		env --default-signal=INT bpftrace -e "$probe:$public/workload:work { @ = count(); }" >"$SESSION/tool" 2>&1 3>&- &
		TOOL_PID=$!
		exact_pids+=("$TOOL_PID")
		wait_for "$SESSION/tool" "$tool_ready" 20
		offloaded
		daemon_kill
		echo >"$SESSION/go.$probe"
		exact_waited "$WORKLOAD_PID"
		daemon_start
		"$B/bpftime" events --tool "$TOOL_PID" | grep -q "  handback .*the bpftimed that carried it was killed"
		exact_waited "$TOOL_PID" INT || true
		[ "$(sed -n 's/^@: //p' "$SESSION/tool")" = $((20 * 52)) ]
	done
}

@test "killed under load: the target lives, the tool prints the truth while no daemon runs" {
	exact_start "$SESSION/x" count_tid 4 300000 --rate 100000
	offloaded
	exact_go "$SESSION/x"
	sleep 1
	daemon_kill
	exact_finish "$SESSION/x" count_tid
}

# adopt.bats has what the same build goes on with.
@test "killed under load, started again as another build: everything is handed back and taken over anew, the tool prints the truth" {
	exact_start "$SESSION/x" count_tid 4 500000 --rate 100000
	offloaded
	exact_go "$SESSION/x"
	sleep 1
	daemon_kill
	sed -i -E 's/"build": *"[^"]*"/"build":"00"/' "$SESSION/run/state.json"
	sleep 0.3
	daemon_start
	grep -q 'handed back to the kernel' "$SESSION/daemon.log"
	offloaded
	exact_finish "$SESSION/x" count_tid
	daemon_stop
	[ ! -e "$SESSION/run/bpf" ]
	[ ! -e "$SESSION/run/state.json" ]
}

@test "killed at random moments of switches, and started again: the target lives, the tool prints the truth" {
	export EXACT_TIMEOUT=120
	exact_start "$SESSION/x" count_tid 4 2000000 --rate 100000
	offloaded
	exact_go "$SESSION/x"
	killed_in_switches "$RESTARTS"
	exact_finish "$SESSION/x" count_tid
}

@test "killed at random moments of switches, with a tool that sees shared memory: it prints the truth" {
	export EXACT_TIMEOUT=120
	cp "$B/tests/tools/drain" "$SESSION/drain"
	policy only.json "{\"version\": 1, \"tools\": [{\"exe\": \"$SESSION/drain\", \"action\": \"offload\"}],
		\"targets\": [{\"comm\": \"workload\", \"action\": \"offload\"}], \"default\": \"kernel\"}"
	kill -HUP "$DAEMON"
	exact_workload "$SESSION/x" work 4 1000000 --rate 100000
	"$SESSION/drain" alone "$WORKLOAD:work" >"$SESSION/x/tool" 2>&1 3>&- &
	TOOL_PID=$!
	exact_pids+=("$TOOL_PID")
	wait_for "$SESSION/x/tool" "$tool_ready" 20
	offloaded
	exact_go "$SESSION/x"
	killed_in_switches "$RESTARTS"
	exact_finish "$SESSION/x" drain-alone
}

@test "killed under load with a target that is not PIE, and started again: the tool prints the truth" {
	export EXACT_TIMEOUT=120
	need_not_pie
	WORKLOAD=$B/tests/victims/low-workload
	exact_start "$SESSION/x" count_tid 4 1000000 --rate 100000
	offloaded
	exact_go "$SESSION/x"
	killed_in_switches "$RESTARTS"
	exact_finish "$SESSION/x" count_tid
}

# Its process or a debugger's may be stopped by anybody. Threads that wait for it must not wait for ever.
@test "standing still in the middle of a switch: it is ended after a while, the target goes on, the tool prints the truth" {
	export EXACT_TIMEOUT=120
	exact_start "$SESSION/x" bsscount 4 100000 --rate 10000
	offloaded
	exact_go "$SESSION/x"
	stands_in_switch
	wait "$asked" || true
	kill "$debugger"
	ended "$DAEMON"
	wait "$DAEMON" || true
	exact_finish "$SESSION/x" bsscount
}

@test "killed, and the next one is of another version: the old one hands back itself, exactly" {
	export EXACT_TIMEOUT=120
	exact_start "$SESSION/x" count_tid 4 2000000 --rate 100000
	offloaded
	exact_go "$SESSION/x"
	sleep 0.5
	daemon_kill
	sed -i -E 's/"program": *"[^"]*"/"program":"0.0.0"/' "$SESSION/run/state.json"
	daemon_start
	grep -q 'handed back to the kernel' "$SESSION/daemon.log"
	grep -q 'was of another version, and has handed back itself' "$SESSION/daemon.log"
	offloaded
	sleep 0.5
	kill -USR2 "$WORKLOAD_PID"
	exact_finish "$SESSION/x" count_tid
	daemon_stop
	[ ! -e "$SESSION/run/bpftimed" ]
}

@test "its guard is killed: there is another one, which does its work when bpftimed is killed" {
	local guard
	export EXACT_TIMEOUT=120
	exact_start "$SESSION/x" count_tid 4 2000000 --rate 100000
	offloaded
	exact_go "$SESSION/x"
	guard=$(pgrep -P "$DAEMON" -x bpftimed-guard)
	kill -9 "$guard"
	wait_until 10 grep -q 'guards targets has ended, and was started again' "$SESSION/daemon.log"
	[ "$(pgrep -P "$DAEMON" -x bpftimed-guard)" != "$guard" ]
	killed_in_switches "$RESTARTS"
	exact_finish "$SESSION/x" count_tid
}

@test "killed again and again, at random moments, also while it takes back what the last one left; 8 threads: the tool prints the truth" {
	daemon_stop
	run_alone flips count_tid 8 20000 $((KILLS * 30)) "$KILLS" kill
	run_alone flips return 8 20000 $((KILLS * 30)) "$((KILLS / 2))" kill
}

@test "a tool that probes every process, two users, processes that come and go, killed and started again and again: the tool prints the truth" {
	daemon_stop
	run_alone flips-everywhere count_tid 5000 60 "$RESTARTS" 100 16 kill
}

@test "ended while a debugger holds a thread in the middle of a jump: what protects the thread stays, for the next one to take away" {
	local holder
	need python3
	need_not_pie
	WORKLOAD=$B/tests/victims/low-workload
	exact_start "$SESSION/x" count_tid 2 600000 --rate 60000
	offloaded
	exact_go "$SESSION/x"
	"$BATS_TEST_DIRNAME/hold_on_step" "$WORKLOAD_PID" "0x$(nm "$WORKLOAD" | sed -n 's/ T work$//p')" >"$SESSION/holder" 2>&1 3>&- &
	holder=$!
	exact_pids+=("$holder")
	wait_for "$SESSION/holder" held 10
	daemon_stop || true
	grep -q "process $WORKLOAD_PID (low-workload) stays patched until the next bpftimed" "$SESSION/daemon.log"
	[ -e "$SESSION/run/state.json" ]
	daemon_start
	grep -q "process $WORKLOAD_PID stays patched: a debugger still holds" "$SESSION/daemon.log"
	sleep 1
	run -0 "$B/bpftime" explain "$TOOL_PID"
	[[ $output == *"a debugger holds a thread of process $WORKLOAD_PID in the middle of a jump"* ]]
	kill -TERM "$holder"
	exact_waited "$holder"
	"$B/bpftime" takeover "$TOOL_PID"
	offloaded
	exact_finish "$SESSION/x" count_tid
	daemon_stop
	[ -z "$(ls -A "$SESSION/run")" ]
}
