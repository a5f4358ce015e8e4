# SPDX-License-Identifier: MIT
# flipping.bash: a bpftimed that takes over and hands back; for flips and flips-everywhere, which set BUILD, dir and how.
DAEMON=

start_daemon() {
	"$BUILD/bpftimed" >>"$dir/daemon" 2>&1 3>&- &
	DAEMON=$!
	local i
	for ((i = 0; i < 500; i++)); do
		"$BUILD/bpftime" status >/dev/null 2>&1 && return 0
		kill -0 "$DAEMON" 2>/dev/null || break
		sleep 0.02
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

trap 'exact_kill; stop_daemon; rm -rf "$dir"' EXIT
trap 'exit 1' INT TERM

# flip: to the kernel and back. Counts in `failed` what was refused.
flip() {
	if [ "$how" = restart ]; then
		stop_daemon
		sleep 0.0$((RANDOM % 9))
		start_daemon || exit 1
		"$BUILD/bpftime" wait --tool "$TOOL_PID" --state offloaded --timeout 15 || failed=$((failed + 1))
	else
		"$BUILD/bpftime" handback "$TOOL_PID" >/dev/null || failed=$((failed + 1))
		sleep 0.0$((RANDOM % 3))
		"$BUILD/bpftime" takeover "$TOOL_PID" >/dev/null || failed=$((failed + 1))
	fi
	sleep 0.0$((RANDOM % 4))
}
