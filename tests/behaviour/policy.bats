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

# The examples of bpftimed-policy(5), as $SESSION/examples/N.json.
manual_examples() {
	mkdir -p "$SESSION/examples"
	awk -v dir="$SESSION/examples" '/^\.\\" example/ { n++; next } /^\.nf/ { inside = n > 0; next } /^\.fi/ { inside = 0 }
		inside { gsub(/\\-/, "-"); gsub(/\\\(dq/, "\""); print > (dir "/" n ".json") }' \
		"$BATS_TEST_DIRNAME/../../docs/bpftimed-policy.5"
	chmod 644 "$SESSION/examples"/*
	[ "$(ls "$SESSION/examples" | wc -l)" -ge 3 ]
}

@test "the examples of the manual have no mistakes" {
	need_root
	manual_examples
	run -0 bpftime policy check "$SESSION/examples"/*.json
	[[ $output == "No mistakes: $(ls "$SESSION/examples" | wc -l) files, "* ]]
}

@test "the JSON schema and policy check say the same of a thousand policies, and the manual's examples have every key" {
	need_root
	need python3
	python3 -c 'import jsonschema' || skip "needs python3-jsonschema"
	manual_examples
	run -0 "$BATS_TEST_DIRNAME/../tools/policy_schema.py" "$B/bpftime" "$BATS_TEST_DIRNAME/../../docs/policy.schema.json" "$SESSION/examples"/*.json \
		"$BATS_TEST_DIRNAME/../../examples/policy/50-example.json"
	echo "$output"
}

@test "the manual names every key of the schema" {
	local key
	for key in $(python3 -c 'import json, sys
def keys(s):
    for k, v in s.items():
        if k == "properties":
            yield from v
        for one in [v] if isinstance(v, dict) else []:
            yield from keys(one)
print(*sorted(set(keys(json.load(open(sys.argv[1]))))))' "$BATS_TEST_DIRNAME/../../docs/policy.schema.json"); do
		grep -qE "^\.(B|BR) .*\b${key#\$}\b" "$BATS_TEST_DIRNAME/../../docs/bpftimed-policy.5" || {
			echo "$key is not there"
			return 1
		}
	done
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

# In three folders: the vendor's, /run's, the administrator's.
three_folders() {
	local d
	for d in vendor run etc; do
		mkdir -p "$SESSION/$d"
	done
	folders=(--policy-dir "$SESSION/vendor" --policy-dir "$SESSION/run" --policy-dir "$SESSION/etc")
	echo '{"version": 1, "tools": [{"comm": "a", "action": "kernel"}]}' >"$SESSION/vendor/10.json"
	echo '{"version": 1, "tools": [{"comm": "b", "action": "kernel"}]}' >"$SESSION/vendor/20.json"
	echo '{"version": 1, "tools": [{"comm": "c", "action": "kernel"}]}' >"$SESSION/run/20.json"
	ln -s /dev/null "$SESSION/etc/10.json"
	echo '{"version": 1, "limits": {"probes_per_target": 3}, "default": "observe"}' >"$SESSION/etc/30.json"
	find "$SESSION" -name '*.json' -type f -exec chmod 644 {} +
}

@test "policy show: folders are merged by file name" {
	need_root
	three_folders
	run -0 bpftime policy check "${folders[@]}"
	[ "$output" = "No mistakes: 2 files, 1 rules." ]
	run -0 bpftime policy show "${folders[@]}" --json
	[ "$(json '[f["state"] for f in j["files"]]')" = "['replaced', 'mask', 'replaced', 'read', 'read']" ]
	[ "$(json '[(r["rule"]["comm"], r["list"]) for r in j["rules"]]')" = "[('c', 'tools')]" ]
	[[ "$(json 'j["default"]')" == *"'observe'"*"etc/30.json:1"* ]]
	[[ "$(json 'j["limits"]["probes_per_target"]')" == *"3"*"etc/30.json:1"* ]]
	[ "$(json 'j["settings"]["stop_tools"]')" = "{'value': True, 'place': 'the default'}" ]
	run -0 bpftime policy show "${folders[@]}"
	[[ $output == *"mask      $SESSION/etc/10.json"*"$SESSION/run/20.json:1: tools: "*'"comm": "c"'* ]]
}

@test "policy explain: which rule decides" {
	need_root
	policy a.json '{"version": 1, "rules": [
		{"tool": {"exe": "/usr/bin/odd"}, "action": "kernel"},
		{"tool": {"exe": "/usr/bin/bpftrace"}, "target": {"exe": "'"$(readlink -f /proc/$$/exe)"'"}, "probe": {"symbol": "mal*", "kind": "uprobe"},
			"action": "offload", "grants": {"stop_tools": false}, "limits": {"targets_per_tool": 4}},
		{"tool": {"user": "root"}, "probe": {"file": "/lib/*"}, "action": "observe"}], "default": "kernel"}'
	run -0 bpftime policy explain --tool /usr/bin/odd
	[ "$output" = "kernel, by $BPFTIME_POLICY_DIR/a.json:2" ]
	run -0 bpftime policy explain --tool /usr/bin/bpftrace --target $$ --probe uprobe:/srv/lib.so:malloc
	[[ $output == "offload, by $BPFTIME_POLICY_DIR/a.json:3"*"not granted: stop_tools ($BPFTIME_POLICY_DIR/a.json:4)"*"limit: targets_per_tool 4"* ]]
	run -0 bpftime policy explain --tool $$ --target $$ --probe /lib/x.so:free
	[ "$output" = "observe, by $BPFTIME_POLICY_DIR/a.json:5" ]
	run -0 bpftime policy explain --tool $$ --target $$ --probe /srv/lib.so:free
	[ "$output" = "kernel, by $BPFTIME_POLICY_DIR/a.json:5" ]
	run -0 bpftime policy explain --tool /usr/bin/bpftrace --json
	[ "$(json '[(v["action"], v["rule"].split(":")[-1]) for v in j]')" = "[('offload', '3'), ('observe', '5'), ('kernel', '5')]" ]
	fails 2 bpftime policy explain
	fails 2 bpftime policy explain --tool bpftrace
	fails 2 bpftime policy explain --tool /x --probe malloc
	fails 2 bpftime policy explain --tool /x --target /y
	fails 2 bpftime policy check --tool /x
	fails 2 bpftime policy show file.json
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
	[[ $output == *"policy     1 files, 1 rules"*"NOT the one on disk, which has 1 mistake(s), the first: "*"b.json:2:1: tols: unknown key"* ]]
	run -0 bpftime status --json
	[[ "$(json 'j["policy"]["error"]')" == "1 mistake(s)"* ]]
	policy b.json "$good"
	kill -HUP "$DAEMON"
	wait_until 5 grep -q "policy reloaded: 2 files, 2 rules" "$SESSION/daemon.log"
	run -0 bpftime status --json
	[ "$(json '(j["policy"]["files"], j["policy"]["rules"], j["policy"]["error"])')" = "(2, 2, None)" ]
	daemon_stop
}
