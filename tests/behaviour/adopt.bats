#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# After a bpftimed was killed the next one of the same build goes on with what it carried, and touches no target. What it cannot be sure of it
# hands back, exactly, and says why.

bats_require_minimum_version 1.5.0
load helpers
load real

setup_file() {
	need_root
	need bpftrace bpftool python3
}

teardown_file() { :; }

setup() {
	own_setup 90
}

teardown() {
	exact_kill
	session_end
	remains_end
}

is_settled() { [ -e "$SESSION/run/settled" ]; }

# Without a chance to do anything, and not in the middle of something.
daemon_kill() {
	wait_until 10 is_settled
	kill -9 "$DAEMON"
	ended "$DAEMON"
	wait "$DAEMON" || true
}

# watch_begin: from here on bpftimeds' stops of other processes, and what they write into these, are counted.
watch_begin() {
	"${with_tracefs[@]}" bpftrace -e '
		tracepoint:syscalls:sys_enter_ptrace, tracepoint:syscalls:sys_enter_pwrite64, tracepoint:syscalls:sys_enter_process_vm_writev
		/strncmp(comm, "bpftimed", 8) == 0/ { @touched[probe, comm] = count(); }' >"$SESSION/watch" 2>&1 3>&- &
	WATCH=$!
	exact_pids+=("$WATCH")
	wait_for "$SESSION/watch" Attaching 20
	sleep 1
}

watch_end() {
	exact_waited "$WATCH" INT || true
}

touched() { grep '^@touched' "$SESSION/watch"; }

# footprint PID FILE: what it has mapped, and the code of the probed function.
footprint() {
	cat "/proc/$1/maps"
	python3 - "$1" "$WORKLOAD" "$(nm "$WORKLOAD" | sed -n 's/ T work$//p')" <<-'END'
		import sys
		pid, path, offset = sys.argv[1], sys.argv[2], int(sys.argv[3], 16)
		base = min(int(l.split("-")[0], 16) for l in open(f"/proc/{pid}/maps") if l.rstrip().endswith(path))
		with open(f"/proc/{pid}/mem", "rb") as m:
		    m.seek(base + offset)
		    print(m.read(32).hex())
	END
}

# adopted PID: it runs in userspace, and did so by the bpftimed that was killed.
adopted() {
	"$B/bpftime" explain "$1" | tee "$SESSION/explained" | grep -q 'since then: a bpftimed that was killed; this one goes on' ||
		{ cat "$SESSION/explained" "$SESSION/daemon.log"; return 1; }
	"$B/bpftime" events --tool "$1" | grep -q '  adopt .*goes on in userspace.*the bpftimed that carried it was killed'
	run ! grep -q '  handback ' <("$B/bpftime" events --tool "$1")
}

# not_adopted PID REASON: it was handed back, for the reason, and is taken over anew.
not_adopted() {
	"$B/bpftime" events --tool "$1" | tee "$SESSION/told" | grep -q "  handback .*the bpftimed that carried it was killed, and this one does not go on with it: .*$2" ||
		{ cat "$SESSION/told" "$SESSION/daemon.log"; return 1; }
	run ! grep -q '  adopt ' "$SESSION/told"
	"$B/bpftime" status | grep -q "^last .*handed back, because .*$2"
}

# finish DIR NAME: the workload ends now; the tool says what it has called.
finish() {
	kill -USR2 "$WORKLOAD_PID"
	exact_finish "$@"
}

nothing_left() {
	[ ! -e "$SESSION/run/bpf" ]
	[ ! -e "$SESSION/run/state.json" ]
	[ ! -e "$SESSION/run/settled" ]
	[ ! -e "$SESSION/run/adopting" ]
}

@test "killed under load, started again: no target is stopped or written to, the tool prints the truth" {
	daemon_start
	exact_start "$SESSION/x" count_tid 8 400000 --rate 40000
	offloaded "$TOOL_PID"
	exact_go "$SESSION/x"
	watch_begin
	sleep 0.5
	footprint "$WORKLOAD_PID" >"$SESSION/before"
	daemon_kill
	sleep 0.3
	daemon_start
	adopted "$TOOL_PID"
	"$B/bpftime" status | grep -qx 'last  *gone on with'
	sleep 1.5
	footprint "$WORKLOAD_PID" >"$SESSION/after"
	diff "$SESSION/before" "$SESSION/after"
	watch_end
	run ! touched
	# The same eyes see what a hand-back does.
	watch_begin
	"$B/bpftime" handback "$TOOL_PID"
	"$B/bpftime" takeover "$TOOL_PID"
	watch_end
	touched
	offloaded "$TOOL_PID"
	# What has just been handed back is there, too.
	"$B/bpftime" handback "$TOOL_PID"
	daemon_kill
	daemon_start
	offloaded "$TOOL_PID"
	"$B/bpftime" events --tool "$TOOL_PID" | tee "$SESSION/told" | grep -q '  offload '
	run ! grep -q '  handback ' "$SESSION/told"
	"$B/bpftime" status | grep -qx 'last  *gone on with'
	finish "$SESSION/x" count_tid
	daemon_stop
	nothing_left
}

