#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# What `make install` installs, and the unit under a real systemd: PID 1 of a container whose root is this machine's root with an
# overlay on top. All mounts are in a mount namespace of the container's, and go with it.

bats_require_minimum_version 1.5.0
load helpers

TOP=$BATS_TEST_DIRNAME/../..

# Nothing is built here: `make check` has done so.
install_into() {
	make -s -C "$TOP" -o all B="$B" DESTDIR="$1" install >&2
}

# container_boot: in $BATS_FILE_TMPDIR/leader the pid of its systemd, or in .../skip why there is none.
container_boot() {
	local dir=$BATS_FILE_TMPDIR/container
	if [ "$(id -u)" != 0 ]; then
		echo "needs root" >"$BATS_FILE_TMPDIR/skip"
		return
	fi
	if ! command -v systemd-nspawn >/dev/null || [ ! -x /lib/systemd/systemd ]; then
		echo "needs systemd-nspawn and systemd" >"$BATS_FILE_TMPDIR/skip"
		return
	fi
	mkdir -p "$dir" "$BATS_FILE_TMPDIR/staged"
	install_into "$BATS_FILE_TMPDIR/staged"
	unshare --mount --propagation private bash -c '
		set -e
		mount -t tmpfs tmpfs "$0"
		mkdir "$0/upper" "$0/work" "$0/root"
		mount -t overlay overlay -o "lowerdir=/,upperdir=$0/upper,workdir=$0/work" "$0/root"
		cp -a "$1/." "$0/root/"
		exec systemd-nspawn -q -D "$0/root" -M "bpftimed-test-$$" --register=no --keep-unit --capability=all \
			--system-call-filter="bpf perf_event_open" --console=pipe --boot systemd.unit=basic.target
	' "$dir" "$BATS_FILE_TMPDIR/staged" </dev/null >"$BATS_FILE_TMPDIR/boot" 2>&1 3>&- &
	echo $! >"$BATS_FILE_TMPDIR/nspawn"
	if ! wait_until 60 container_is_up; then
		echo "no container with systemd: $(tail -n 1 "$BATS_FILE_TMPDIR/boot")" >"$BATS_FILE_TMPDIR/skip"
	fi
}

# The container's systemd is nspawn's only child.
container_is_up() {
	local nspawn leader
	nspawn=$(cat "$BATS_FILE_TMPDIR/nspawn")
	[ -e "/proc/$nspawn/exe" ] || return 0
	leader=$(cat "/proc/$nspawn/task/$nspawn/children" 2>/dev/null)
	leader=${leader%% *}
	[ -n "$leader" ] && [ "$(cat "/proc/$leader/comm" 2>/dev/null)" = systemd ] || return 1
	echo "$leader" >"$BATS_FILE_TMPDIR/leader"
	inside systemctl is-active -q basic.target 2>/dev/null
}

inside() {
	nsenter -t "$(cat "$BATS_FILE_TMPDIR/leader")" -m -u -i -n -p -C -- env -u BPFTIME_RUNTIME_DIR -u BPFTIME_POLICY_DIR "$@"
}

need_container() {
	[ ! -e "$BATS_FILE_TMPDIR/skip" ] || skip "$(cat "$BATS_FILE_TMPDIR/skip")"
	[ -e "$BATS_FILE_TMPDIR/leader" ] || skip "no container with systemd: $(tail -n 1 "$BATS_FILE_TMPDIR/boot")"
}

# Shows what the unit said when a command fails.
inside_or_tell() {
	inside "$@" || {
		inside journalctl -u bpftimed --no-pager -n 30
		return 1
	}
}

setup_file() {
	container_boot
}

teardown_file() {
	if [ -e "$BATS_FILE_TMPDIR/nspawn" ]; then
		end_process "$(cat "$BATS_FILE_TMPDIR/nspawn")" || true
	fi
}

@test "make install puts things where they belong, make uninstall takes them away" {
	install_into "$SESSION/root"
	for f in sbin/bpftimed bin/bpftime libexec/bpftimed/bpftimed-jit lib/systemd/system/bpftimed.service \
		share/man/man8/bpftimed.8 share/man/man1/bpftime.1 share/man/man5/bpftimed-policy.5 \
		share/bash-completion/completions/bpftime share/bpftimed/policy.schema.json; do
		[ -f "$SESSION/root/usr/$f" ]
	done
	[ -d "$SESSION/root/etc/bpftimed/policy.d" ]
	grep -q '^ExecStart=/usr/sbin/bpftimed$' "$SESSION/root/usr/lib/systemd/system/bpftimed.service"
	touch "$SESSION/root/etc/bpftimed/policy.d/mine.json"
	make -s -C "$TOP" B="$B" DESTDIR="$SESSION/root" uninstall
	[ "$(find "$SESSION/root" -type f)" = "$SESSION/root/etc/bpftimed/policy.d/mine.json" ]
	[ ! -e "$SESSION/root/usr" ]
	rm "$SESSION/root/etc/bpftimed/policy.d/mine.json"
	make -s -C "$TOP" B="$B" DESTDIR="$SESSION/root" uninstall
	[ -z "$(ls -A "$SESSION/root")" ]
}

