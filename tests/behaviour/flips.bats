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

@test "there and back: count_tid, 1 thread" {
	run_alone flips count_tid 1 20000 40 "$FLIPS"
}

@test "there and back: count_tid, 8 threads" {
	run_alone flips count_tid 8 5000 40 "$FLIPS"
}

@test "there and back: latency, 1 thread" {
	run_alone flips latency 1 20000 40 "$FLIPS"
}

@test "there and back: latency, 8 threads" {
	run_alone flips latency 8 5000 40 "$FLIPS"
}

@test "there and back: bsscount, 1 thread" {
	run_alone flips bsscount 1 20000 40 "$FLIPS"
}

@test "there and back: bsscount, 8 threads" {
	run_alone flips bsscount 8 5000 40 "$FLIPS"
}

@test "there and back: str_key, 1 thread" {
	run_alone flips str_key 1 20000 40 "$FLIPS"
}

@test "there and back: str_key, 8 threads" {
	run_alone flips str_key 8 5000 40 "$FLIPS"
}

@test "there and back: funclatency, 1 thread" {
	run_alone flips funclatency 1 20000 40 "$FLIPS"
}

@test "there and back: funclatency, 8 threads" {
	run_alone flips funclatency 8 5000 40 "$FLIPS"
}

@test "bpftimed stops and starts: count_tid, 8 threads" {
	run_alone flips count_tid 8 5000 90 "$RESTARTS" restart
}

@test "bpftimed stops and starts: latency, 8 threads" {
	run_alone flips latency 8 5000 90 "$RESTARTS" restart
}

# On kernels that preempt themselves programs come between each other all the time.
@test "there and back, never at rest: count_tid, 4 threads" {
	run_alone flips count_tid 4 100000 40 8
}

# What the kernel calls processes and threads is not what bpftimed, in a container, calls them.
in_pid_namespace() {
	local RUN_BY=(unshare --pid --fork --mount-proc)
	run_alone flips "$@"
}

@test "in another PID namespace, there and back: hashcount, 4 threads" {
	in_pid_namespace hashcount 4 20000 60 60
}

@test "in another PID namespace, there and back: count_each, 4 threads" {
	in_pid_namespace count_each 4 20000 60 20
}

@test "in another PID namespace, bpftimed is killed: count_each, 4 threads" {
	in_pid_namespace count_each 4 20000 60 "$KILLS" kill
}