@test "killed twice, then ended: whatever carries the tool, it prints the truth" {
	local tool
	for tool in count_tid str_key latency bsscount funclatency hashcount; do
		daemon_start
		exact_start "$SESSION/$tool" "$tool" 4 300000 --rate 30000
		offloaded "$TOOL_PID"
		exact_go "$SESSION/$tool"
		for _ in 1 2; do
			sleep 0.3
			daemon_kill
			sleep 0.2
			daemon_start
			adopted "$TOOL_PID"
		done
		sleep 0.3
		daemon_stop
		nothing_left
		finish "$SESSION/$tool" "$tool"
	done
}

# adopted_twice TOOL...: each at every process: killed, gone on with, handed back, taken over, killed, gone on with.
adopted_twice() {
	local tool
	for tool; do
		daemon_start
		exact_workload "$SESSION/$tool" work 4 300000 $(tool_workload "$tool") --rate 30000
		exact_tool "$SESSION/$tool/tool" "$tool"
		wait_until 15 is_offloaded "$TOOL_PID"
		exact_go "$SESSION/$tool"
		sleep 0.3
		daemon_kill
		daemon_start
		adopted "$TOOL_PID"
		sleep 0.3
		"$B/bpftime" handback "$TOOL_PID"
		sleep 0.2
		"$B/bpftime" takeover "$TOOL_PID"
		sleep 0.2
		daemon_kill
		daemon_start
		adopted "$TOOL_PID"
		finish "$SESSION/$tool" "$tool"
		daemon_stop
		nothing_left
	done
}

@test "tools at every process and with memory that they see: killed, gone on with, handed back, taken over" {
	adopted_twice count_tid funclatency bsscount drain-alone
}

# Each adds to a value of all threads, which kernels that preempt programs of uprobes do inexactly by themselves.
@test "tools at tracepoints: killed, gone on with, handed back, taken over" {
	adopted_twice tp_both tp_take pairs-tp
}

@test "tools at raw tracepoints: killed, gone on with, handed back, taken over" {
	adopted_twice pairs-raw pairs-btf pairs-raw-memory
}

is_offloaded() { "$B/bpftime" wait --tool "$1" --state offloaded --timeout 0; }

parked() { "$B/bpftime" explain "$TOOL_PID" | grep -q "the tool's own attachment is parked"; }

@test "a tool whose own attachment is parked: killed, gone on with, and as it was afterwards" {
	need setpriv
	export BPFTIME_PARK_MS=0
	daemon_start
	exact_workload "$SESSION/x" work 4 200000 --rate 20000
	tool_run "$SESSION/tool" "$BATS_TEST_DIRNAME/attach" perf 0 "$WORKLOAD" work
	offloaded "$TOOL_PID"
	wait_until 10 parked
	exact_go "$SESSION/x"
	sleep 0.3
	daemon_kill
	daemon_start
	adopted "$TOOL_PID"
	parked
	sleep 0.3
	# Not at any moment can the tool be stopped.
	wait_until 10 "$B/bpftime" handback "$TOOL_PID"
	bpftool perf show | grep "^pid $TOOL_PID " | grep -q "$WORKLOAD"
	kill -USR2 "$WORKLOAD_PID"
	exact_called "$SESSION/x"
	exact_tool_end "$TOOL_PID"
	grep -qx "count $(awk '/^calls/ { print $2 }' "$SESSION/x/workload")" "$SESSION/tool"
}

@test "processes come, fork and end while no bpftimed runs: those that came are followed, all are counted" {
	local pid
	daemon_start
	exact_workload "$SESSION/a" work 2 200000 --rate 20000
	local a=$WORKLOAD_PID
	exact_workload "$SESSION/b" work 2 1000 --rate 20000
	local b=$WORKLOAD_PID
	tool_run "$SESSION/tool" bpftrace -e "uprobe:$WORKLOAD:work { @[pid] = count(); }"
	offloaded "$TOOL_PID"
	exact_go "$SESSION/a"
	exact_go "$SESSION/b"
	exact_called "$SESSION/b"
	daemon_kill
	exact_workload_end "$SESSION/b" "$b"
	exact_workload "$SESSION/c" work 2 200000 --rate 20000
	local c=$WORKLOAD_PID
	exact_go "$SESSION/c"
	sleep 0.5
	daemon_start
	adopted "$TOOL_PID"
	exact_workload "$SESSION/d" work 2 200000 --rate 20000
	local d=$WORKLOAD_PID
	exact_go "$SESSION/d"
	for pid in "$c" "$d"; do
		wait_until 10 carries "$pid"
	done
	for pid in a c d; do
		exact_called "$SESSION/$pid"
	done
	exact_tool_end "$TOOL_PID"
	sed -nE 's/^@\[([0-9]+)\]: ([0-9]+)$/\1 \2/p' "$SESSION/tool" | sort >"$SESSION/answer"
	printf '%d 400000\n%d 2000\n%d 400000\n%d 400000\n' "$a" "$b" "$c" "$d" | sort | diff - "$SESSION/answer"
}

