#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# The two commands: options, exit codes, sentences, the control socket and those who misuse it.

bats_require_minimum_version 1.5.0
load helpers

fake=tests/fake/bpftimed

# ---- usage ----

@test "bpftime without a command shows its usage and ends with 2" {
	fails 2 bpftime
	[[ $stderr == *"Usage: bpftime COMMAND"* ]]
}

@test "bpftime: wrong usage ends with 2 and says what is wrong" {
	fails 2 bpftime nonsense
	[[ $stderr == "bpftime: there is no command 'nonsense'"* ]]
	fails 2 bpftime --nonsense
	[[ $stderr == "bpftime: there is no option '--nonsense'"* ]]
	fails 2 bpftime --json ps
	[[ $stderr == "bpftime: '--json' must stand behind the command"* ]]
	fails 2 bpftime status --nonsense
	[[ $stderr == *"no option '--nonsense'"* ]]
	fails 2 bpftime handback --json 1
	fails 2 bpftime status extra
	[[ $stderr == *"one argument too many"* ]]
	fails 2 bpftime explain
	[[ $stderr == *"argument is missing"* ]]
	for pid in x 0 -- -1 1x 99999999999 '' ' 1'; do
		fails 2 bpftime explain -- "$pid"
	done
	fails 2 bpftime handback 1 2
	fails 2 bpftime wait
	[[ $stderr == *"--tool"* ]]
	fails 2 bpftime wait --tool 1 --state nowhere
	[[ $stderr == *"'nowhere' is no state"* ]]
	fails 2 bpftime wait --tool 1 --timeout soon
	fails 2 bpftime wait --tool 1 --timeout -1
	fails 2 bpftime wait --tool
	fails 2 bpftime top --count 0
	fails 2 bpftime policy
	fails 2 bpftime policy chekc
}

@test "bpftime help, --help and --version answer without a daemon" {
	for c in status ps explain wait top events metrics doctor handback takeover policy version help; do
		run -0 bpftime help $c
		[[ $output == "Usage: bpftime $c"* ]]
		run -0 bpftime $c --help
		[[ $output == "Usage: bpftime $c"* ]]
	done
	run -0 bpftime --help
	[[ $output == "Usage: bpftime COMMAND"* ]]
	run -0 bpftime --version
	[[ $output == "bpftime $(cat "$BATS_TEST_DIRNAME/../../VERSION")"* ]]
	run -0 bpftime version --json
	[ "$(json 'j["daemon"]')" = None ]
}

@test "bash completes every command, and options that it takes" {
	# shellcheck source=systemd/bpftime.bash-completion
	. "$BATS_TEST_DIRNAME/../../systemd/bpftime.bash-completion"
	COMP_WORDS=(bpftime '') COMP_CWORD=1 _bpftime
	for c in $(bpftime help | sed -n 's/^  \([a-z]*\) .*/\1/p'); do
		[[ " ${COMPREPLY[*]} " == *" $c "* ]] || {
			echo "$c is not completed"
			return 1
		}
		for o in $(bpftime help "$c" | head -n 1 | grep -oE -- '--[a-z-]+'); do
			[[ $c == vm || $c == aot ]] && continue
			mapfile -t offered < <(COMP_WORDS=(bpftime "$c" --) COMP_CWORD=2 && _bpftime && printf '%s\n' "${COMPREPLY[@]}")
			[[ " ${offered[*]} " == *" $o "* ]] || {
				echo "$c $o is not completed"
				return 1
			}
		done
	done
}

@test "without a daemon commands end with 3 and name the socket" {
	for c in status ps top events "events -f" metrics "explain 1" "wait --tool 1" "handback 1" "takeover 1"; do
		# shellcheck disable=SC2086
		fails 3 bpftime $c
		[[ $stderr == *"$BPFTIME_RUNTIME_DIR/control.sock"* ]]
	done
	fails 3 bpftime status --runtime-dir /nonexistent
	[[ $stderr == *"/nonexistent/control.sock"* ]]
	fails 3 bpftime status --runtime-dir "/$(printf 'long/%.0s' {1..40})"
	[[ $stderr == *"too long"* ]]
}

