#!/usr/bin/env bats
# Every tool of docs/bpftime.1's examples, offloaded, against a workload that knows how often it called.

load helpers

setup_file() {
	needs_root
	export BUILD=$B
	daemon_start
}

teardown_file() {
	daemon_stop
}

setup() {
	. "$BATS_TEST_DIRNAME/exact.bash"
}

teardown() {
	exact_kill
}

# offloaded_is_exact TOOL THREADS CALLS
offloaded_is_exact() {
	local dir=$BATS_TEST_TMPDIR/x
	exact_start "$dir" "$1" "$2" "$3"
	"$B/bpftime" wait --tool "$TOOL_PID" --state offloaded --timeout 15
	exact_go
	exact_finish "$dir" "$1"
}

@test "offloaded, count, 1 thread(s): the answer is the truth" {
	offloaded_is_exact count 1 400000
}

@test "offloaded, count, 8 thread(s): the answer is the truth" {
	offloaded_is_exact count 8 50000
}

@test "offloaded, count_tid, 1 thread(s): the answer is the truth" {
	offloaded_is_exact count_tid 1 400000
}

@test "offloaded, count_tid, 8 thread(s): the answer is the truth" {
	offloaded_is_exact count_tid 8 50000
}

@test "offloaded, count_tid_endbr, 1 thread(s): the answer is the truth" {
	offloaded_is_exact count_tid_endbr 1 400000
}

@test "offloaded, count_tid_endbr, 8 thread(s): the answer is the truth" {
	offloaded_is_exact count_tid_endbr 8 50000
}

@test "offloaded, count_tid_sub, 1 thread(s): the answer is the truth" {
	offloaded_is_exact count_tid_sub 1 400000
}

@test "offloaded, count_tid_sub, 8 thread(s): the answer is the truth" {
	offloaded_is_exact count_tid_sub 8 50000
}

@test "offloaded, hist, 1 thread(s): the answer is the truth" {
	offloaded_is_exact hist 1 400000
}

@test "offloaded, hist, 8 thread(s): the answer is the truth" {
	offloaded_is_exact hist 8 50000
}

@test "offloaded, sum, 1 thread(s): the answer is the truth" {
	offloaded_is_exact sum 1 400000
}

@test "offloaded, sum, 8 thread(s): the answer is the truth" {
	offloaded_is_exact sum 8 50000
}

@test "offloaded, filter, 1 thread(s): the answer is the truth" {
	offloaded_is_exact filter 1 400000
}

@test "offloaded, filter, 8 thread(s): the answer is the truth" {
	offloaded_is_exact filter 8 50000
}

@test "offloaded, str_key, 1 thread(s): the answer is the truth" {
	offloaded_is_exact str_key 1 400000
}

@test "offloaded, str_key, 8 thread(s): the answer is the truth" {
	offloaded_is_exact str_key 8 50000
}

@test "offloaded, latency, 1 thread(s): the answer is the truth" {
	offloaded_is_exact latency 1 400000
}

@test "offloaded, latency, 8 thread(s): the answer is the truth" {
	offloaded_is_exact latency 8 50000
}

@test "offloaded, return, 1 thread(s): the answer is the truth" {
	offloaded_is_exact return 1 400000
}

@test "offloaded, return, 8 thread(s): the answer is the truth" {
	offloaded_is_exact return 8 50000
}

@test "offloaded, funclatency, 1 thread(s): the answer is the truth" {
	offloaded_is_exact funclatency 1 400000
}

@test "offloaded, funclatency, 8 thread(s): the answer is the truth" {
	offloaded_is_exact funclatency 8 50000
}

@test "offloaded, bsscount, 1 thread(s): the answer is the truth" {
	offloaded_is_exact bsscount 1 400000
}

@test "offloaded, bsscount, 8 thread(s): the answer is the truth" {
	offloaded_is_exact bsscount 8 50000
}

@test "offloaded, hashcount, 1 thread(s): the answer is the truth" {
	offloaded_is_exact hashcount 1 400000
}

@test "offloaded, hashcount, 8 thread(s): the answer is the truth" {
	offloaded_is_exact hashcount 8 50000
}
