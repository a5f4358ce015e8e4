# cli: see ../Makefile for the rules
CLI_OBJS := $(patsubst %.c,$(B)/%.o,$(sort $(wildcard cli/*.c)))
$(B)/cli/cmd_version.o $(B)/cli/cmd_vm.o $(B)/cli/cmd_recover.o $(B)/cli/cmd_doctor.o: $(B)/config

$(B)/bpftime: $(CLI_OBJS) $(B)/daemon/policy.o $(B)/daemon/json_place.o
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -ljson-c
PROGRAMS += $(B)/bpftime
