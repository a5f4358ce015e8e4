#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# A machine on which tests/vm/enable has installed the package has booted again.

bats_require_minimum_version 1.5.0
load ../behaviour/helpers

setup() {
	SESSION=$BATS_TEST_TMPDIR
	DAEMON=$(show MainPID bpftimed.service)
	unset BPFTIME_RUNTIME_DIR BPFTIME_POLICY_DIR
}

show() { systemctl show -P "$1" "$2"; }

@test "bpftimed runs since the machine has booted" {
	[ "$(systemctl is-enabled bpftimed.service)" = enabled ]
	[ "$(systemctl is-active bpftimed.service)" = active ]
	[ "$(systemctl is-active bpftimed.socket)" = active ]
	[ "$(show NRestarts bpftimed.service)" = 0 ]
	# It answers by the time that the machine is up.
	(($(show ActiveEnterTimestampMonotonic bpftimed.service) <= $(show ActiveEnterTimestampMonotonic multi-user.target)))
	run -0 /usr/bin/bpftime status
	[[ "$(show StatusText bpftimed.service)" == *"Carries 0 of 0 tools"* ]]
}

@test "it carries a tool, every call is counted" {
	workload_start --threads 4 --calls 5000
	tool_start 2 "$B/examples/hashcount" -p "$WORKLOAD" "$B/examples/workload:work"
	run -0 /usr/bin/bpftime wait --tool "$TOOL" --timeout "${BPFTIMED_PATIENCE:-15}"
	workload_run
	tool_stop
	workload_end
	[ "$(workload_truth calls)" = 20000 ]
	grep -qx 'calls 20000' "$SESSION/tool"
}

@test "when the machine went down with a tool that was carried it ended well" {
	run -0 journalctl -b -1 -u bpftimed --no-pager
	[[ $output == *"bpftimed.service: Deactivated successfully"* ]]
	[[ $output != *"Failed with result"* ]]
}