@test "a socket on which somebody else answers, or nobody, ends with 3" {
	need python3
	mkdir -p "$BPFTIME_RUNTIME_DIR"
	python3 -c '
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen()
c = s.accept()[0]
c.recv(99)
c.sendall(b"220 mail ready\n")
c.close()
s.accept()[0].close()
' "$BPFTIME_RUNTIME_DIR/control.sock" 3>&- &
	started $!
	wait_until 5 test -S "$BPFTIME_RUNTIME_DIR/control.sock"
	fails 3 bpftime ps
	[[ $stderr == *"not bpftimed"* ]]
	fails 3 bpftime ps
	wait $!
	ended $!
	fails 3 bpftime ps
}

@test "bpftimed: wrong usage ends with 2" {
	fails 2 "$B/$fake" --nonsense
	fails 2 "$B/$fake" extra
	[[ $stderr == *"'extra' is one argument too many"* ]]
	fails 2 "$B/$fake" --log-level loud
	[[ $stderr == *"'loud' is no log level"* ]]
	fails 2 "$B/$fake" --runtime-dir
	run -0 "$B/$fake" --help
	[[ $output == "Usage: bpftimed"* ]]
	run -0 "$B/$fake" --version
	[ "$output" = "bpftimed $(cat "$BATS_TEST_DIRNAME/../../VERSION")" ]
}

# ---- start and end ----

@test "bpftimed without root: one sentence, 1, nothing made" {
	need_root
	need setpriv
	chmod 711 "$BATS_RUN_TMPDIR" 2>/dev/null || true
	cp "$B/$fake" "$B/bpftime" "$SESSION"
	chmod 777 "$SESSION"
	setpriv --reuid 65534 --regid 65534 --clear-groups test -x "$SESSION/bpftimed" || skip "the test folder is not open to others"
	fails 1 setpriv --reuid 65534 --regid 65534 --clear-groups "$SESSION/bpftimed"
	[ "$stderr" = "bpftimed: only root can run it" ]
	[ ! -e "$BPFTIME_RUNTIME_DIR" ]
	fake_start
	chmod 755 "$SESSION"
	fails 3 setpriv --reuid 65534 --regid 65534 --clear-groups "$SESSION/bpftime" status
	[[ $stderr == *"only root may ask it"* ]]
}

@test "bpftimed: a runtime folder that cannot be made or that others may write to: 1" {
	need_root
	fails 1 "$B/$fake" --runtime-dir /proc/nothing/run
	[[ $stderr == *"/proc/nothing/run cannot be made"* ]]
	touch "$SESSION/file"
	fails 1 "$B/$fake" --runtime-dir "$SESSION/file"
	[[ $stderr == *"is not a folder"* ]]
	mkdir -m 777 "$SESSION/open"
	fails 1 "$B/$fake" --runtime-dir "$SESSION/open"
	[[ $stderr == *"others than root could put files"* ]]
	long=$SESSION/$(printf 'x%.0s' {1..100})
	fails 1 "$B/$fake" --runtime-dir "$long"
	[[ $stderr == *"is longer than"* ]]
	[ ! -e "$long" ]
}

@test "bpftimed runs once in a runtime folder, twice in two" {
	need_root
	fake_start
	fails 1 "$B/$fake"
	[[ $stderr == *"another bpftimed (process $DAEMON) is running with the runtime folder $BPFTIME_RUNTIME_DIR" ]]
	run -0 bpftime status
	SESSION=$SESSION/second
	mkdir "$SESSION"
	fake_start
	daemon_stop
	run -0 bpftime status --runtime-dir "$BATS_TEST_TMPDIR/run"
}

@test "SIGTERM and SIGINT end bpftimed with 0 and leave nothing behind" {
	need_root
	for sig in TERM INT; do
		fake_start
		[ "$(stat -c %a:%u "$BPFTIME_RUNTIME_DIR/control.sock")" = 600:0 ]
		end_process "$DAEMON" $sig
		[ ! -e "$BPFTIME_RUNTIME_DIR" ]
	done
	mkdir -m 755 "$BPFTIME_RUNTIME_DIR"
	fake_start
	daemon_stop
	[ -d "$BPFTIME_RUNTIME_DIR" ]
	[ -z "$(ls -A "$BPFTIME_RUNTIME_DIR")" ]
}

