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

# An eBPF program in a C program, compiled ahead of time.
$(B)/examples/aot/%.bpf.o: examples/aot/%.bpf.c Makefile
	@mkdir -p $(@D)
	$(call say,BPF)
	$(Q)$(CLANG) -target bpf -mcpu=v3 -O2 -g -Wall -Werror -I/usr/include/x86_64-linux-gnu -c $< -o $@
$(B)/examples/aot/%.aot.o: $(B)/examples/aot/%.bpf.o $(B)/bpftime-vm
	$(call say,AOT)
	$(Q)$(B)/bpftime-vm aot compile $< -o $@
$(B)/examples/aot/firewall: $(B)/examples/aot/firewall.o $(B)/examples/aot/firewall.aot.o
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^
PROGRAMS += $(B)/examples/aot/firewall

demo: all
	@examples/demo.sh $(B)

# What the README shows, of a real run.
picture: all
	examples/before_after.sh $(B) >$(B)/terminal.txt
	examples/terminal_svg.py <$(B)/terminal.txt >docs/terminal.svg
.PHONY: picture
