#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# What is decided: in the journal, with fields; on stderr; by `bpftime events`; and in `bpftime metrics`.

bats_require_minimum_version 1.5.0
load helpers
load real

# The daemon's journal is tests/behaviour/journald.py, in a mount namespace of the daemon's: its /run is another.
setup_file() {
	local dir=$BATS_FILE_TMPDIR
	unshare --mount true 2>/dev/null || skip "no mount namespaces here"
	"$BATS_TEST_DIRNAME/journald.py" "$dir/journal.sock" "$dir/journal" 3>&- &
	echo $! >"$dir/journald"
	wait_until 10 test -S "$dir/journal.sock"
	cat >"$dir/bpftimed" <<-END
		#!/bin/sh
		export JOURNAL_STREAM=\$(stat -L -c %d:%i /proc/\$\$/fd/2)
		exec unshare --mount --propagation private sh -c 'mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal &&
			touch /run/systemd/journal/socket && mount --bind "$dir/journal.sock" /run/systemd/journal/socket &&
			exec "$B/bpftimed" "\$@"' sh "\$@"
	END
	chmod +x "$dir/bpftimed"
	export JOURNAL=$dir/journal
	# What is pinned must outlive that namespace.
	mkdir -p "$dir/run/bpf"
	mount -t bpf -o mode=0700 bpftimed "$dir/run/bpf"
	BPFTIMED=$dir/bpftimed real_setup_file --metrics-listen 127.0.0.1:0
}

teardown_file() {
	if [ -n "${DAEMON:-}" ]; then
		SESSION=$BATS_FILE_TMPDIR
		daemon_stop
	fi
	[ ! -e "$BATS_FILE_TMPDIR/journald" ] || kill "$(cat "$BATS_FILE_TMPDIR/journald")"
	umount "$BATS_FILE_TMPDIR/run/bpf" 2>/dev/null || true
}

# records EXPRESSION: what Python finds in the journal, a list `r` of records {FIELD: [value, ...]}.
records() {
	python3 -c 'import json, sys; r = [json.loads(l) for l in open(sys.argv[1])]; print(eval(sys.argv[2]))' "$JOURNAL" "$1"
}

# of_tool PID: the kinds of the records with BPFTIME_TOOL_PID=PID, in their order.
of_tool() { records "' '.join(x['BPFTIME_DECISION'][0] for x in r if x.get('BPFTIME_TOOL_PID') == ['$1'])"; }

tool_has_records() { [ "$(of_tool "$1")" = "$2" ]; }

@test "offload, hand-back on request, offload, release: a record each, with fields" {
	local dir=$SESSION/x
	exact_workload "$dir" work 2 500
	tool_run "$dir/tool" bpftrace -p "$WORKLOAD_PID" -e "uprobe:$WORKLOAD:work { @ = count(); }"
	offloaded "$TOOL_PID"
	wait_until 5 tool_has_records "$TOOL_PID" "policy offload"
	"$B/bpftime" handback "$TOOL_PID"
	wait_until 5 tool_has_records "$TOOL_PID" "policy offload handback"
	"$B/bpftime" takeover "$TOOL_PID"
	wait_until 5 tool_has_records "$TOOL_PID" "policy offload handback offload"
	exact_go "$dir"
	exact_called "$dir"
	exact_tool_end "$TOOL_PID"
	wait_until 5 tool_has_records "$TOOL_PID" "policy offload handback offload release"
	exact_workload_end "$dir" "$WORKLOAD_PID"
	of="[x for x in r if x.get('BPFTIME_TOOL_PID') == ['$TOOL_PID']]"
	[ "$(records "{x['SYSLOG_IDENTIFIER'][0] for x in r}")" = "{'bpftimed'}" ]
	[ "$(records "$of[0]['BPFTIME_POLICY_RULE']")" = "['the default']" ]
	[ "$(records "$of[1]['BPFTIME_TOOL_COMM']")" = "['bpftrace']" ]
	[ "$(records "$of[1]['BPFTIME_TOOL_EXE']")" = "['$(readlink -f "$(command -v bpftrace)")']" ]
	[ "$(records "$of[1]['BPFTIME_TARGET_PID']")" = "['$WORKLOAD_PID']" ]
	[ "$(records "$of[1]['BPFTIME_PROBE']")" = "['$WORKLOAD:work']" ]
	[ "$(records "len($of[1]['BPFTIME_PROGRAM'])")" = 1 ]
	[ "$(records "$of[1]['MESSAGE_ID']")" = "['2ebe480d891548b1bb229bd4a1864ade']" ]
	[ "$(records "int($of[1]['BPFTIME_DURATION_USEC'][0]) > 0")" = True ]
	[ "$(records "$of[2]['BPFTIME_REASON']")" = "['handed back on request (bpftime handback $TOOL_PID)']" ]
	[ "$(records "$of[2]['BPFTIME_REASON_CLASS']")" = "['request']" ]
}

