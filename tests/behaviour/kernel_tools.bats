#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Tools with kprobes and fentry beside uprobes, on a kernel that has and allows them: a virtual machine's, where the machine at hand does not.

bats_require_minimum_version 1.5.0
load helpers
load real

# needs_probe PROBE: does the kernel let a tool have it?
needs_probe() {
	timeout 60 bpftrace -e "$1 { } BEGIN { exit(); }" >"$SESSION/try" 2>&1 ||
		skip "this kernel refuses $1: $(grep -m 1 ERROR "$SESSION/try")"
}

needs_kprobe() { needs_probe kprobe:__x64_sys_getppid; }

# getppid() calls it; the system call itself is in no kernel's BTF.
needs_fentry() { needs_probe kfunc:__task_pid_nr_ns; }

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

@test "a kprobe and a uprobe share maps: the uprobe begins" { needs_kprobe && shared kprobe_take; }

@test "a kprobe and a uprobe share maps: the kprobe begins" { needs_kprobe && shared kprobe_give; }

@test "a kprobe and a uprobe add to the same per-CPU maps" { needs_kprobe && shared kprobe_both; }

@test "fentry and a uprobe share maps: the uprobe begins" { needs_fentry && shared fentry_take; }

@test "a tool with a kprobe beside one that is offloaded" { needs_kprobe && beside kprobe:__x64_sys_getppid; }

@test "a tool with fentry beside one that is offloaded" { needs_fentry && beside kfunc:__task_pid_nr_ns; }
