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
	need_alone
	SESSION=$BATS_FILE_TMPDIR
	daemon_start
	WAY=$("$B/bpftime" status --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["switch"])')
	daemon_stop
	export WAY
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

# both CALLS [OPTION...]: workloads of two users: one that gets the agent, one that the kernel half serves.
both() {
	chmod 755 "$SESSION"
	exact_workload "$SESSION/a" work 2 "$@"
	EXACT_AS=(setpriv --reuid=65534 --regid=65534 --clear-groups)
	exact_workload "$SESSION/b" work 2 "$@"
	EXACT_AS=()
}

go() {
	exact_go "$SESSION/a"
	exact_go "$SESSION/b"
}

called() {
	exact_called "$SESSION/a"
	exact_called "$SESSION/b"
}

explains() { "$B/bpftime" explain "$TOOL_PID" | grep -q "$1"; }

# What the kernel has of the tool: its programs and links.
attached() {
	sed -n 's/^\(prog_id\|link_id\|map_id\|prog_tag\):\t/\1 /p' "/proc/$TOOL_PID/fdinfo/"* | sort
}

# everywhere_flips TOOL RATE SECONDS FLIPS SHORT CROWD [restart|kill]: see tests/behaviour/flips-everywhere
everywhere_flips() {
	env -u BPFTIME_RUNTIME_DIR -u BPFTIME_POLICY_DIR BPFTIMED_TESTS_ALONE=1 "$BATS_TEST_DIRNAME/flips-everywhere" "$B" "$@"
}

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
	kill -9 "$TOOL_PID"
	exact_waited "$TOOL_PID" || true
	wait_until 10 nothing_left
	go
	called
}

nothing_left() { ! bpftool link show | grep -q '^[0-9]*: freplace' && ! bpftool prog show | grep -q '^[0-9]*: ext'; }

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
	everywhere_flips hashcount 1000 60 30 30 8
}

@test "two users, 30 times there and back: funclatency" {
	everywhere_flips funclatency 1000 60 30 30 8
}

@test "two users, 30 times there and back: bsscount, which sees memory" {
	everywhere_flips bsscount 1000 60 30 30 8
}

@test "two users, bpftimed stops and starts 5 times: hashcount" {
	everywhere_flips hashcount 1000 300 5 30 8 restart
}

@test "two users, bpftimed is killed 5 times: hashcount" {
	everywhere_flips hashcount 1000 300 5 30 8 kill
}