@test "bpftime events shows the same, --tool only those of one tool, --follow what comes" {
	local dir=$SESSION/x
	"$B/bpftime" events --follow --json >"$SESSION/followed" 3>&- &
	started $!
	exact_workload "$dir" work 2 500
	tool_run "$dir/tool" bpftrace -p "$WORKLOAD_PID" -e "uprobe:$WORKLOAD:work { @ = count(); }"
	offloaded "$TOOL_PID"
	wait_until 5 grep -q "\"kind\":\"offload\".*\"pid\":$TOOL_PID," "$SESSION/followed"
	"$B/bpftime" handback "$TOOL_PID"
	wait_until 5 grep -q "\"kind\":\"handback\".*\"pid\":$TOOL_PID," "$SESSION/followed"
	exact_go "$dir"
	exact_called "$dir"
	exact_tool_end "$TOOL_PID"
	exact_workload_end "$dir" "$WORKLOAD_PID"
	run -0 "$B/bpftime" events --tool "$TOOL_PID"
	[ "${#lines[@]}" = 3 ]
	[[ ${lines[1]} == *"  offload "*"bpftrace ($TOOL_PID): 1 probe(s) now run in userspace in process $WORKLOAD_PID"* ]]
	[[ ${lines[2]} == *"  handback "*"handed back: handed back on request"* ]]
	run -0 "$B/bpftime" events --json
	python3 -c '
import json, sys
events = [json.loads(l) for l in sys.argv[1].splitlines()]
assert [e["number"] for e in events] == list(range(len(events))), events
assert all(e["kind"] and e["message"] and e["time"] > 1e9 for e in events)' "$output"
}

# metric NAME{LABELS}: its value.
metric() { "$B/bpftime" metrics | sed -n "s|^$1 ||p"; }

@test "metrics: probes, hits, targets, memory, switches and compiling of a tool that is carried" {
	local dir=$SESSION/x
	exact_workload "$dir" work 2 500
	before=$(metric 'bpftime_switch_seconds_count{to="userspace"}')
	tool_run "$dir/tool" bpftrace -p "$WORKLOAD_PID" -e "uprobe:$WORKLOAD:work { @ = count(); }"
	offloaded "$TOOL_PID"
	exact_go "$dir"
	exact_called "$dir"
	run -0 "$B/bpftime" metrics
	if /usr/bin/python3 -c 'import prometheus_client.openmetrics' 2>/dev/null; then
		/usr/bin/python3 -c 'import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
assert len(list(parse(sys.stdin.read()))) > 15' <<<"$output"
	fi
	[ "$(grep -cE "^bpftime_probe_hits_total\{tool_pid=\"$TOOL_PID\",tool=\"bpftrace\",kind=\"uprobe\",path=\"$WORKLOAD\",symbol=\"work\",.* 1000$" <<<"$output")" = 1 ]
	[ "$(metric 'bpftime_tools')" = 1 ]
	[ "$(metric 'bpftime_probes{state="userspace"}')" = 1 ]
	[ "$(metric 'bpftime_targets')" = 1 ]
	[ "$(metric 'bpftime_groups{state="userspace"}')" = 1 ]
	[ "$(metric bpftime_shared_memory_bytes)" -gt 4096 ]
	[ "$(metric 'bpftime_switch_seconds_count{to="userspace"}')" = $((before + 1)) ]
	[ "$(metric bpftime_compile_seconds_count)" -ge 1 ]
	address=$("$B/bpftime" status --json | sed -n 's/.*"metrics": "\(.*\)".*/\1/p')
	python3 -c 'import sys, urllib.request as u; assert "tool_pid=\"%s\"" % sys.argv[2] in u.urlopen("http://%s/metrics" % sys.argv[1]).read().decode()' "$address" "$TOOL_PID"
	exact_tool_end "$TOOL_PID"
	exact_workload_end "$dir" "$WORKLOAD_PID"
	[ "$(metric 'bpftime_probes{state="userspace"}')" = 0 ]
	[ "$(metric bpftime_shared_memory_bytes)" = 0 ]
}

@test "a refusal is told once, however often it is looked at, with its class" {
	local dir=$SESSION/x
	exact_workload "$dir" work 2 500
	tool_run "$dir/tool" bpftrace -p "$WORKLOAD_PID" -e "uprobe:$WORKLOAD:work { @[kstack] = count(); }"
	in_kernel "$TOOL_PID"
	wait_until 5 tool_has_records "$TOOL_PID" "policy refusal"
	kill -HUP "$DAEMON"
	wait_until 5 eval '[ "$(records "r[-1][\"BPFTIME_DECISION\"]")" = "['\''policy-load'\'']" ]'
	in_kernel "$TOOL_PID"
	tool_has_records "$TOOL_PID" "policy refusal"
	[ "$(records "[x['BPFTIME_REASON_CLASS'] for x in r if x['BPFTIME_DECISION'] == ['refusal']][-1]")" = "['unsupported']" ]
	exact_go "$dir"
	exact_called "$dir"
	exact_tool_end "$TOOL_PID"
	exact_workload_end "$dir" "$WORKLOAD_PID"
}

