#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Many: probes in one tool, processes in one group, children of one process while others come.

bats_require_minimum_version 1.5.0
load helpers
load real

setup_file() {
	need_root
	need bpftrace
}

# probes EXPRESSION: what Python finds in the tool's probes, bound to `p`.
probes() {
	bpftime explain --json "$TOOL_PID" | python3 -c 'import json, sys; p = json.load(sys.stdin)["probes"]; print(eval(sys.argv[1]))' "$1"
}

shared() { [ "$(probes 'sum(x["state"] == "userspace" for x in p) > 0')" = True ]; }

# The kernel takes 110 ms for each probe when the tool ends.
tool_ends() {
	local i
	for ((i = 0; i < 60 && $(kill -INT "$TOOL_PID" 2>/dev/null; echo $?) == 0; i++)); do sleep 1; done
	! kill -0 "$TOOL_PID" 2>/dev/null
}

@test "141 probes in one tool: all but one in userspace, every call is counted" {
	daemon_start
	victim many 200
	tool_run "$SESSION/tool" bpftrace -e "uprobe:$B/tests/victims/many:many_* { @ = count(); }"
	wait_until 15 shared
	same probes 141 "$(probes 'len(p)')"
	same userspace 140 "$(probes 'sum(x["state"] == "userspace" for x in p)')"
	same kernel many_short "$(probes '[x["symbol"] for x in p if x["reason"]][0]')"
	victim_go
	victim_end
	tool_ends
	same calls "$(victim_calls)" "$(counted "$SESSION/tool")"
}

# A script at which the kernel's verifier is long: 24 programs, no two alike, each with four maps.
large_script() {
	local i f
	for ((i = 0; i < 24; i++)); do
		f=$(printf '%s/tests/victims/many:many_%03d' "$B" $i)
		echo "uprobe:$f { @a[tid, arg0 & $i] = count(); @b[comm] = sum(arg0 & $i); @c = hist(arg0); @d[arg0 & 7] = count(); }"
	done
}

is_built() { ! explains 'being compiled and verified'; }

# The tool is there, and the daemon, which is building, says so.
large_tool() {
	daemon_start
	victim many 200
	tool_run "$SESSION/tool" bpftrace -e "$(large_script)"
	wait_until 20 explains 'being compiled and verified'
}

@test "a script that takes long to verify: bpftimed answers meanwhile, every call is counted" {
	large_tool
	wait_until 60 is_built
	wait_until 15 shared
	victim_go
	victim_end
	tool_ends
	same calls $((24 * 200)) "$(sed -nE 's/^@d.*: //p' "$SESSION/tool" | awk '{ n += $1 } END { print n + 0 }')"
}

@test "a script that takes long to verify: the tool is killed meanwhile, another one is taken over" {
	large_tool
	kill -9 "$TOOL_PID"
	exact_waited "$TOOL_PID" || true
	tool_run "$SESSION/tool" bpftrace -e "uprobe:$B/tests/victims/many:many_001 { @ = count(); }"
	offloaded "$TOOL_PID"
	victim_go
	victim_end
	exact_tool_end "$TOOL_PID"
	same calls 200 "$(counted "$SESSION/tool")"
}

@test "a script that takes long to verify: bpftimed ends meanwhile" {
	large_tool
	daemon_stop
	victim_go
	victim_end
	tool_ends
	same calls $((24 * 200)) "$(sed -nE 's/^@d.*: //p' "$SESSION/tool" | awk '{ n += $1 } END { print n + 0 }')"
}

@test "a script that takes longer to verify than it may stays in the kernel" {
	export BPFTIME_VERIFY_SECONDS=1
	large_tool
	wait_until 60 is_built
	explains 'in the kernel .*: the kernel has not verified its kernel half within 1 seconds of processor time'
	victim_go
	victim_end
	tool_ends
	same calls $((24 * 200)) "$(sed -nE 's/^@d.*: //p' "$SESSION/tool" | awk '{ n += $1 } END { print n + 0 }')"
}

@test "a program that the verifier refuses in its other form stays in the kernel, and explain says what the verifier said" {
	daemon_start
	victim many 200
	tool_run "$SESSION/tool" bpftrace -e \
		"uprobe:$B/tests/victims/many:many_001 { \$i = 0; while (\$i < 3000) { @[\$i & 63] = nsecs; \$i++; } }"
	wait_until 60 explains 'the kernel half of program .*: the kernel refused the translated program: .*: .* is too \(complex\|large\)'
	victim_go
	victim_end
	tool_ends
	same entries 64 "$(grep -c '^@\[' "$SESSION/tool")"
}

