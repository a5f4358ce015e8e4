# cli: see ../Makefile for the rules
CLI_OBJS := $(patsubst %.c,$(B)/%.o,$(sort $(wildcard cli/*.c)))
$(B)/cli/cmd_version.o $(B)/cli/cmd_vm.o $(B)/cli/cmd_recover.o $(B)/cli/cmd_doctor.o $(B)/cli/args.o: $(B)/config

$(B)/bpftime: $(CLI_OBJS) $(POLICY_OBJS)
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -ljson-c
PROGRAMS += $(B)/bpftime
