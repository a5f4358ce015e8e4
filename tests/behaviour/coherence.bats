#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# The tool's own maps, seen and changed by other processes while the programs run in userspace.

bats_require_minimum_version 1.5.0
load helpers
load real

# sum_of MAP: of all values of all keys and CPUs, the first 8 bytes of each.
sum_of() {
	bpftool -j map dump id "$1" | python3 -c '
import json, sys
def number(b): return int.from_bytes(bytes(int(x, 16) for x in b[:8]), "little")
print(sum(number(v["value"]) for e in json.load(sys.stdin) for v in (e.get("values") or [e])))'
}

# bytes NUMBER SIZE: little endian, for bpftool.
bytes() {
	python3 -c 'import sys; print(*int(sys.argv[1]).to_bytes(int(sys.argv[2]), "little"))' "$1" "$2"
}

# possible_cpus: how many values an entry of a per-CPU map has.
possible_cpus() {
	awk -F- '{ print $NF + 1 }' /sys/devices/system/cpu/possible
}

# first_tid DIR
first_tid() { ls "/proc/$1/task" | sed -n 2p; }

grows() {
	local dir=$SESSION/x map before=0 now i
	exact_start "$dir" "$1" 8 "$3" --rate "$3"
	offloaded "$TOOL_PID"
	map=$(map_of "$TOOL_PID" "$2")
	exact_go "$dir"
	for ((i = 0; i < 12; i++)); do
		now=$(sum_of "$map")
		[ "$now" -ge "$before" ] || {
			echo "$now after $before"
			return 1
		}
		before=$now
	done
	[ "$before" -gt 0 ]
	exact_called "$dir"
	same "at the end" "$(sum_of "$map")" "$(awk '/^calls/ { print $2 }' "$dir/workload")"
	exact_finish "$dir" "$1"
}

@test "bpftool map dump in the middle of the load: per-CPU hash" {
	grows count_tid AT_ 30000
}

@test "bpftool map dump in the middle of the load: per-CPU array" {
	grows count AT_ 30000
}

@test "an update and a delete by another process are seen by programs in userspace" {
	local dir=$SESSION/x map tid
	exact_start "$dir" hashcount 1 1000
	offloaded "$TOOL_PID"
	map=$(map_of "$TOOL_PID" totals)
	tid=$(first_tid "$WORKLOAD_PID")
	bpftool map update id "$map" key $(bytes "$tid" 4) value $(bytes 5000000 8) $(bytes 7 8)
	bpftool map update id "$map" key $(bytes 77 4) value $(bytes 1 8) $(bytes 1 8)
	bpftool map update id "$map" key $(bytes 78 4) value $(bytes 4 8) $(bytes 1 8)
	bpftool map delete id "$map" key $(bytes 77 4)
	exact_go "$dir"
	exact_called "$dir"
	run -0 bpftool -j map lookup id "$map" key $(bytes "$tid" 4)
	same "looked up" "$(json 'int.from_bytes(bytes(int(x, 16) for x in j["value"][:8]), "little")')" 5001000
	run bpftool map lookup id "$map" key $(bytes 77 4)
	[[ $output == *"Not found"* ]] || [ "$status" != 0 ]
	exact_tool_end "$TOOL_PID"
	exact_workload_end "$dir" "$WORKLOAD_PID"
	same "the tool's answer" "$(answer_of hashcount "$dir/tool")" "n 5001004"
}

@test "what another process changed outlives the way back to the kernel" {
	local dir=$SESSION/x map tid
	exact_start "$dir" hashcount 1 1000
	offloaded "$TOOL_PID"
	map=$(map_of "$TOOL_PID" totals)
	tid=$(first_tid "$WORKLOAD_PID")
	bpftool map update id "$map" key $(bytes "$tid" 4) value $(bytes 100 8) $(bytes 7 8)
	"$B/bpftime" handback "$TOOL_PID"
	run -0 bpftool -j map lookup id "$map" key $(bytes "$tid" 4)
	same "in the kernel" "$(json 'int.from_bytes(bytes(int(x, 16) for x in j["value"][:8]), "little")')" 100
	"$B/bpftime" takeover "$TOOL_PID"
	offloaded "$TOOL_PID"
	exact_go "$dir"
	exact_called "$dir"
	exact_tool_end "$TOOL_PID"
	exact_workload_end "$dir" "$WORKLOAD_PID"
	same "the tool's answer" "$(answer_of hashcount "$dir/tool")" "n 1100"
}