carries() { "$B/bpftime" explain "$TOOL_PID" | grep -E 'runs in userspace' | grep -qw "$1"; }

@test "a target forks while no bpftimed runs, and afterwards: its children are counted" {
	local probe
	for probe in uprobe uretprobe; do
		daemon_start
		mkfifo "$SESSION/go.$probe"
		"$B/tests/victims/fork" 20 <>"$SESSION/go.$probe" >"$SESSION/victim.$probe" 2>&1 3>&- &
		local victim=$!
		exact_pids+=("$victim")
		wait_for "$SESSION/victim.$probe" '^ready' 10
		tool_run "$SESSION/tool" bpftrace -e "$probe:$B/tests/victims/fork:work { @ = count(); }"
		offloaded "$TOOL_PID"
		daemon_kill
		echo >"$SESSION/go.$probe"
		daemon_start
		exact_waited "$victim"
		exact_tool_end "$TOOL_PID"
		[ "$(sed -n 's/^@: //p' "$SESSION/tool")" = $((20 * 52)) ]
		daemon_stop
	done
}

@test "handed back, exactly, and the reason said: killed in the middle of something, of another build, of another version" {
	local k
	local -a change=(
		'rm "$SESSION/run/settled"'
		'sed -i -E "s/\"build\": *\"[^\"]*\"/\"build\":\"00\"/" "$SESSION/run/state.json"'
		'rm "$SESSION/run/bpf/carry-0"'
		'rm "$SESSION"/run/bpf/group-*-code-0'
		'rm "$SESSION"/run/bpf/host-*-arena'
		'rm "$SESSION"/run/bpf/group-*-arena'
		'policy off.json "{\"version\": 1, \"rules\": [{\"target\": {\"comm\": \"workload\"}, \"action\": \"kernel\"}]}"'
	)
	local -a reason=('it was killed while it changed something' 'it was of another build' 'the carrier in place 0 is not as it was left' 'cannot be had' "the agent's memory in process [0-9]* cannot be had" 'something that it had pinned is gone' policy)
	for k in "${!change[@]}"; do
		echo "${change[k]}"
		rm -rf "$SESSION/policy.d"
		daemon_start
		exact_start "$SESSION/$k" count_tid 4 200000 --rate 40000
		offloaded "$TOOL_PID"
		exact_go "$SESSION/$k"
		sleep 0.3
		daemon_kill
		eval "${change[k]}"
		daemon_start
		if [ "${reason[k]}" = policy ]; then
			wait_until 15 in_kernel "$TOOL_PID"
			"$B/bpftime" events --tool "$TOOL_PID" | grep -q '  handback .*the policy says something else of it now'
		else
			not_adopted "$TOOL_PID" "${reason[k]}"
			offloaded "$TOOL_PID"
		fi
		finish "$SESSION/$k" count_tid
		daemon_stop
		nothing_left
	done
}

@test "a tool that has ended, or detached a probe, while no bpftimed ran: what is left is handed back" {
	daemon_start
	exact_workload "$SESSION/x" work 4 200000 --rate 20000
	tool_run "$SESSION/tool" "$BATS_TEST_DIRNAME/attach" shed 0 "$WORKLOAD" work work_sub
	offloaded "$TOOL_PID"
	exact_go "$SESSION/x"
	daemon_kill
	kill -USR1 "$TOOL_PID"
	wait_for "$SESSION/tool" '^done' 10
	daemon_start
	not_adopted "$TOOL_PID" 'has attached is not what it was'
	daemon_kill
	exact_waited "$TOOL_PID" INT || true
	daemon_start
	exact_finish_workload "$SESSION/x"
	daemon_stop
	nothing_left
}

exact_finish_workload() {
	kill -USR2 "$WORKLOAD_PID"
	exact_called "$1"
	exact_workload_end "$1" "$WORKLOAD_PID"
}

@test "killed while it goes on with what the last one left, again and again: the tool prints the truth" {
	local times went_on=0
	daemon_start
	exact_start "$SESSION/x" count_tid 8 2000000 --rate 20000
	offloaded "$TOOL_PID"
	exact_go "$SESSION/x"
	for ((times = 0; times < 3 * KILLS; times++)); do
		wait_until 10 is_settled
		kill -9 "$DAEMON"
		ended "$DAEMON"
		wait "$DAEMON" || true
		"$B/bpftimed" >"$SESSION/killed.log" 2>&1 3>&- &
		sleep "0.$((RANDOM % 4))$((RANDOM % 10))"
		kill -9 $!
		wait $! || true
		daemon_start
		offloaded "$TOOL_PID"
		"$B/bpftime" explain "$TOOL_PID" | grep -q 'since then: a bpftimed that was killed' && went_on=$((went_on + 1))
	done
	echo "$went_on of $times went on"
	finish "$SESSION/x" count_tid
	daemon_stop
	nothing_left
	((went_on > times / 2))
}
