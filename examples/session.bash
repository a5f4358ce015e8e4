# SPDX-License-Identifier: MIT
# session.bash: what the demonstration and the tests do with workloads, tools and a bpftimed of their own. Sourced by bash scripts that set
# B (the build folder) and SESSION (an existing private folder). Everything that is started here is ended by session_end.

session_pids=()

# started PID: session_end ends it.
started() {
	session_pids+=("$1")
}

# ended PID: it has ended and been waited for; its number may soon be another's.
ended() {
	local kept=() p
	for p in "${session_pids[@]}"; do
		[ "$p" = "$1" ] || kept+=("$p")
	done
	session_pids=("${kept[@]}")
}

# end_process PID [SIGNAL]: ends it, by SIGKILL when it is still there after 10 s. Its exit code. SIGINT is sent once a second: when
# bpftrace 0.17 gets one in the instant in which its wait of 100 ms ends, it takes no notice.
end_process() {
	local pid=$1 sig=${2:-TERM} i
	kill "-$sig" "$pid" 2>/dev/null
	[ "$pid" != "${DAEMON:-}" ] || DAEMON=
	for ((i = 1; i < 200; i++)); do
		[ "$sig" != INT ] || ((i % 20)) || kill -INT "$pid" 2>/dev/null
		[ -e "/proc/$pid" ] && ! grep -q '^State:.Z' "/proc/$pid/status" 2>/dev/null || break
		sleep "$NAP"
	done
	((i < 200)) || kill -KILL "$pid" 2>/dev/null
	ended "$pid"
	wait "$pid" 2>/dev/null
}

# Newest first, so that tools end before the daemon and targets last of all.
session_end() {
	local i
	for ((i = ${#session_pids[@]} - 1; i >= 0; i--)); do
		end_process "${session_pids[i]}" || true
	done
}

# nap MS: so long, as `sleep` takes it. BPFTIMED_PATIENCE, 15 on a machine that is not emulated, makes all that is waited for last longer, and
# lets one look at it less often: where it takes a tenth of a second to execute a program, those that look would leave nothing for what they wait for.
nap() {
	local ms=$(($1 * ${BPFTIMED_PATIENCE:-15} / 15))
	printf '%d.%03d' "$((ms / 1000))" "$((ms % 1000))"
}
NAP=$(nap 50)

# wait_until SECONDS COMMAND...: until it succeeds.
wait_until() {
	local limit=$((SECONDS + ($1 * ${BPFTIMED_PATIENCE:-15} + 14) / 15))
	shift
	until "$@"; do
		((SECONDS <= limit)) || return 1
		sleep "$NAP"
	done
}

# ---- bpftimed ----

# daemon_start [OPTION...]: a bpftimed with a runtime folder of its own; DAEMON is its pid. BPFTIMED chooses the program.
daemon_start() {
	export BPFTIME_RUNTIME_DIR=$SESSION/run BPFTIME_POLICY_DIR=$SESSION/policy.d
	"${BPFTIMED:-$B/bpftimed}" "$@" >"$SESSION/daemon.log" 2>&1 3>&- &
	DAEMON=$!
	started "$DAEMON"
	wait_until 20 daemon_answers_or_ended && "$B/bpftime" status >/dev/null 2>&1 && return
	cat "$SESSION/daemon.log" >&2
	return 1
}

daemon_answers_or_ended() {
	[ -e "/proc/$DAEMON/exe" ] || return 0
	"$B/bpftime" status >/dev/null 2>&1
}

# Its exit code.
daemon_stop() {
	end_process "$DAEMON"
}

# ---- workload ----

# workload_start [OPTION...]: one that waits; WORKLOAD is its pid, $SESSION/workload what it says.
workload_start() {
	rm -f "$SESSION/go"
	mkfifo "$SESSION/go"
	"$B/examples/workload" --hold "$@" <>"$SESSION/go" >"$SESSION/workload" 2>&1 3>&- &
	WORKLOAD=$!
	started "$WORKLOAD"
	wait_until 10 grep -qs '^ready' "$SESSION/workload"
}

# workload_run [SECONDS]: lets it make its calls, and returns when it has.
workload_run() {
	workload_go
	wait_until "${1:-120}" grep -q '^total' "$SESSION/workload"
}

workload_go() {
	kill -USR1 "$WORKLOAD"
}

# workload_truth WORD...: what stands behind these words in its output: `workload_truth calls`, `workload_truth arg0 3`.
workload_truth() {
	sed -n "s/^$* //p" "$SESSION/workload"
}

workload_end() {
	kill -USR1 "$WORKLOAD" 2>/dev/null
	ended "$WORKLOAD"
	wait "$WORKLOAD"
}

# ---- tools ----

# tool_start PROBES COMMAND...: a tool that will attach so many probes; TOOL is its pid, $SESSION/tool what it says. Returns when all
# are attached.
tool_start() {
	local probes=$1
	shift
	# Not by `&` alone: bash lets background processes ignore SIGINT, by which tools are ended.
	env --default-signal=INT "$@" >"$SESSION/tool" 2>&1 3>&- &
	TOOL=$!
	started "$TOOL"
	wait_until 30 tool_attached "$probes" && sleep 0.2
}

# A running bpftimed is asked, because it may have taken the probes out of the kernel already; else the kernel.
tool_attached() {
	if [ -n "${DAEMON:-}" ] && [ -e "/proc/$DAEMON/exe" ]; then
		[ "$("$B/bpftime" ps 2>/dev/null | awk -v tool="$TOOL" '$1 == tool && $6 != ""' | wc -l)" -ge "$1" ]
		return
	fi
	[ "$(bpftool perf show 2>/dev/null | grep -c "^pid $TOOL .*: prog_id")" -ge "$1" ]
}

# Its exit code.
tool_stop() {
	end_process "$TOOL" INT
}
