#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# before_after.sh BUILD_FOLDER: one tool, with the kernel alone and with bpftimed, as somebody at a terminal would see it. `make picture` makes
# docs/terminal.svg of what it prints. A bpftimed of its own; leaves nothing behind.
set -u
cd "$(dirname "$0")/.." || exit 1
B=$(realpath "${1:-build}")
CALLS=1000000
[ "$(id -u)" = 0 ] || { echo "before_after: needs root" >&2; exit 1; }
SESSION=$(mktemp -d)
export PATH=$PATH:/usr/sbin:/sbin
# shellcheck source=examples/session.bash
. examples/session.bash
trap 'session_end; rm -rf "$SESSION"' EXIT
trap 'exit 130' INT TERM

# run [offloaded]
run() {
	workload_start --threads 1 --calls "$CALLS" &&
		tool_start 1 bpftrace -p "$WORKLOAD" -e "uprobe:$B/examples/workload:work { @calls[tid] = count(); }" || return 1
	echo "\$ sudo bpftrace -p $WORKLOAD -e 'uprobe:/usr/bin/app:work { @calls[tid] = count(); }'"
	if [ $# = 1 ]; then
		"$B/bpftime" wait --tool "$TOOL" --state "$1" --timeout 20 >/dev/null || return 1
	fi
	workload_run || return 1
	[ $# = 0 ] || ps=$("$B/bpftime" ps | sed "s|$B/examples/workload|/usr/bin/app|; s/  */ /g; s/^ //" | column -t | sed 's/^/  /')
	tool_stop
	grep '^@' "$SESSION/tool"
	echo "  app: $(workload_truth calls) calls of work(), $(workload_truth ns) ns each"
	workload_end
}

run || exit 1
echo
echo '$ sudo systemctl start bpftimed'
daemon_start || exit 1
run offloaded || exit 1
echo
echo '$ bpftime ps'
echo "$ps"
daemon_stop
