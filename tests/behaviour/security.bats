#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Nobody gains rights by bpftimed: another user neither steers it nor gets at what is not his own, and a tool cannot make it run other
# programs than the kernel has verified. Hostile targets: hostile.bats; policy files that others could write: policy.bats.

bats_require_minimum_version 1.5.0
load helpers
load real

somebody=(setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all --bounding-set=-all)

setup_file() {
	need_root
	need bpftrace bpftool setpriv python3
}
teardown_file() { :; }

setup() {
	export BUILD=$B
	need_root
	need_alone
	# The folders of bats are open to nobody else, which would hide what is tested.
	SESSION=$(mktemp -d)
	chmod 755 "$SESSION"
	export BPFTIME_RUNTIME_DIR=$SESSION/run BPFTIME_POLICY_DIR=$SESSION/policy.d
	. "$BATS_TEST_DIRNAME/exact.bash"
	cp "$WORKLOAD" "$SESSION/workload"
	WORKLOAD=$SESSION/workload
	leftovers >"$BATS_TEST_TMPDIR/before"
	daemon_start
}

teardown() {
	exact_kill
	session_end
	remains_end
	rm -rf "$SESSION"
}

# What could stay where everybody may write, and as shared memory.
leftovers() {
	find /tmp /var/tmp /dev/shm /run/user /sys/fs/bpf -maxdepth 2 -iname '*bpft*' 2>/dev/null | grep -v "^$SESSION" | sort
	ipcs -m | awk 'NR > 3 && $6 == 0'
}

carried() {
	exact_start "$SESSION/x" count_tid 2 1000000 --rate 10000
	offloaded "$TOOL_PID"
	exact_go "$SESSION/x"
}

finished() {
	kill -USR2 "$WORKLOAD_PID"
	exact_finish "$SESSION/x" count_tid
}

# Processes of bpftimed: itself, its guard, its compiler.
daemons() {
	echo "$DAEMON"
	pgrep -P "$DAEMON"
}

# may PYTHON...: as somebody else; what it prints are the things that he could do.
may() { PATH=/usr/bin:/bin "${somebody[@]}" python3 -c "$@"; }

@test "the control socket is root's, by its mode and by who asks" {
	local request
	[ "$(stat -c %a:%u "$SESSION/run/control.sock")" = 600:0 ]
	fails 3 "${somebody[@]}" "$B/bpftime" status
	# Somebody lets others in: it is asked who they are.
	chmod 666 "$SESSION/run/control.sock"
	for request in '{"command":"status"}' '{"command":"handback","tool":1}'; do
		run may '
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(5)
s.connect(sys.argv[1])
try:
    s.sendall(sys.argv[2].encode() + b"\n")
    print(s.recv(4096).decode())
except ConnectionError:
    print("only root may ask: turned away")' "$SESSION/run/control.sock" "$request"
		[[ $output == *"only root may ask"* && $output != *'"ok":true'* ]]
	done
	"$B/bpftime" status >/dev/null
}

@test "root's group does not open the control socket" {
	chmod 666 "$SESSION/run/control.sock"
	run setpriv --reuid=65534 --regid=0 --groups=0 "$B/bpftime" status
	[[ $status = [13] && $output != *hook* ]]
}

@test "what is in the runtime folder others can neither read nor write" {
	carried
	run may '
import os, sys
for top, folders, files in os.walk(sys.argv[1]):
    for name in folders + files:
        path = os.path.join(top, name)
        for way, word in ((os.R_OK, "read"), (os.W_OK, "write")):
            if os.access(path, way) and not os.path.islink(path):
                print("could", word, path)
if os.access(sys.argv[1], os.W_OK):
    print("could write", sys.argv[1])' "$SESSION/run"
	[ "$status" = 0 ]
	[ -z "$output" ]
	finished
}

@test "another user gets at neither bpftimed's processes nor root's target, by /proc or by descriptors" {
	carried
	run may '
import os, sys
def tried(what, how):
    try:
        how()
        print("could", what)
    except OSError:
        pass
for pid in sys.argv[1:]:
    for name in ("mem", "maps", "environ", "auxv", "syscall", "stack"):
        tried(f"read {pid}/{name}", lambda: open(f"/proc/{pid}/{name}", "rb").read(1))
    tried(f"write {pid}/mem", lambda: open(f"/proc/{pid}/mem", "r+b"))
    for folder in ("fd", "map_files", "fdinfo"):
        tried(f"list {pid}/{folder}", lambda: os.listdir(f"/proc/{pid}/{folder}"))
    for fd in range(64):
        tried(f"open {pid}/fd/{fd}", lambda: open(f"/proc/{pid}/fd/{fd}", "rb"))' $(daemons) "$WORKLOAD_PID"
	[ "$status" = 0 ]
	[ -z "$output" ]
	finished
}

