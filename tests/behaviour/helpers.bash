# SPDX-License-Identifier: MIT
# helpers.bash: what the tests of whole behaviour share. `load helpers` in a bats file; setup and teardown come with it.

B=${B:-$(realpath "$BATS_TEST_DIRNAME/../../build")}
export PATH=$B:$PATH:/usr/sbin:/sbin

# shellcheck source=examples/session.bash
. "$BATS_TEST_DIRNAME/../../examples/session.bash"

setup() {
	SESSION=$BATS_TEST_TMPDIR
	export BPFTIME_RUNTIME_DIR=$SESSION/run BPFTIME_POLICY_DIR=$SESSION/policy.d
}

teardown() {
	session_end
}

need_root() {
	[ "$(id -u)" = 0 ] || skip "needs root"
}

# remains_end: at the end of a test in which a bpftimed may have been killed: one that starts and ends takes away what it has left; when even that
# fails, the kernel forgets what nobody has pinned any more.
remains_end() {
	if [ -e "$SESSION/run/bpf" ]; then
		daemon_start || true
		daemon_stop
	fi
	umount -l "$SESSION/run/bpf" 2>/dev/null || true
}

# public_folder: a folder of the test's own, $public, into which everybody can look, which those of bats and of the tree may not allow: hits of
# what not everybody can map do not escape. public_end, in teardown, takes it away.
public_folder() {
	public=$(mktemp -d)
	chmod 755 "$public"
}

public_end() {
	[ -z "${public:-}" ] || rm -r "$public"
}

# need COMMAND...
need() {
	local c
	for c in "$@"; do
		command -v "$c" >/dev/null || skip "needs $c"
	done
}

# stands_in_switch: for 15 s, in a debugger, while threads wait for it. The tool in TOOL_PID has memory-mapped results: other switches may hold
# nobody. The debugger is $debugger, who asks for switches $asked.
stands_in_switch() {
	need gdb
	gdb -nx -batch -p "$DAEMON" -ex 'break hold' -ex continue -ex 'break cpus_visit' -ex continue -ex 'printf "stands\n"' -ex 'shell sleep 15' >"$SESSION/gdb" 2>&1 3>&- &
	debugger=$!
	exact_pids+=("$debugger")
	wait_for "$SESSION/gdb" "Breakpoint 1 at" 20
	while "$B/bpftime" handback "$TOOL_PID" && "$B/bpftime" takeover "$TOOL_PID"; do :; done >/dev/null 2>&1 3>&- &
	asked=$!
	wait_for "$SESSION/gdb" stands 20
}

# Are programs that are not PIE carried? Before Linux 6.6 they hardly are.
carries_not_pie() { "$B/bpftime" status --json | grep -q '"holds": *"links"'; }

need_not_pie() { carries_not_pie || skip "on this kernel programs that are not PIE stay in the kernel"; }

# fake_start [OPTION...]: a daemon whose engine touches nothing and shows the tools that fake_tools wrote.
fake_start() {
	export FAKE_TOOLS=$SESSION/tools.json
	[ -e "$FAKE_TOOLS" ] || fake_tools '[]'
	BPFTIMED=$B/tests/fake/bpftimed daemon_start "$@"
}

# fake_tools JSON: at once, never half.
fake_tools() {
	printf '%s\n' "$1" >"$SESSION/tools.json.new"
	mv "$SESSION/tools.json.new" "$SESSION/tools.json"
}

# One tool with this pid in this state, as JSON.
fake_tool() {
	printf '[{"pid":%d,"comm":"tool","state":"%s","probes":[{"kind":"uprobe","path":"/usr/bin/x","offset":4660,' "$1" "$2"
	printf '"symbol":"main","program":"p","state":"userspace","reason":null,"hits":100,"targets":[12,14]},'
	printf '{"kind":"uretprobe","path":"/usr/bin/x","offset":4660,"symbol":null,"program":"q","state":"kernel",'
	printf '"reason":"it calls helper 6 (trace_printk), which is not carried","hits":0,"targets":[]}]}]'
}

# policy NAME TEXT: a file in the policy folder.
policy() {
	mkdir -p "$BPFTIME_POLICY_DIR"
	printf '%s\n' "$2" >"$BPFTIME_POLICY_DIR/$1"
	chmod 644 "$BPFTIME_POLICY_DIR/$1"
}

# fails CODE COMMAND...: ends with this code and says one sentence, on stderr only. It is in $stderr.
fails() {
	local code=$1
	shift
	run --separate-stderr "$@"
	[ "$status" = "$code" ] || {
		echo "exit code $status instead of $code: $output $stderr"
		return 1
	}
	[ -z "$output" ] || {
		echo "on stdout: $output"
		return 1
	}
	[ -n "$stderr" ]
}

# json EXPRESSION: what Python finds in $output, which is JSON and bound to `j`.
json() {
	printf '%s' "$output" | python3 -c 'import json, sys; j = json.load(sys.stdin); print(eval(sys.argv[1]))' "$1"
}

# How often groups go there and back, how often bpftimed is stopped or killed meanwhile, how many processes come and go.
# `make check-long` says more.
FLIPS=${FLIPS:-30} RESTARTS=${RESTARTS:-3} VISITORS=${VISITORS:-100} KILLS=${KILLS:-4}

# run_alone SCRIPT [ARGUMENT...]: one of the scripts of this folder that start a bpftimed of their own. RUN_BY is a command that runs it.
RUN_BY=()
run_alone() {
	env -u BPFTIME_RUNTIME_DIR -u BPFTIME_POLICY_DIR BPFTIMED_TESTS_ALONE=1 "${RUN_BY[@]}" "$BATS_TEST_DIRNAME/$1" "$B" "${@:2}"
}
