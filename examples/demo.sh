#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# demo.sh BUILD_FOLDER: stock tools on a workload that knows how often it called: first with the kernel alone, then with
# bpftimed, side by side. A bpftimed of its own, beside one that may be installed; leaves nothing behind.
set -u
cd "$(dirname "$0")/.." || exit 1
B=$(realpath "${1:-build}")
THREADS=${THREADS:-2}
CALLS=${CALLS:-300000}
TIMEOUT=${TIMEOUT:-20}

if [ "$(id -u)" != 0 ]; then
	echo "demo: only root can run bpftimed and the tools" >&2
	exit 1
fi
SESSION=$(mktemp -d)
export PATH=$PATH:/usr/sbin:/sbin BPFTRACE_STRLEN=64
# shellcheck source=examples/session.bash
. examples/session.bash
trap 'session_end; rm -rf "$SESSION"' EXIT
trap 'exit 130' INT TERM

probe=$B/examples/workload:work
entry=uprobe:$probe
back=uretprobe:$probe

# One tool a row: how it is shown, how many probes it attaches, how its counts are read from what it prints, the command. %P is the workload's
# pid. Ways to read: maps: the values of bpftrace's maps; hist: the sum of a histogram's counts.
names=() probes=() reads=() commands=()
row() {
	names+=("$1") probes+=("$2") reads+=("$3")
	shift 3
	commands+=("$(printf '%q ' "$@")")
}
row 'bpftrace @ = count()' 1 maps bpftrace -p %P -e "$entry { @ = count(); }"
row 'bpftrace @[tid] = count()' 1 maps bpftrace -p %P -e "$entry { @[tid] = count(); }"
row 'bpftrace @ = hist(arg1)' 1 hist bpftrace -p %P -e "$entry { @ = hist(arg1); }"
row 'bpftrace @[comm, arg0] = count()' 1 maps bpftrace -p %P -e "$entry { @[comm, arg0] = count(); }"
row 'bpftrace @start[tid], uretprobe' 2 hist bpftrace -p %P -e \
	"$entry { @start[tid] = nsecs; } $back /@start[tid]/ { @ns = hist(nsecs - @start[tid]); delete(@start[tid]); }"
row 'funclatency' 2 hist funclatency -p %P :work

read_maps() {
	awk -F': ' '/^@/ { n += $NF } END { print n + 0 }' "$SESSION/tool"
}

# "[16, 32)  1234 |@@@ |" and "16 -> 31 : 1234 |*** |"; the bounds carry K, M or G.
read_hist() {
	sed -nE 's/^[[(].*[])] +([0-9]+) \|.*/\1/p; s/^ *[0-9]+ +-> [0-9]+ +: ([0-9]+) +\|.*/\1/p' "$SESSION/tool" |
		awk '{ n += $1 } END { print n + 0 }'
}

# run_tool INDEX [offloaded]: sets counted, ns and truth; remark says what was not as it should be.
run_tool() {
	local command=${commands[$1]//%P/PID_OF_WORKLOAD} state=${2:-}
	remark=
	workload_start --threads "$THREADS" --calls "$CALLS" || return 1
	eval "tool_start ${probes[$1]} ${command//PID_OF_WORKLOAD/$WORKLOAD}" || {
		cat "$SESSION/tool" >&2
		return 1
	}
	if [ -n "$state" ] && ! "$B/bpftime" wait --tool "$TOOL" --state "$state" --timeout "$TIMEOUT" 2>"$SESSION/wait"; then
		remark=$("$B/bpftime" explain "$TOOL" 2>&1 | sed -n 's/^  runs in the kernel[^:]*: //p' | head -1)
		remark=${remark:-$(cat "$SESSION/wait")}
	fi
	workload_run || return 1
	tool_stop
	counted=$("read_${reads[$1]}")
	truth=$(workload_truth calls)
	ns=$(workload_truth ns)
	workload_end
}

echo "A workload of $THREADS threads calls the probed function $CALLS times in each. What the tools counted, and what a call cost"
echo "(CPU time of the workload per call):"
echo
echo "First with the kernel alone ..."
kernel_counted=() kernel_ns=() truths=()
for i in "${!names[@]}"; do
	run_tool "$i" || exit 1
	kernel_counted+=("$counted") kernel_ns+=("$ns") truths+=("$truth")
done
echo "... then with bpftimed:"
echo
daemon_start || exit 1
printf '%-33s %9s %9s %9s %5s  %9s %9s %7s\n' tool calls kernel bpftimed same 'kernel ns' 'our ns' ratio
failed=0
for i in "${!names[@]}"; do
	run_tool "$i" offloaded || exit 1
	same=yes
	[ "$counted" = "${kernel_counted[i]}" ] && [ "$counted" = "$truth" ] || same=NO
	[ "$same" = yes ] && [ -z "$remark" ] || failed=1
	printf '%-33s %9s %9s %9s %5s  %9s %9s %6sx\n' "${names[i]}" "$truth" "${kernel_counted[i]}" "$counted" "$same" \
		"${kernel_ns[i]}" "$ns" "$(awk -v a="${kernel_ns[i]}" -v b="$ns" 'BEGIN { printf "%.0f", b ? a / b : 0 }')"
	[ -z "$remark" ] || echo "    stayed in the kernel: $remark"
done
daemon_stop || {
	echo "demo: bpftimed did not end well; it said:" >&2
	cat "$SESSION/daemon.log" >&2
	failed=1
}
exit $failed
