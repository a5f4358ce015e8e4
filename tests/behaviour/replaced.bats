#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Where the kernel allows it the kernel half stands in the place of the tool's own programs (freplace): each call is counted once, and what
# the tool has stays as it is. tests/vm/run runs this with kernels that allow it.

bats_require_minimum_version 1.5.0
load helpers
load real

# bpftimed has tried.
setup_file() {
	need_root
	need bpftrace bpftool setpriv python3
	ask_way
}

teardown_file() { :; }

setup() {
	SESSION=$BATS_TEST_TMPDIR
	export BUILD=$B
	. "$BATS_TEST_DIRNAME/exact.bash"
	need_alone
	[ "$WAY" = freplace ] || skip "this kernel does not let programs be replaced"
}

teardown() {
	exact_kill
	session_end
	# What is left of a test that failed.
	umount -l "$SESSION/run/bpf" 2>/dev/null || true
}

# What the kernel has of the tool: its programs and links.
attached() {
	sed -n 's/^\(prog_id\|link_id\|map_id\|prog_tag\):\t/\1 /p' "/proc/$TOOL_PID/fdinfo/"* | sort
}

# A link that replaces holds its program.
nothing_left() { ! bpftool prog show | grep -q '^[0-9]*: ext '; }

@test "a program of libbpf's: explain names it, the tool has what it had, and every call is counted" {
	local before
	daemon_start
	both 100000
	exact_tool "$SESSION/tool" hashcount
	before=$(attached)
	offloaded "$TOOL_PID"
	explains 'freplace'
	same "what the tool has" "$before" "$(attached)"
	go
	called
	same "what the tool has" "$before" "$(attached)"
	exact_tool_end "$TOOL_PID"
	exact_sum hashcount "$SESSION/tool" "$SESSION"/[ab]/workload
}

@test "the tool is killed: nothing is left of it" {
	daemon_start
	both 1000
	exact_tool "$SESSION/tool" hashcount
	offloaded "$TOOL_PID"
	run -1 nothing_left
	kill -9 "$TOOL_PID"
	exact_waited "$TOOL_PID" || true
	wait_until 10 nothing_left
	go
	called
}

@test "bpftimed is killed and started: it goes on with what stands in the program's place" {
	daemon_start
	both 1000
	exact_tool "$SESSION/tool" hashcount
	offloaded "$TOOL_PID"
	explains 'freplace'
	wait_until 10 [ -e "$SESSION/run/settled" ]
	kill -9 "$DAEMON"
	ended "$DAEMON"
	wait "$DAEMON" || true
	run -1 nothing_left
	daemon_start
	explains 'since then: a bpftimed that was killed; this one goes on'
	explains 'freplace'
	go
	called
	exact_tool_end "$TOOL_PID"
	exact_sum hashcount "$SESSION/tool" "$SESSION"/[ab]/workload
	daemon_stop
	nothing_left
}

@test "a program without BTF: the opening gate" {
	daemon_start
	both 1000
	exact_tool "$SESSION/tool" count_tid
	offloaded "$TOOL_PID"
	explains 'opening gate'
	go
	called
	exact_tool_end "$TOOL_PID"
	exact_sum count_tid "$SESSION/tool" "$SESSION"/[ab]/workload
}

@test "two users, 30 times there and back: hashcount" {
	run_alone flips-everywhere hashcount 1000 60 30 30 8
}

@test "two users, 30 times there and back: funclatency" {
	run_alone flips-everywhere funclatency 1000 60 30 30 8
}

@test "two users, 30 times there and back: bsscount, which sees memory" {
	run_alone flips-everywhere bsscount 1000 60 30 30 8
}

@test "two users, bpftimed stops and starts 5 times: hashcount" {
	run_alone flips-everywhere hashcount 1000 300 5 30 8 restart
}

@test "two users, bpftimed is killed 5 times: hashcount" {
	run_alone flips-everywhere hashcount 1000 300 5 30 8 kill
}
