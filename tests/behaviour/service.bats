#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# What `make install` installs. The units at work: systemd.bats.

bats_require_minimum_version 1.5.0
load helpers

TOP=$BATS_TEST_DIRNAME/../..

# Nothing is built here: `make check` has done so.
install_into() {
	make -s -C "$TOP" -o all B="$B" DESTDIR="$1" "${@:2}" install >&2
}

@test "make install puts things where they belong, make uninstall takes them away" {
	install_into "$SESSION/root"
	for f in sbin/bpftimed bin/bpftime libexec/bpftimed/bpftimed-jit lib/systemd/system/bpftimed.service \
		lib/systemd/system/bpftimed.socket lib/systemd/system-preset/60-bpftimed.preset lib/sysusers.d/bpftimed.conf \
		lib/tmpfiles.d/bpftimed.conf share/bash-completion/completions/bpftimed \
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

@test "bash completes options and what they take" {
	local -a COMP_WORDS COMPREPLY
	local COMP_CWORD
	completes() { # FUNCTION WORD...: what the last word may become
		COMP_WORDS=("${@:2}") COMP_CWORD=$(($# - 2)) COMPREPLY=()
		"$1"
	}
	# shellcheck disable=SC1091
	. "$TOP/systemd/bpftimed.bash-completion"
	completes _bpftimed bpftimed --log-level w
	[ "${COMPREPLY[*]}" = warning ]
	completes _bpftimed bpftimed --r
	[ "${COMPREPLY[*]}" = --runtime-dir ]
	# shellcheck disable=SC1091
	. "$TOP/systemd/bpftime.bash-completion"
	completes _bpftime bpftime han
	[ "${COMPREPLY[*]}" = handback ]
	completes _bpftime bpftime wait --state p
	[ "${COMPREPLY[*]}" = partly ]
}