@test "200 children of a process that is served, while others come: each is counted, nothing is given back" {
	daemon_start
	victim fork 200 5
	tool_run "$SESSION/tool" bpftrace -e "uprobe:$B/tests/victims/fork:work { @[pid] = count(); }"
	offloaded "$TOOL_PID"
	victim_go
	local i others=()
	for ((i = 0; i < 40; i++)); do
		# In the same file: each takes the daemon's time when it joins.
		(echo go; sleep 3) | "$B/tests/victims/fork" 1 400 >/dev/null 2>&1 3>&- &
		others+=($!)
		sleep 0.05
	done
	victim_end
	wait "${others[@]}"
	# Nobody is left in whom it could be.
	bpftime explain "$TOOL_PID" | grep -q 'will be followed' || {
		bpftime explain "$TOOL_PID"
		cat "$SESSION/daemon.log"
		return 1
	}
	! grep 'handed back\|keeps inherited' "$SESSION/daemon.log"
	exact_tool_end "$TOOL_PID"
	same processes $((201 + 80)) "$(grep -c '^@\[' "$SESSION/tool")"
	same parent "$(victim_calls)" "$(sed -nE "s/^@\[$VICTIM\]: //p" "$SESSION/tool")"
}

# They leave more uprobes behind than may stay.
@test "processes that are served and end, hundreds one after another" {
	local i k pids=()
	daemon_start
	tool_run "$SESSION/tool" bpftrace -e "uprobe:$WORKLOAD:work { @ = count(); }"
	exact_workload "$SESSION/stays" work 1 100000 --rate 400
	offloaded "$TOOL_PID"
	exact_go "$SESSION/stays"
	for ((i = 0; i < 100; i++)); do
		! grep -q 'processes that have ended had places of tools that go on' "$SESSION/daemon.log" || break
		for ((k = 0; k < 20; k++)); do
			"$WORKLOAD" --calls 1000 --rate 2000 <<<go >"$SESSION/ends.$i.$k" 3>&- &
			pids+=($!)
		done
		wait "${pids[@]}"
		pids=()
	done
	echo "# after $((20 * i))"
	((i < 100))
	kill -USR2 "$WORKLOAD_PID"
	exact_called "$SESSION/stays"
	exact_tool_end "$TOOL_PID"
	exact_workload_end "$SESSION/stays" "$WORKLOAD_PID"
	exact_sum count "$SESSION/tool" "$SESSION"/ends.* "$SESSION/stays/workload"
}

@test "150 processes: taken over, handed back, counted" {
	daemon_start
	local i pids=() calls=20000
	for ((i = 0; i < 150; i++)); do
		"$WORKLOAD" --calls $calls </dev/null >/dev/null 2>&1 3>&- &
		pids+=($!)
	done
	tool_run "$SESSION/tool" bpftrace -e "uprobe:$WORKLOAD:work { @ = count(); }"
	all_carried() { [ "$(probes 'len(p[0]["targets"])')" = 150 ]; }
	wait_until 15 all_carried
	bpftime handback "$TOOL_PID"
	bpftime takeover "$TOOL_PID"
	wait_until 15 all_carried
	kill -USR1 "${pids[@]}"
	wait "${pids[@]}"
	exact_tool_end "$TOOL_PID"
	same calls $((150 * calls)) "$(counted "$SESSION/tool")"
}

@test "what bpftimed itself calls in libc is not probed, not even by a tool that probes it everywhere" {
	! ldd "$B/bpftimed" | grep -q asan || skip "a sanitizer's libraries stay where they are"
	daemon_start
	tool_run "$SESSION/everywhere" bpftrace -e "uprobe:$(libc):malloc { @[comm] = count(); }"
	offloaded "$TOOL_PID"
	local everywhere=$TOOL_PID
	# Work for the daemon, and for its compiler.
	victim many 2
	tool_run "$SESSION/tool" bpftrace -e "uprobe:$B/tests/victims/many:many_001 { @[tid, comm] = count(); }"
	offloaded "$TOOL_PID"
	victim_go
	victim_end
	bpftime status
	exact_tool_end "$everywhere"
	grep '^@\[bpftime\]' "$SESSION/everywhere"
	! grep '^@\[bpftimed' "$SESSION/everywhere"
}
