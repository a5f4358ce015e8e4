#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Probed places that are held by perf events, as before Linux 6.6: from a fork child the kernel takes the int3s of these away, one by one, and
# the child goes on in the function's own bytes.

bats_require_minimum_version 1.5.0
load helpers
load real

setup_file() {
	export BPFTIME_HOLDS=events
	real_setup_file
}

@test "children that go on calling for long" {
	counts bsscount fork 4 150
}

@test "children are born while their parent's places come and go" {
	counts_back_and_forth fork 500 2
}

@test "where the function's own bytes lead nowhere the kernel keeps the probe, and says why" {
	victim low-calls all 1 10
	tool_run "$SESSION/tool" bpftrace -p "$VICTIM" -e "uprobe:$B/tests/victims/low-calls:push_rbp { @ = count(); }"
	wait_until 10 explains "before Linux 6.6 the kernel takes breakpoints from fork children"
	in_kernel "$TOOL_PID"
}
