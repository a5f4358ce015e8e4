# SPDX-License-Identifier: MIT
# exact.bash: runs a tool on the workload and compares what it printed with what the workload knows to be true.
# Sourced by bats files and by tests/behaviour/flips. Needs BUILD (the build folder) and a daemon as the caller wants it.

WORKLOAD=$BUILD/examples/workload

# As `nap 20` of examples/session.bash.
printf -v EXACT_NAP '0.%03d' "$((20 * ${BPFTIMED_PATIENCE:-15} / 15))"

# wait_for FILE PATTERN SECONDS
wait_for() {
	local i
	for ((i = 0; i < $3 * 50; i++)); do
		grep -qE "$2" "$1" 2>/dev/null && return 0
		sleep "$EXACT_NAP"
	done
	echo "no '$2' in $1:" >&2
	cat "$1" >&2
	return 1
}

# The tools. Each name is a function of the workload's pid that execs the tool; tool_function says what it probes.
tool_function() { case $1 in str_key) echo work_name ;; *_endbr) echo work_endbr ;; *_sub) echo work_sub ;; *) echo work ;; esac }

# What else the workload does for it.
tool_workload() { case $1 in *_take | *_give | *_both | pairs-*) echo --getppid ;; esac }

# Tools find tracepoints only where tracefs is mounted: where the host has none, they have their own.
with_tracefs=()
[ -e /sys/kernel/tracing/events ] || [ -e /sys/kernel/debug/tracing/events ] ||
	with_tracefs=(unshare --mount sh -c 'mount -t tracefs tracefs /sys/kernel/tracing && exec "$@"' sh)

tool_command() { # NAME [PID]: without, every process is probed
	local limit=() binary=$WORKLOAD
	[ -z "${2:-}" ] || limit=(-p "$2") binary=
	local probe="uprobe:$WORKLOAD:$(tool_function "$1")"
	local ret="uretprobe:$WORKLOAD:$(tool_function "$1")"
	local pair='{ @[tid] = count(); delete(@start[tid]); }' getppid
	# What the kernel does when the workload calls getppid(): its tracepoint, its function by a kprobe, one that it calls by fentry.
	case $1 in
	tp_*) getppid=tracepoint:syscalls:sys_enter_getppid ;;
	kprobe_*) getppid=kprobe:__x64_sys_getppid ;;
	fentry_*) getppid=kfunc:__task_pid_nr_ns ;;
	esac
	case $1 in
	count) exec bpftrace "${limit[@]}" -e "$probe { @ = count(); }" ;;
	count_tid* | count_each) exec bpftrace "${limit[@]}" -e "$probe { @[tid] = count(); }" ;;
	hist) exec bpftrace "${limit[@]}" -e "$probe { @ = hist(arg1); }" ;;
	# A slow machine drains the map slowly: it must not be full.
	changing) BPFTRACE_MAP_KEYS_MAX=512 exec bpftrace "${limit[@]}" -e "$probe { @[nsecs / $((200000 * ${BPFTIMED_PATIENCE:-15}))] = count(); }" ;;
	many) exec bpftrace "${limit[@]}" -e "$probe { @[nsecs / 1000 % 2048] = count(); }" ;;
	sum) exec bpftrace "${limit[@]}" -e "$probe { @[comm, arg0] = sum(arg2); }" ;;
	filter) exec bpftrace "${limit[@]}" -e "$probe /arg0 == 3/ { @ = count(); }" ;;
	choice) exec bpftrace "${limit[@]}" -e "$probe { if (arg0 == 3) { @n++; } else { @rest += 2; } }" ;;
	str_key) exec bpftrace "${limit[@]}" -e "$probe { @[str(arg0)] = count(); }" ;;
	latency) exec bpftrace "${limit[@]}" -e "$probe { @start[tid] = nsecs; } $ret /@start[tid]/ { @n = count(); @sum = sum(nsecs - @start[tid]); delete(@start[tid]); }" ;;
	return) exec bpftrace "${limit[@]}" -e "$ret { @[tid] = count(); @v = sum(retval); }" ;;
	funclatency) exec stdbuf -oL /usr/sbin/funclatency "${limit[@]}" "$binary:$(tool_function "$1")" ;;
	bsscount) exec "$BUILD/examples/bsscount" "${limit[@]}" "$WORKLOAD:work" ;;
	pairs-*) exec "${with_tracefs[@]}" "$BUILD/tests/tools/pairs" "${1#pairs-}" "$WORKLOAD:work" ;;
	*_take) exec "${with_tracefs[@]}" bpftrace -e "$probe { @start[tid] = nsecs; @n = count(); } $getppid /@start[tid]/ $pair" ;;
	*_give) exec "${with_tracefs[@]}" bpftrace -e "$getppid /strncmp(comm, \"work\", 4) == 0/ { @start[tid] = nsecs; @n = count(); } $probe /@start[tid]/ $pair" ;;
	*_both) exec "${with_tracefs[@]}" bpftrace -e "$probe { @n = count(); @[tid] = count(); } $getppid /strncmp(comm, \"work\", 4) == 0/ { @n = count(); @[tid] = count(); @h = hist(1); }" ;;
	drain-*) exec "$BUILD/tests/tools/drain" "${1#drain-}" "$WORKLOAD:work" ;;
	hashcount) exec "$BUILD/examples/hashcount" "${limit[@]}" "$WORKLOAD:work" ;;
	esac
}

