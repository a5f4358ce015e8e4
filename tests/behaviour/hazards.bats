#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Targets that do what makes a takeover hard. The victim's own truth must be what the tool counted, with the probe in the kernel (the
# oracle) as well as in userspace, and the victim must end as it does without a tool.

bats_require_minimum_version 1.5.0
load helpers
load real

@test "fork: a child is not counted by a tool limited to its parent" {
	counts bsscount fork 60
}

@test "fork: children that go on calling for long" {
	counts bsscount fork 4 150
}

@test "fork: children are born while their parent's places come and go" {
	local name
	for name in fork $(carries_not_pie && echo low-fork); do
		counts_back_and_forth "$name" 500 2
	done
}

@test "fork: what children that end at once leave behind lives while their grandparent's places come and go" {
	counts_back_and_forth orphans 400 300
}

@test "fork: a tool that counts the whole host counts children too" {
	local state
	for state in kernel userspace; do
		victim fork 20
		watched "$state" bpftrace "$B/tests/victims/fork:work"
		victim_go
		victim_end
		exact_tool_end "$TOOL_PID"
		same "$state" "$(counted "$SESSION/tool")" $((20 * 52))
	done
}

# escaped: how many hits were served at escape slots since escaped_count was called.
escaped_count() { sysctl -qw kernel.bpf_stats_enabled=1; }
escaped() {
	output=$(bpftool -j prog show name bpftimed_both)
	json "sum(p.get('run_cnt', 0) for p in (j if isinstance(j, list) else [j]))"
	sysctl -qw kernel.bpf_stats_enabled=0
}

