# exact.bash: runs a tool on the workload and compares what it printed with what the workload knows to be true.
# Sourced by bats files and by tests/behaviour/flips. Needs BUILD (the build folder) and a daemon as the caller wants it.

WORKLOAD=$BUILD/examples/workload

# wait_for FILE PATTERN SECONDS
wait_for() {
	local i
	for ((i = 0; i < $3 * 50; i++)); do
		grep -qE "$2" "$1" 2>/dev/null && return 0
		sleep 0.02
	done
	echo "no '$2' in $1:" >&2
	cat "$1" >&2
	return 1
}

# The tools. Each name is a function of the workload's pid that execs the tool; tool_function says what it probes.
tool_function() { case $1 in str_key) echo work_name ;; *_endbr) echo work_endbr ;; *_sub) echo work_sub ;; *) echo work ;; esac }

tool_command() { # NAME PID
	local probe="uprobe:$WORKLOAD:$(tool_function "$1")"
	local ret="uretprobe:$WORKLOAD:$(tool_function "$1")"
	case $1 in
	count) exec bpftrace -p "$2" -e "$probe { @ = count(); }" ;;
	count_tid*) exec bpftrace -p "$2" -e "$probe { @[tid] = count(); }" ;;
	hist) exec bpftrace -p "$2" -e "$probe { @ = hist(arg1); }" ;;
	sum) exec bpftrace -p "$2" -e "$probe { @[comm, arg0] = sum(arg2); }" ;;
	filter) exec bpftrace -p "$2" -e "$probe /arg0 == 3/ { @ = count(); }" ;;
	str_key) exec bpftrace -p "$2" -e "$probe { @[str(arg0)] = count(); }" ;;
	latency) exec bpftrace -p "$2" -e "$probe { @start[tid] = nsecs; } $ret /@start[tid]/ { @n = count(); @sum = sum(nsecs - @start[tid]); delete(@start[tid]); }" ;;
	return) exec bpftrace -p "$2" -e "$ret { @[tid] = count(); @v = sum(retval); }" ;;
	funclatency) exec stdbuf -oL /usr/sbin/funclatency -p "$2" ":$(tool_function "$1")" ;;
	bsscount) exec "$BUILD/examples/bsscount" -p "$2" "$WORKLOAD:work" ;;
	hashcount) exec "$BUILD/examples/hashcount" -p "$2" "$WORKLOAD:work" ;;
	esac
}

# How one sees that the tool has attached: bpftrace and funclatency say so, and so do the examples' tools.
tool_ready='Attaching|Tracing|attached|ready'

# Brings both outputs to the same sorted lines.
truth_of() { # NAME WORKLOAD_OUTPUT
	case $1 in
	count) awk '/^calls/ { print "n", $2 }' "$2" ;;
	count_tid*) awk '/^thread/ { print $2, $4 }' "$2" | sort ;;
	hist) awk '/^log2/ { print $2, $3 }' "$2" | sort ;;
	sum) awk '/^sum/ { print $2, $3, $5 }' "$2" | sort ;;
	filter) awk '/^arg0 3/ { print "n", $3 }' "$2" ;;
	str_key) sed -nE 's/^arg0 (.*) ([0-9]+) [0-9]+$/\1 \2/p' "$2" | sort ;;
	latency) awk '/^calls/ { print "n", $2; print "start 0" }' "$2" ;;
	return) awk '/^thread/ { print $2, $4 }' "$2" | sort; awk '/^retval/ { print "v", $2 }' "$2" ;;
	funclatency | hashcount) awk '/^calls/ { print "n", $2 }' "$2" ;;
	bsscount) awk '/^calls/ { print "n", $2 } /^total/ { print "sum", $2 } /^log2/ { print "log2", $2, $3 }' "$2" | sort ;;
	esac
}

answer_of() { # NAME TOOL_OUTPUT
	case $1 in
	count | filter) awk '/^@: / { print "n", $2 }' "$2" ;;
	count_tid*) sed -nE 's/^@\[([0-9]+)\]: ([0-9]+)$/\1 \2/p' "$2" | sort ;;
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
	return) sed -nE 's/^@\[([0-9]+)\]: ([0-9]+)$/\1 \2/p' "$2" | sort ;;
	funclatency) awk '/->/ && /:/ { split($0, a, ":"); split(a[2], b, "|"); n += b[1] } END { print "n", n + 0 }' "$2" ;;
	hashcount) awk '/^calls/ { print "n", $2 }' "$2" ;;
	bsscount) awk '/^count/ { print "n", $2 } /^sum/ { print "sum", $2 } /^log2/ { if ($3) print "log2", $2, $3 }' "$2" | sort ;;
	esac
}

# exact_start DIR NAME THREADS CALLS [workload options]: workload ready and tool attached. Sets WORKLOAD_PID, TOOL_PID.
exact_start() {
	local dir=$1 name=$2 threads=$3 calls=$4
	shift 4
	mkdir -p "$dir"
	rm -f "$dir/go"
	mkfifo "$dir/go"
	"$WORKLOAD" --threads "$threads" --calls "$calls" --function "$(tool_function "$name")" --hold "$@" \
		<"$dir/go" >"$dir/workload" 2>&1 3>&- &
	WORKLOAD_PID=$!
	exec {GO}>"$dir/go"
	wait_for "$dir/workload" '^ready' 10 || return 1
	(tool_command "$name" "$WORKLOAD_PID") >"$dir/tool" 2>&1 3>&- &
	TOOL_PID=$!
	wait_for "$dir/tool" "$tool_ready" 15
}

exact_go() { echo >&"$GO"; }

# exact_finish DIR NAME: waits for the workload, ends the tool, compares.
exact_finish() {
	local dir=$1 name=$2
	wait_for "$dir/workload" '^total' "${EXACT_TIMEOUT:-60}" || return 1
	kill -INT "$TOOL_PID"
	wait "$TOOL_PID"
	echo >&"$GO"
	exec {GO}>&-
	wait "$WORKLOAD_PID" || { echo "the workload ended with status $?" >&2; return 1; }
	truth_of "$name" "$dir/workload" >"$dir/truth"
	answer_of "$name" "$dir/tool" >"$dir/answer"
	[ -s "$dir/truth" ] || { echo "no truth" >&2; return 1; }
	[ "$name" = return ] && sed -i '/^v /d' "$dir/truth"
	if ! cmp -s "$dir/truth" "$dir/answer"; then
		echo "$name: the tool printed something else than the truth (truth < > tool):" >&2
		diff "$dir/truth" "$dir/answer" >&2
		return 1
	fi
}

exact_kill() {
	[ -n "${TOOL_PID:-}" ] && kill -9 "$TOOL_PID" 2>/dev/null
	[ -n "${WORKLOAD_PID:-}" ] && kill -9 "$WORKLOAD_PID" 2>/dev/null
	wait 2>/dev/null
	true
}