# How one sees that the tool has attached: bpftrace and funclatency say so, and so do the examples' tools.
tool_ready='Attaching|Tracing|attached|ready'

# Brings both outputs to the same sorted lines.
truth_of() { # NAME WORKLOAD_OUTPUT
	case $1 in
	count | many) awk '/^calls/ { print "n", $2 }' "$2" ;;
	count_tid*) awk '/^thread/ { print $2, $4 }' "$2" | sort ;;
	# Where the workload does not know the numbers of its threads as the kernel does.
	count_each) awk '/^thread/ { print $4 }' "$2" | sort ;;
	return) awk '/^thread/ { print $2, $4 } /^arg0/ { v += $NF } /^total/ { v += $2 } END { printf "v %.0f\n", v }' "$2" | sort ;;
	hist) awk '/^log2/ { print $2, $3 }' "$2" | sort ;;
	sum) awk '/^sum/ { print $2, $3, $5 }' "$2" | sort ;;
	filter) awk '/^arg0 3/ { print "n", $3 }' "$2" ;;
	choice) awk '/^calls/ { n = $2 } /^arg0 3/ { k = $3 } END { print "n", k; print "rest", 2 * (n - k) }' "$2" ;;
	str_key) sed -nE 's/^arg0 (.*) ([0-9]+) [0-9]+$/\1 \2/p' "$2" | sort ;;
	latency) awk '/^calls/ { print "n", $2; print "start 0" }' "$2" ;;
	funclatency | hashcount) awk '/^calls/ { print "n", $2 }' "$2" ;;
	*_take) awk '/^calls/ { print "n", $2; print "start 0" } /^thread/ { print $2, $4 }' "$2" | sort ;;
	*_give) awk '/^calls/ { print "n", $2 } /^thread/ { print $2, $4 - 1; s++ } END { print "start", s }' "$2" | sort ;;
	*_both) awk '/^calls/ { print "n", 2 * $2; print "h", $2 } /^thread/ { print $2, 2 * $4 }' "$2" | sort ;;
	pairs-*) awk '/^calls/ { print "entries", $2; print "pairs", $2; print "left 0" } /^thread/ { print $2, $4 }' "$2" | sort ;;
	drain-*) awk '/^calls/ { print "n", $2 } /^total/ { print "sum", $2 }' "$2" | sort ;;
	bsscount) awk '/^calls/ { print "n", $2 } /^total/ { print "sum", $2 } /^log2/ { print "log2", $2, $3 }' "$2" | sort ;;
	esac
}