# has_keys MAP NUMBER: so many; they are in $SESSION/keys.
has_keys() {
	bpftool -j map dump id "$1" | python3 -c '
import json, sys
for e in json.load(sys.stdin): print(int.from_bytes(bytes(int(x, 16) for x in e["key"]), "little"))' >"$SESSION/keys"
	[ "$(wc -l <"$SESSION/keys")" = "$2" ]
}

@test "the keys of a map in the middle of the load are threads of the target" {
	local dir=$SESSION/x map key
	exact_start "$dir" count_tid 8 20000 --rate 30000
	offloaded "$TOOL_PID"
	map=$(map_of "$TOOL_PID" AT_)
	ls "/proc/$WORKLOAD_PID/task" >"$SESSION/threads"
	exact_go "$dir"
	# All threads have called once they have begun.
	wait_until 20 has_keys "$map" 8
	while read -r key; do
		grep -qx "$key" "$SESSION/threads"
	done <"$SESSION/keys"
	exact_finish "$dir" count_tid
}

# drained TOOL CALLS STEP: the tool's map is emptied again and again, STEP entries at a time; nothing is lost. One entry is added, from
# a page that nobody had touched.
drained() {
	local dir=$SESSION/x map drain taken left
	exact_start "$dir" "$1" 8 "$2" --rate 30000
	offloaded "$TOOL_PID"
	map=$(map_of "$TOOL_PID" AT_)
	"$BATS_TEST_DIRNAME/drain" "$map" "$(possible_cpus)" "$3" >"$SESSION/taken" 3>&- &
	drain=$!
	exact_pids+=("$drain")
	wait_for "$SESSION/taken" ready 10
	exact_go "$dir"
	exact_called "$dir"
	offloaded "$TOOL_PID"
	end_process "$drain"
	taken=$(tail -n 1 "$SESSION/taken")
	left=$(sum_of "$map")
	[ "$taken" -gt 0 ]
	same "taken and left" $((taken + left)) $(($(awk '/^calls/ { print $2 }' "$dir/workload") + 1))
	exact_tool_end "$TOOL_PID"
	exact_workload_end "$dir" "$WORKLOAD_PID"
}

@test "another process takes the entries out in the middle of the load, some at a time" {
	drained count_tid 30000 3
	grep -q '^@\[2147483647\]: 1$' "$SESSION/x/tool"
}

# More keys than the map has nodes: those of keys that are gone are used again.
@test "another process takes the entries out of a map whose keys change" {
	drained changing 250000 64
}

# rewritten TOOL MAP VALUES: another process writes and deletes an entry all the time, while the group goes there and back.
rewritten() {
	local dir=$SESSION/x map writer i moved=0
	exact_start "$dir" "$1" 8 30000 --rate 10000
	offloaded "$TOOL_PID"
	map=$(map_of "$TOOL_PID" "$2")
	exact_go "$dir"
	"$BATS_TEST_DIRNAME/rewrite" "$map" "$3" "$SESSION/begun" >"$SESSION/rounds" 2>&1 3>&- &
	writer=$!
	exact_pids+=("$writer")
	wait_until 10 test -e "$SESSION/begun"
	for ((i = 0; i < 40; i++)); do
		bpftime handback "$TOOL_PID" >/dev/null && moved=$((moved + 1))
		sleep "0.0$((RANDOM % 3))"
		bpftime takeover "$TOOL_PID" >/dev/null && moved=$((moved + 1))
		sleep "0.0$((RANDOM % 3))"
	done
	kill -TERM "$writer" || true
	wait "$writer" || {
		cat "$SESSION/rounds"
		return 1
	}
	((moved > 60))
	exact_finish "$dir" "$1"
}

