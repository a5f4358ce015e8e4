#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# bpftime vm and bpftime aot: object files are shown, run and compiled, and malformed ones refused with a sentence.

bats_require_minimum_version 1.5.0
load helpers

setup() {
	SESSION=$BATS_TEST_TMPDIR
	object=$B/tests/unit/vm_object.bpf.o
	tmp=$BATS_TEST_TMPDIR
}

# assemble NAME SOURCE: an eBPF object from C.
assemble() {
	clang-19 -target bpf -mcpu=v3 -O2 -g -I/usr/include/x86_64-linux-gnu -c -o "$tmp/$1.o" -x c - <<<"$2"
}

@test "vm run prints r0, by both engines" {
	for engine in jit interp; do
		run -0 bpftime vm run "$object" --section first --engine $engine
		[ "$output" = 0x2d ]
		run -0 bpftime vm run "$object" --program two --engine $engine
		[ "$output" = 0x164 ]
	done
}

@test "vm run gives the program a file as its memory" {
	assemble sum '__attribute__((section("s"))) unsigned long sum(unsigned char *p, unsigned long n)
		{ unsigned long s = 0; for (unsigned long i = 0; i < n; i++) s += p[i]; return s; }'
	printf 'abc' >"$tmp/mem"
	for engine in jit interp; do
		run -0 bpftime vm run "$tmp/sum.o" --mem "$tmp/mem" --engine $engine
		[ "$output" = 0x126 ]
	done
	fails 1 bpftime vm run "$tmp/sum.o" --mem "$tmp/nothing"
	[[ $stderr == *"cannot be read as the program's memory"* ]]
}

@test "vm run: trace_printk writes lines to standard error" {
	assemble hello '#include <linux/bpf.h>
		#include <bpf/bpf_helpers.h>
		SEC("s") int hello(void *ctx) { bpf_printk("%d of %s %lx", 7, "nine", 0x123456789abL); return 3; }'
	run -0 --separate-stderr bpftime vm run "$tmp/hello.o"
	[ "$output" = 0x3 ]
	[ "$stderr" = "7 of nine 123456789ab" ]
}

@test "vm run names the instruction that goes astray, the helper and the map that are not there" {
	assemble wild '__attribute__((section("s"))) int wild(void *ctx) { return *(volatile int *)64; }'
	fails 1 bpftime vm run "$tmp/wild.o" --engine interp
	[[ $stderr == *"wild: instruction 1"* ]]
	fails 1 bpftime vm run "$tmp/wild.o"
	[[ $stderr == *"reached for memory at 0x40"* ]]
	assemble redirect '#include <linux/bpf.h>
		#include <bpf/bpf_helpers.h>
		SEC("s") int redirect(void *ctx) { return bpf_redirect(1, 0); }'
	fails 1 bpftime vm run "$tmp/redirect.o"
	[[ $stderr == *"redirect: instruction 2: helper bpf_redirect#23"* ]]
	assemble ring '#include <linux/bpf.h>
		#include <bpf/bpf_helpers.h>
		struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 4096); } ring SEC(".maps");
		SEC("s") long ring_user(void *ctx) { return (long)bpf_map_lookup_elem(&ring, ctx); }'
	fails 1 bpftime vm run "$tmp/ring.o"
	[[ $stderr == *"ring_user: instruction "*": map 'ring' is not there: type 27"* ]]
	assemble absent 'extern int absent(int); __attribute__((section("s"))) int user(void *ctx) { return absent(1) + 1; }'
	fails 1 bpftime vm run "$tmp/absent.o"
	[[ $stderr == *"user: instruction 1: 'absent' is called and not defined"* ]]
}

@test "vm disasm shows the kernel's notation, with names" {
	run -0 bpftime vm disasm "$object" --section second
	[[ $output == *"two: section second"* && $output == *"three: section second"* ]]
	[[ $output == *"r1 = map[pairs]"* && $output == *"call bpf_map_update_elem#2"* ]]
	[[ $output == *"#helper_of_both"* && $output == *"map[.bss][0]+0"* ]]
}

@test "files that are no eBPF objects, or cut off, are refused" {
	fails 1 bpftime vm disasm /bin/true
	[[ $stderr == *"for machine 62, not for eBPF"* ]]
	fails 1 bpftime vm run /etc/hostname
	[[ $stderr == *"not an ELF file"* ]]
	fails 1 bpftime vm run "$tmp"
	fails 1 bpftime vm run "$tmp/nothing"
	[[ $stderr == *"No such file"* ]]
	head -c 900 "$object" >"$tmp/cut.o"
	for c in "vm run" "vm disasm" "aot compile -o $tmp/x.o"; do
		fails 1 bpftime $c "$tmp/cut.o"
		[[ $stderr == *"outside the file"* ]]
	done
}

@test "wrong usage of vm and aot ends with 2" {
	fails 2 bpftime vm
	fails 2 bpftime vm walk
	fails 2 bpftime vm run
	fails 2 bpftime vm run "$object" --engine steam
	fails 2 bpftime vm run "$object" --nonsense
	[[ $stderr == *"no option '--nonsense'"* ]]
	fails 2 bpftime aot compile "$object"
	fails 2 bpftime aot compile "$object" -o prog.txt
	fails 1 bpftime vm run "$object"
	[[ $stderr == *"3 programs"* ]]
	fails 1 bpftime aot compile "$object" -o "$tmp/x.so" --triple riscv64-linux-gnu
	[[ $stderr == *"riscv64"* ]]
	run -0 bpftime vm --help
	run -0 bpftime vm run --help
}

@test "aot compile: an object that a C program links and calls" {
	run -0 "$B/examples/aot/firewall"
	[ "${lines[0]}" = "port 80, 100 bytes: allowed" ]
	[ "${lines[1]}" = "port 23, 100 bytes: refused" ]
	[ "${lines[2]}" = "port 80, 9000 bytes: refused" ]
	[ "${lines[4]}" = "4 calls" ]
}

@test "aot compile: a shared object that a C program opens" {
	bpftime aot compile "$object" -o "$tmp/prog.so" --verified
	cat >"$tmp/main.c" <<-END
		#include <dlfcn.h>
		#include "vm-llvm/bpftime-aot.h"
		int main(int argc, char **argv)
		{
			void *lib = dlopen(argv[1], RTLD_NOW);
			struct bpftime_aot *t = lib ? dlsym(lib, "prog_bpf") : NULL;
			const struct bpftime_aot_prog *p = t ? bpftime_aot_find(t, "one") : NULL;

			if (!p)
				return 1;
			printf("%s %s %u\n", p->section, t->maps[0].name, (unsigned)p->run(NULL, 0));
			return 0;
		}
	END
	gcc -Wall -Wextra -Wno-unused-parameter -I"$BATS_TEST_DIRNAME/../.." -o "$tmp/main" "$tmp/main.c"
	run -0 "$tmp/main" "$tmp/prog.so"
	[[ $output == "first "*" 45" ]]
}