answer_of() { # NAME TOOL_OUTPUT
	case $1 in
	choice) sed -nE 's/^@(n|rest): ([0-9]+)$/\1 \2/p' "$2" | sort ;;
	count | filter) awk '/^@: / { print "n", $2 }' "$2" ;;
	many) awk '/^@\[/ { n += $2 } END { printf "n %.0f\n", n }' "$2" ;;
	count_tid*) sed -nE 's/^@\[([0-9]+)\]: ([0-9]+)$/\1 \2/p' "$2" | sort ;;
	count_each) sed -nE 's/^@\[[0-9]+\]: ([0-9]+)$/\1/p' "$2" | sort ;;
	return) sed -nE 's/^@\[([0-9]+)\]: ([0-9]+)$/\1 \2/p; s/^@v: ([0-9]+)$/v \1/p' "$2" | sort ;;
	hist)
		awk '
		function log2(s,	v, n) {
			v = s + 0
			if (s ~ /K$/) v *= 1024
			if (s ~ /M$/) v *= 1048576
			if (v == 0) return -1
			for (n = 0; v > 1; n++) v /= 2
			return n
		}
		/^\[/ { gsub(/[\[\),\]]/, " "); low = $1; sub(/\|.*/, ""); if ($NF > 0) print log2(low), $NF }' "$2" | sort
		;;
	sum) sed -nE 's/^@\[([^,]+), ([0-9]+)\]: ([0-9]+)$/\1 \2 \3/p' "$2" | sort ;;
	str_key) sed -nE 's/^@\[([^]]+)\]: ([0-9]+)$/\1 \2/p' "$2" | sort ;;
	latency) awk '/^@n: / { print "n", $2 } /^@start/ { s++ } END { print "start", s + 0 }' "$2" ;;
	funclatency) awk '/->/ && /:/ { split($0, a, ":"); split(a[2], b, "|"); n += b[1] } END { print "n", n + 0 }' "$2" ;;
	hashcount) awk '/^calls/ { print "n", $2 }' "$2" ;;
	*_take | *_give)
		sed -nE 's/^@\[([0-9]+)\]: ([0-9]+)$/\1 \2/p; s/^@n: ([0-9]+)$/n \1/p' "$2" >"$2.lines"
		echo "start $(grep -c '^@start' "$2")" | sort - "$2.lines"
		;;
	*_both) sed -nE 's/^@\[([0-9]+)\]: ([0-9]+)$/\1 \2/p; s/^@n: ([0-9]+)$/n \1/p; s/^\[1\] +([0-9]+) .*/h \1/p' "$2" | sort ;;
	pairs-*) grep -E '^(entries|pairs|left|[0-9]+) [0-9]+$' "$2" | sort ;;
	drain-*) awk '/^count/ { print "n", $2 } /^sum/ { print "sum", $2 }' "$2" | sort ;;
	bsscount) awk '/^count/ { print "n", $2 } /^sum/ { print "sum", $2 } /^log2/ { if ($3) print "log2", $2, $3 }' "$2" | sort ;;
	esac
}

# exact_workload DIR FUNCTION THREADS CALLS [workload options]: a workload that is ready and waits. Sets WORKLOAD_PID; its standard
# input is the fifo DIR/go. A --rate is that of a machine that is not emulated: the others call less often, and so for longer.
exact_workload() {
	local dir=$1 function=$2 threads=$3 calls=$4 word before= options=()
	shift 4
	for word; do
		[ "$before" != --rate ] || word=$(((word * 15 + ${BPFTIMED_PATIENCE:-15} - 1) / ${BPFTIMED_PATIENCE:-15}))
		options+=("$word")
		before=$word
	done
	mkdir -p "$dir"
	rm -f "$dir/go"
	mkfifo "$dir/go"
	"${EXACT_AS[@]}" "$WORKLOAD" --threads "$threads" --calls "$calls" --function "$function" --hold "${options[@]}" \
		<>"$dir/go" >"$dir/workload" 2>&1 3>&- &
	WORKLOAD_PID=$!
	exact_pids+=("$WORKLOAD_PID")
	wait_for "$dir/workload" '^ready' 10
}

# exact_tool FILE NAME [PID]: a tool that has attached; what it prints goes to the file. Sets TOOL_PID.
exact_tool() {
	(tool_command "$2" "${3:-}") >"$1" 2>&1 3>&- &
	TOOL_PID=$!
	exact_pids+=("$TOOL_PID")
	wait_for "$1" "$tool_ready" 20
}

# exact_start DIR NAME THREADS CALLS [workload options]: both. Sets WORKLOAD_PID, TOOL_PID.
exact_start() {
	local dir=$1 name=$2 threads=$3 calls=$4
	shift 4
	exact_workload "$dir" "$(tool_function "$name")" "$threads" "$calls" $(tool_workload "$name") "$@" && exact_tool "$dir/tool" "$name" "$WORKLOAD_PID"
}

