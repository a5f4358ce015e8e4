#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# A debugger holds a thread in the middle of a jump that has a step (agent/form.c): nothing of the place can be taken away meanwhile.

bats_require_minimum_version 1.5.0
load helpers
load real

setup_file() { :; }
teardown_file() { :; }

setup() {
	SESSION=$BATS_TEST_TMPDIR
	export BUILD=$B
	. "$BATS_TEST_DIRNAME/exact.bash"
	need_root
	need bpftrace
	need_alone
	daemon_start
}

teardown() {
	exact_kill
	session_end
	# What is left of a test that failed.
	umount -l "$SESSION/run/bpf" 2>/dev/null || true
}

# jump_is_there ADDRESS: behind the first byte, as low-calls' push_rbp gets it.
jump_is_there() {
	[ "$(dd if="/proc/$VICTIM/mem" bs=1 skip=$(($1 + 2)) count=1 status=none | od -An -tx1)" = " e9" ]
}

# held_on_step: the victim's thread has pushed and is to jump. Sets DEBUGGER, and ADDRESS of the function.
held_on_step() {
	need_not_pie
	victim low-calls push_rbp 1 0
	ADDRESS=0x$(nm "$B/tests/victims/low-calls" | awk '$3 == "push_rbp" { print $1 }')
	tool_run "$SESSION/tool" bpftrace -p "$VICTIM" -e "uprobe:$B/tests/victims/low-calls:push_rbp { @ = count(); }"
	offloaded "$TOOL_PID"
	victim_go
	sleep 0.2
	mkfifo "$SESSION/let_go"
	"$B/tests/debugger" "$VICTIM" $((ADDRESS + 2)) <>"$SESSION/let_go" >"$SESSION/debugger" 2>&1 3>&- &
	DEBUGGER=$!
	exact_pids+=("$DEBUGGER")
	wait_for "$SESSION/debugger" '^held' 60
}

@test "a debugger holds a thread in the middle of a jump: the place is given up when it lets go" {
	held_on_step
	exact_tool_end "$TOOL_PID"
	sleep 3
	jump_is_there "$ADDRESS"
	echo >"$SESSION/let_go"
	wait "$DEBUGGER"
	for _ in $(seq 60); do
		jump_is_there "$ADDRESS" || break
		sleep 0.5
	done
	! jump_is_there "$ADDRESS"
	victim_go
	victim_end
}

@test "a debugger holds a thread in the middle of a jump, and the daemon ends: what it leaves harms nobody" {
	held_on_step
	daemon_stop
	jump_is_there "$ADDRESS"
	compgen -G "$SESSION/run/bpf/hold-$VICTIM-*" >/dev/null
	echo >"$SESSION/let_go"
	wait "$DEBUGGER"
	sleep 0.3
	daemon_start
	! jump_is_there "$ADDRESS"
	victim_go
	victim_end
	exact_tool_end "$TOOL_PID"
	daemon_stop
	[ ! -e "$SESSION/run/bpf" ]
}