@test "what another process writes at the moment of a switch is in the map: per-CPU hash" {
	rewritten count_tid AT_ "$(possible_cpus)"
}

@test "what another process writes at the moment of a switch is in the map: hash" {
	rewritten latency AT_start 1
}

@test "status names the hook that keeps the maps up to date" {
	run -0 "$B/bpftime" status --json
	echo "# hook: $(json 'j["hook"]')" >&3
	[ "$(json 'j["hook"] in ("lsm", "raw tracepoint", "tracepoint")')" = True ]
	[ -z "${BPFTIME_HOOK:-}" ] || same hook "$(json 'j["hook"].replace(" ", "-")')" "$BPFTIME_HOOK"
}

@test "a BPFTIME_HOOK that names no hook is refused" {
	run --separate-stderr env BPFTIME_HOOK=fentry "$B/bpftimed" --runtime-dir "$SESSION/other" --policy-dir "$SESSION/policy.d"
	[ "$status" = 1 ]
	[[ $stderr == *"BPFTIME_HOOK=fentry names no hook"* ]]
}

# look_up MAP: again and again, as fast as it can.
look_up() {
	exec python3 -c '
import ctypes, struct, sys
bpf = ctypes.CDLL(None).syscall
def call(cmd, attr): return bpf(321, cmd, ctypes.create_string_buffer(attr, 64), 64)
fd = call(14, struct.pack("I", int(sys.argv[1])))
key, value = ctypes.create_string_buffer(512), ctypes.create_string_buffer(65536)
lookup = ctypes.create_string_buffer(struct.pack("IIQQQ", fd, 0, ctypes.addressof(key), ctypes.addressof(value), 0), 64)
while True: bpf(321, 1, lookup, 64)' "$1"
}

@test "busy neighbours on every processor, some of which look at the map all the time: nothing is skipped" {
	local dir=$SESSION/x map i neighbours=()
	exact_start "$dir" count_tid 4 5000 --rate 10000
	offloaded "$TOOL_PID"
	map=$(map_of "$TOOL_PID" AT_)
	for ((i = 0; i < $(nproc); i++)); do
		bash -c 'while :; do :; done' 3>&- &
		neighbours+=("$!")
		look_up "$map" 3>&- &
		neighbours+=("$!")
	done
	exact_pids+=("${neighbours[@]}")
	exact_go "$dir"
	exact_called "$dir"
	# bpftimed asks the kernel once a second.
	sleep "$(nap 2500)"
	"$B/bpftime" wait --tool "$TOOL_PID" --state offloaded --timeout 1 || {
		"$B/bpftime" explain "$TOOL_PID"
		return 1
	}
	kill -9 "${neighbours[@]}"
	for i in "${neighbours[@]}"; do
		wait "$i" || true
		exact_ended "$i"
	done
	exact_finish "$dir" count_tid
}

@test "when the kernel skips the hook, what is carried goes back and stays there" {
	local dir=$SESSION/x map i
	[ "${BPFTIME_HOOK:-}" = tracepoint ] && grep -qE '\((full|lazy)\)' /sys/kernel/debug/sched/preempt ||
		skip "needs a preemptible kernel and BPFTIME_HOOK=tracepoint"
	exact_start "$dir" hashcount 1 1000
	offloaded "$TOOL_PID"
	map=$(map_of "$TOOL_PID" totals)
	for i in 1 2 3 4 5 6; do
		look_up "$map" 3>&- &
		exact_pids+=("$!")
	done
	"$B/bpftime" wait --tool "$TOOL_PID" --state kernel --timeout 60
	run -0 "$B/bpftime" explain "$TOOL_PID"
	[[ $output == *"the kernel has skipped"*"calls of the program that keeps the tools' maps up to date"* ]]
	exact_go "$dir"
	exact_finish "$dir" hashcount
}
