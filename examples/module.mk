# examples: see ../Makefile for the rules
# A program to be probed, and two ordinary libbpf tools.
$(B)/examples/workload: $(B)/examples/workload.o
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -pthread -o $@ $^

$(B)/examples/bsscount.o: $(B)/examples/bsscount.skel.h
$(B)/examples/hashcount.o: $(B)/examples/hashcount.skel.h
$(B)/examples/bsscount $(B)/examples/hashcount: %: %.o $(B)/examples/probe_tool.o
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -lbpf

PROGRAMS += $(B)/examples/workload $(B)/examples/bsscount $(B)/examples/hashcount