# exact_go DIR: the workload in it makes its calls.
exact_go() { echo >"$1/go"; }

# exact_called DIR: returns when it has.
exact_called() { wait_for "$1/workload" '^total' "${EXACT_TIMEOUT:-60}"; }

# exact_ended PID: it ended by itself and was waited for.
exact_ended() {
	local kept=() p
	for p in "${exact_pids[@]}"; do
		[ "$p" = "$1" ] || kept+=("$p")
	done
	exact_pids=("${kept[@]}")
}

# exact_waited PID [SIGNAL]: waits for a process that should be ending; its exit code. The signal is sent once a second: when bpftrace 0.17
# gets one in the instant in which its wait of 100 ms ends, it takes no notice. A process that does not end is described and killed.
exact_waited() {
	local i task status=0
	for ((i = 0; i < 1500; i++)); do
		[ -z "${2:-}" ] || ((i % 50)) || kill "-$2" "$1" 2>/dev/null || true
		[ -e "/proc/$1" ] && ! grep -q '^State:.Z' "/proc/$1/status" 2>/dev/null || break
		sleep "$EXACT_NAP"
	done
	if ((i >= 1500)); then
		echo "process $1 does not end:" >&2
		grep -E '^(Name|State|TracerPid|SigPnd|ShdPnd|SigBlk|SigIgn|SigCgt)' "/proc/$1/status" >&2
		for task in "/proc/$1/task"/*; do
			echo "thread ${task##*/}: $(cat "$task/wchan" "$task/syscall" 2>/dev/null)" >&2
			cat "$task/stack" >&2
		done
		"$BUILD/bpftime" explain "$1" >&2
		kill -9 "$1"
	fi
	wait "$1" || status=$?
	exact_ended "$1"
	return "$status"
}

# exact_tool_end PID: lets the tool print. It may have ended by itself, with its target.
exact_tool_end() {
	exact_waited "$1" INT || true
}

# exact_workload_end DIR PID: it must end well.
exact_workload_end() {
	local status=0
	echo >"$1/go"
	exact_waited "$2" || status=$?
	[ "$status" = 0 ] || echo "the workload ended with status $status" >&2
	return "$status"
}

# exact_compare DIR FILE NAME: what the tool wrote to the file against the truth of the workload in DIR.
exact_compare() {
	truth_of "$3" "$1/workload" >"$2.truth"
	answer_of "$3" "$2" >"$2.answer"
	[ -s "$2.truth" ] || { echo "no truth" >&2; return 1; }
	if ! cmp -s "$2.truth" "$2.answer"; then
		echo "$3: the tool printed something else than the truth (truth < > tool):" >&2
		diff "$2.truth" "$2.answer" >&2
		return 1
	fi
}

# exact_finish DIR NAME: what exact_start started: waits for the workload, ends the tool, compares.
exact_finish() {
	local dir=$1 name=$2
	exact_called "$dir" || return 1
	exact_tool_end "$TOOL_PID"
	exact_workload_end "$dir" "$WORKLOAD_PID" || return 1
	exact_compare "$dir" "$dir/tool" "$name"
}

# exact_sum NAME FILE WORKLOAD_OUTPUT...: what the tool wrote to the file against the truths of many workloads, added up.
exact_sum() {
	local name=$1 file=$2 f
	shift 2
	for f in "$@"; do
		truth_of "$name" "$f"
	done | awk '{ n = $NF; $NF = ""; sum[$0] += n } END { for (k in sum) printf "%s%.0f\n", k, sum[k] }' | sort >"$file.truth"
	answer_of "$name" "$file" | sort >"$file.answer"
	[ -s "$file.truth" ] || { echo "no truth" >&2; return 1; }
	if ! cmp -s "$file.truth" "$file.answer"; then
		echo "$name: the tool printed something else than the truth (truth < > tool):" >&2
		diff "$file.truth" "$file.answer" >&2
		return 1
	fi
}

exact_pids=()
EXACT_AS=() # a command that runs the workload as somebody else

# Ends what is still there, newest first.
exact_kill() {
	local i
	for ((i = ${#exact_pids[@]} - 1; i >= 0; i--)); do
		kill -9 "${exact_pids[i]}" 2>/dev/null
		wait "${exact_pids[i]}" 2>/dev/null
	done
	exact_pids=()
}