@test "another user gets at no map, program or link of bpftimed's" {
	carried
	run may '
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
BPF_MAP_GET_FD_BY_ID, BPF_PROG_GET_FD_BY_ID, BPF_LINK_GET_FD_BY_ID = 14, 13, 30
for command in (BPF_MAP_GET_FD_BY_ID, BPF_PROG_GET_FD_BY_ID, BPF_LINK_GET_FD_BY_ID):
    for number in range(1, 20000, 7):
        attr = ctypes.create_string_buffer(struct.pack("III", number, 0, 0), 128)
        if libc.syscall(321, command, attr, 128) >= 0:
            print("could open", command, number)'
	[ "$status" = 0 ]
	[ -z "$output" ]
	finished
}

@test "in a target of another user nothing stays by which he gets at more than is his" {
	local before
	chmod 755 "$SESSION"
	EXACT_AS=("${somebody[@]}")
	exact_workload "$SESSION/x" work 2 1000000 --rate 10000
	EXACT_AS=()
	before=$(ls "/proc/$WORKLOAD_PID/fd")
	exact_tool "$SESSION/x/tool" count_tid "$WORKLOAD_PID"
	offloaded "$TOOL_PID"
	[ "$(ls "/proc/$WORKLOAD_PID/fd")" = "$before" ]
	exact_go "$SESSION/x"
	# Files behind its mappings, to be opened anew for writing: code of all targets, memory of the kernel's programs.
	run may '
import os, sys
pid = sys.argv[1]
for line in open(f"/proc/{pid}/maps"):
    span, perms, offset, device, inode, *name = line.split(maxsplit=5)
    name = name[0] if name else ""
    if "memfd:" not in name and "bpf-map" not in name:
        continue
    print("has", name.strip())
    if "w" in perms and "x" in perms:
        print("could write code", line)
    for flags in (os.O_RDWR, os.O_RDONLY):
        try:
            os.open(f"/proc/{pid}/map_files/{span}", flags)
            print("could open", line)
        except OSError:
            pass' "$WORKLOAD_PID"
	[ "$status" = 0 ]
	[[ $output == *"has "* ]]
	[[ $output != *could* ]]
	finished
}

@test "nothing stays behind where everybody may write, nor as shared memory" {
	carried
	leftovers | diff "$BATS_TEST_TMPDIR/before" -
	finished
	daemon_stop
	leftovers | diff "$BATS_TEST_TMPDIR/before" -
	[ -z "$(ls -A "$SESSION/run" 2>/dev/null)" ]
}

@test "killed: nothing stays behind where everybody may write, and the next one takes the rest away" {
	carried
	kill -9 "$DAEMON"
	wait "$DAEMON" || true
	ended "$DAEMON"
	leftovers | diff "$BATS_TEST_TMPDIR/before" -
	daemon_start
	finished
	daemon_stop
	[ -z "$(ls -A "$SESSION/run" 2>/dev/null)" ]
}

@test "a tool that rewrites its programs while the kernel loads them: what the kernel has verified is what runs" {
	local calls step n i
	for i in 1 2 3; do
		exact_workload "$SESSION/x" work 2 20000
		"$B/tests/tools/liar" "$WORKLOAD" "0x$(nm "$WORKLOAD" | sed -n 's/ T work$//p')" "$WORKLOAD_PID" >"$SESSION/tool" 2>&1 3>&- &
		TOOL_PID=$!
		exact_pids+=("$TOOL_PID")
		wait_for "$SESSION/tool" '^ready' 20
		"$B/bpftime" wait --tool "$TOOL_PID" --timeout 15 || run ! explains "just been attached|being compiled"
		exact_go "$SESSION/x"
		exact_called "$SESSION/x"
		exact_tool_end "$TOOL_PID"
		exact_workload_end "$SESSION/x" "$WORKLOAD_PID"
		calls=$(awk '/^calls/ { print $2 }' "$SESSION/x/workload")
		[ "$(grep -c '^step' "$SESSION/tool")" = 6 ]
		while read -r _ step _ n; do
			[ "$step" = 3 ] || [ "$step" = 1000 ]
			same "program with step $step" "$n" "$((step * calls))"
		done < <(grep '^step' "$SESSION/tool")
	done
}