@test "policy: what it keeps in the kernel names the rule, and mistakes are told" {
	local dir=$SESSION/x
	export BPFTIME_POLICY_DIR=$BATS_FILE_TMPDIR/policy.d
	exact_workload "$dir" work 2 500
	policy 10-keep.json '{"version": 1, "targets": [{"comm": "workload", "action": "kernel"}]}'
	kill -HUP "$DAEMON"
	tool_run "$dir/tool" bpftrace -e "uprobe:$WORKLOAD:work { @ = count(); }"
	wait_until 10 eval '[[ "$(of_tool $TOOL_PID)" == *target-refusal* ]]'
	of="[x for x in r if x.get('BPFTIME_TOOL_PID') == ['$TOOL_PID'] and x['BPFTIME_DECISION'] == ['target-refusal']]"
	[ "$(records "$of[0]['BPFTIME_TARGET_PID']")" = "['$WORKLOAD_PID']" ]
	[ "$(records "$of[0]['BPFTIME_REASON_CLASS']")" = "['policy']" ]
	[[ "$(records "$of[0]['BPFTIME_POLICY_RULE'][0]")" == */10-keep.json:1* ]]
	policy 10-keep.json '{"version": 1, "tools": [{"comm": "bpftrace", "action": "kernel"}]}'
	kill -HUP "$DAEMON"
	wait_until 10 eval '[[ "$(of_tool $TOOL_PID)" == *"policy refusal" || "$(of_tool $TOOL_PID)" == *"policy handback" ]]'
	policy 10-keep.json '{"version": 1, "toools": []}'
	kill -HUP "$DAEMON"
	wait_until 5 eval '[ "$(records "r[-1][\"BPFTIME_DECISION\"]")" = "['\''policy-error'\'']" ]'
	[ "$(records "r[-1]['PRIORITY']")" = "['3']" ]
	rm "$BPFTIME_POLICY_DIR/10-keep.json"
	kill -HUP "$DAEMON"
	exact_tool_end "$TOOL_PID"
	exact_go "$dir"
	exact_called "$dir"
	exact_workload_end "$dir" "$WORKLOAD_PID"
}

@test "a journal that stands still holds nobody up: records that it does not take are counted" {
	local journald
	journald=$(cat "$BATS_FILE_TMPDIR/journald")
	kill -STOP "$journald"
	reloads=$(metric 'bpftime_policy_reloads_total{result="success"}')
	for ((i = 1; i <= 20; i++)); do
		kill -HUP "$DAEMON"
		wait_until 5 eval '[ "$(metric "bpftime_policy_reloads_total{result=\"success\"}")" -ge $((reloads + i)) ]'
	done
	kill -CONT "$journald"
	[ "$(metric bpftime_journal_dropped_records_total)" -ge 1 ]
	wait_until 5 eval '[ "$(records "r[-1][\"BPFTIME_DECISION\"]")" = "['\''policy-load'\'']" ]'
	run -0 "$B/bpftime" events
	[ "$(grep -c "policy reloaded" <<<"$output")" -ge 20 ]
}
