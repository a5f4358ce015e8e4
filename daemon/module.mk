# daemon: see ../Makefile for the rules
# The shell: options, policy, control socket; knows the engine by engine.h only.
POLICY_OBJS := $(B)/daemon/policy.o $(B)/daemon/json_place.o
SHELL_OBJS  := $(addprefix $(B)/daemon/,main.o server.o runtime_dir.o log.o status.o) $(POLICY_OBJS)
SHELL_LIBS  := -ljson-c -lsystemd

UNIT += $(B)/tests/unit/test_policy $(B)/tests/unit/test_status
$(B)/tests/unit/test_policy: LIBS := -ljson-c
$(B)/tests/unit/test_policy: $(POLICY_OBJS)
$(B)/tests/unit/test_status: LIBS := -ljson-c
$(B)/tests/unit/test_status: $(B)/daemon/status.o

# The shell with an engine that touches nothing, for tests of the command line.
FAKE := $(B)/tests/fake/bpftimed
$(FAKE): $(B)/tests/fake/engine.o $(SHELL_OBJS)
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(SHELL_LIBS)
TEST_PROGRAMS += $(FAKE)
