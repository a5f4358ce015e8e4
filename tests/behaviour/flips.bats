#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# The probe moves kernel -> userspace -> kernel a hundred times while the workload calls, and no call is lost or counted twice.

bats_require_minimum_version 1.5.0
load helpers
load real

setup_file() {
	need_root
	need bpftrace
}

@test "100 times there and back: count_tid, 1 thread" {
	run_alone flips count_tid 1 20000 40 100
}

@test "100 times there and back: count_tid, 8 threads" {
	run_alone flips count_tid 8 5000 40 100
}

@test "100 times there and back: latency, 1 thread" {
	run_alone flips latency 1 20000 40 100
}

@test "100 times there and back: latency, 8 threads" {
	run_alone flips latency 8 5000 40 100
}

@test "100 times there and back: bsscount, 1 thread" {
	run_alone flips bsscount 1 20000 40 100
}

@test "100 times there and back: bsscount, 8 threads" {
	run_alone flips bsscount 8 5000 40 100
}

@test "100 times there and back: str_key, 1 thread" {
	run_alone flips str_key 1 20000 40 100
}

@test "100 times there and back: str_key, 8 threads" {
	run_alone flips str_key 8 5000 40 100
}

@test "100 times there and back: funclatency, 1 thread" {
	run_alone flips funclatency 1 20000 40 100
}

@test "100 times there and back: funclatency, 8 threads" {
	run_alone flips funclatency 8 5000 40 100
}

@test "bpftimed stops and starts 10 times: count_tid, 8 threads" {
	run_alone flips count_tid 8 5000 90 10 restart
}

@test "bpftimed stops and starts 10 times: latency, 8 threads" {
	run_alone flips latency 8 5000 90 10 restart
}
