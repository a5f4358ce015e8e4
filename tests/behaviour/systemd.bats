#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# The Debian package and its units under a real systemd: PID 1 of a container with a root of its own.

bats_require_minimum_version 1.5.0
load helpers
load container

TOP=$BATS_TEST_DIRNAME/../..

setup_file() {
	host_state >"$BATS_FILE_TMPDIR/host.before"
	container_boot
	[ ! -e "$BATS_FILE_TMPDIR/skip" ] || return 0
	# Nothing is built here: `make check` has done so. A virtual machine has not what makes a package.
	if [ -n "${BPFTIMED_DEB:-}" ]; then
		cp "$BPFTIMED_DEB" "$BATS_FILE_TMPDIR/first.deb"
	else
		make -s -C "$TOP" -o all B="$B" DEB="$BATS_FILE_TMPDIR/first.deb" DEB_VERSION=9.0.0 deb >&2
	fi
	dpkg-deb -R "$BATS_FILE_TMPDIR/first.deb" "$BATS_FILE_TMPDIR/newer"
	sed -i 's/^Version:.*/Version: 9.0.1/' "$BATS_FILE_TMPDIR/newer/DEBIAN/control"
	dpkg-deb --root-owner-group -Znone -b "$BATS_FILE_TMPDIR/newer" "$BATS_FILE_TMPDIR/container/share/newer.deb" >&2
	mv "$BATS_FILE_TMPDIR/first.deb" "$BATS_FILE_TMPDIR/container/share"
	inside bash -c "$(declare -f files_inside); files_inside" >"$BATS_FILE_TMPDIR/files.before"
}

teardown_file() {
	container_end
}

# What a package could leave behind; not what dpkg, apt and the journal keep of everything.
files_inside() {
	find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /var/tmp -o -path /mnt -o -path /opt -o -path /var/log -o -path /var/cache -o \
		-path /var/lib/apt -o -path /var/lib/dpkg -o -path /var/lib/systemd -o -path /root \) -prune -o -print | sort
	find /run/bpftimed /sys/fs/bpf /var/lib/systemd/deb-systemd-helper-enabled /var/lib/systemd/deb-systemd-helper-masked -print 2>/dev/null |
		grep bpftimed
	getent group bpftimed
	grep bpftimed /proc/mounts
	true
}

host_state() {
	cut -d ' ' -f 2,3 /proc/mounts | sort
	find /sys/fs/cgroup -name '*bpftimed*' -o -name payload -o -name supervisor
	ls /sys/fs/bpf 2>/dev/null
	true
}

need_installed() {
	need_container
	inside test -x /usr/sbin/bpftimed || inside apt-get -q -y install /mnt/first.deb >&2
	inside systemctl reset-failed bpftimed.service bpftimed.socket || true
	inside_or_tell systemctl start bpftimed
}

show() { inside systemctl show -P "$1" bpftimed; }
is_active() { [ "$(inside systemctl is-active bpftimed)" = active ]; }
status_text_has() { [[ "$(show StatusText)" == *"$1"* ]]; }
journal_has() { inside journalctl -u bpftimed --no-pager | grep -q "$1"; }

# Starts again what may have been changed for one test.
drop_in() {
	inside mkdir -p /run/systemd/system/bpftimed.service.d
	printf '[Service]\n%s\n' "$1" | inside tee /run/systemd/system/bpftimed.service.d/test.conf >/dev/null
	inside systemctl daemon-reload
}

no_drop_in() {
	inside rm -rf /run/systemd/system/bpftimed.service.d
	inside systemctl daemon-reload
}

# ---- a tool and its target, in the container ----

