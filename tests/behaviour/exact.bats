#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Tools against a workload that knows how often it called: one at a time, and several tools and targets at once.

bats_require_minimum_version 1.5.0
load helpers
load real

# offloaded_is_exact TOOL THREADS CALLS
offloaded_is_exact() {
	local dir=$SESSION/x
	exact_start "$dir" "$1" "$2" "$3"
	offloaded "$TOOL_PID"
	exact_go "$dir"
	exact_finish "$dir" "$1"
}

@test "count, 1 thread: the answer is the truth" {
	offloaded_is_exact count 1 400000
}

@test "count, 8 threads: the answer is the truth" {
	offloaded_is_exact count 8 50000
}

@test "count_tid, 1 thread: the answer is the truth" {
	offloaded_is_exact count_tid 1 400000
}

@test "count_tid, 8 threads: the answer is the truth" {
	offloaded_is_exact count_tid 8 50000
}

@test "count_tid_endbr, 1 thread: the answer is the truth" {
	offloaded_is_exact count_tid_endbr 1 400000
}

@test "count_tid_endbr, 8 threads: the answer is the truth" {
	offloaded_is_exact count_tid_endbr 8 50000
}

@test "count_tid_sub, 1 thread: the answer is the truth" {
	offloaded_is_exact count_tid_sub 1 400000
}

@test "count_tid_sub, 8 threads: the answer is the truth" {
	offloaded_is_exact count_tid_sub 8 50000
}

@test "hist, 1 thread: the answer is the truth" {
	offloaded_is_exact hist 1 400000
}

@test "hist, 8 threads: the answer is the truth" {
	offloaded_is_exact hist 8 50000
}

@test "sum, 1 thread: the answer is the truth" {
	offloaded_is_exact sum 1 400000
}

@test "sum, 8 threads: the answer is the truth" {
	offloaded_is_exact sum 8 50000
}

@test "filter, 1 thread: the answer is the truth" {
	offloaded_is_exact filter 1 400000
}

@test "filter, 8 threads: the answer is the truth" {
	offloaded_is_exact filter 8 50000
}

@test "choice, 1 thread: the answer is the truth" {
	offloaded_is_exact choice 1 400000
}

@test "str_key, 1 thread: the answer is the truth" {
	offloaded_is_exact str_key 1 400000
}

@test "str_key, 8 threads: the answer is the truth" {
	offloaded_is_exact str_key 8 50000
}

@test "latency, 1 thread: the answer is the truth" {
	offloaded_is_exact latency 1 400000
}

@test "latency, 8 threads: the answer is the truth" {
	offloaded_is_exact latency 8 50000
}

@test "return, 1 thread: the answer is the truth" {
	offloaded_is_exact return 1 400000
}

@test "return, 8 threads: the answer is the truth" {
	offloaded_is_exact return 8 50000
}

@test "funclatency, 1 thread: the answer is the truth" {
	offloaded_is_exact funclatency 1 400000
}

@test "funclatency, 8 threads: the answer is the truth" {
	offloaded_is_exact funclatency 8 50000
}

@test "bsscount, 1 thread: the answer is the truth" {
	offloaded_is_exact bsscount 1 400000
}

@test "bsscount, 8 threads: the answer is the truth" {
	offloaded_is_exact bsscount 8 50000
}

@test "hashcount, 1 thread: the answer is the truth" {
	offloaded_is_exact hashcount 1 400000
}

@test "hashcount, 8 threads: the answer is the truth" {
	offloaded_is_exact hashcount 8 50000
}

@test "three tools on one function of one target" {
	local dir=$SESSION/x name tools=()
	exact_workload "$dir" work 8 50000
	for name in count_tid latency bsscount; do
		exact_tool "$dir/$name" "$name" "$WORKLOAD_PID"
		tools+=("$TOOL_PID")
	done
	offloaded "${tools[@]}"
	exact_go "$dir"
	exact_called "$dir"
	for t in "${tools[@]}"; do
		exact_tool_end "$t"
	done
	exact_workload_end "$dir" "$WORKLOAD_PID"
	for name in count_tid latency bsscount; do
		exact_compare "$dir" "$dir/$name" "$name"
	done
}

@test "tools that come and go beside another on the same function" {
	local dir=$SESSION/x first name
	exact_workload "$dir" work 4 100000 --rate 50000
	exact_tool "$dir/first" count_tid "$WORKLOAD_PID"
	first=$TOOL_PID
	offloaded "$first"
	exact_go "$dir"
	for name in hist latency count latency; do
		exact_tool "$dir/other" "$name" "$WORKLOAD_PID"
		sleep 0.3
		exact_tool_end "$TOOL_PID"
	done
	exact_called "$dir"
	exact_tool_end "$first"
	exact_workload_end "$dir" "$WORKLOAD_PID"
	exact_compare "$dir" "$dir/first" count_tid
}

@test "three tools on three functions of one target" {
	local f tools=()
	victim calls all 2 20000
	for f in endbr sub_rsp rip_relative; do
		tool_run "$SESSION/$f" bpftrace -p "$VICTIM" -e "uprobe:$B/tests/victims/calls:$f { @ = count(); }"
		tools+=("$TOOL_PID")
	done
	offloaded "${tools[@]}"
	victim_go
	victim_end
	for f in "${tools[@]}"; do
		exact_tool_end "$f"
	done
	for f in endbr sub_rsp rip_relative; do
		same "$f" "$(counted "$SESSION/$f")" 40000
	done
	same truth "$(victim_calls)" 40000
}

