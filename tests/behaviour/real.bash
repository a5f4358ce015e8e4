# SPDX-License-Identifier: MIT
# real.bash: for tests of whole behaviour with a real bpftimed and real tools; `load helpers`, then `load real`. One daemon serves all
# tests of a file, unless the file says otherwise by setup_file and teardown_file of its own.

# Two daemons would take the same tools over.
other_bpftimed() {
	local p
	for p in $(pgrep -x bpftimed); do
		[ "$p" = "${DAEMON:-}" ] || echo "$p"
	done
}

no_other_bpftimed() { [ -z "$(other_bpftimed)" ]; }

need_alone() {
	wait_until "${1:-60}" no_other_bpftimed || skip "another bpftimed runs: process $(other_bpftimed | head -n 1)"
}

real_setup_file() {
	need_root
	need bpftrace bpftool python3
	need_alone
	SESSION=$BATS_FILE_TMPDIR
	daemon_start "$@"
	export DAEMON
}

# ask_way: in setup_file(), where each test has a daemon of its own: by which way are groups switched here? Sets WAY.
ask_way() {
	need_alone
	SESSION=$BATS_FILE_TMPDIR
	daemon_start
	WAY=$("$B/bpftime" status --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["switch"])')
	daemon_stop
	export WAY
}

setup_file() { real_setup_file; }

teardown_file() {
	[ -n "${DAEMON:-}" ] || return 0
	SESSION=$BATS_FILE_TMPDIR
	daemon_stop
}

setup() {
	SESSION=$BATS_TEST_TMPDIR
	export BUILD=$B
	. "$BATS_TEST_DIRNAME/exact.bash"
	need_root
	need_alone
	real_daemon_lives
}

teardown() {
	no_other_bpftimed || echo "another bpftimed ran: process $(other_bpftimed)"
	exact_kill
	session_end
	public_end
}

# own_setup SECONDS: in setup() where each test has a daemon of its own, which it starts; a workload may take so long.
own_setup() {
	SESSION=$BATS_TEST_TMPDIR
	export BUILD=$B EXACT_TIMEOUT=$1
	export BPFTIME_RUNTIME_DIR=$SESSION/run BPFTIME_POLICY_DIR=$SESSION/policy.d
	. "$BATS_TEST_DIRNAME/exact.bash"
	need_root
	need_alone
}

real_daemon_lives() {
	[ -z "${DAEMON:-}" ] || "$B/bpftime" status >/dev/null
}

# offloaded PID...: waits until these tools are.
offloaded() {
	local t
	for t in "$@"; do
		"$B/bpftime" wait --tool "$t" --state offloaded --timeout "${BPFTIMED_PATIENCE:-15}" || {
			"$B/bpftime" explain "$t"
			return 1
		}
	done
}

in_kernel() {
	"$B/bpftime" wait --tool "$1" --state kernel --timeout "${BPFTIMED_PATIENCE:-15}" || {
		"$B/bpftime" explain "$1"
		return 1
	}
}

# tool_run FILE COMMAND...: any other tool, which says when it attaches. Sets TOOL_PID.
tool_run() {
	local file=$1
	shift
	env --default-signal=INT "$@" >"$file" 2>&1 3>&- &
	TOOL_PID=$!
	exact_pids+=("$TOOL_PID")
	wait_for "$file" "$tool_ready" 20
}

# attached_in_kernel PID PROBES: without a daemon.
attached_in_kernel() {
	[ "$(bpftool perf show 2>/dev/null | grep -c "^pid $1 .*: prog_id")" -ge "$2" ]
}

# victim NAME [ARGUMENT...]: one of tests/victims, or a copy in VICTIMS, that is ready and waits. Sets VICTIM; its words are in $SESSION/victim.
victim() {
	rm -f "$SESSION/victim_go"
	mkfifo "$SESSION/victim_go"
	local name=$1
	shift
	"${VICTIMS:-$B/tests/victims}/$name" "$@" <>"$SESSION/victim_go" >"$SESSION/victim" 2>&1 3>&- &
	VICTIM=$!
	exact_pids+=("$VICTIM")
	wait_for "$SESSION/victim" '^ready' 10
}

victim_go() { echo >"$SESSION/victim_go"; }

# Its exit code, when it has ended by itself.
victim_end() {
	local status=0
	wait "$VICTIM" || status=$?
	exact_ended "$VICTIM"
	return "$status"
}

# All that it called.
victim_calls() { awk '/^calls/ { n += $2 } END { print n + 0 }' "$SESSION/victim"; }