# Units of the container, which end with it. What they say is in the folder that we share with it.
load_start() { # [PROPERTY=VALUE of the target's unit]
	local share=$BATS_FILE_TMPDIR/container/share
	rm -f "$share"/{go,workload,tool}
	mkfifo "$share/go"
	inside systemd-run -q --unit=load ${1:+-p "$1"} sh -c 'exec /opt/workload --hold --threads 4 --calls 100000000 --rate "$0" <>/mnt/go >/mnt/workload 2>&1' \
		"$((20000 * 15 / ${BPFTIMED_PATIENCE:-15}))"
	wait_until 10 grep -qs '^ready' "$share/workload"
	WORKLOAD=$(sed -n 's/^pid //p' "$share/workload")
	inside systemd-run -q --unit=tool sh -c 'exec /opt/hashcount -p "$0" /opt/workload:work >/mnt/tool 2>&1' "$WORKLOAD"
	wait_until 20 grep -qs '^ready' "$share/tool"
	TOOL=$(inside systemctl show -P MainPID tool)
}

teardown() {
	if [ -n "${WORKLOAD:-}" ]; then
		inside systemctl stop tool load 2>/dev/null || true
		inside systemctl reset-failed tool load 2>/dev/null || true
	fi
	session_end
}

load_go() { inside kill -USR1 "$WORKLOAD"; }

# It has called what it said, and the tool has counted that.
load_end_exactly() {
	local share=$BATS_FILE_TMPDIR/container/share truth answer
	inside kill -USR2 "$WORKLOAD"
	wait_until 30 grep -q '^total' "$share/workload"
	inside kill -INT "$TOOL"
	wait_until 10 grep -q '^starts' "$share/tool"
	inside kill -USR1 "$WORKLOAD"
	wait_until 10 load_has_ended
	run ! inside systemctl is-failed load tool
	truth=$(sed -n 's/^calls //p' "$share/workload")
	answer=$(sed -n 's/^calls //p' "$share/tool")
	echo "called $truth times, counted $answer"
	[ "$truth" -gt 0 ] && [ "$truth" = "$answer" ]
}

load_has_ended() {
	run inside systemctl is-active load tool
	[[ $output == @(inactive|failed)*@(inactive|failed) ]]
}

offloaded() {
	inside_or_tell bpftime wait --tool "$TOOL" --timeout "${BPFTIMED_PATIENCE:-15}" || {
		inside bpftime explain "$TOOL"
		inside systemctl status --no-pager -n 3 load tool
		return 1
	}
}

@test "apt installs the package: enabled, running, a group that may look" {
	need_container
	run -0 inside apt-get -q -y install /mnt/first.deb
	[ "$(inside systemctl is-enabled bpftimed.service)" = enabled ]
	[ "$(inside systemctl is-enabled bpftimed.socket)" = enabled ]
	is_active
	[ "$(inside stat -c %a:%U:%G /run/bpftimed/control.sock)" = 660:root:bpftimed ]
	run -0 inside bpftime status
	run -0 inside systemctl status bpftimed --no-pager
	[[ $output == *"Carries 0 of 0 tools; probes: 0 in userspace"* ]]
	journal_has "version .* runs"
}

@test "the units have no mistakes, and the service is exposed to less than 4.0" {
	need_installed
	run -0 inside systemd-analyze verify --man=no bpftimed.service bpftimed.socket
	[[ $output != *bpftimed* ]]
	run -0 inside systemd-analyze security --no-pager --threshold=40 bpftimed.service
	[ "$(inside sed -n 's/^CapEff:.*0*\(c400a800e2\)$/\1/p' "/proc/$(show MainPID)/status")" = c400a800e2 ]
	run ! inside nsenter -t "$(show MainPID)" -m touch /usr/x /etc/x /home/x
}

@test "boot with the unit enabled" {
	! is_here || skip "tests/vm/booted.bats boots this machine"
	need_installed
	container_reboot
	wait_until 20 is_active
	run -0 inside bpftime status
	journal_has "Started bpftimed.service"
}

