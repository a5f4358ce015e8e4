#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# A probe at malloc() in the C library, in every process of a machine at work, while the group moves between kernel and userspace.

bats_require_minimum_version 1.5.0
load helpers
load real

setup_file() {
	need_root
	need bpftrace
}

@test "shells, a compiler, an interpreter and a web server live and say the same, and every call is counted" {
	run_alone mallocs
}