# A thread that waits in the kernel stops when it comes back.
stands_still() { ! grep -L '^State:.T' /proc/"$1"/task/*/status | grep -q .; }

@test "fork: children of which bpftimed does not know, because it stands still" {
	local name tool served VICTIMS
	public_folder
	VICTIMS=$public
	for name in fork $(carries_not_pie && echo low-fork); do
		cp "$B/tests/victims/$name" "$public"
		for tool in bpftrace uretprobe; do
			victim "$name" 20
			watched userspace "$tool" "$public/$name:work"
			escaped_count
			kill -STOP "$DAEMON"
			wait_until 10 stands_still "$DAEMON"
			victim_go
			victim_end
			served=$(escaped)
			kill -CONT "$DAEMON"
			exact_tool_end "$TOOL_PID"
			same "$name $tool" "$(counted "$SESSION/tool")" $((20 * 52))
			same "$name $tool at escape slots" "$served" $((20 * 50))
		done
	done
}

@test "fork: children of the whole host's targets while their parents' places come and go" {
	local name tool
	for name in fork $(carries_not_pie && echo low-fork); do
		for tool in bpftrace uretprobe; do
			victim "$name" 1500
			watched userspace "$tool" "$B/tests/victims/$name:work"
			victim_go
			back_and_forth
			victim_end
			exact_tool_end "$TOOL_PID"
			same "$name $tool" "$(counted "$SESSION/tool")" $((1500 * 52))
		done
	done
}

@test "the main thread ends, others go on: the kernel serves them, nothing is lost" {
	local state
	for state in kernel userspace; do
		victim leaderless 2000 3
		watched "$state" bpftrace "$B/tests/victims/leaderless:work"
		victim_go
		sleep 0.5
		grep -q '^State:.Z' "/proc/$VICTIM/status"
		"$B/bpftime" explain "$TOOL_PID" >"$SESSION/explained"
		in_kernel "$TOOL_PID"
		victim_end
		exact_tool_end "$TOOL_PID"
		same "$state" "$(counted "$SESSION/tool")" "$(victim_calls)"
	done
}

@test "vfork: children in their parent's memory" {
	counts bsscount vfork 30
	counts bpftrace vfork 30
}

@test "exec: the process becomes another" {
	counts bsscount exec 3
	counts bpftrace exec 3
}

@test "a signal handler calls the probed function" {
	counts bsscount signal 300
	counts uretprobe signal 300
}

@test "a signal handler on a small stack of its own" {
	counts bsscount signal 300 altstack
	counts uretprobe signal 300 altstack
}

@test "seccomp: a process that may read, write and exit only" {
	counts bsscount seccomp 20000
	counts bpftrace seccomp 20000
}

@test "pidns: the first process of a PID namespace" {
	local state
	for state in kernel userspace; do
		victim pidns 20000
		VICTIM_OUTSIDE=$(awk '/^pid/ { print $2 }' "$SESSION/victim")
		tool_run "$SESSION/tool" bpftrace -p "$VICTIM_OUTSIDE" -e "uprobe:$B/tests/victims/pidns:work { @[pid] = count(); }"
		offloaded "$TOOL_PID"
		if [ "$state" = kernel ]; then
			"$B/bpftime" handback "$TOOL_PID" >/dev/null
			in_kernel "$TOOL_PID"
		fi
		victim_go
		victim_end
		exact_tool_end "$TOOL_PID"
		grep -qx "@\[$VICTIM_OUTSIDE\]: 20000" "$SESSION/tool" || {
			cat "$SESSION/tool"
			return 1
		}
	done
}

# calls_of FUNCTION HITS [kernel]: the function is called 80000 times, which hits its first instruction so often; in userspace, or kept in
# the kernel with a reason.
calls_of() {
	victim calls "$1" 4 20000
	tool_run "$SESSION/tool" bpftrace -p "$VICTIM" -e "uprobe:$B/tests/victims/calls:$1 { @ = count(); }"
	if [ "${3:-offloaded}" = offloaded ]; then
		offloaded "$TOOL_PID"
	else
		in_kernel "$TOOL_PID"
		"$B/bpftime" explain "$TOOL_PID" | grep -q 'runs in the kernel.*: .'
	fi
	victim_go
	victim_end
	exact_tool_end "$TOOL_PID"
	same "$1" "$(counted "$SESSION/tool")" "$2"
	same truth "$(victim_calls)" 80000
}

@test "recursion" {
	# Arguments 0 to 7 alike: 1 to 8 calls deep.
	calls_of recursion 360000
}

@test "a loop back to the function's first instruction" {
	calls_of loops 320000
}

@test "a loop to an instruction that the jump would cover stays in the kernel" {
	calls_of loops_inside 80000 kernel
}

@test "a function shorter than a jump stays in the kernel, or is carried" {
	victim calls too_short 4 20000
	tool_run "$SESSION/tool" bpftrace -p "$VICTIM" -e "uprobe:$B/tests/victims/calls:too_short { @ = count(); }"
	attached() { "$B/bpftime" ps | grep -q "^ *$TOOL_PID "; }
	wait_until 10 attached
	sleep 0.5
	victim_go
	victim_end
	exact_tool_end "$TOOL_PID"
	same too_short "$(counted "$SESSION/tool")" 80000
}

@test "flags, red zone, relative addresses, branches at the probed place" {
	local f
	for f in endbr sub_rsp rip_relative branches five_bytes; do
		calls_of "$f" 80000
	done
}

# Functions that one comes to by a jump from another.
@test "red zone and flags at the probed place survive" {
	local f
	for f in red_zone flags; do
		victim calls "$f" 4 20000
		tool_run "$SESSION/tool" bpftrace -p "$VICTIM" -e "uprobe:$B/tests/victims/calls:${f}_probe { @ = count(); }"
		offloaded "$TOOL_PID"
		victim_go
		victim_end
		exact_tool_end "$TOOL_PID"
		same "$f" "$(counted "$SESSION/tool")" 80000
	done
}

@test "blocked threads are not disturbed: no EINTR, no short write, no early end" {
	local i
	victim blocked
	tool_run "$SESSION/tool" bpftrace -p "$VICTIM" -e "uprobe:$B/tests/victims/blocked:main { @ = count(); }"
	offloaded "$TOOL_PID"
	for i in 1 2 3 4 5 6 7 8 9 10; do
		"$B/bpftime" handback "$TOOL_PID" >/dev/null
		"$B/bpftime" takeover "$TOOL_PID" >/dev/null
	done
	exact_tool_end "$TOOL_PID"
	victim_go
	victim_end
	grep -qx 'disturbed 0' "$SESSION/victim" || {
		cat "$SESSION/victim"
		return 1
	}
}

@test "a target that spends all its time in the probed function, 50 times there and back" {
	local i
	victim hot 2
	tool_run "$SESSION/tool" bpftrace -p "$VICTIM" -e "uprobe:$B/tests/victims/hot:tiny { @ = count(); }"
	offloaded "$TOOL_PID"
	for ((i = 0; i < 50; i++)); do
		"$B/bpftime" handback "$TOOL_PID" >/dev/null
		"$B/bpftime" takeover "$TOOL_PID" >/dev/null
	done
	exact_tool_end "$TOOL_PID"
	victim_go
	victim_end
}

@test "a target that is killed in the middle: tool and daemon go on" {
	local ms
	for ms in 50 150 400; do
		victim dies "$ms"
		tool_run "$SESSION/tool" bpftrace -p "$VICTIM" -e "uprobe:$B/tests/victims/dies:work { @ = count(); }"
		[ "$ms" = 50 ] || offloaded "$TOOL_PID"
		victim_go
		status=0
		victim_end || status=$?
		[ "$status" = 137 ]
		real_daemon_lives
		exact_ended "$VICTIM"
		[ ! -e "/proc/$TOOL_PID/exe" ] || exact_tool_end "$TOOL_PID"
	done
}

@test "a library that is loaded and unloaded again and again" {
	local lib
	lib=$(ldconfig -p | awk '/libz\.so\.1 .*x86-64/ { print $NF; exit }')
	[ -n "$lib" ] || skip "needs libz.so.1"
	victim dlopen 50
	tool_run "$SESSION/tool" "$B/examples/bsscount" -p "$VICTIM" "$lib:zlibCompileFlags"
	victim_go
	victim_end
	exact_tool_end "$TOOL_PID"
	same dlopen "$(counted "$SESSION/tool")" "$(victim_calls)"
}

@test "a tool that is killed while offloaded: the target goes on, its code is the file's, a new tool works" {
	local dir=$SESSION/x at
	exact_start "$dir" count_tid 4 100000 --rate 100000
	at=$(awk '/^function/ { print $3 }' "$dir/workload")
	offloaded "$TOOL_PID"
	run ! code_is_the_files "$WORKLOAD_PID" "$at"
	exact_go "$dir"
	sleep 0.2
	kill -KILL "$TOOL_PID"
	wait "$TOOL_PID" || true
	exact_ended "$TOOL_PID"
	wait_until 10 code_is_the_files "$WORKLOAD_PID" "$at"
	exact_called "$dir"
	exact_workload_end "$dir" "$WORKLOAD_PID"
	real_daemon_lives
	exact_start "$SESSION/y" count_tid 4 20000
	offloaded "$TOOL_PID"
	exact_go "$SESSION/y"
	exact_finish "$SESSION/y" count_tid
}

@test "a tool that ends leaves the target's code as the file has it" {
	local dir=$SESSION/x
	exact_start "$dir" latency 2 1000
	offloaded "$TOOL_PID"
	exact_tool_end "$TOOL_PID"
	wait_until 10 code_is_the_files "$WORKLOAD_PID" "$(awk '/^function/ { print $3 }' "$dir/workload")"
	exact_go "$dir"
	exact_called "$dir"
	exact_workload_end "$dir" "$WORKLOAD_PID"
}

# Not PIE: jumps of other forms, one of them with two instructions (agent/form.c).

@test "not PIE: fork, vfork, signals, seccomp" {
	need_not_pie
	counts bsscount low-fork 60
	counts bsscount low-vfork 30
	counts bsscount low-signal 300
	counts uretprobe low-signal 300 altstack
	counts bpftrace low-seccomp 20000
}

@test "not PIE: there and back many times while other tools come and go, 1 and 8 threads" {
	local dir i threads name first
	need_not_pie
	WORKLOAD=$B/tests/victims/low-workload
	for threads in 1 8; do
		for name in count_tid count_tid_endbr count_tid_sub; do
			dir=$SESSION/$name$threads
			exact_workload "$dir" "$(tool_function "$name")" "$threads" $((800000 / threads)) --rate $((200000 / threads))
			exact_tool "$dir/first" "$name" "$WORKLOAD_PID"
			first=$TOOL_PID
			offloaded "$first"
			exact_go "$dir"
			for ((i = 0; i < 10; i++)); do
				"$B/bpftime" handback "$first" >/dev/null
				"$B/bpftime" takeover "$first" >/dev/null
				if ((i % 5 == 2)); then
					exact_tool "$dir/other" "$name" "$WORKLOAD_PID"
					sleep 0.2
					exact_tool_end "$TOOL_PID"
				fi
			done
			exact_called "$dir"
			exact_tool_end "$first"
			exact_workload_end "$dir" "$WORKLOAD_PID"
			exact_compare "$dir" "$dir/first" "$name"
		done
	done
}

@test "not PIE: a tool that ends leaves the target's code as the file has it, also while the target is stopped" {
	local dir at
	need_not_pie
	WORKLOAD=$B/tests/victims/low-workload
	for signal in CONT STOP; do
		dir=$SESSION/$signal
		exact_start "$dir" count_tid 4 100000 --rate 100000
		at=$(awk '/^function/ { print $3 }' "$dir/workload")
		offloaded "$TOOL_PID"
		run ! code_is_the_files "$WORKLOAD_PID" "$at"
		exact_go "$dir"
		sleep 0.3
		kill "-$signal" "$WORKLOAD_PID"
		kill -KILL "$TOOL_PID"
		wait "$TOOL_PID" || true
		exact_ended "$TOOL_PID"
		sleep 1
		kill -CONT "$WORKLOAD_PID"
		wait_until 10 code_is_the_files "$WORKLOAD_PID" "$at"
		exact_called "$dir"
		exact_workload_end "$dir" "$WORKLOAD_PID"
		real_daemon_lives
	done
}