@test "systemctl reload: a new policy holds, a broken one does not" {
	need_installed
	echo '{"version": 1, "tools": [{"comm": "x", "action": "kernel"}]}' | inside tee /etc/bpftimed/policy.d/a.json >/dev/null
	inside systemctl reload bpftimed
	wait_until 5 journal_has "policy reloaded: 1 files, 1 rules"
	wait_until 5 status_text_has "Carries 0 of 0 tools"
	is_active
	echo '{"version": 1, "tols": []}' | inside tee /etc/bpftimed/policy.d/b.json >/dev/null
	inside systemctl reload bpftimed
	wait_until 5 journal_has "b.json:1:16: tols: unknown key"
	is_active
	inside bpftime status | grep -q "NOT the one on disk"
	[[ "$(inside systemctl show -P StatusText bpftimed)" == *"the policy on disk has mistakes"* ]]
	inside rm /etc/bpftimed/policy.d/b.json
	# The administrator's files, and those of /run: by name.
	inside mkdir -p /run/bpftimed/policy.d
	echo '{"version": 1, "tools": [{"comm": "y", "action": "kernel"}]}' | inside tee /run/bpftimed/policy.d/b.json >/dev/null
	inside systemctl reload bpftimed
	wait_until 5 journal_has "policy reloaded: 2 files, 2 rules"
	inside ln -s /dev/null /etc/bpftimed/policy.d/b.json
	inside bpftime policy show | grep -q "mask .*/etc/bpftimed/policy.d/b.json"
	inside systemctl reload bpftimed
	wait_until 5 eval 'inside bpftime status | grep -q "1 files, 1 rules"'
	inside rm -r /etc/bpftimed/policy.d/a.json /etc/bpftimed/policy.d/b.json /run/bpftimed/policy.d
}

@test "who is in the group may look and change nothing, others may not even look" {
	need_installed
	local group
	group=$(inside getent group bpftimed | cut -d : -f 3)
	run -0 inside setpriv --reuid 65534 --regid 65534 --groups "$group" bpftime status
	run -1 inside setpriv --reuid 65534 --regid 65534 --groups "$group" bpftime handback 1
	[[ $output == *'only root may ask bpftimed for "handback"'* ]]
	run -3 inside setpriv --reuid 65534 --regid 65534 --clear-groups bpftime status
	[[ $output == *"only root may ask it"* ]]
	# Not the mode of the socket alone decides.
	inside chmod 666 /run/bpftimed/control.sock
	run -1 inside setpriv --reuid 65534 --regid 65534 --clear-groups bpftime status
	[[ $output == *"only root and the socket's group may ask bpftimed"* ]]
	inside chmod 660 /run/bpftimed/control.sock
}

@test "systemctl restart under load: status text, who asks meanwhile waits, exact counts" {
	need_installed
	load_start
	offloaded
	wait_until 5 status_text_has "Carries 1 of 1 tools; probes: 2 in userspace, 0 in the kernel; 1 targets"
	load_go
	inside systemctl restart --no-block bpftimed
	inside_or_tell bpftime status
	is_active
	offloaded
	load_end_exactly
}

@test "systemctl stop: ends with success, leaves nothing, is not started again by who asks; start" {
	need_installed
	inside systemctl stop bpftimed
	[ "$(inside systemctl is-active bpftimed)" = inactive ]
	socket_is_inactive() { [ "$(inside systemctl is-active bpftimed.socket)" = inactive ]; }
	wait_until 5 socket_is_inactive
	[ "$(show Result)" = success ]
	[ "$(show ExecMainStatus)" = 0 ]
	[ -z "$(inside ls -A /run/bpftimed)" ]
	run ! inside grep bpftimed /proc/mounts
	run -3 inside bpftime status
	inside systemctl start bpftimed
	is_active
}

@test "a bpftimed that is killed under load is started again; who asks meanwhile waits; exact counts" {
	need_installed
	local before
	before=$(show MainPID)
	load_start
	offloaded
	load_go
	inside systemctl kill --kill-whom=main -s KILL bpftimed
	inside_or_tell bpftime status
	is_active
	[ "$(show MainPID)" != "$before" ]
	offloaded
	load_end_exactly
}