@test "the unit has no mistakes" {
	need_container
	run -0 inside systemd-analyze verify bpftimed.service
	[[ $output != *bpftimed* ]]
}

@test "systemctl start: active when it answers" {
	need_container
	inside_or_tell systemctl start bpftimed
	[ "$(inside systemctl is-active bpftimed)" = active ]
	run -0 inside bpftime status
	[ "$(inside stat -c %a:%u /run/bpftimed/control.sock)" = 600:0 ]
	[[ "$(inside systemctl show -P StatusText bpftimed)" == *"probes: 0 in userspace"* ]]
}

@test "systemctl reload: a new policy holds, a broken one does not" {
	need_container
	inside_or_tell systemctl start bpftimed
	echo '{"version": 1, "tools": [{"comm": "x", "action": "kernel"}]}' | inside tee /etc/bpftimed/policy.d/a.json >/dev/null
	inside systemctl reload bpftimed
	wait_until 5 eval 'inside journalctl -u bpftimed | grep -q "policy reloaded: 1 files, 1 rules"'
	echo '{"version": 1, "tols": []}' | inside tee /etc/bpftimed/policy.d/b.json >/dev/null
	inside systemctl reload bpftimed
	wait_until 5 eval 'inside journalctl -p err -u bpftimed | grep -q "b.json:1:16: tols: unknown key"'
	[ "$(inside systemctl is-active bpftimed)" = active ]
	inside bpftime status | grep -q "NOT the one on disk"
	[[ "$(inside systemctl show -P StatusText bpftimed)" == *"the policy on disk has mistakes"* ]]
	inside rm /etc/bpftimed/policy.d/b.json
	# The administrator's files, and those of /run: by name.
	inside mkdir -p /run/bpftimed/policy.d
	echo '{"version": 1, "tools": [{"comm": "y", "action": "kernel"}]}' | inside tee /run/bpftimed/policy.d/b.json >/dev/null
	inside systemctl reload bpftimed
	wait_until 5 eval 'inside journalctl -u bpftimed | grep -q "policy reloaded: 2 files, 2 rules"'
	inside ln -s /dev/null /etc/bpftimed/policy.d/b.json
	inside bpftime policy show | grep -q "mask .*/etc/bpftimed/policy.d/b.json"
	inside systemctl reload bpftimed
	wait_until 5 eval 'inside bpftime status | grep -q "1 files, 1 rules"'
	inside rm -r /etc/bpftimed/policy.d/a.json /etc/bpftimed/policy.d/b.json /run/bpftimed/policy.d
}

@test "systemctl stop: ends with success and leaves nothing" {
	need_container
	inside_or_tell systemctl start bpftimed
	inside systemctl stop bpftimed
	[ "$(inside systemctl is-active bpftimed)" = inactive ]
	[ "$(inside systemctl show -P Result bpftimed)" = success ]
	[ "$(inside systemctl show -P ExecMainStatus bpftimed)" = 0 ]
	run ! inside test -e /run/bpftimed
	run -3 inside bpftime status
}

@test "a bpftimed that is killed is started again" {
	need_container
	inside_or_tell systemctl start bpftimed
	before=$(inside systemctl show -P MainPID bpftimed)
	inside systemctl kill -s KILL bpftimed
	restarted() { [ "$(inside systemctl show -P NRestarts bpftimed)" = 1 ] && [ "$(inside systemctl is-active bpftimed)" = active ]; }
	wait_until 15 restarted
	[ "$(inside systemctl show -P MainPID bpftimed)" != "$before" ]
	run -0 inside bpftime status
	inside systemctl stop bpftimed
}

@test "a bpftimed that cannot start fails with its sentence" {
	need_container
	echo '{"version": 2}' | inside tee /etc/bpftimed/policy.d/a.json >/dev/null
	run ! inside systemctl start bpftimed
	wait_until 5 eval 'inside journalctl -u bpftimed | grep -q "a.json:1: version: this bpftimed reads version 1 only"'
	inside systemctl stop bpftimed
	inside rm /etc/bpftimed/policy.d/a.json
}
