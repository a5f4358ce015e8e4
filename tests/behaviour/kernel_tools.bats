#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Tools with kprobes and fentry beside uprobes, on a kernel that has and allows them: a virtual machine's, where the machine at hand does not.

bats_require_minimum_version 1.5.0
load helpers
load real

# What getppid() is, and what it calls: the system call itself is in no kernel's BTF.
KPROBE=kprobe:__x64_sys_getppid
FENTRY=kfunc:__task_pid_nr_ns

setup_file() {
	real_setup_file
	may_have kprobe "$KPROBE"
	may_have fentry "$FENTRY"
}

# may_have NAME PROBE: does the kernel let a tool have it? What it says otherwise is in a file.
may_have() {
	! timeout 60 bpftrace -e "$2 { } BEGIN { exit(); }" >"$BATS_FILE_TMPDIR/try" 2>&1 || return 0
	{ grep -m 1 ERROR "$BATS_FILE_TMPDIR/try" || echo "no answer in time"; } >"$BATS_FILE_TMPDIR/refused.$1"
}

needs() {
	[ ! -e "$BATS_FILE_TMPDIR/refused.$1" ] || skip "this kernel refuses a $1: $(cat "$BATS_FILE_TMPDIR/refused.$1")"
}

# shared TOOL: a kernel function's probe and a uprobe share maps: all stays in the kernel, which says why, and nothing is lost. One thread: on a
# kernel that preempts programs several would lose some of each other's counts without any bpftimed.
shared() {
	exact_start "$SESSION/x" "$1" 1 5000
	wait_until 15 explains 'runs in the kernel .*also used by program'
	exact_go "$SESSION/x"
	exact_finish "$SESSION/x" "$1"
}

# beside PROBE: a tool with this probe alone counts on while another tool is offloaded.
beside() {
	tool_run "$SESSION/other" bpftrace -e "$1 /strncmp(comm, \"work\", 4) == 0/ { @ = count(); }"
	local other=$TOOL_PID
	exact_start "$SESSION/x" count 4 5000 --getppid
	offloaded "$TOOL_PID"
	exact_go "$SESSION/x"
	exact_finish "$SESSION/x" count
	exact_tool_end "$other"
	[ "$(counted "$SESSION/other")" -gt 0 ]
}

@test "a kprobe and a uprobe share maps: the uprobe begins" { needs kprobe && shared kprobe_take; }

@test "a kprobe and a uprobe share maps: the kprobe begins" { needs kprobe && shared kprobe_give; }

@test "a kprobe and a uprobe add to the same per-CPU maps" { needs kprobe && shared kprobe_both; }

@test "fentry and a uprobe share maps: the uprobe begins" { needs fentry && shared fentry_take; }

@test "a tool with a kprobe beside one that is offloaded" { needs kprobe && beside "$KPROBE"; }

@test "a tool with fentry beside one that is offloaded" { needs fentry && beside "$FENTRY"; }