@test "bpftimed starts again where one was killed" {
	need_root
	fake_start
	kill -KILL "$DAEMON"
	ended "$DAEMON"
	wait "$DAEMON" || true
	[ -S "$BPFTIME_RUNTIME_DIR/control.sock" ]
	fails 3 bpftime status
	fake_start
	run -0 bpftime status
	daemon_stop
}

@test "an engine that cannot start: its sentence, 1, nothing left" {
	need_root
	FAKE_FAILS="the kernel lacks uprobes" fails 1 "$B/$fake"
	[ "$stderr" = "bpftimed: the kernel lacks uprobes" ]
	[ ! -e "$BPFTIME_RUNTIME_DIR" ]
}

@test "an idle bpftimed shell uses no CPU" {
	need_root
	fake_start
	ticks() { awk '{ print $14 + $15 }' "/proc/$DAEMON/stat"; }
	unset FAKE_TOOLS
	before=$(ticks)
	sleep 2
	[ $(($(ticks) - before)) -le 2 ]
}

# ---- answers ----

@test "status, ps, explain: text for people, JSON for programs" {
	need_root
	fake_tools "$(fake_tool $$ partly)"
	fake_start
	run -0 bpftime status
	[[ $output == *"probes"*"in userspace"* ]]
	run -0 bpftime status --json
	[ "$(json 'sorted(j)')" = "['holds', 'hook', 'kernel', 'last', 'lockdown', 'metrics', 'policy', 'probes_kernel', 'probes_userspace', 'switch', 'targets', 'tools', 'tools_carried', 'version']" ]
	[ "$(json 'j["kernel"]')" = "$(uname -r)" ]
	run -0 bpftime ps
	[[ $output == *"/usr/bin/x:main"* && $output == *"/usr/bin/x:0x1234"* ]]
	run -0 bpftime ps --json
	[ "$(json 'j[0]["pid"]')" = $$ ]
	[ "$(json 'j[0]["probes"][0]["targets"]')" = "[12, 14]" ]
	run -0 bpftime explain $$
	[[ $output == *"it calls helper 6 (trace_printk), which is not carried"* ]]
	[[ $output == *"in processes 12, 14: 100 hits"* ]]
	run -0 bpftime explain $$ --json
	[ "$(json 'j["state"]')" = partly ]
	fails 1 bpftime explain 1
	[ "$stderr" = "bpftime: process 1 has no probes that bpftimed knows" ]
	for c in explain handback takeover; do
		fails 1 bpftime $c 2147483647
		[ "$stderr" = "bpftime: process 2147483647 does not exist" ]
	done
	run -0 bpftime top --count 2 --interval 0.05
	[[ $output == *"HITS/S"*"/usr/bin/x:main"* ]]
	run -0 bpftime top --count 1 --json
	[ "$(json 'j[0]["hits"]')" = 100 ]
	run -0 bpftime handback $$
	run -0 bpftime takeover $$
	fails 1 bpftime handback 1
	run -0 bpftime version --json
	[ "$(json 'j["version"] == j["daemon"]')" = True ]
}

@test "events: a policy that is read again, once for every reader" {
	need_root
	fake_start
	run -0 bpftime events
	[ -z "$output" ]
	bpftime events -f >"$SESSION/followed" 3>&- &
	started $!
	kill -HUP "$DAEMON"
	wait_until 5 grep -q "policy-load .*policy reloaded: 0 files, 0 rules" "$SESSION/followed"
	kill -HUP "$DAEMON"
	wait_until 5 eval '[ "$(wc -l <"$SESSION/followed")" = 2 ]'
	run -0 bpftime events --json
	[ "${#lines[@]}" = 2 ]
	[ "$(wc -l <"$SESSION/followed")" = 2 ]
	run -0 bpftime events --tool $$ --json
	[ -z "$output" ]
}

@test "the journal's catalog explains every kind of event" {
	need journalctl
	ids() { grep -oE "$1" "$2" | grep -oE '[0-9a-f]{32}' | sort; }
	[ "$(ids '"[0-9a-f]{32}"' "$BATS_TEST_DIRNAME/../../daemon/decision.c")" = "$(ids '^-- [0-9a-f]{32}' "$BATS_TEST_DIRNAME/../../systemd/bpftimed.catalog")" ]
	install -D -t "$SESSION/usr/lib/systemd/catalog" "$BATS_TEST_DIRNAME/../../systemd/bpftimed.catalog"
	mkdir -p "$SESSION/var/lib/systemd/catalog"
	journalctl --root="$SESSION" --update-catalog
	run -0 journalctl --root="$SESSION" --list-catalog
	[ "$(grep -c " bpftimed: " <<<"$output")" = 10 ]
}

