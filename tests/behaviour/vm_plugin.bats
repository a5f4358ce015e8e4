#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# The virtual machine from outside: the plugin for conformance suites of others, the installed library, the fuzzers.

bats_require_minimum_version 1.5.0

plugin=$B/bpftime-vm-plugin

# plugin PROGRAM [ARGUMENTS]: $output is r0 or nothing, $stderr the reason or nothing.
plugin() {
	run --separate-stderr "$plugin" "${@:2}" <<< "$1"
}

# gives R0 PROGRAM [MEM]: by both engines.
gives() {
	for engine in --jit --interpret; do
		plugin "$2" "${3:-}" "$engine"
		[ "$status" = 0 ] && [ "$output" = "$1" ] && [ -z "$stderr" ] || { echo "$engine: $status $output $stderr"; return 1; }
	done
}

# refuses WORDS PROGRAM [MEM [ENGINES]]
refuses() {
	for engine in ${4:---jit --interpret}; do
		plugin "$2" "${3:-}" "$engine"
		[ "$status" = 1 ] && [ -z "$output" ] && [[ $stderr == *"$1"* ]] || { echo "$engine: $status $output $stderr"; return 1; }
	done
}

exit_="95 00 00 00 00 00 00 00"

@test "the plugin takes programs and memory in any form of hex bytes" {
	load_="79 10 00 00 00 00 00 00"
	gives 8877665544332211 "$load_ $exit_" "11 22 33 44 55 66 77 88"
	gives 8877665544332211 "$load_ $exit_" "1122334455667788"
	gives 8877665544332211 "$load_  $exit_ " "11  22  33  44  55  66  77  88  "
	gives 8877665544332211 "7910000000000000"$'\n'"9500000000000000" "0x11 0x22 0x33 0x44 0x55 0x66 0x77 0x88"
	gives 8877665544332211 "7910000000000000"$'\r\n'"9500000000000000" "11 22 33 44 55 66 77 88"
	run "$plugin" "11 22 33 44 55 66 77 AA" "" < <(echo "$load_ $exit_")
	[ "$status" = 0 ] && [ "$output" = aa77665544332211 ]
	run "$plugin" --program "$load_ $exit_" --interpret "11 22 33 44 55 66 77 88" < /dev/null
	[ "$output" = 8877665544332211 ]
}

@test "the plugin: r1 is the memory, r2 its size, both nothing without" {
	gives 5 "bf 20 00 00 00 00 00 00 $exit_" "01 02 03 04 05"
	gives 0 "bf 20 00 00 00 00 00 00 $exit_"
	gives 0 "bf 10 00 00 00 00 00 00 $exit_"
	run "$plugin" < <(echo "b7 00 00 00 07 00 00 00 $exit_")
	[ "$status" = 0 ] && [ "$output" = 7 ]
}

@test "the plugin calls helpers by number and by register, in either encoding, and subprograms" {
	gives 2 "b7 01 00 00 ff ff ff ff b7 02 00 00 05 00 00 00 8d 02 00 00 00 00 00 00 b7 00 00 00 02 00 00 00 $exit_"
	gives 2 "b7 01 00 00 ff ff ff ff b7 02 00 00 05 00 00 00 8d 00 00 00 02 00 00 00 b7 00 00 00 02 00 00 00 $exit_"
	gives 4 "b7 01 00 00 10 00 00 00 85 00 00 00 03 00 00 00 $exit_"
	gives 0 "b7 00 00 00 05 00 00 00 85 20 00 00 2a 00 00 00 $exit_"
	gives 42 "b7 01 00 00 42 00 00 00 85 10 00 00 01 00 00 00 $exit_ bf 10 00 00 00 00 00 00 $exit_"
}

@test "the plugin says on standard error why it does not run a program" {
	refuses "not given as hex" "xyz"
	refuses "not given as hex" "b7 0"
	refuses "not a whole number of instructions" "b7 00 00"
	refuses "no instructions" ""
	refuses "instruction 0: the subprogram ends without exit" "b7 00 00 00 00 00 00 00"
	refuses "instruction 0 (opcode 0xff)" "ff 00 00 00 00 00 00 00 $exit_"
	refuses "instruction 0: there is no register r11" "b7 0b 00 00 00 00 00 00 $exit_"
	refuses "instruction 0: goes to 9" "05 00 08 00 00 00 00 00 $exit_"
	refuses "instruction 0: immediate 7 cannot be resolved" "18 10 00 00 07 00 00 00 00 00 00 00 00 00 00 00 $exit_"
	refuses "instruction 0: helper 99 is not carried" "85 00 00 00 63 00 00 00 $exit_"
	refuses "which is no memory of the program" "79 10 00 00 00 00 00 00 $exit_" "11 22" --interpret
	run --separate-stderr "$plugin" --nonsense < /dev/null
	[ "$status" = 1 ] && [[ $stderr == usage:* ]]
}

@test "the library is installed so that others build with it" {
	[ -z "${SANITIZE:-}" ] || skip "others do not link the sanitizer"
	make -s B="$B" install-vm DESTDIR="$BATS_TEST_TMPDIR" > /dev/null
	root=$BATS_TEST_TMPDIR/usr
	export PKG_CONFIG_SYSROOT_DIR=$BATS_TEST_TMPDIR PKG_CONFIG_PATH=$root/lib/pkgconfig
	# shellcheck disable=SC2046
	cc -Wall -Werror -o "$BATS_TEST_TMPDIR/discount" examples/vm/discount.c $(pkg-config --cflags --libs bpftime-vm)
	run -0 env LD_LIBRARY_PATH="$root/lib" "$BATS_TEST_TMPDIR/discount"
	[ "${lines[2]}" = "customer 2 pays 1800" ]
	# shellcheck disable=SC2046
	cc -Wall -Werror -o "$BATS_TEST_TMPDIR/static" examples/vm/discount.c -I"$root/include" "$root/lib/libbpftime-vm.a" \
		$(llvm-config-19 --ldflags --libs) -lpthread
	run -0 "$BATS_TEST_TMPDIR/static"
	[ "${lines[2]}" = "customer 2 pays 1800" ]
	# It exports its own names only.
	run -0 nm -D --defined-only "$root/lib/libbpftime-vm.so"
	for line in "${lines[@]}"; do
		[[ $line == *" bpftime_vm_"* || $line == *" A BPFTIME_VM_"* ]] || { echo "$line"; return 1; }
	done
}

@test "the example for programs from anybody tells what they did" {
	run -0 "$B/examples/vm/untrusted" Hello < <(printf '\x71\x10\x00\x00\x00\x00\x00\x00\x95\x00\x00\x00\x00\x00\x00\x00')
	[ "$output" = "72: Hello" ]
	run -1 "$B/examples/vm/untrusted" Hello < <(printf '\x05\x00\xff\xff\x00\x00\x00\x00\x95\x00\x00\x00\x00\x00\x00\x00')
	[ "$output" = "refused: instruction 0: still running after 1000000 steps" ]
}

@test "any bytes as a program: nothing that the sanitizers see" {
	"$B/tests/fuzz/fuzz_validate" -runs=100000 -seed=1 -max_len=1024 -verbosity=0
	"$B/tests/fuzz/fuzz_interpret" -runs=100000 -seed=1 -max_len=1024 -verbosity=0
}
