#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# A group with a tracepoint moves kernel -> userspace -> kernel while the workload calls, also with processes that are served by the
# kernel, and with a bpftimed that is killed, and no call is lost or counted twice.

bats_require_minimum_version 1.5.0
load helpers
load real

setup_file() {
	need_root
	need bpftrace
}

@test "there and back: the uprobe begins, 8 threads" {
	run_alone flips tp_take 8 5000 40 "$FLIPS"
}

@test "there and back: the tracepoint begins, 8 threads" {
	run_alone flips tp_give 8 5000 40 "$FLIPS"
}

@test "there and back: both add, 1 thread" {
	run_alone flips tp_both 1 20000 40 "$FLIPS"
}

@test "there and back: tp_btf, 8 threads" {
	run_alone flips pairs-btf 8 5000 40 "$FLIPS"
}

@test "there and back: raw tracepoint and global variables, 8 threads" {
	run_alone flips pairs-raw-memory 8 5000 40 "$FLIPS"
}

@test "bpftimed stops and starts: 8 threads" {
	run_alone flips tp_take 8 5000 90 "$RESTARTS" restart
}

@test "bpftimed stops and starts, tp_btf: what was loaded before it is recovered" {
	run_alone flips pairs-btf 2 5000 90 "$RESTARTS" restart
}

@test "two users' processes, some of which the kernel serves: there and back" {
	run_alone flips-everywhere tp_take 5000 60 "$FLIPS" 100 16
}

@test "two users' processes, some of which the kernel serves: there and back, tp_btf" {
	run_alone flips-everywhere pairs-btf 5000 60 "$FLIPS" 100 16
}

@test "two users' processes, some of which the kernel serves: bpftimed is killed" {
	run_alone flips-everywhere tp_both 5000 60 "$RESTARTS" 50 16 kill
}