@test "a bpftimed whose loop does not turn is ended by the watchdog and started again; one whose loop turns is not" {
	need_installed
	local before seconds=1
	! is_here || seconds=40 # emulated
	drop_in "WatchdogSec=$seconds"$'\nTimeoutAbortSec=1\nRestartSec=100ms'
	inside systemctl restart bpftimed
	before=$(show MainPID)
	sleep "$((3 * seconds))"
	[ "$(show MainPID)" = "$before" ]
	load_start
	offloaded
	load_go
	inside kill -STOP "$before"
	another() { is_active && [ "$(show MainPID)" != "$before" ]; }
	wait_until 20 another
	journal_has "Watchdog timeout"
	offloaded
	load_end_exactly
	no_drop_in
	inside systemctl restart bpftimed
}

@test "a target with a seccomp filter stays in the kernel, and is carried by a bpftimed that has none" {
	need_installed
	load_start SystemCallFilter=~@reboot
	kernel_has_it() { inside bpftime explain "$TOOL" | grep -q "has a seccomp filter"; }
	wait_until 15 kernel_has_it
	load_go
	inside mkdir -p /etc/systemd/system/bpftimed.service.d
	inside cp /usr/share/doc/bpftimed/examples/seccomp-targets.conf /etc/systemd/system/bpftimed.service.d
	inside systemctl daemon-reload
	inside systemctl restart bpftimed
	[ "$(inside sed -n 's/^Seccomp:\t//p' "/proc/$(show MainPID)/status")" = 0 ]
	offloaded
	load_end_exactly
	inside rm -r /etc/systemd/system/bpftimed.service.d
	inside systemctl daemon-reload
	inside systemctl restart bpftimed
}

@test "a bpftimed that cannot start fails with its sentence" {
	need_installed
	inside systemctl stop bpftimed
	drop_in 'Restart=no'
	echo '{"version": 2}' | inside tee /etc/bpftimed/policy.d/a.json >/dev/null
	run ! inside systemctl start bpftimed
	wait_until 5 journal_has "a.json:1:2: version: this bpftimed reads version 1 only"
	inside rm /etc/bpftimed/policy.d/a.json
	# What it pins would end with it.
	drop_in $'Restart=no\nExecStartPre='
	run ! inside systemctl start bpftimed
	wait_until 5 journal_has "a BPF file system that it mounts would end with it"
	no_drop_in
}

@test "apt upgrades the package under load: the daemon is another one, exact counts" {
	need_installed
	local before
	before=$(show MainPID)
	load_start
	offloaded
	load_go
	run -0 inside apt-get -q -y install /mnt/newer.deb
	[ "$(inside dpkg-query -W -f '${Version}' bpftimed)" = 9.0.1 ]
	is_active
	[ "$(show MainPID)" != "$before" ]
	offloaded
	load_end_exactly
}

@test "apt removes the package under load: the kernel counts on; purged, it leaves nothing" {
	need_installed
	load_start
	offloaded
	load_go
	run -0 inside apt-get -q -y remove bpftimed
	[ "$(inside systemctl is-active bpftimed)" = inactive ]
	load_end_exactly
	run -0 inside apt-get -q -y purge bpftimed
	inside systemctl daemon-reload
	inside bash -c "$(declare -f files_inside); files_inside" >"$BATS_FILE_TMPDIR/files.after"
	diff "$BATS_FILE_TMPDIR/files.before" "$BATS_FILE_TMPDIR/files.after"
}

@test "the container leaves nothing" {
	need_container
	container_end
	host_state >"$BATS_FILE_TMPDIR/host.after"
	diff "$BATS_FILE_TMPDIR/host.before" "$BATS_FILE_TMPDIR/host.after"
}
