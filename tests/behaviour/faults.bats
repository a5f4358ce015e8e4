#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# What bpftimed needs is not there: memory, descriptors, room in /run and in bpffs, its compiler, a clock that runs evenly, who reads its
# journal, the processor. Probes are in the kernel or in userspace, exact, never in between, and `bpftime explain` says why.
#
# A fault is three functions: inflict_NAME, lift_NAME, and words_NAME, what is to be read in `bpftime explain` of a probe that stays in the
# kernel because of it (a regular expression). FAULT_SECONDS says how long bpftimed is stopped (10).
# Where allocations fail bpftimed may end, as if it were killed, and is started again; nowhere else.

bats_require_minimum_version 1.5.0
load helpers
load real

setup_file() {
	need_root
	need bpftrace bpftool python3 prlimit unshare nsenter
}
teardown_file() { :; }

setup() {
	own_setup 120
	mkdir "$SESSION/run"
	LIFT=
}

teardown() {
	[ -z "$LIFT" ] || "lift_$LIFT"
	exact_kill
	session_end
	remains_end
	umount -l "$SESSION/run" 2>/dev/null || true
	exec 8>&-
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

# One allocation of 20 fails. bpftimed must have been started by `with_memory`; it may end of it, so there are no words.
inflict_memory() { printf '\x14\0\0\0' | dd of="$SESSION/fails" conv=notrunc status=none; }
lift_memory() { printf '\0\0\0\0' | dd of="$SESSION/fails" conv=notrunc status=none; }

# A control group with 64 KiB for what it needs from now on. Who needs more is killed, or does not get it. Sets MEMORY_GROUP.
inflict_group() {
	local most=memory.limit_in_bytes group=/sys/fs/cgroup/memory
	[ -d "$group" ] || most=memory.max group=/sys/fs/cgroup
	MEMORY_GROUP=$group/bpftimed-test-$$
	mkdir "$MEMORY_GROUP"
	echo 65536 >"$MEMORY_GROUP/$most"
	echo "$DAEMON" >"$MEMORY_GROUP/cgroup.procs"
}
lift_group() {
	local pid
	grep -qsvx 0 "$MEMORY_GROUP/memory.failcnt" || grep -qsE '^max [1-9]' "$MEMORY_GROUP/memory.events" || {
		echo "it had memory enough"
		return 1
	}
	# One that has no memory may be ended in between.
	for pid in $(cat "$MEMORY_GROUP/cgroup.procs"); do
		echo "$pid" 2>/dev/null >"${MEMORY_GROUP%/*}/cgroup.procs" || true
	done
	wait_until 5 rmdir "$MEMORY_GROUP"
}

# The runtime folder is a file system of its own, by `with_room`.
# What bpftimed would give up first is not there either.
inflict_room() { rm -f "$SESSION/run/settled"; dd if=/dev/zero of="$SESSION/run/full" bs=4k status=none 2>/dev/null || true; }
lift_room() { rm -f "$SESSION/run/full"; }
words_room() { echo 'No space left on device'; }

# A BPF file system has no limit of its own: it takes nothing more when it is read-only.
inflict_pins() { mount -o remount,ro,bind "$SESSION/run/bpf"; }
lift_pins() { mount -o remount,rw,bind "$SESSION/run/bpf"; }
words_pins() { echo 'Read-only file system'; }

# ---- bpftimed prepared for them ----

# The address sanitizer has memory of its own, and ends the program when it gets none.
need_unsanitized() { [ -z "${SANITIZE:-}" ] || skip "not with sanitizers"; }

# Which allocations fail is random, and each run is another one: `make check-long` runs them. Where json-c gets none it ends bpftimed.
with_memory() {
	need_unsanitized
	[ -n "${FAULT_MEMORY:-}" ] || skip "by make check-long"
	printf '\0\0\0\0' >"$SESSION/fails"
	FAULT_FILE=$SESSION/fails LD_PRELOAD=$B/tests/faults/memory.so daemon_start
}

with_group() {
	need_unsanitized
	[ -w /sys/fs/cgroup/memory/cgroup.procs ] || grep -qs memory /sys/fs/cgroup/cgroup.subtree_control || skip "no control groups for memory"
	daemon_start
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
	grep -qs '^State:.[^Z]' "/proc/$DAEMON/status" && return
	[ -p "$SESSION/daemon.log" ] || cat "$SESSION/daemon.log"
	return 1
}

# comes_during FAULT: a tool comes; it is served by the kernel, with the reason; when the fault has gone it is taken over.
comes_during() {
	exact_workload "$SESSION/x" work 4 4000000 --rate 100000
	inflict "$1"
	exact_tool "$SESSION/x/tool" count_tid "$WORKLOAD_PID"
	wait_until 20 attached
	exact_go "$SESSION/x"
	wait_until 30 explains_fault "$1" || { "$B/bpftime" explain "$TOOL_PID"; cat "$SESSION/daemon.log"; return 1; }
	survives
	lift "$1"
	is_taken_over
}

explains_fault() { "$B/bpftime" explain "$TOOL_PID" 2>&1 | grep -Eq "$("words_$1")"; }

# A tool that is in userspace, and a target under load.
carried() {
	exact_start "$SESSION/x" count_tid 4 4000000 --rate 100000
	offloaded "$TOOL_PID"
	exact_go "$SESSION/x"
}

flip() {
	local i
	for ((i = 0; i < FLIPS / 3; i++)); do
		"$B/bpftime" handback "$TOOL_PID" >/dev/null 2>&1 || true
		"$B/bpftime" takeover "$TOOL_PID" >/dev/null 2>&1 || true
	done
}

# flips_during FAULT: a tool that is in userspace goes back and forth as far as it can.
flips_during() {
	carried
	inflict "$1"
	flip
	survives
	lift "$1"
	is_taken_over
}

# By itself within some seconds, or at once when it is asked for.
is_taken_over() {
	"$B/bpftime" takeover "$TOOL_PID" 2>/dev/null || true
	offloaded "$TOOL_PID"
	sleep 0.3
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
	need_unsanitized
	daemon_start
	comes_during addresses
}

@test "no addresses: a tool goes back and forth" {
	need_unsanitized
	daemon_start
	flips_during addresses
}

# As a service manager does it: one that has ended, or is about to, is followed by another.
goes_on() {
	! survives >&2 && daemon_start
	"$B/bpftime" status >/dev/null 2>&1
}

@test "no memory: a tool comes" {
	with_memory
	exact_workload "$SESSION/x" work 4 4000000 --rate 100000
	inflict memory
	exact_tool "$SESSION/x/tool" count_tid "$WORKLOAD_PID"
	wait_until 20 attached
	exact_go "$SESSION/x"
	sleep 2
	lift memory
	wait_until 20 goes_on
	is_taken_over
}

# In the kernel, or taken over already.
attached() { attached_in_kernel "$TOOL_PID" 1 || "$B/bpftime" ps 2>/dev/null | grep -q "^ *$TOOL_PID "; }

@test "no memory: a tool goes back and forth" {
	with_memory
	carried
	inflict memory
	flip
	lift memory
	wait_until 20 goes_on
	is_taken_over
}

@test "no memory in its control group: a tool comes" {
	with_group
	exact_workload "$SESSION/x" work 4 4000000 --rate 100000
	inflict group
	exact_tool "$SESSION/x/tool" count_tid "$WORKLOAD_PID"
	wait_until 20 attached
	exact_go "$SESSION/x"
	sleep 2
	lift group
	wait_until 20 goes_on
	is_taken_over
}

@test "no memory in its control group: a tool goes back and forth" {
	with_group
	carried
	inflict group
	flip
	lift group
	wait_until 20 goes_on
	is_taken_over
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

# ---- the compiler ----

# It is there when one tool has been taken over. Sets COMPILER.
compiler_runs() {
	exact_workload "$SESSION/first" work 1 1
	exact_tool "$SESSION/first/tool" count "$WORKLOAD_PID"
	offloaded "$TOOL_PID"
	COMPILER=$(pgrep -P "$DAEMON" -f bpftimed-jit)
}

# compiling_stops: a tool comes, and the compiler stands still in the middle of its programs.
compiling_stops() {
	compiler_runs
	kill -STOP "$COMPILER"
	exact_workload "$SESSION/x" work 4 10000000 --rate 100000
	exact_tool "$SESSION/x/tool" count_tid "$WORKLOAD_PID"
	wait_until 20 explains "being compiled and verified"
	exact_go "$SESSION/x"
}

@test "the compiler hangs: its time is limited, the kernel serves, the next one compiles" {
	daemon_start
	compiling_stops
	wait_until 40 explains "the compiler did not finish"
	[ ! -e "/proc/$COMPILER" ]
	is_taken_over
}

@test "the compiler crashes: the kernel serves, the next one compiles" {
	daemon_start
	compiling_stops
	kill -SEGV "$COMPILER"
	kill -CONT "$COMPILER"
	wait_until 20 explains "the compiler crashed"
	is_taken_over
}

# ---- time ----

@test "the clock of the day jumps all the time" {
	need_unsanitized
	LD_PRELOAD=$B/tests/faults/clock.so daemon_start
	carried
	flip
	run -0 "$B/bpftime" explain "$TOOL_PID" --json
	[ "$(json '0 <= j["since"] < 600')" = True ]
	is_taken_over
}

# Two days ahead of the kernel's programs. Sets AHEAD, which runs a program there.
clock_ahead() {
	unshare --time --monotonic 172800 --boottime 172800 --fork sleep 1000 3>&- &
	started $!
	wait_until 10 pgrep -P $! >/dev/null
	AHEAD=(nsenter "--time=/proc/$(pgrep -P $!)/ns/time")
}

# As kernel's programs have it, which know nothing of time namespaces.
sees_the_kernels_time() {
	local limit=$(($(cut -d. -f1 /proc/uptime) + 86400))
	EXACT_AS=("${AHEAD[@]}")
	exact_workload "$SESSION/x" work 2 20000
	EXACT_AS=()
	tool_run "$SESSION/tool" bpftrace -p "$WORKLOAD_PID" -e "uprobe:$WORKLOAD:work { @n = count(); }
		uprobe:$WORKLOAD:work /nsecs > ${limit}000000000/ { @ahead = count(); }"
	offloaded "$TOOL_PID"
	exact_go "$SESSION/x"
	exact_called "$SESSION/x"
	exact_tool_end "$TOOL_PID"
	exact_workload_end "$SESSION/x" "$WORKLOAD_PID"
	same calls "$(sed -n 's/^@n: //p' "$SESSION/tool")" "$(awk '/^calls/ { print $2 }' "$SESSION/x/workload")"
	! grep '^@ahead: [1-9]' "$SESSION/tool"
}

@test "a target's clock is ahead: programs see the kernel's" {
	clock_ahead
	daemon_start
	sees_the_kernels_time
}

@test "the clocks of a target and of bpftimed are ahead: programs see the kernel's" {
	clock_ahead
	printf '#!/bin/sh\nexec %s "%s/bpftimed" "$@"\n' "${AHEAD[*]}" "$B" >"$SESSION/ahead"
	chmod 755 "$SESSION/ahead"
	BPFTIMED=$SESSION/ahead daemon_start
	sees_the_kernels_time
}

@test "stopped for a while: what is in userspace stays, and goes on" {
	daemon_start
	carried
	kill -STOP "$DAEMON"
	sleep "${FAULT_SECONDS:-10}"
	kill -CONT "$DAEMON"
	"$B/bpftime" status >/dev/null
	is_taken_over
}

# In the middle of a switch it ends itself: see crash.bats.
@test "stopped for a while at any moment of a switch: exact" {
	daemon_start
	carried
	flip &
	sleep "0.$((RANDOM % 10))"
	kill -STOP "$DAEMON"
	sleep "$((${FAULT_SECONDS:-10} + 2))"
	kill -CONT "$DAEMON"
	wait $!
	survives || daemon_start
	is_taken_over
}

# ---- who reads what it says ----

@test "nobody reads what it says: it goes on, and says later how much is missing" {
	mkfifo "$SESSION/daemon.log"
	exec 8<>"$SESSION/daemon.log"
	dd if=/dev/zero of="$SESSION/daemon.log" bs=4k count=64 oflag=nonblock conv=notrunc status=none 2>/dev/null || true
	daemon_start --log-level debug
	carried
	flip
	dd bs=64k count=1 iflag=nonblock <&8 status=none >/dev/null
	"$B/bpftime" handback "$TOOL_PID"
	is_taken_over
	dd bs=64k count=1 iflag=nonblock <&8 status=none | tr -d '\0' >"$SESSION/said"
	grep -q '^bpftimed: [0-9]* message(s) could not be written here: nobody read them$' "$SESSION/said"
}
