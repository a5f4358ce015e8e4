#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# bpftime doctor on this host, and on hosts that lack something: in a mount namespace in which files say so.

bats_require_minimum_version 1.5.0
load helpers

setup() {
	SESSION=$BATS_TEST_TMPDIR
	export BPFTIME_RUNTIME_DIR=$SESSION/run BPFTIME_POLICY_DIR=$SESSION/policy.d
	need_root
	unshare --mount true 2>/dev/null || skip "no mount namespaces here"
}

# level CHECK: what $output, JSON of doctor, says of it: the worst level of its sentences.
level() { json "max((['ok', 'note', 'warning', 'error'].index(c['level']), c['level']) for c in j['checks'] if c['check'] == '$1')[1]"; }
says() { json "' '.join(c['says'] for c in j['checks'] if c['check'] == '$1')"; }

# where FILE TEXT: doctor where the file says this; its exit code is in $status.
where() {
	echo "$2" >"$SESSION/text"
	run --separate-stderr unshare --mount sh -c "mount --bind '$SESSION/text' '$1' && exec bpftime doctor --json"
}

@test "doctor looks at everything, and its exit status is that of the worst it finds" {
	run --separate-stderr bpftime doctor --json
	worst=$(json 'j["level"]')
	case $worst in
	ok | note) [ "$status" = 0 ] ;;
	warning) [ "$status" = 1 ] ;;
	*) [ "$status" = 2 ] ;;
	esac
	[ "$(json 'max((["ok", "note", "warning", "error"].index(c["level"]), c["level"]) for c in j["checks"])[1]')" = "$worst" ]
	[ "$(json 'all(c["says"][-1] in ".)" for c in j["checks"])')" = True ]
	[ "$(json 'j["host"]["kernel"]')" = "$(uname -r)" ]
	[ "$(json '{"user", "processor", "kernel", "lockdown", "hook", "switch", "holds", "bpffs", "compiler", "capabilities", "seccomp",
		"namespaces", "memfd", "ptrace", "descriptors", "processes", "policy", "daemon"} - {c["check"] for c in j["checks"]}')" = "set()" ]
	[ "$(level daemon)" = note ]
	run bpftime doctor
	[ "${#lines[@]}" -ge 18 ]
	[[ ${lines[0]} == "ok       user "* ]]
}

@test "a kernel without BTF, a host without executable memory, one where nobody may attach: error, 2" {
	run --separate-stderr unshare --mount sh -c "mount -t tmpfs tmpfs /sys/kernel/btf && exec bpftime doctor --json"
	[ "$status" = 2 ]
	[ "$(level kernel)" = error ]
	[[ "$(says kernel)" == *"has no BTF"* ]]
	[ "$(json 'j["says"]')" = "bpftimed cannot work here until what is marked as error is changed. Tools work as they do without it." ]
	if [ -e /proc/sys/vm/memfd_noexec ]; then
		where /proc/sys/vm/memfd_noexec 2
		[ "$status" = 2 ]
		[ "$(level memfd)" = error ]
	fi
	if [ -e /proc/sys/kernel/yama/ptrace_scope ]; then
		where /proc/sys/kernel/yama/ptrace_scope 3
		[ "$status" = 2 ]
		[ "$(level ptrace)" = error ]
	fi
	where /proc/filesystems "nodev	sysfs"
	[ "$status" = 2 ]
	[ "$(level bpffs)" = error ]
}

@test "few descriptors, and a kernel that interprets, cost something: warning" {
	where /proc/sys/net/core/bpf_jit_enable 0
	[ "$(level jit)" = warning ]
	[ "$status" = 1 ]
	where /proc/sys/fs/nr_open 1024
	[ "$(level descriptors)" = warning ]
	[ "$status" = 1 ]
}

@test "a process under a debugger, and missing capabilities, are named" {
	need gdb setpriv
	sleep 60 3>&- &
	started $!
	target=$!
	gdb -q -batch -p "$target" -ex 'python import time; time.sleep(30)' >/dev/null 2>&1 3>&- &
	started $!
	wait_until 20 eval 'grep -q "^TracerPid:.[1-9]" /proc/$target/status'
	run --separate-stderr bpftime doctor --json
	[ "$(level processes)" = warning ]
	[[ "$(says processes)" == *"sleep ($target)"* ]]
	run --separate-stderr setpriv --bounding-set -sys_ptrace --inh-caps -sys_ptrace bpftime doctor --json
	[ "$status" = 2 ]
	[[ "$(says capabilities)" == *"CAP_SYS_PTRACE"*"put the agent into processes"* ]]
}

@test "a policy with mistakes: an error without a daemon, a warning while an older one is in force" {
	policy a.json '{"version": 1, "tols": []}'
	run --separate-stderr bpftime doctor --json
	[ "$status" = 2 ]
	[ "$(level policy)" = error ]
	[[ "$(says policy)" == *"a.json:1:"*"tols: unknown key"* ]]
	rm "$BPFTIME_POLICY_DIR/a.json"
	fake_start
	policy a.json '{"version": 1, "tols": []}'
	run --separate-stderr bpftime doctor --json
	[ "$(level policy)" = warning ]
}

@test "with a daemon doctor says what it has, and why probes of its tools stay in the kernel" {
	fake_tools "$(fake_tool $$ partly)"
	fake_start
	run --separate-stderr bpftime doctor --json
	[[ "$(says daemon)" == "bpftimed $(cat "$BATS_TEST_DIRNAME/../../VERSION") runs: 1 tools"* ]]
	[[ "$(says tools)" == "Of tool ($$) /usr/bin/x stays in the kernel: it calls helper 6 (trace_printk), which is not carried." ]]
}

@test "without root doctor says what it cannot see" {
	need setpriv
	setpriv --reuid 65534 --regid 65534 --clear-groups test -x "$B/bpftime" || skip "the build folder is not open to others"
	run --separate-stderr setpriv --reuid 65534 --regid 65534 --clear-groups "$B/bpftime" doctor --json
	[ "$status" = 1 ]
	[ "$(level user)" = warning ]
	[ "$(json 'j["host"]')" = None ]
}

@test "bpftimed --host is JSON, and for root only" {
	need setpriv
	run -0 "$B/bpftimed" --host
	[ "$(json 'sorted(j)')" = "['btf', 'compiler', 'freplace', 'holds', 'hook', 'kernel', 'lockdown', 'missing', 'observing_hook', 'preempt', 'raw_tracepoints', 'uprobes']" ]
	[ ! -e "$BPFTIME_RUNTIME_DIR" ]
}