@test "ps of nothing says so" {
	need_root
	fake_start
	run -0 bpftime ps
	[ "$output" = "No tool has probes." ]
	run -0 bpftime ps --json
	[ "$(json j)" = "[]" ]
}

@test "names that would control the terminal do not" {
	need_root
	fake_tools "$(printf '[{"pid":%d,"comm":"\\u001b[2Jx\\u009b","state":"kernel","probes":[]}]' $$)"
	fake_start
	run -0 bpftime ps
	[[ $output != *$'\e'* ]]
	[[ $output == *"?[2Jx?"* ]]
}

@test "an output that cannot be written ends with 1" {
	need_root
	fake_start
	run bash -c 'bpftime ps --json >/dev/full'
	[ "$status" = 1 ]
}

# ---- waiting ----

@test "wait returns at once when it is so, and as soon as it becomes so" {
	need_root
	fake_tools "$(fake_tool $$ kernel)"
	fake_start
	run -0 bpftime wait --tool $$ --state kernel --timeout 5
	[ -z "$output" ]
	run -0 bpftime wait --tool $$ --state kernel --json
	python3 -c 'import json, sys; assert json.loads(sys.argv[1]) == {"tool": int(sys.argv[2]), "state": "kernel"}' "$output" $$
	bpftime wait --tool $$ --state offloaded --timeout 20 3>&- &
	waiting=$!
	sleep 0.3
	kill -0 $waiting
	start=${EPOCHREALTIME/./}
	fake_tools "$(fake_tool $$ offloaded)"
	wait $waiting
	[ $((${EPOCHREALTIME/./} - start)) -lt 300000 ]
}

@test "wait ends with 1 when time is up, and says how it stands" {
	need_root
	fake_tools "$(fake_tool $$ partly)"
	fake_start
	fails 1 bpftime wait --tool $$ --timeout 0.2
	[ "$stderr" = "bpftime: time is up: the state of tool $$ is partly, not offloaded" ]
	fails 1 bpftime wait --tool $PPID --timeout 0
	[[ $stderr == *"has no probes that bpftimed knows" ]]
}

@test "wait ends with 1 when the process does not exist, or ends" {
	need_root
	fake_start
	sleep 0.5 3>&- &
	fails 1 bpftime wait --tool $! --timeout 20
	[[ $stderr == "bpftime: process $! does not exist" ]]
	fails 1 bpftime wait --tool 2147483647 --timeout 20
}

# ---- those who misuse the socket ----

# A Python program that has the socket's path as P and a function ask(bytes) -> reply bytes.
misuse() {
	need python3
	timeout 60 python3 - "$BPFTIME_RUNTIME_DIR/control.sock" <<END
import socket, sys, time
P = sys.argv[1]
def conn():
    s = socket.socket(socket.AF_UNIX)
    s.connect(P)
    s.settimeout(30)
    return s
def line(s):
    got = b""
    while not got.endswith(b"\n"):
        part = s.recv(65536)
        if not part:
            break
        got += part
    return got
def ask(text):
    s = conn()
    s.sendall(text)
    return line(s)
$(cat)
END
}

@test "requests that are none are refused with a sentence" {
	need_root
	fake_start
	misuse <<'END'
for text in b"\n", b"junk\n", b"[]\n", b"1\n", b"{}\n", b'{"command":1}\n', b'{"command":"nonsense"}\n', b'{"command":"explain"}\n', \
        b'{"command":"explain","tool":"1"}\n', b'{"command":"explain","tool":-1}\n', b'{"command":"explain","tool":1e99}\n', \
        b'{"command":"events","timeout":1,"from":-1}\n', b'{"command":"events","timeout":1,"from":"x"}\n', b'{"command":"events"}\n', \
        b'{"command":"top"}\n', b'{"command":"wait","tool":1}\n', b'{"command":"wait","tool":1,"state":"offloaded","timeout":-1}\n', \
        b'{"command":"wait","tool":1,"state":"offloaded","timeout":1e99}\n', b'\0\xff\n', b'{"command":"ps"}{"command":"ps"\n', \
        b'[' * 3000 + b'\n':
    reply = ask(text)
    assert reply.startswith(b'{"ok":false,"error":"'), (text, reply)
END
	run -0 bpftime ps
}

@test "several requests in one go, byte by byte, and half a request" {
	need_root
	fake_start
	misuse <<'END'
s = conn()
s.sendall(b'{"command":"ps"}\n{"command":"ps"}\nnonsense\n{"com')
s.sendall(b'mand":"ps"}\n')
got = b""
while got.count(b"\n") < 4:
    got += s.recv(9999)
assert [r[:9] for r in got.split(b"\n")] == [b'{"ok":tru', b'{"ok":tru', b'{"ok":fal', b'{"ok":tru', b""], got
for c in b'{"command":"ps"}\n':
    s.send(bytes([c]))
assert line(s) == b'{"ok":true,"result":[]}\n'
s.sendall(b'{"command"')
s.close()
END
	run -0 bpftime ps
}

@test "a request without end is cut off" {
	need_root
	fake_start
	misuse <<'END'
s = conn()
try:
    for i in range(1000):
        s.sendall(b"x" * 1000)
    assert s.recv(1) == b""
except (BrokenPipeError, ConnectionResetError):
    pass
END
	run -0 bpftime ps
}

@test "clients that do not read, and too many clients, hold nobody up" {
	need_root
	fake_tools "$(fake_tool $$ partly | python3 -c '
import json, sys
t = json.load(sys.stdin)
t[0]["probes"] *= 5000
json.dump(t, sys.stdout)')"
	fake_start
	misuse <<'END'
deaf = [conn() for i in range(20)]
for s in deaf:
    s.sendall(b'{"command":"ps"}\n' * 50)
start = time.time()
assert ask(b'{"command":"status"}\n').startswith(b'{"ok":true')
assert time.time() - start < 5
for s in deaf:
    s.close()
many = [conn() for i in range(64)]
s = conn()
assert b"too many clients" in line(s)
for s in many:
    s.close()
time.sleep(0.2)
assert ask(b'{"command":"status"}\n').startswith(b'{"ok":true')
END
	run -0 bpftime ps --json
	[ "$(json 'len(j[0]["probes"])')" = 10000 ]
}

@test "an idle client is dropped, one that waits is not" {
	need_root
	fake_start
	misuse <<'END'
import os
idle, waits = conn(), conn()
waits.sendall(b'{"command":"wait","tool":%d,"state":"offloaded","timeout":13}\n' % os.getpid())
start = time.time()
assert idle.recv(1) == b""
assert 8 < time.time() - start < 13
assert b"time is up" in line(waits)
assert time.time() - start > 12
END
}

@test "waiting clients go when the daemon ends" {
	need_root
	fake_start
	bpftime wait --tool $$ --timeout 30 3>&- 2>"$SESSION/said" &
	waiting=$!
	sleep 0.3
	daemon_stop
	run -3 wait $waiting
	grep -q "ended the conversation" "$SESSION/said"
}

# ---- the kernel ----

# without FOLDER: bpftimed where this folder of sysfs is empty.
without() { fails 1 unshare --mount sh -c "mount -t tmpfs tmpfs '$1' && exec bpftimed"; }

@test "a kernel without what is needed: one sentence that names it, 1, nothing made" {
	need_root
	unshare --mount true || skip "no mount namespaces here"
	without /sys/kernel/btf
	[[ $stderr == "bpftimed: this kernel has no BTF (/sys/kernel/btf/vmlinux)"* ]]
	without /sys/bus/event_source/devices
	[[ $stderr == "bpftimed: this kernel has no perf uprobes"* ]]
	[ ! -e "$BPFTIME_RUNTIME_DIR" ]
	BPFTIME_LIBEXEC_DIR=/nonexistent fails 1 bpftimed
	[[ $stderr == "bpftimed: /nonexistent/bpftimed-jit cannot be executed: "* ]]
	[ ! -e "$BPFTIME_RUNTIME_DIR" ]
}
