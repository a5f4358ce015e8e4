#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# What bpftimed needs is not there: memory, descriptors, room in /run and in bpffs, its compiler, a clock that runs evenly, who reads its
# journal, the processor. Probes are in the kernel or in userspace, exact, never in between, and `bpftime explain` says why.
#
# A fault is three functions: inflict_NAME, lift_NAME, and words_NAME, what is to be read in `bpftime explain` of a probe that stays in the
# kernel because of it (a regular expression). FAULT_SECONDS says how long bpftimed is stopped (10).

bats_require_minimum_version 1.5.0
load helpers
load real

setup_file() {
	need_root
	need bpftrace bpftool python3 prlimit
}
teardown_file() { :; }

setup() {
	SESSION=$BATS_TEST_TMPDIR
	export BUILD=$B EXACT_TIMEOUT=120
	export BPFTIME_RUNTIME_DIR=$SESSION/run BPFTIME_POLICY_DIR=$SESSION/policy.d
	. "$BATS_TEST_DIRNAME/exact.bash"
	need_root
	need_alone
	mkdir "$SESSION/run"
	LIFT=
}

teardown() {
	[ -z "$LIFT" ] || "lift_$LIFT"
	exact_kill
	session_end
	# What one that did not survive has left.
	if [ -e "$SESSION/run/bpf" ]; then
		daemon_start && daemon_stop
	fi
	umount -l "$SESSION/run/bpf" 2>/dev/null || true
	umount -l "$SESSION/run" 2>/dev/null || true
	[ ! -p "$SESSION/unread" ] || exec 8>&-
}

# ---- faults ----

# Not one more than it has.
inflict_descriptors() {
	local free=0
	while [ -e "/proc/$DAEMON/fd/$free" ]; do
		free=$((free + 1))
	done
	prlimit --pid "$DAEMON" --nofile="$free:"
}
lift_descriptors() { prlimit --pid "$DAEMON" --nofile="$(awk '/^Max open files/ { print $5 }' "/proc/$DAEMON/limits"):"; }
words_descriptors() { echo 'Too many open files'; }

# The addresses that it has, and few more.
inflict_addresses() { prlimit --pid "$DAEMON" --as=$(($(awk '/^VmSize/ { print $2 }' "/proc/$DAEMON/status") * 1024 + 16384)):; }
lift_addresses() { prlimit --pid "$DAEMON" --as=unlimited:; }
words_addresses() { echo 'Cannot allocate memory|no memory|out of memory'; }

# One allocation of 20 fails. The daemon must have been started by `with_memory`.
inflict_memory() { printf '\x14\0\0\0' | dd of="$SESSION/fails" conv=notrunc status=none; }
lift_memory() { printf '\0\0\0\0' | dd of="$SESSION/fails" conv=notrunc status=none; }
words_memory() { words_addresses; }

# The runtime folder is a file system of its own, by `with_room`.
inflict_room() { dd if=/dev/zero of="$SESSION/run/full" bs=4k status=none 2>/dev/null || true; }
lift_room() { rm -f "$SESSION/run/full"; }
words_room() { echo 'No space left on device'; }

# A BPF file system has no limit of its own: it takes nothing more when it is read-only.
inflict_pins() { mount -o remount,ro,bind "$SESSION/run/bpf"; }
lift_pins() { mount -o remount,rw,bind "$SESSION/run/bpf"; }
words_pins() { echo 'Read-only file system'; }

# ---- bpftimed prepared for them ----

with_memory() {
	printf '\0\0\0\0' >"$SESSION/fails"
	FAULT_FILE=$SESSION/fails LD_PRELOAD=$B/tests/faults/memory.so daemon_start
}

with_room() {
	mount -t tmpfs -o size=128k,mode=755 tmpfs "$SESSION/run"
	daemon_start
}

# ---- what is tried ----

inflict() {
	LIFT=$1
	"inflict_$1"
}

lift() {
	"lift_$1"
	LIFT=
}

survives() {
	kill -0 "$DAEMON" || {
		cat "$SESSION/daemon.log"
		return 1
	}
}


# comes_during FAULT: a tool comes; it is served by the kernel, with the reason; when the fault has gone it is taken over.
comes_during() {
	exact_workload "$SESSION/x" work 4 4000000 --rate 100000
	inflict "$1"
	exact_tool "$SESSION/x/tool" count_tid "$WORKLOAD_PID"
	wait_until 20 attached_in_kernel "$TOOL_PID" 1
	exact_go "$SESSION/x"
	wait_until 30 explains_fault "$1" || { "$B/bpftime" explain "$TOOL_PID"; cat "$SESSION/daemon.log"; return 1; }
	survives
	lift "$1"
	"$B/bpftime" takeover "$TOOL_PID" || true
	offloaded "$TOOL_PID"
	sleep 0.3
	kill -USR2 "$WORKLOAD_PID"
	exact_finish "$SESSION/x" count_tid
	survives
}

explains_fault() { "$B/bpftime" explain "$TOOL_PID" 2>&1 | grep -Eq "$("words_$1")"; }

# flips_during FAULT: a tool that is in userspace goes back and forth as far as it can.
flips_during() {
	local i
	exact_start "$SESSION/x" count_tid 4 4000000 --rate 100000
	offloaded "$TOOL_PID"
	exact_go "$SESSION/x"
	inflict "$1"
	for ((i = 0; i < FLIPS / 3; i++)); do
		"$B/bpftime" handback "$TOOL_PID" >/dev/null 2>&1 || true
		"$B/bpftime" takeover "$TOOL_PID" >/dev/null 2>&1 || true
	done
	survives
	lift "$1"
	"$B/bpftime" takeover "$TOOL_PID" || true
	offloaded "$TOOL_PID"
	kill -USR2 "$WORKLOAD_PID"
	exact_finish "$SESSION/x" count_tid
	survives
}

@test "no descriptors: a tool comes" {
	daemon_start
	comes_during descriptors
}

@test "no descriptors: a tool goes back and forth" {
	daemon_start
	flips_during descriptors
}

@test "no addresses: a tool comes" {
	daemon_start
	comes_during addresses
}

@test "no addresses: a tool goes back and forth" {
	daemon_start
	flips_during addresses
}

@test "no memory: a tool comes" {
	with_memory
	comes_during memory
}

@test "no memory: a tool goes back and forth" {
	with_memory
	flips_during memory
}

@test "no room in the runtime folder: a tool comes" {
	with_room
	comes_during room
}

@test "no room in the runtime folder: a tool goes back and forth" {
	with_room
	flips_during room
}

@test "no room for pins: a tool comes" {
	daemon_start
	comes_during pins
}

@test "no room for pins: a tool goes back and forth" {
	daemon_start
	flips_during pins
}
