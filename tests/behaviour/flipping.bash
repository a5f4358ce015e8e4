# SPDX-License-Identifier: MIT
# flipping.bash: a bpftimed that takes over and hands back; for flips and flips-everywhere, which set BUILD, dir and how.
DAEMON= went_on=0

start_daemon() {
	"$BUILD/bpftimed" >>"$dir/daemon" 2>&1 3>&- &
	DAEMON=$!
	local i
	for ((i = 0; i < 500; i++)); do
		"$BUILD/bpftime" status >/dev/null 2>&1 && return 0
		kill -0 "$DAEMON" 2>/dev/null || break
		sleep "$EXACT_NAP"
	done
	cat "$dir/daemon" >&2
	return 1
}

stop_daemon() {
	[ -n "$DAEMON" ] || return 0
	kill -TERM "$DAEMON" 2>/dev/null
	wait "$DAEMON" || echo "bpftimed ended with status $?" >&2
	DAEMON=
}

# What a killed one has left a new one takes away.
clean_up() {
	exact_kill
	stop_daemon
	[ ! -e "$BPFTIME_RUNTIME_DIR/state.json" ] || { start_daemon && stop_daemon; }
	umount -l "$BPFTIME_RUNTIME_DIR/bpf" 2>/dev/null
	rm -rf "$dir"
}

trap clean_up EXIT
trap 'exit 1' INT TERM

# said_by_tool: the sum of what the tool's map of results says now.
said_by_tool() {
	local id
	for id in $(sed -n 's/^map_id:\t//p' "/proc/$TOOL_PID/fdinfo/"* 2>/dev/null | sort -un); do
		bpftool map show id "$id" | grep -qE 'name (AT_|totals)' || continue
		bpftool map dump id "$id" -j | python3 -c '
import json, sys
print(sum(int.from_bytes(bytes(int(b, 16) for b in v["value"][:8]), "little") for e in json.load(sys.stdin) for v in e.get("values", [e])))'
		return
	done
}

# goes_on BEFORE: the tool's map says more than BEFORE, or does so within a second.
goes_on() {
	local i
	for ((i = 0; i < 10 * ${BPFTIMED_PATIENCE:-15} / 15; i++)); do
		(($(said_by_tool) > $1)) && return
		sleep 0.1
	done
	return 1
}

# begin_and_kill: one that is killed while it hands back what the last one had, or takes over anew.
begin_and_kill() {
	"$BUILD/bpftimed" >>"$dir/daemon" 2>&1 3>&- &
	sleep "0.$((RANDOM % 8))$((RANDOM % 10))"
	kill -9 $!
	wait $! 2>/dev/null
}

# kill_daemon: without a chance to do anything, every other time in the middle of a switch; then one anew. Meanwhile the tool's map goes on
# to tell the calls.
kill_daemon() {
	local switching= before
	if ((RANDOM % 2)); then
		while "$BUILD/bpftime" handback "$TOOL_PID" && "$BUILD/bpftime" takeover "$TOOL_PID"; do :; done >/dev/null 2>&1 3>&- &
		switching=$!
	fi
	sleep "0.$((RANDOM % 3))$((RANDOM % 10))"
	kill -9 "$DAEMON"
	wait "$DAEMON" 2>/dev/null
	[ -z "$switching" ] || wait "$switching"
	before=$(said_by_tool)
	goes_on "$before" || {
		echo "while no bpftimed ran the tool's map said $before, and so it stayed" >&2
		return 1
	}
	((RANDOM % 3)) || begin_and_kill
	start_daemon || return 1
	"$BUILD/bpftime" wait --tool "$TOOL_PID" --state offloaded --timeout "${BPFTIMED_PATIENCE:-15}" || failed=$((failed + 1))
	! "$BUILD/bpftime" status | grep -q '^last .*gone on with' || went_on=$((went_on + 1))
}

# said_of_kills: how many of those who followed a killed one went on with what it had left.
said_of_kills() { [ "$how" != kill ] || echo ", $went_on went on"; }

# Most keep the tool in the kernel, or some of its targets.
policies=(
	'{"version": 1, "default": "kernel"}'
	'{"version": 1, "settings": {"writable_code": false}}'
	'{"version": 1, "settings": {"stop_tools": false, "share_across_users": true}}'
	'{"version": 1, "limits": {"targets_per_tool": 1}}'
	'{"version": 1, "limits": {"shared_memory_mib": 0}}'
	'{"version": 1, "rules": [{"target": {"user": "root"}, "action": "kernel"}]}'
	'{"version": 1, "rules": [{"target": {"comm": "workload"}, "probe": {"symbol": "w*"}, "action": "kernel"}]}'
	'{"version": 1, "rules": [{"tool": {"user": "root"}, "action": "observe"}]}'
)

# change_policy: another one holds for a while, sometimes not for long enough to take effect; then none.
change_policy() {
	mkdir -p "$BPFTIME_POLICY_DIR"
	echo "${policies[RANDOM % ${#policies[@]}]}" >"$BPFTIME_POLICY_DIR/flip.json"
	chmod 644 "$BPFTIME_POLICY_DIR/flip.json"
	kill -HUP "$DAEMON"
	sleep "0.$((RANDOM % 4))$((RANDOM % 10))"
	rm "$BPFTIME_POLICY_DIR/flip.json"
	kill -HUP "$DAEMON"
	sleep "0.$((RANDOM % 2))$((RANDOM % 10))"
	"$BUILD/bpftime" wait --tool "$TOOL_PID" --state offloaded --timeout "${BPFTIMED_PATIENCE:-15}" >/dev/null || failed=$((failed + 1))
}

# flip: to the kernel and back. Counts in `failed` what was refused.
flip() {
	if [ "$how" = kill ]; then
		kill_daemon || exit 1
	elif [ "$how" = policy ]; then
		change_policy
	elif [ "$how" = restart ]; then
		stop_daemon
		sleep 0.0$((RANDOM % 9))
		start_daemon || exit 1
		"$BUILD/bpftime" wait --tool "$TOOL_PID" --state offloaded --timeout "${BPFTIMED_PATIENCE:-15}" || failed=$((failed + 1))
	else
		"$BUILD/bpftime" handback "$TOOL_PID" >/dev/null || failed=$((failed + 1))
		sleep 0.0$((RANDOM % 3))
		"$BUILD/bpftime" takeover "$TOOL_PID" >/dev/null || failed=$((failed + 1))
	fi
	sleep 0.0$((RANDOM % 4))
}
