# tests/bench: `make bench`
$(B)/tests/bench/target: $(B)/tests/bench/target.o $(B)/tests/bench/functions.o
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^

$(B)/tests/bench/probe: $(B)/tests/bench/probe.o $(B)/daemon/uprobe.o
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -lbpf

bench: all $(B)/tests/bench/target $(B)/tests/bench/probe
	@tests/bench/run $(B)