@test "one tool with probes on four functions" {
	local p=$B/tests/victims/calls
	victim calls all 4 10000
	tool_run "$SESSION/tool" bpftrace -p "$VICTIM" -e \
		"uprobe:$p:endbr { @e = count(); } uprobe:$p:sub_rsp { @s = count(); } uretprobe:$p:branches { @b = count(); }
		uprobe:$p:red_zone_probe { @r = count(); }"
	offloaded "$TOOL_PID"
	victim_go
	victim_end
	exact_tool_end "$TOOL_PID"
	for f in e s b r; do
		grep -qx "@$f: 40000" "$SESSION/tool" || {
			cat "$SESSION/tool"
			return 1
		}
	done
}

@test "two targets, each with a tool of its own" {
	local a b ta tb
	exact_start "$SESSION/a" count_tid 4 50000
	a=$WORKLOAD_PID ta=$TOOL_PID
	exact_start "$SESSION/b" latency 4 60000
	b=$WORKLOAD_PID tb=$TOOL_PID
	offloaded "$ta" "$tb"
	exact_go "$SESSION/a"
	exact_go "$SESSION/b"
	exact_called "$SESSION/a"
	exact_called "$SESSION/b"
	# Debian's bpftrace 0.17 counts the calls of the whole host, -p or not.
	exact_tool_end "$ta"
	exact_tool_end "$tb"
	exact_workload_end "$SESSION/a" "$a"
	exact_workload_end "$SESSION/b" "$b"
	truth_of count_tid "$SESSION/a/workload" | while read -r line; do
		answer_of count_tid "$SESSION/a/tool" | grep -qx "$line"
	done
	same "calls of both" "$(awk '/^@n:/ { print $2 }' "$SESSION/b/tool")" 440000
}

@test "one tool that counts two targets" {
	local a b
	exact_workload "$SESSION/a" work 4 50000
	a=$WORKLOAD_PID
	exact_workload "$SESSION/b" work 4 60000
	b=$WORKLOAD_PID
	tool_run "$SESSION/tool" bpftrace -e "uprobe:$B/examples/workload:work { @[pid] = count(); }"
	"$B/bpftime" wait --tool "$TOOL_PID" --state offloaded --timeout 5 || "$B/bpftime" explain "$TOOL_PID"
	exact_go "$SESSION/a"
	exact_go "$SESSION/b"
	exact_called "$SESSION/a"
	exact_called "$SESSION/b"
	exact_tool_end "$TOOL_PID"
	exact_workload_end "$SESSION/a" "$a"
	exact_workload_end "$SESSION/b" "$b"
	grep -qx "@\[$a\]: 200000" "$SESSION/tool"
	grep -qx "@\[$b\]: 240000" "$SESSION/tool"
}

@test "all registers that a program reads are those that the kernel shows" {
	local first kernel=$SESSION/kernel user=$SESSION/user top=$SESSION p=$B/tests/victims/calls
	mkdir "$kernel" "$user"
	SESSION=$kernel
	victim calls flags 1 3000
	first=$VICTIM
	SESSION=$user
	victim calls flags 1 5000
	SESSION=$top
	tool_run "$SESSION/tool" bpftrace -e "uprobe:$p:flags_probe {
		@all[reg(\"flags\"), reg(\"cs\"), reg(\"ss\")] = count(); @flags = sum(reg(\"flags\")); @n = count(); }"
	offloaded "$TOOL_PID"
	"$B/bpftime" handback "$TOOL_PID"
	in_kernel "$TOOL_PID"
	echo >"$kernel/victim_go"
	wait "$first"
	exact_ended "$first"
	"$B/bpftime" takeover "$TOOL_PID"
	offloaded "$TOOL_PID"
	echo >"$user/victim_go"
	wait "$VICTIM"
	exact_ended "$VICTIM"
	run -0 "$B/bpftime" ps --json
	[ "$(json "sum(p['hits'] for t in j for p in t['probes'])")" = 5000 ]
	exact_tool_end "$TOOL_PID"
	grep -qx '@n: 8000' "$SESSION/tool"
	same "kinds of registers" "$(grep -c '^@all' "$SESSION/tool")" 1
	grep -q '^@all.*: 8000$' "$SESSION/tool"
}

@test "a program that is not PIE: push %rbp, endbr64, sub, entries and returns, 1 and 8 threads" {
	local name threads
	need_not_pie
	WORKLOAD=$B/tests/victims/low-workload
	for threads in 1 8; do
		for name in count_tid count_tid_endbr count_tid_sub latency return; do
			offloaded_is_exact "$name" "$threads" $((160000 / threads))
		done
	done
}

@test "a program that is not PIE, compiled without optimization: functions that begin with push %rbp; mov %rsp,%rbp" {
	local p=$B/tests/victims/low-calls
	need_not_pie
	victim low-calls all 4 10000
	tool_run "$SESSION/tool" bpftrace -p "$VICTIM" -e \
		"uprobe:$p:push_rbp { @e = count(); } uprobe:$p:push_more { @m = count(); } uprobe:$p:push_push { @p = count(); }
		uretprobe:$p:recursion { @r = count(); }"
	offloaded "$TOOL_PID"
	victim_go
	victim_end
	exact_tool_end "$TOOL_PID"
	# tail() jumps to push_rbp()
	for f in "e: 80000" "m: 40000" "p: 40000" "r: 180000"; do
		grep -qx "@$f" "$SESSION/tool" || {
			cat "$SESSION/tool"
			return 1
		}
	done
}
