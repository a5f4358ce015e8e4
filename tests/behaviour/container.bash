# SPDX-License-Identifier: MIT
# container.bash: a Debian with a real systemd as PID 1, for bats files that load helpers, too. One per file: container_boot in setup_file,
# container_end in teardown_file. Its root is an overlay on what tests/container-root made; it, and all mounts, are in a mount
# namespace of the container's, and go with it. It has cgroups of its own below the machine's.
#
# Without a seccomp filter (SYSTEMD_SECCOMP), which would be all processes' in it.
#
# BPFTIMED_SYSTEMD=here: the machine itself, which is a virtual one and soon forgotten (tests/vm/run), stands for the container.

CONTAINER_PACKAGE_ROOT=$B/container/root

is_here() { [ "${BPFTIMED_SYSTEMD:-}" = here ]; }

# In $BATS_FILE_TMPDIR/leader the pid of its systemd, or in .../skip why there is none.
container_boot() {
	local dir=$BATS_FILE_TMPDIR/container c
	if is_here; then
		mkdir -p "$dir/share"
		mount --bind "$dir/share" /mnt
		mount --bind "$B/examples" /opt
		echo 1 >"$BATS_FILE_TMPDIR/leader"
		return
	fi
	if [ "$(id -u)" != 0 ]; then
		echo "needs root" >"$BATS_FILE_TMPDIR/skip"
	elif [ -n "${SANITIZE:-}" ]; then
		echo "not with sanitizers: their libraries are not in the container" >"$BATS_FILE_TMPDIR/skip"
	elif ! command -v systemd-nspawn mmdebstrap >/dev/null; then
		echo "needs systemd-nspawn and mmdebstrap" >"$BATS_FILE_TMPDIR/skip"
	elif ! "$BATS_TEST_DIRNAME/../container-root" "$CONTAINER_PACKAGE_ROOT" >"$BATS_FILE_TMPDIR/boot" 2>&1; then
		echo "no root for a container: $(tail -n 1 "$BATS_FILE_TMPDIR/boot")" >"$BATS_FILE_TMPDIR/skip"
	fi
	[ ! -e "$BATS_FILE_TMPDIR/skip" ] || return 0
	mkdir -p "$dir/share"
	container_cgroups | xargs -r mkdir -p
	unshare --mount --propagation private bash -c '
		set -e
		mkdir "$0/fs"
		mount -t tmpfs tmpfs "$0/fs"
		mkdir "$0/fs/upper" "$0/fs/work" "$0/fs/root"
		mount -t overlay overlay -o "lowerdir=$1,upperdir=$0/fs/upper,workdir=$0/fs/work" "$0/fs/root"
		for c in $3; do echo $$ >"$c/cgroup.procs"; done
		export SYSTEMD_SECCOMP=0
		trap "ended=yes; kill \$nspawn" TERM
		status=133
		while [ "$status" = 133 ] && [ -z "$ended" ]; do # 133: it wants to be started again
			systemd-nspawn -q -D "$0/fs/root" -M "bpftimed-test-$$" --register=no --keep-unit --capability=all \
				--bind="$0/share:/mnt" --bind-ro="$2/examples:/opt" --console=pipe --boot &
			nspawn=$!
			wait "$nspawn" && status=0 || status=$?
		done
		wait
	' "$dir" "$CONTAINER_PACKAGE_ROOT" "$B" "$(container_cgroups | tr '\n' ' ')" </dev/null >"$BATS_FILE_TMPDIR/boot" 2>&1 3>&- &
	echo $! >"$BATS_FILE_TMPDIR/container.pid"
	wait_until 60 container_is_up ||
		echo "no container with systemd: $(tail -n 1 "$BATS_FILE_TMPDIR/boot")" >"$BATS_FILE_TMPDIR/skip"
}

# One in each hierarchy that systemd uses.
container_cgroups() {
	awk -v name="/bpftimed-${BATS_RUN_TMPDIR##*/}" '($3 == "cgroup2" || $4 ~ /name=systemd/) { print $2 name }' /proc/mounts
}

container_end() {
	local shell c
	if is_here; then
		umount /mnt /opt 2>/dev/null || true
		return
	fi
	if [ -e "$BATS_FILE_TMPDIR/container.pid" ]; then
		shell=$(cat "$BATS_FILE_TMPDIR/container.pid")
		kill -TERM "$shell" 2>/dev/null || true
		# With its first process all of it ends.
		wait_until 20 test ! -e "/proc/$shell/exe" || kill -KILL "$(cat "$BATS_FILE_TMPDIR/leader")" || true
		wait_until 5 test ! -e "/proc/$shell/exe"
		rm -f "$BATS_FILE_TMPDIR/container.pid"
	fi
	for c in $(container_cgroups); do
		[ ! -d "$c" ] || wait_until 10 container_cgroup_ends "$c"
	done
}

container_cgroup_ends() {
	find "$1" -depth -type d -exec rmdir {} + 2>/dev/null
	[ ! -d "$1" ]
}

# The only child of a process.
child_of() {
	local children
	children=$(cat "/proc/$1/task/$1/children" 2>/dev/null)
	echo "${children%% *}"
}

# The container's systemd is nspawn's only child.
container_is_up() {
	local shell leader
	shell=$(cat "$BATS_FILE_TMPDIR/container.pid")
	[ -e "/proc/$shell/exe" ] || return 0
	leader=$(child_of "$(child_of "$shell")")
	[ -n "$leader" ] && [ "$(cat "/proc/$leader/comm" 2>/dev/null)" = systemd ] || return 1
	echo "$leader" >"$BATS_FILE_TMPDIR/leader"
	[[ "$(inside systemctl is-system-running 2>/dev/null)" == @(running|degraded) ]]
}

# container_reboot: as `systemctl reboot` does; nspawn starts it again.
container_reboot() {
	local before
	before=$(cat "$BATS_FILE_TMPDIR/leader")
	inside systemctl reboot || true
	wait_until 30 test ! -e "/proc/$before/ns/pid"
	wait_until 60 container_is_up
}

inside() {
	nsenter -t "$(cat "$BATS_FILE_TMPDIR/leader")" -m -u -i -n -p -C -- env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb \
		DEBIAN_FRONTEND=noninteractive "$@"
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
