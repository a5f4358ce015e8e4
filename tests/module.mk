# tests: each unit test is tests/unit/test_X.c; its module adds $(B)/tests/unit/test_X to UNIT with its objects.
$(B)/tests/unit/test_%: $(B)/tests/unit/test_%.o
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $(filter %.o %.a,$^) $(LIBS) -lcmocka

$(B)/tests/reap $(B)/tests/debugger: $(B)/tests/%: $(B)/tests/%.o
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^

# Tools that use their results, or attach, in ways of their own.
TOOLS := $(addprefix $(B)/tests/tools/,drain pairs)
$(addsuffix .o,$(TOOLS)): %.o: %.skel.h
$(TOOLS): %: %.o $(B)/examples/probe_tool.o
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -pthread -o $@ $^ -lbpf
$(B)/tests/tools/liar: $(B)/tests/tools/liar.o
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -pthread -o $@ $^ -lbpf
TEST_PROGRAMS += $(TOOLS) $(B)/tests/tools/liar

-include tests/bench/module.mk
include tests/fuzz/module.mk
include tests/faults/module.mk

# `make check TESTS="tests/behaviour/cli.bats build/tests/unit/test_policy"` runs these only.
BEHAVIOUR := $(sort $(wildcard tests/behaviour/*.bats))
TESTS	  ?= $(UNIT) $(BEHAVIOUR)
PROVE	  ?= prove $(if $(filter 0,$(V)),,--verbose)

test-programs: all $(UNIT) $(VICTIMS) $(TEST_PROGRAMS) $(B)/tests/reap $(B)/tests/debugger

# Made before the tests, which wait for one another. Without it (no network, not root) systemd.bats is skipped, and says so.
container-root:
	$(call say,DEBIAN)
	$(Q)[ "$$(id -u)" != 0 ] || tests/container-root $(abspath $(B))/container/root || true

check: test-programs $(if $(filter %/systemd.bats,$(TESTS)),container-root)
	@B=$(abspath $(B)) SANITIZE=$(SANITIZE) $(PROVE) --exec tests/run-tap $(TESTS)

# The same for longer: what happens once in a hundred times.
check-long: export FLIPS := 100
check-long: export RESTARTS := 10
check-long: export KILLS := 12
check-long: export VISITORS := 500
check-long: export HOSTILE_SECONDS := 60
check-long: export FAULT_MEMORY := 1
check-long: export FAULT_SECONDS := 60
check-long: check

# On other kernels, in virtual machines: tests/vm/check. Without qemu it says so.
check-vm check-vm-all: test-programs
	@tests/deps --vm || true
	@B=$(abspath $(B)) tests/vm/check $(if $(filter check-vm-all,$@),--whole) $(VMS)

.PHONY: test-programs container-root check-long check-vm check-vm-all
