# examples: see ../Makefile for the rules
# A program to be probed, and two ordinary libbpf tools.
# The workload stands for any process: never instrumented by a sanitizer.
$(B)/examples/workload: CFLAGS := $(filter-out -fsanitize=% -fno-sanitize-recover=%,$(CFLAGS))
$(B)/examples/workload: LDFLAGS := $(filter-out -fsanitize=%,$(LDFLAGS))
$(B)/examples/workload: $(B)/examples/workload.o
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -pthread -o $@ $^

$(B)/examples/bsscount.o: $(B)/examples/bsscount.skel.h
$(B)/examples/hashcount.o: $(B)/examples/hashcount.skel.h
$(B)/examples/bsscount $(B)/examples/hashcount: %: %.o $(B)/examples/probe_tool.o
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -lbpf

PROGRAMS += $(B)/examples/workload $(B)/examples/bsscount $(B)/examples/hashcount

demo: all
	@examples/demo.sh $(B)