# counted FILE: by bpftrace's @, by bsscount.
counted() { sed -nE 's/^@: ([0-9]+)$/\1/p; s/^count ([0-9]+)$/\1/p' "$1"; }

# same NAME A B
same() {
	[ "$2" = "$3" ] || {
		echo "$1: $2 is not $3"
		return 1
	}
}

# map_of PID NAME: id of a map that the process holds.
map_of() {
	local id
	for id in $(sed -n 's/^map_id:\t//p' /proc/"$1"/fdinfo/* 2>/dev/null | sort -un); do
		bpftool map show id "$id" | grep -q "name $2 " && echo "$id" && return
	done
	return 1
}

# code_is_the_files PID FUNCTION_ADDRESS: the bytes in memory are those of the file.
code_is_the_files() {
	python3 - "$1" "$2" <<-'END'
		import sys
		pid, at = sys.argv[1], int(sys.argv[2], 16)
		for line in open(f"/proc/{pid}/maps"):
		    span, perms, offset, *rest = line.split()
		    low, high = (int(x, 16) for x in span.split("-"))
		    if low <= at < high:
		        with open(f"/proc/{pid}/mem", "rb") as m, open(rest[-1], "rb") as f:
		            m.seek(at)
		            f.seek(at - low + int(offset, 16))
		            a, b = m.read(16), f.read(16)
		        if a != b:
		            sys.exit(f"in memory {a.hex()}, in the file {b.hex()}")
		        sys.exit(0)
		sys.exit("not mapped")
	END
}

# both CALLS [OPTION...]: workloads of two users: one that gets the agent, one that the kernel half serves.
both() {
	chmod 755 "$SESSION"
	exact_workload "$SESSION/a" work 2 "$@"
	A=$WORKLOAD_PID
	EXACT_AS=(setpriv --reuid=65534 --regid=65534 --clear-groups)
	exact_workload "$SESSION/b" work 2 "$@"
	EXACT_AS=()
}

# Two workloads: both go, both have called.
go() {
	exact_go "$SESSION/a"
	exact_go "$SESSION/b"
}

called() {
	exact_called "$SESSION/a"
	exact_called "$SESSION/b"
}

# explains REGEX: of TOOL_PID's probes.
explains() { "$B/bpftime" explain "$TOOL_PID" | grep -q "$1"; }

# The C library's file.
libc() { ldconfig -p | awk '/libc\.so\.6 .*x86-64/ { print $NF; exit }'; }

# watched STATE TOOL PROBE: sets TOOL_PID; the tool is in the state.
watched() {
	case $2 in
	bsscount) tool_run "$SESSION/tool" "$B/examples/bsscount" -p "$VICTIM" "$3" ;;
	bpftrace) tool_run "$SESSION/tool" bpftrace -p "$VICTIM" -e "uprobe:$3 { @ = count(); }" ;;
	uretprobe) tool_run "$SESSION/tool" bpftrace -p "$VICTIM" -e "uretprobe:$3 { @ = count(); }" ;;
	esac
	offloaded "$TOOL_PID"
	if [ "$1" = kernel ]; then
		"$B/bpftime" handback "$TOOL_PID" >/dev/null
		in_kernel "$TOOL_PID"
	fi
}

# counts TOOL VICTIM [ARGUMENT...]: first in the kernel, then in userspace; what the tool counted of work() is what the victim called.
counts() {
	local state tool=$1
	shift
	for state in kernel userspace; do
		victim "$@"
		watched "$state" "$tool" "$B/tests/victims/$1:work"
		victim_go
		victim_end
		exact_tool_end "$TOOL_PID"
		same "$state" "$(counted "$SESSION/tool")" "$(victim_calls)"
	done
}

# back_and_forth: places come and go until the victim has called.
back_and_forth() {
	while ! grep -q '^calls' "$SESSION/victim"; do
		"$B/bpftime" handback "$TOOL_PID" >/dev/null
		"$B/bpftime" takeover "$TOOL_PID" >/dev/null || true
	done
}

# counts_back_and_forth VICTIM [ARGUMENT...]: bsscount's answer is what the victim called while its places came and went.
counts_back_and_forth() {
	victim "$@"
	watched userspace bsscount "$B/tests/victims/$1:work"
	victim_go
	back_and_forth
	victim_end
	exact_tool_end "$TOOL_PID"
	same "$1" "$(counted "$SESSION/tool")" "$(victim_calls)"
}
