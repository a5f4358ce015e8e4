#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Policy files as an administrator meets them: `bpftime policy check`, start with mistakes, reload.

bats_require_minimum_version 1.5.0
load helpers

good='{"version": 1, "tools": [{"comm": "x", "action": "kernel"}]}'
bad='{"version": 1,
"tols": []}'

@test "policy check needs no daemon and says that there are no mistakes" {
	run -0 bpftime policy check
	[ "$output" = "No mistakes: 0 files, 0 rules." ]
	need_root
	policy a.json "$good"
	run -0 bpftime policy check
	[ "$output" = "No mistakes: 1 files, 1 rules." ]
	run -0 bpftime policy check --json
	[ "$(json '(j["ok"], j["files"], j["rules"], j["errors"])')" = "(True, 1, 1, [])" ]
}

@test "the example policy has no mistakes" {
	need_root
	run -0 bpftime policy check "$BATS_TEST_DIRNAME/../../examples/policy/50-example.json"
}

@test "policy check names file, line and key of every mistake" {
	need_root
	policy a.json "$bad"
	policy b.json '{"version": 1,
"settings": {
  "stop_tools": "yes"}}'
	fails 1 bpftime policy check
	[[ $stderr == *"$BPFTIME_POLICY_DIR/a.json:2:1: tols: unknown key; did you mean \"tools\"?"* ]]
	[[ $stderr == *"$BPFTIME_POLICY_DIR/b.json:3:3: settings.stop_tools: must be true or false"* ]]
	run -1 bpftime policy check --json
	[ "$(json 'len(j["errors"])')" = 2 ]
	fails 1 bpftime policy check "$BPFTIME_POLICY_DIR/b.json"
	[[ $stderr != *a.json* ]]
	fails 1 bpftime policy check /nonexistent.json
	[[ $stderr == *"/nonexistent.json: cannot be opened"* ]]
	policy a.json "$good"
	rm "$BPFTIME_POLICY_DIR/b.json"
	run -0 bpftime policy check --policy-dir "$BPFTIME_POLICY_DIR"
}

@test "policy files that others could write are refused" {
	need_root
	policy a.json "$good"
	chmod 666 "$BPFTIME_POLICY_DIR/a.json"
	fails 1 bpftime policy check
	[[ $stderr == *"a.json: refused, because others than root could write it"* ]]
	chmod 644 "$BPFTIME_POLICY_DIR/a.json"
	chown nobody "$BPFTIME_POLICY_DIR/a.json"
	fails 1 bpftime policy check
}

@test "bpftimed does not start with a broken policy" {
	need_root
	policy a.json "$bad"
	fails 1 "$B/tests/fake/bpftimed"
	[[ $stderr == *"a.json:2:1: tols: unknown key; did you mean \"tools\"?"* ]]
	[ ! -e "$BPFTIME_RUNTIME_DIR" ]
}

@test "SIGHUP takes a new policy, and keeps the old one when the new one is broken" {
	need_root
	policy a.json "$good"
	fake_start
	kill -HUP "$DAEMON"
	wait_until 5 grep -q "policy reloaded: 1 files, 1 rules" "$SESSION/daemon.log"
	policy b.json "$bad"
	kill -HUP "$DAEMON"
	wait_until 5 grep -q "the old one goes on to hold" "$SESSION/daemon.log"
	grep -q "b.json:2:1: tols: unknown key" "$SESSION/daemon.log"
	run -0 bpftime status
	policy b.json "$good"
	kill -HUP "$DAEMON"
	wait_until 5 grep -q "policy reloaded: 2 files, 2 rules" "$SESSION/daemon.log"
	daemon_stop
}
